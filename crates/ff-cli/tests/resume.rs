//! `ff run --resume`: another run finishes the flow that a run has left.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![cfg(target_os = "linux")]

mod support;

use std::io::{BufRead, BufReader};

use bytes::Bytes;
use ff_core::{ExecutionSpec, FlowSubmission, Namespace, SubmitBackend};
use ff_testserver::TestServer;
use ff_valkey::ValkeyBackend;
use rustix::process::Signal;
use support::{
    Finished, command, ff, file, finish,
    processes::{Mark, send},
};

/// A flow of three executions; the second waits for a file.
fn crash(directory: &std::path::Path) -> String {
    let wait = format!("until [ -e {} ]; do sleep 0.05; done; echo two", directory.join("go").display());
    serde_json::json!({"name": "crash", "executions": {
        "first": {"run": "echo one"},
        "second": {"run": wait, "needs": ["first"]},
        "third": {"run": "echo three", "needs": ["second"]},
    }})
    .to_string()
}

/// Runs it and sends the signal while the second execution runs. Returns the flow, and how the program ended.
async fn left_by(server: &TestServer, directory: &std::path::Path, signal: Signal) -> (String, Finished) {
    let mark = Mark::new();
    let (_file, path) = file("flow.yaml", &crash(directory));
    let mut command = command(&["run", &path, "--json", "--url", server.url()]);
    mark.put_on(&mut command);
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let started: serde_json::Value = serde_json::from_str(&line).unwrap();
    mark.until_runs("echo two").await;
    send(&child, signal);
    let finished = finish(child).await;
    mark.until_gone().await;
    (started["flow_id"].as_str().unwrap().to_owned(), finished)
}

async fn resume(server: &TestServer, flow: &str) -> Finished {
    ff(&["run", "--resume", flow, "--json", "--url", server.url()]).await
}

#[tokio::test]
async fn a_flow_whose_run_was_killed_is_finished_by_another_run() {
    let server = TestServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (flow, _) = left_by(&server, directory.path(), Signal::KILL).await;
    std::fs::write(directory.path().join("go"), "").unwrap();
    let finished = resume(&server, &flow).await.ok();
    let lines = finished.json();
    assert_eq!((&lines[0]["flow_id"], &lines[0]["ended_before"]), (&flow.as_str().into(), &1.into()));
    let names: Vec<_> = lines[1..].iter().filter_map(|line| line["name"].as_str()).collect();
    assert_eq!(names, ["second", "third", "crash"]);
    let summary = lines.last().unwrap();
    assert_eq!((&summary["state"], &summary["audit_passed"]), (&"success".into(), &true.into()));
}

#[tokio::test]
async fn a_run_whose_terminal_closes_leaves_its_flow_and_says_how_to_resume_it() {
    let server = TestServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (flow, left) = left_by(&server, directory.path(), Signal::HUP).await;
    assert_eq!(left.code, 129, "{left:?}");
    assert!(left.stderr.contains(&format!("ff run --resume {flow}")), "{left:?}");
    std::fs::write(directory.path().join("go"), "").unwrap();
    let finished = resume(&server, &flow).await.ok();
    let second = finished.json().into_iter().find(|line| line["name"] == "second").unwrap();
    // One failure would have ended it, so giving it back was not counted.
    assert_eq!((&second["attempt"], &second["outcome"]), (&2.into(), &"success".into()), "{finished:?}");
}

#[tokio::test]
async fn two_runs_of_one_flow_share_its_work_and_both_see_its_end() {
    let server = TestServer::start().await.unwrap();
    let mut yaml = "executions:\n".to_owned();
    for index in 0..20 {
        yaml.push_str(&format!("  n{index}: {{run: sleep 0.2}}\n"));
    }
    let (_directory, path) = file("flow.yaml", &yaml);
    let mut child = command(&["run", &path, "--json", "--workers", "1", "--url", server.url()]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let started: serde_json::Value = serde_json::from_str(&line).unwrap();
    let resumed = resume(&server, started["flow_id"].as_str().unwrap()).await.ok();
    assert_eq!(resumed.json().last().unwrap()["state"], "success");
    finish(child).await.ok();
}

#[tokio::test]
async fn a_flow_that_has_ended_or_has_no_run_cannot_be_resumed() {
    let server = TestServer::start().await.unwrap();
    let (_directory, path) = file("flow.yaml", "executions: {a: {run: exit 1}}");
    let ended = ff(&["run", &path, "--json", "--url", server.url()]).await;
    let flow = ended.json()[0]["flow_id"].as_str().unwrap().to_owned();
    resume(&server, &flow).await.refused(1, &["ended already", "failed"]);
    let backend = ValkeyBackend::connect(server.url()).await.unwrap();
    let payload = Bytes::from_static(b"{\"shell\":{\"run\":\"true\"}}");
    let service =
        FlowSubmission::new(Namespace::default_namespace()).execution(ExecutionSpec::new("a").payload(payload));
    let flow = backend.submit_flow(&service).await.unwrap().flow_id.to_string();
    resume(&server, &flow).await.refused(1, &["not submitted by `ff run`"]);
    let unknown = uuid::Uuid::new_v4().to_string();
    resume(&server, &unknown).await.refused(1, &[&unknown]);
    ff(&["run", "--resume", &flow]).await.refused(2, &["no server is named"]);
}
