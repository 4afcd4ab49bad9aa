//! The guarantees of a server, for every provider. Run once with each `FF_TEST_PROVIDER`.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use std::net::TcpStream;
use std::time::Duration;

use ff_testserver::{Error, Provider, RawClient, Reply, TestServer};

fn nobody_listens(port: u16) -> bool {
    match TcpStream::connect(("127.0.0.1", port)) {
        Err(_) => true,
        // Docker's proxy accepts connections for a removed container, and closes them.
        Ok(mut stream) => {
            use std::io::{Read, Write};
            stream.set_read_timeout(Some(Duration::from_secs(2))).unwrap();
            stream.write_all(b"PING\r\n").is_err() || stream.read(&mut [0; 8]).map_or(true, |read| read == 0)
        }
    }
}

async fn set(server: &TestServer, key: &str, value: &str) {
    assert_eq!(server.command(&["SET", key, value]).await.unwrap().text(), "OK");
}

async fn get(server: &TestServer, key: &str) -> Reply {
    server.command(&["GET", key]).await.unwrap()
}

#[tokio::test]
async fn a_started_server_answers() {
    let server = TestServer::start().await.unwrap();
    assert_eq!(server.command(&["PING"]).await.unwrap().text(), "PONG");
    assert_eq!(server.url(), format!("redis://127.0.0.1:{}", server.port()));
    assert_ne!(server.provider(), Provider::Shared);
}

#[tokio::test]
async fn servers_at_the_same_time_share_nothing() {
    let (one, two) = tokio::join!(TestServer::start(), TestServer::start());
    let (one, two) = (one.unwrap(), two.unwrap());
    set(&one, "key", "one").await;
    assert_ne!(one.port(), two.port());
    assert_eq!(get(&two, "key").await, Reply::Nil);
}

/// In milliseconds.
async fn time(server: &TestServer) -> u64 {
    let reply = server.command(&["TIME"]).await.unwrap();
    let number = |index: usize| reply.items()[index].text().parse::<u64>().unwrap();
    1_000 * number(0) + number(1) / 1_000
}

#[tokio::test]
async fn a_set_clock_stands_still_and_survives_a_restart() {
    let server = TestServer::builder().clock_at(1_700_000_000_123).build().await.unwrap();
    assert_eq!(time(&server).await, 1_700_000_000_123);
    tokio::time::sleep(Duration::from_millis(20)).await;
    assert_eq!(time(&server).await, 1_700_000_000_123, "it is constant");
    for millis in [1_800_000_000_001, 1_700_000_000_000, 5_000] {
        server.set_clock(millis).unwrap();
        assert_eq!(time(&server).await, millis);
    }
    server.restart().await.unwrap();
    assert_eq!(time(&server).await, 5_000);
    let other = TestServer::start().await.unwrap();
    assert!(matches!(other.set_clock(0), Err(Error::NoClock)));
}

#[tokio::test]
async fn a_restart_keeps_port_and_persistent_data() {
    let server = TestServer::builder().persistent().build().await.unwrap();
    let port = server.port();
    set(&server, "key", "value").await;
    server.restart().await.unwrap();
    assert_eq!(server.port(), port);
    assert_eq!(get(&server, "key").await.text(), "value");
}

#[tokio::test]
async fn a_restart_without_persistence_comes_back_empty() {
    let server = TestServer::start().await.unwrap();
    set(&server, "key", "value").await;
    server.restart().await.unwrap();
    assert_eq!(get(&server, "key").await, Reply::Nil);
}

#[tokio::test]
async fn a_killed_server_is_gone_and_comes_back_with_its_data() {
    let server = TestServer::builder().persistent().build().await.unwrap();
    let mut client = server.client().await.unwrap();
    client.command(&["SET", "key", "value"]).await.unwrap();
    server.kill().await.unwrap();
    assert!(client.command(&["PING"]).await.is_err());
    assert!(nobody_listens(server.port()));
    server.kill().await.expect("killing twice is not an error");
    server.restart().await.unwrap();
    assert_eq!(get(&server, "key").await.text(), "value");
}

#[tokio::test]
async fn a_paused_server_is_silent_until_it_is_resumed() {
    let server = TestServer::start().await.unwrap();
    let mut client = server.client().await.unwrap();
    server.pause().await.unwrap();
    {
        let mut second = server.client().await.unwrap();
        let silent = tokio::time::timeout(Duration::from_millis(200), second.command(&["PING"])).await;
        assert!(silent.is_err(), "a paused server answered: {silent:?}");
    }
    server.resume().await.unwrap();
    assert_eq!(client.command(&["PING"]).await.unwrap().text(), "PONG");
}

#[tokio::test]
async fn a_paused_server_can_be_killed_restarted_and_dropped() {
    let server = TestServer::start().await.unwrap();
    server.pause().await.unwrap();
    server.kill().await.unwrap();
    server.restart().await.unwrap();
    server.pause().await.unwrap();
    server.restart().await.unwrap();
    server.pause().await.unwrap();
    let port = server.port();
    drop(server);
    assert!(nobody_listens(port));
}

#[tokio::test]
async fn a_dropped_server_is_gone() {
    let server = TestServer::start().await.unwrap();
    let port = server.port();
    drop(server);
    assert!(nobody_listens(port));
}

#[test]
fn a_server_can_be_dropped_outside_a_runtime() {
    let runtime = tokio::runtime::Runtime::new().unwrap();
    let server = runtime.block_on(TestServer::start()).unwrap();
    let port = server.port();
    drop(runtime);
    drop(server);
    assert!(nobody_listens(port));
}

#[tokio::test]
async fn a_password_is_required_and_is_in_the_url() {
    let server = TestServer::builder().password("s3cret").build().await.unwrap();
    assert_eq!(server.url(), format!("redis://:s3cret@127.0.0.1:{}", server.port()));
    let mut stranger = RawClient::connect(server.port()).await.unwrap();
    assert!(stranger.command(&["GET", "key"]).await.unwrap().text().starts_with("NOAUTH"));
    assert_eq!(server.command(&["PING"]).await.unwrap().text(), "PONG");
    server.restart().await.unwrap();
    assert_eq!(server.command(&["PING"]).await.unwrap().text(), "PONG");
}

#[tokio::test]
async fn arguments_reach_the_server() {
    let server = TestServer::builder().arg("--maxmemory").arg("64mb").build().await.unwrap();
    let reply = server.command(&["CONFIG", "GET", "maxmemory"]).await.unwrap();
    assert_eq!(reply.text(), "maxmemory\n67108864");
}

#[tokio::test]
async fn a_bad_argument_is_an_error_with_the_servers_message() {
    let error = TestServer::builder().arg("--no-such-option").arg("1").build().await.unwrap_err();
    assert!(matches!(error, Error::Died { .. }), "{error:?}");
    assert!(error.to_string().contains("no-such-option"), "{error}");
}

#[cfg(target_os = "linux")]
#[tokio::test]
async fn a_unix_socket_answers_when_asked_for() {
    use std::io::{Read, Write};
    let server = TestServer::builder().unix_socket().build().await.unwrap();
    let path = server.unix_socket().expect("a socket was asked for");
    let mut stream = std::os::unix::net::UnixStream::connect(path).unwrap();
    stream.write_all(b"PING\r\n").unwrap();
    let mut reply = [0; 7];
    stream.read_exact(&mut reply).unwrap();
    assert_eq!(&reply, b"+PONG\r\n");
    assert!(TestServer::start().await.unwrap().unix_socket().is_none());
}

#[tokio::test]
async fn a_replica_follows_its_primary() {
    let primary = TestServer::builder().password("pw").build().await.unwrap();
    let replica = TestServer::builder().replica_of(&primary).build().await.unwrap();
    set(&primary, "key", "value").await;
    let mut client = primary.client().await.unwrap();
    // The link comes up on its own; WAIT counts a replica only when it has everything.
    let deadline = std::time::Instant::now() + Duration::from_secs(20);
    loop {
        set(&primary, "again", "and again").await;
        client.command(&["SET", "mine", "1"]).await.unwrap();
        if client.command(&["WAIT", "1", "500"]).await.unwrap().int() == Some(1) {
            break;
        }
        assert!(std::time::Instant::now() < deadline, "the replica never followed");
    }
    assert_eq!(get(&replica, "key").await.text(), "value");
}

#[tokio::test]
async fn writes_that_a_slow_disk_has_not_synced_are_lost_in_a_crash() {
    let server = TestServer::builder().persistent().slow_disk().build().await.unwrap();
    set(&server, "before", "1").await;
    server.restart().await.unwrap();
    server.delay_syncs(Duration::from_secs(60)).unwrap();
    let mut written = 0;
    // While a sync is in progress the server withholds its writes, up to two seconds.
    let deadline = std::time::Instant::now() + Duration::from_millis(1_500);
    while std::time::Instant::now() < deadline {
        written += 1;
        set(&server, "count", &written.to_string()).await;
    }
    server.kill().await.unwrap();
    server.delay_syncs(Duration::ZERO).unwrap();
    server.restart().await.unwrap();
    assert_eq!(get(&server, "before").await.text(), "1");
    let kept: u64 = get(&server, "count").await.text().parse().unwrap_or(0);
    assert!(kept < written, "{kept} of {written} were kept");
}

#[tokio::test]
async fn a_clock_that_is_ahead_runs_and_can_be_corrected() {
    const HOUR: u64 = 3_600;
    let server = TestServer::builder().clock_ahead().build().await.unwrap();
    let seconds = async || server.command(&["TIME"]).await.unwrap().items()[0].text().parse::<u64>().unwrap();
    let before = seconds().await;
    server.set_clock_ahead(Duration::from_secs(HOUR)).unwrap();
    let ahead = seconds().await;
    assert!((before + HOUR..before + 2 * HOUR).contains(&ahead), "{before} and then {ahead}");
    server.set_clock_ahead(Duration::ZERO).unwrap();
    assert!((before..before + HOUR).contains(&seconds().await));
}
