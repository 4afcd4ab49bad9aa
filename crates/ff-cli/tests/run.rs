//! `ff run` on a real server.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::{
    io::{BufRead, BufReader},
    time::{Duration, Instant},
};

use ff_core::{ExecutionId, PartitionCount};
use ff_script::keys;
use ff_testserver::TestServer;
use rustix::process::Signal;
use support::{Finished, command, example, ff, file, finish, processes::send};

async fn run(server: &TestServer, args: &[&str]) -> Finished {
    ff(&[&["run", "--url", server.url()], args].concat()).await
}

async fn run_yaml(server: &TestServer, yaml: &str, args: &[&str]) -> Finished {
    let (_directory, path) = file("flow.yaml", yaml);
    run(server, &[&[path.as_str()], args].concat()).await
}

fn summary(finished: &Finished) -> serde_json::Value {
    finished.json().pop().unwrap_or_else(|| panic!("{finished:?}"))
}

#[tokio::test]
async fn a_flow_runs_in_the_order_of_its_needs_and_the_summary_confirms_it() {
    let server = TestServer::start().await.unwrap();
    let finished = run(&server, &[&example("hello.yaml"), "--json"]).await.ok();
    let lines = finished.json();
    assert_eq!((&lines[0]["event"], &lines[0]["executions"]), (&"started".into(), &2.into()));
    let names: Vec<_> = lines[1..].iter().filter_map(|line| line["name"].as_str()).collect();
    assert_eq!(names[..2], ["greet", "reply"]);
    assert!(lines[1]["payload_bytes"].as_str().unwrap().starts_with("Hello from {fp:"), "{}", lines[1]);
    let summary = summary(&finished);
    assert_eq!((&summary["state"], &summary["audit_passed"]), (&"success".into(), &true.into()));
    assert_eq!(summary["outcomes"]["success"], 2);
    assert_eq!(summary["critical_path"], serde_json::json!(["greet", "reply"]));
}

#[tokio::test]
async fn without_a_terminal_the_run_is_shown_as_plain_lines() {
    let server = TestServer::start().await.unwrap();
    let finished = run(&server, &[&example("hello.yaml")]).await.ok();
    for part in
        ["started    greet", "success    reply", "hello succeeded in", "2 success", "critical path", "exactly once"]
    {
        assert!(finished.stdout.contains(part), "`{part}` is not in:\n{}", finished.stdout);
    }
    assert!(!finished.stdout.contains('\u{1b}') && finished.stderr.is_empty(), "{finished:?}");
}

#[tokio::test]
async fn the_self_contained_examples_succeed() {
    let server = TestServer::start().await.unwrap();
    for name in ["fan-out.yaml", "nightly-report.yaml"] {
        run(&server, &[&example(name), "--workers", "8"]).await.ok();
    }
    let finished = run(&server, &[&example("wfformat-small.json"), "--time-scale", "0.01", "--json"]).await.ok();
    let summary = summary(&finished);
    assert_eq!((summary["executions"].as_u64(), summary["audit_passed"].as_bool()), (Some(8), Some(true)));
    assert_eq!(summary["critical_path"][2], "match_2", "the slower branch");
}

#[tokio::test]
async fn a_failure_is_retried_and_then_fails_the_flow_with_its_status_and_last_line() {
    let server = TestServer::start().await.unwrap();
    let yaml = "executions:\n  a: {run: 'echo no disk >&2; exit 3', retries: 1, backoff: 50ms}\n  b: {run: 'true', needs: a}\n";
    let finished = run_yaml(&server, yaml, &[]).await;
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stdout.contains("exit status 3: no disk"), "{finished:?}");
    assert!(finished.stdout.contains("1 failed, 1 skipped") && finished.stdout.contains("attempt 2"), "{finished:?}");
}

/// Judged by the times that the server recorded, so that the test's own duration does not matter.
#[tokio::test]
async fn retries_start_right_after_their_backoff() {
    let server = TestServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let run = |name: &str| format!("echo $FF_ATTEMPT >> {}; exit 1", directory.path().join(name).display());
    let yaml = serde_json::json!({"executions": {
        "spaced": {"run": run("spaced"), "retries": 5, "backoff": "50ms"},
        "quick": {"run": run("quick"), "retries": 9, "backoff": "1ms"},
    }});
    let finished = run_yaml(&server, &yaml.to_string(), &["--json"]).await;
    assert_eq!(finished.code, 1, "{finished:?}");
    let mut took = std::collections::HashMap::new();
    for completion in finished.json().iter().filter(|line| line["event"] == "completion") {
        let id = completion["execution_id"].as_str().unwrap();
        let described = ff(&["describe", id, "--json", "--url", server.url()]).await.ok().json().remove(0);
        let at = |field: &str| described[field].as_u64().unwrap();
        took.insert(described["name"].as_str().unwrap().to_owned(), at("completed_at_ms") - at("created_at_ms"));
    }
    for (name, last) in [("spaced", 6), ("quick", 10)] {
        let attempts = std::fs::read_to_string(directory.path().join(name)).unwrap();
        assert!(attempts.lines().eq((1..=last).map(|attempt| attempt.to_string())), "{name}: {attempts}");
    }
    // 50, 100, 200, 400 and 800 ms, each shortened by up to a fifth.
    assert!(took["spaced"] >= 1_240, "{took:?}");
    // Half a second of backoff in total, and the time of ten commands. With one sweep a second it would be nine
    // seconds.
    assert!(took["quick"] < 5_000, "{took:?}");
}

#[tokio::test]
async fn an_attempt_beyond_its_timeout_is_ended_with_all_that_it_started() {
    let server = TestServer::start().await.unwrap();
    let (directory, marker) = file("marker", "");
    let yaml = format!("executions: {{a: {{run: '(sleep 4; echo late >> {marker}) & sleep 60', timeout: 300ms}}}}");
    let started = Instant::now();
    let finished = run_yaml(&server, &yaml, &[]).await;
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stdout.contains("timeout") && started.elapsed() < Duration::from_secs(20), "{finished:?}");
    tokio::time::sleep(Duration::from_secs(5).saturating_sub(started.elapsed())).await;
    assert_eq!(std::fs::read_to_string(&marker).unwrap(), "");
    drop(directory);
}

#[tokio::test]
async fn a_deadline_ends_the_flow_as_failed() {
    let server = TestServer::start().await.unwrap();
    let finished = run_yaml(&server, "executions: {a: {run: sleep 60, deadline: 500ms}}", &["--json"]).await;
    assert_eq!((finished.code, summary(&finished)["outcomes"]["expired"].as_u64()), (1, Some(1)), "{finished:?}");
}

#[tokio::test]
async fn a_member_whose_record_is_deleted_fails_with_this_cause_under_its_name() {
    let server = TestServer::start().await.unwrap();
    let yaml = "executions:
  one: {run: sleep 1}
  two: {run: echo 2, needs: [one]}
  three: {run: echo 3, needs: [two]}";
    let (_directory, path) = file("flow.yaml", yaml);
    let mut child = command(&["run", &path, "--json", "--url", server.url()]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let started: serde_json::Value = serde_json::from_str(&line).unwrap();
    let flow_id = started["flow_id"].as_str().unwrap().parse().unwrap();
    let record = keys::execution_core(ExecutionId::member(flow_id, "two", PartitionCount::DEFAULT));
    while server.command(&["DEL", &record]).await.unwrap().int() != Some(1) {
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    let rest = tokio::task::spawn_blocking(move || std::io::read_to_string(stdout).unwrap());
    let finished = finish(child).await;
    let lines: Vec<serde_json::Value> =
        rest.await.unwrap().lines().map(|line| serde_json::from_str(line).unwrap()).collect();
    let two = lines.iter().find(|line| line["name"] == "two").unwrap();
    assert_eq!(two["cause"], "its record on the server is lost");
    let summary = lines.last().unwrap();
    assert_eq!((&summary["state"], &summary["audit_passed"]), (&"failed".into(), &true.into()), "{finished:?}");
    assert_eq!(finished.code, 1);
}

#[tokio::test]
async fn a_flow_that_the_server_has_lost_is_not_offered_to_be_resumed() {
    let server = TestServer::start().await.unwrap();
    let (_directory, path) = file("flow.yaml", "executions: {a: {run: sleep 60}}");
    let child = command(&["run", &path, "--json", "--url", server.url()]).spawn().unwrap();
    until_running(&server).await;
    server.command(&["FLUSHALL"]).await.unwrap();
    let finished = finish(child).await;
    let said = finished.stderr.lines().last().unwrap_or_default();
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(said.contains("no longer has it") && !said.contains("--resume"), "{said}");
}

#[tokio::test]
async fn a_run_with_an_execution_that_was_cancelled_elsewhere_has_not_succeeded() {
    let server = TestServer::start().await.unwrap();
    let yaml = "executions:\n  build: {run: sleep 60}\n  deploy: {run: echo deployed, needs: [build]}\n";
    let (_directory, path) = file("flow.yaml", yaml);
    let mut child = command(&["run", &path, "--json", "--url", server.url()]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let mut line = String::new();
    stdout.read_line(&mut line).unwrap();
    let started: serde_json::Value = serde_json::from_str(&line).unwrap();
    until_running(&server).await;
    let flow_id = started["flow_id"].as_str().unwrap().parse().unwrap();
    let build = ExecutionId::member(flow_id, "build", PartitionCount::DEFAULT).to_string();
    ff(&["cancel", &build, "--url", server.url()]).await.ok();
    let rest = tokio::task::spawn_blocking(move || std::io::read_to_string(stdout).unwrap());
    let finished = finish(child).await;
    let rest = rest.await.unwrap();
    let summary: serde_json::Value = serde_json::from_str(rest.lines().last().unwrap()).unwrap();
    assert_eq!(finished.code, 130, "{finished:?}");
    assert_eq!(summary["state"], "cancelled");
    assert_eq!(summary["outcomes"], serde_json::json!({"cancelled": 1, "skipped": 1}));
}

/// Every call of the run fails meanwhile.
#[tokio::test]
async fn an_outage_during_a_run_is_logged_in_two_lines() {
    let server = TestServer::start().await.unwrap();
    let (_directory, path) = file("flow.yaml", "executions: {a: {run: sleep 12, retries: 1}}");
    let child = command(&["run", &path, "--json", "--url", server.url()]).spawn().unwrap();
    until_running(&server).await;
    server.command(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
    tokio::time::sleep(Duration::from_secs(6)).await;
    server.command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    let finished = finish(child).await.ok();
    let lines: Vec<_> = finished.stderr.lines().collect();
    assert!(lines.len() == 2 && lines[0].contains(" lost: ") && lines[1].contains(" is back after "), "{finished:?}");
}

#[tokio::test]
async fn outputs_are_kept_per_attempt_and_as_the_result() {
    let server = TestServer::start().await.unwrap();
    let kept = tempfile::tempdir().unwrap();
    let yaml = "executions: {step one: {run: 'echo attempt $FF_ATTEMPT of $FF_FLOW_ID; test $FF_ATTEMPT = 2', \
                retries: 1, backoff: 10ms}}";
    let finished = run_yaml(&server, yaml, &["--json", "--keep-outputs", kept.path().to_str().unwrap()]).await.ok();
    let mut contents: Vec<_> = std::fs::read_dir(kept.path())
        .unwrap()
        .map(|entry| std::fs::read_to_string(entry.unwrap().path()).unwrap())
        .collect();
    contents.sort();
    let flow = summary(&finished)["flow_id"].as_str().unwrap().to_owned();
    assert_eq!(contents, [format!("attempt 1 of {flow}\n"), format!("attempt 2 of {flow}\n")]);
    let id = finished.json()[1]["execution_id"].as_str().unwrap().to_owned();
    let described = ff(&["describe", &id, "--json", "--url", server.url()]).await.ok();
    assert_eq!(described.json()[0]["result"], format!("attempt 2 of {flow}\n"));
}

#[tokio::test]
async fn ctrl_c_cancels_the_flow_and_ends_its_commands() {
    let server = TestServer::start().await.unwrap();
    let (_directory, path) = file("flow.yaml", "executions: {a: {run: 'sleep 300'}, b: {run: 'true', needs: a}}");
    let child = command(&["run", &path, "--json", "--url", server.url()]).spawn().unwrap();
    until_running(&server).await;
    let started = Instant::now();
    interrupt(&child);
    let finished = finish(child).await;
    assert_eq!(finished.code, 130, "{finished:?}");
    assert!(started.elapsed() < Duration::from_secs(10));
    let summary = summary(&finished);
    assert_eq!((summary["outcomes"]["cancelled"].as_u64(), summary["state"].as_str()), (Some(2), Some("cancelled")));
}

fn interrupt(child: &std::process::Child) {
    send(child, Signal::INT);
}

/// Waits until an execution has been claimed.
async fn until_running(server: &TestServer) {
    loop {
        let leases = server.command(&["EVAL", LEASES, "0"]).await.unwrap();
        if leases.int().is_some_and(|held| held > 0) {
            return;
        }
        tokio::time::sleep(Duration::from_millis(50)).await;
    }
}

/// How many executions are held under a lease.
const LEASES: &str = "local held = 0
for _, key in ipairs(redis.call('KEYS', '*:leases')) do held = held + redis.call('ZCARD', key) end
return held";

#[tokio::test]
async fn two_runs_at_once_do_not_take_each_others_work() {
    let server = TestServer::start().await.unwrap();
    let path = example("wfformat-small.json");
    let args = [path.as_str(), "--time-scale", "0.01", "--json"];
    let (one, other) = tokio::join!(run(&server, &args), run(&server, &args));
    for finished in [one.ok(), other.ok()] {
        let lines = finished.json();
        assert_eq!(lines.len(), 10);
        assert!(lines[1..9].iter().all(|line| line["attempt"] == 1), "{lines:?}");
    }
}

#[tokio::test]
async fn a_run_survives_repeated_disconnections_of_its_subscriber() {
    let server = TestServer::start().await.unwrap();
    let (_directory, path) = file("flow.yaml", &many(60));
    let child = command(&["run", &path, "--workers", "4", "--json", "--url", server.url()]).spawn().unwrap();
    for _ in 0..10 {
        tokio::time::sleep(Duration::from_millis(150)).await;
        server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
    }
    let finished = finish(child).await.ok();
    assert_eq!(summary(&finished)["audit_passed"], true);
}

#[tokio::test]
async fn a_run_survives_a_restart_of_its_server() {
    let server = TestServer::builder().persistent().arg("--appendfsync").arg("always").build().await.unwrap();
    let (_directory, path) = file("flow.yaml", &many(40));
    let child = command(&["run", &path, "--workers", "4", "--json", "--url", server.url()]).spawn().unwrap();
    for _ in 0..2 {
        tokio::time::sleep(Duration::from_millis(500)).await;
        server.kill().await.unwrap();
        server.restart().await.unwrap();
    }
    let finished = finish(child).await;
    assert_eq!(finished.code, 0, "{finished:?}");
    assert_eq!(summary(&finished)["audit_passed"], true);
}

#[tokio::test]
async fn a_run_whose_server_is_gone_can_still_be_interrupted() {
    let server = TestServer::start().await.unwrap();
    let (_directory, path) = file("flow.yaml", "executions: {a: {run: sleep 60}}");
    let child = command(&["run", &path, "--url", server.url()]).spawn().unwrap();
    until_running(&server).await;
    server.kill().await.unwrap();
    interrupt(&child);
    let started = Instant::now();
    let finished = finish(child).await;
    assert_eq!(finished.code, 130, "{finished:?}");
    assert!(finished.stderr.lines().last().unwrap().contains("not confirmed"), "{finished:?}");
    assert!(started.elapsed() < Duration::from_secs(40), "{:?}", started.elapsed());
}

#[tokio::test]
async fn a_second_ctrl_c_does_not_wait_for_a_server_that_is_gone() {
    let server = TestServer::start().await.unwrap();
    let (_directory, path) = file("flow.yaml", "executions: {a: {run: sleep 60}}");
    let mut child = command(&["run", &path, "--url", server.url()]).spawn().unwrap();
    until_running(&server).await;
    server.kill().await.unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    interrupt(&child);
    let child = tokio::task::spawn_blocking(move || {
        let mut shown = String::new();
        while !shown.contains("Ctrl-C again") {
            assert!(stdout.read_line(&mut shown).unwrap() > 0, "{shown}");
        }
        interrupt(&child);
        child
    });
    let finished = finish(child.await.unwrap()).await;
    assert_eq!(finished.code, 130, "{finished:?}");
    assert!(finished.stderr.contains("interrupted again"), "{finished:?}");
}

#[tokio::test]
async fn commands_cannot_find_out_how_the_server_is_reached() {
    let server = TestServer::start().await.unwrap();
    let (_directory, path) = file("flow.yaml", "executions: {a: {run: 'echo \"<$FF_URL>\"'}}");
    let child = command(&["run", &path, "--json"]).env("FF_URL", server.url()).spawn().unwrap();
    assert_eq!(finish(child).await.ok().json()[1]["payload_bytes"], "<>\n");
}

fn many(count: usize) -> String {
    let mut yaml = "executions:\n".to_owned();
    for index in 0..count {
        let needs = if index < 4 { String::new() } else { format!(", needs: [n{}]", index - 4) };
        yaml.push_str(&format!("  n{index}: {{run: 'sleep 0.1'{needs}}}\n"));
    }
    yaml
}
