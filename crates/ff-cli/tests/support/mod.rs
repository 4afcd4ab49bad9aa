//! Runs the real program and checks its output.
#![allow(dead_code, reason = "each test program uses its part")]

pub(crate) mod processes;

use std::{
    io::Write as _,
    path::{Path, PathBuf},
    process::{Child, Command, Output, Stdio},
    time::Duration,
};

use rustix::process::Pid;
pub(crate) use rustix::process::Signal;
use serde_json::Value;

/// The time limit of a wait, also on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// One finished run of `ff`.
#[derive(Debug)]
pub(crate) struct Finished {
    pub(crate) code: i32,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Finished {
    fn of(output: &Output) -> Self {
        Self {
            code: output.status.code().unwrap_or(-1),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
        }
    }

    /// The JSON objects of stdout.
    pub(crate) fn json(&self) -> Vec<Value> {
        self.stdout.lines().map(|line| serde_json::from_str(line).unwrap_or_else(|_| panic!("{self:?}"))).collect()
    }

    /// Asserts success.
    #[track_caller]
    pub(crate) fn ok(self) -> Self {
        assert_eq!(self.code, 0, "{}\n{}", self.stdout, self.stderr);
        self
    }

    /// Asserts that it ended with this code and one line on stderr that contains all `parts`.
    #[track_caller]
    pub(crate) fn refused(self, code: i32, parts: &[&str]) -> Self {
        assert_eq!(self.code, code, "{}\n{}", self.stdout, self.stderr);
        // The warning of a password on the command line comes before it.
        let lines: Vec<_> = self.stderr.lines().filter(|line| !line.contains("a password in --url")).collect();
        assert!(lines.len() == 1 && lines[0].starts_with("ff: "), "not one line: {}", self.stderr);
        for part in parts {
            assert!(lines[0].contains(part), "`{part}` is not in: {}", lines[0]);
        }
        self
    }
}

/// Tests that run under `nohup` ignore SIGHUP, and so would the programs that they start. The system gives a program
/// the default for each signal that its parent handles.
fn hang_up_by_default() {
    if tokio::runtime::Handle::try_current().is_ok() {
        // The handler stays when its receiver is dropped.
        drop(tokio::signal::unix::signal(tokio::signal::unix::SignalKind::hangup()));
    }
}

/// The program, not yet started, without the options of the caller's environment.
pub(crate) fn command(args: &[&str]) -> Command {
    hang_up_by_default();
    let mut command = Command::new(env!("CARGO_BIN_EXE_ff"));
    command.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
    for name in [
        "FF_URL",
        "FF_LOG",
        "FF_USERNAME",
        "FF_PASSWORD_FILE",
        "FF_CA",
        "FF_TLS_SERVER_NAME",
        "FF_CERT",
        "FF_KEY",
        "FF_PARTITIONS",
    ] {
        command.env_remove(name);
    }
    command
}

/// Runs the program to its end, outside the test's own runtime.
pub(crate) async fn ff(args: &[&str]) -> Finished {
    finish(command(args).spawn().unwrap()).await
}

/// Runs the program with `input` on its stdin.
pub(crate) async fn ff_with_input(args: &[&str], input: &str) -> Finished {
    let mut child = command(args).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(input.as_bytes()).unwrap();
    finish(child).await
}

/// Waits for the end of a program. A program that hangs is killed, and the test fails.
pub(crate) async fn finish(child: Child) -> Finished {
    let pid = child.id();
    let waiting = tokio::task::spawn_blocking(move || Finished::of(&child.wait_with_output().unwrap()));
    tokio::pin!(waiting);
    if let Ok(finished) = tokio::time::timeout(TIME_LIMIT, &mut waiting).await {
        return finished.unwrap();
    }
    signal(pid, Signal::KILL);
    panic!("it hangs: {:?}", waiting.await.unwrap());
}

/// Sends a signal to a process.
pub(crate) fn signal(pid: u32, signal: Signal) {
    let pid = Pid::from_raw(pid.try_into().unwrap()).unwrap();
    rustix::process::kill_process(pid, signal).unwrap();
}

pub(crate) fn example(name: &str) -> String {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name).display().to_string()
}

/// A file with this content in a directory that lives as long as the pair.
pub(crate) fn file(name: &str, content: &str) -> (tempfile::TempDir, String) {
    let directory = tempfile::tempdir().unwrap();
    let path: PathBuf = directory.path().join(name);
    std::fs::write(&path, content).unwrap();
    let path = path.display().to_string();
    (directory, path)
}

/// The keys on a server, without the lists of processes that wait for work, which belong to no flow.
pub(crate) async fn keys(server: &ff_testserver::TestServer) -> Vec<String> {
    let keys = server.command(&["KEYS", "*"]).await.unwrap();
    let mut keys: Vec<_> = keys.items().iter().map(|key| key.text()).filter(|key| !key.ends_with(":waiters")).collect();
    keys.sort();
    keys
}

/// A server that replies like one of a version that is too old.
pub(crate) struct OldServer {
    port: u16,
}

impl OldServer {
    pub(crate) async fn start() -> Self {
        let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(answer(stream));
            }
        });
        Self { port }
    }

    pub(crate) fn url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.port)
    }
}

async fn answer(stream: tokio::net::TcpStream) -> Option<()> {
    use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufStream};
    const INFO: &str = "# Server\r\nredis_version:6.2.14\r\nredis_mode:standalone\r\n";
    let mut stream = BufStream::new(stream);
    loop {
        let mut line = String::new();
        stream.read_line(&mut line).await.ok().filter(|read| *read > 0)?;
        // A command is an array of strings, or a line of words as for HELLO.
        let words = line.trim().strip_prefix('*').and_then(|count| count.parse::<usize>().ok());
        let mut command: Vec<String> =
            if words.is_none() { line.split_whitespace().map(str::to_owned).collect() } else { Vec::new() };
        for _ in 0..words.unwrap_or(0) {
            line.clear();
            stream.read_line(&mut line).await.ok()?;
            let length: usize = line.trim().strip_prefix('$')?.parse().ok()?;
            let mut word = vec![0; length + 2];
            stream.read_exact(&mut word).await.ok()?;
            command.push(String::from_utf8_lossy(&word[..length]).to_uppercase());
        }
        let reply = match command.first().map(String::as_str) {
            Some("INFO") => format!("${}\r\n{INFO}\r\n", INFO.len()),
            Some("PING") => "+PONG\r\n".to_owned(),
            Some("CLIENT") => ":1\r\n".to_owned(),
            Some("HELLO") => "+OK\r\n".to_owned(),
            Some(other) => format!("-ERR unknown command `{other}`\r\n"),
            None => return None,
        };
        stream.write_all(reply.as_bytes()).await.ok()?;
        stream.flush().await.ok()?;
    }
}
