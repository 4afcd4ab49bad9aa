//! The protection of a run against other users of the server and of the machine.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![cfg(target_os = "linux")]

mod support;

use std::{
    collections::HashSet,
    io::{BufRead, BufReader},
    time::Duration,
};

use bytes::Bytes;
use ff_core::{
    ControlBackend, ExecutionSpec, ExecutionSubmission, FlowSubmission, LaneId, Namespace, PublicState, SubmitBackend,
};
use ff_testserver::TestServer;
use ff_valkey::ValkeyBackend;
use support::{command, file, finish, processes::Mark};

#[tokio::test]
async fn foreign_work_on_the_lane_of_a_run_is_never_executed_and_goes_back_to_the_queue() {
    let server = TestServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let (pwned, go) = (directory.path().join("pwned"), directory.path().join("go"));
    let run = format!("until [ -e {} ]; do sleep 0.05; done", go.display());
    let (_directory, path) = file("flow.yaml", &format!("executions: {{a: {{run: '{run}'}}}}"));
    let mark = Mark::new();
    let mut command = command(&["run", &path, "--json", "--workers", "8", "--url", server.url()]);
    mark.put_on(&mut command);
    let mut child = command.spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let stderr = BufReader::new(child.stderr.take().unwrap());
    let started: serde_json::Value = serde_json::from_str(&read_line(&mut stdout)).unwrap();
    let lane = LaneId::new(&format!("run-{}", started["run"].as_str().unwrap())).unwrap();

    let attacker = ValkeyBackend::connect(server.url()).await.unwrap();
    let payload = format!("{{\"shell\":{{\"run\":\"touch {}\"}}}}", pwned.display());
    let spec = |name: &str| ExecutionSpec::new(name).lane(lane.clone()).payload(Bytes::from(payload.clone()));
    let namespace = Namespace::new("tenant-evil").unwrap();
    let solo = attacker.submit_execution(&ExecutionSubmission::new(namespace.clone(), spec("solo"))).await.unwrap();
    let flow = FlowSubmission::new(namespace).execution(spec("a"));
    let member = attacker.submit_flow(&flow).await.unwrap().executions[0].execution_id;
    // The program reports the first refusal, and the run ends when both have been claimed.
    let (warned, mut warning) = tokio::sync::oneshot::channel();
    std::thread::spawn(move || warned.send(stderr.lines().next()));
    let (mut claimed, mut warned) = (HashSet::new(), None);
    while claimed.len() < 2 || warned.is_none() {
        assert!(!pwned.exists(), "the work of a stranger was done");
        for id in [solo.execution_id, member] {
            if attacker.describe_execution(id).await.unwrap().attempt > 0 {
                claimed.insert(id);
            }
        }
        warned = warned.or_else(|| warning.try_recv().ok());
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let warned = warned.flatten().unwrap().unwrap();
    assert!(warned.contains("refused") && warned.contains("tenant-evil"), "{warned}");
    std::fs::write(go, "").unwrap();
    finish(child).await.ok();
    assert!(!pwned.exists());
    for id in [solo.execution_id, member] {
        let execution = attacker.describe_execution(id).await.unwrap();
        assert_eq!((execution.state, execution.failures), (PublicState::Waiting, 0), "{execution:?}");
    }
}

fn read_line(reader: &mut impl BufRead) -> String {
    let mut line = String::new();
    assert!(reader.read_line(&mut line).unwrap() > 0, "it ended");
    line
}

#[tokio::test]
async fn a_password_in_the_url_gives_one_warning_and_is_hidden_from_process_lists() {
    let server = TestServer::builder().arg("--requirepass").arg("hush-hush").build().await.unwrap();
    let url = server.url().replace("redis://", "redis://:hush-hush@");
    let look = "cat /proc/[0-9]*/cmdline 2>/dev/null | tr '\\0' ' ' | grep -c 'hush-[h]ush' || true";
    let yaml = serde_json::json!({"executions": {"a": {"run": look}}}).to_string();
    let (_directory, path) = file("flow.yaml", &yaml);
    let finished = finish(command(&["run", "--url", &url, "--json", &path]).spawn().unwrap()).await.ok();
    let warnings = finished.stderr.lines().filter(|line| line.contains("--password-file")).count();
    assert_eq!((warnings, finished.stderr.contains("hush-hush")), (1, false), "{finished:?}");
    // The server hides its own arguments.
    assert_eq!(finished.json()[1]["payload_bytes"], "0\n", "{finished:?}");
}
