//! `ff run` on a terminal.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![cfg(target_os = "linux")]

mod support;

use std::{
    ffi::OsStr,
    fs::{File, OpenOptions},
    io::Read,
    os::unix::{ffi::OsStrExt, process::CommandExt as _},
    process::Command,
    time::Duration,
};

use ff_testserver::TestServer;
use rustix::{
    process::Signal,
    pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt},
};
use support::{
    command, example, ff, file, finish,
    processes::{Mark, Registered},
};

/// The time limit of a wait, also on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A terminal. Closing the first file hangs it up; the second is the program's side.
fn terminal() -> (File, File) {
    let master = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&master).unwrap();
    unlockpt(&master).unwrap();
    let name = ptsname(&master, Vec::new()).unwrap();
    let slave = OpenOptions::new().read(true).write(true).open(OsStr::from_bytes(name.to_bytes())).unwrap();
    (File::from(master), slave)
}

/// What is printed until this text appears, or until the program has closed its side.
async fn shown_until(text: &'static str, mut master: File) -> (String, File) {
    let (send, shown) = tokio::sync::oneshot::channel();
    // Not a task of the runtime, which would wait for it when the test fails.
    std::thread::spawn(move || {
        let (mut all, mut part) = (Vec::new(), [0; 4096]);
        // The end is an error: nobody has the other side open.
        while let Ok(length) = master.read(&mut part) {
            all.extend_from_slice(&part[..length]);
            if String::from_utf8_lossy(&all).contains(text) {
                break;
            }
        }
        send.send((String::from_utf8_lossy(&all).into_owned(), master))
    });
    tokio::time::timeout(TIME_LIMIT, shown).await.unwrap_or_else(|_| panic!("`{text}` is not shown")).unwrap()
}

#[tokio::test]
async fn a_terminal_that_cannot_redraw_lines_gets_plain_lines() {
    let (master, slave) = terminal();
    let mut run = command(&["run", &example("hello.yaml")]);
    run.env("TERM", "dumb").stdout(slave);
    let child = run.spawn().unwrap();
    drop(run);
    let (shown, _) = shown_until("hello succeeded in", master).await;
    finish(child).await.ok();
    for part in ["hello: 2 executions", "started    greet", "success    reply"] {
        assert!(shown.contains(part), "`{part}` is not in:\n{shown}");
    }
}

/// Closing a terminal can kill more than the program that it sends SIGHUP to.
#[tokio::test]
async fn a_closed_terminal_and_a_killed_supervisor_leave_no_process_and_a_flow_that_can_be_resumed() {
    let server = TestServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let stubborn = "trap '' HUP TERM INT; echo $$ >> pids; until [ -e go ]; do sleep 0.05; done";
    let run = format!("setsid sh -c \"{}\" &\n{stubborn}", stubborn.replace('$', "\\$"));
    let yaml = serde_json::json!({"executions": {"a": {"working_dir": directory.path(), "retries": 1, "run": run}}});
    let (_file, path) = file("flow.yaml", &yaml.to_string());
    let mark = Mark::new();
    let (master, slave) = terminal();
    let like = command(&["run", &path, "--url", server.url()]);
    // In a session of its own, with this terminal.
    let mut run = Command::new("setsid");
    run.args(["--ctty", "--wait"]).arg(like.get_program()).args(like.get_args()).arg0("setsid");
    run.env_remove("FF_URL").env("TERM", "dumb");
    run.stdin(slave.try_clone().unwrap()).stdout(slave.try_clone().unwrap()).stderr(slave);
    mark.put_on(&mut run);
    let child = run.spawn().unwrap();
    drop(run);
    let processes = Registered::wait_for(&directory.path().join("pids"), 2).await;
    assert_eq!(processes.left().len(), 2);
    let (shown, master) = shown_until("started", master).await;
    let flow = shown.split("--resume ").nth(1).unwrap().split('`').next().unwrap().to_owned();
    drop(master);
    for (pid, arguments) in mark.processes() {
        if arguments.contains("supervise-attempt") {
            rustix::process::kill_process(pid, Signal::KILL).unwrap();
        }
    }
    finish(child).await;
    processes.until_gone().await;
    mark.until_gone().await;
    std::fs::write(directory.path().join("go"), "").unwrap();
    let resumed = ff(&["run", "--resume", &flow, "--json", "--url", server.url()]).await;
    assert_eq!(resumed.code, 0, "{resumed:?}");
}
