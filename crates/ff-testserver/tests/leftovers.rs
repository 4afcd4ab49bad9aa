//! A killed test program drops nothing, but must not leave a server behind.

#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::io::{BufRead, BufReader};
use std::net::TcpStream;
use std::path::Path;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use ff_testserver::{RawClient, TestServer};

const HOLD: &str = "FF_TESTSERVER_HOLD";

const NAME: &str = "a_server_does_not_outlive_a_killed_test_program";

/// The second program: this same test, started with a variable that makes it hold a server until it is killed.
async fn hold_a_server() {
    let server = TestServer::builder().unix_socket().build().await.unwrap();
    println!("held {} {} {}", server.provider(), server.port(), server.unix_socket().unwrap().display());
    tokio::time::sleep(Duration::from_secs(600)).await;
}

#[tokio::test]
async fn a_server_does_not_outlive_a_killed_test_program() {
    if std::env::var_os(HOLD).is_some() {
        return hold_a_server().await;
    }
    let mut holder = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", "--nocapture", NAME])
        .env(HOLD, "1")
        .stdout(Stdio::piped())
        .spawn()
        .unwrap();
    let lines = BufReader::new(holder.stdout.take().unwrap()).lines();
    let held = lines.map(Result::unwrap).find(|line| line.contains("held ")).expect("the server started");
    let words: Vec<_> = held[held.find("held ").unwrap()..].split(' ').collect();
    let [_, provider, port, socket] = words[..] else { panic!("not understood: {held}") };
    let port: u16 = port.parse().unwrap();
    assert!(TcpStream::connect(("127.0.0.1", port)).is_ok());

    // `kill` of the standard library is a SIGKILL, which a process cannot handle.
    holder.kill().unwrap();
    holder.wait().unwrap();

    let directory = Path::new(socket).ancestors().find(|path| path.parent() == Some(&std::env::temp_dir())).unwrap();
    let deadline = Instant::now() + Duration::from_secs(20);
    loop {
        let answers = match RawClient::connect(port).await {
            Ok(mut client) => client.command(&["PING"]).await.is_ok(),
            Err(_) => false,
        };
        let data_left = directory.exists();
        if !answers && !data_left {
            break;
        }
        assert!(Instant::now() < deadline, "{provider}: answers: {answers}, data left: {data_left}");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}
