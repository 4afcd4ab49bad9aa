//! `ff` without a server.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::io::{BufRead, BufReader};

use support::{Finished, Signal, command, example, ff, file, finish, signal};

const NOTE: &str = "ff: no --url and no FF_URL: running in this process, nothing outlives it\n";

/// Asserts success, and that stderr has only the note about the backend.
#[track_caller]
fn ok_here(finished: Finished) -> Finished {
    let finished = finished.ok();
    assert_eq!(finished.stderr, NOTE);
    finished
}

#[tokio::test]
async fn the_demo_needs_no_server_and_says_so() {
    let demo = ok_here(ff(&["demo"]).await);
    for part in ["attempt failed", "skipped", "cancelled", "tenant A", "118 completions committed", "no other"] {
        assert!(demo.stdout.contains(part), "`{part}` is not in:\n{}", demo.stdout);
    }
}

#[tokio::test]
async fn a_flow_runs_without_a_server_and_its_json_stays_clean() {
    let finished = ok_here(ff(&["run", &example("hello.yaml"), "--json"]).await);
    let lines = finished.json();
    let names: Vec<_> = lines[1..].iter().filter_map(|line| line["name"].as_str()).collect();
    assert_eq!(names[..2], ["greet", "reply"]);
    let summary = &lines[3];
    assert_eq!((&summary["state"], &summary["audit_passed"]), (&"success".into(), &true.into()));
}

#[tokio::test]
async fn the_namespace_of_the_command_line_overrides_that_of_the_file() {
    let (_directory, path) = file("flow.yaml", "namespace: red\nexecutions: {a: {run: 'true'}}\n");
    for (args, namespace) in [(&[][..], "red"), (&["--namespace", "blue"], "blue")] {
        let finished = ok_here(ff(&[&["run", path.as_str(), "--json"], args].concat()).await);
        assert_eq!(finished.json()[1]["namespace"], namespace);
    }
}

#[tokio::test]
async fn every_example_runs_without_a_server() {
    for name in ["fan-out.yaml", "nightly-report.yaml"] {
        ok_here(ff(&["run", &example(name), "--workers", "8"]).await);
    }
    let finished = ok_here(ff(&["run", &example("wfformat-small.json"), "--time-scale", "0.01"]).await);
    assert!(finished.stdout.contains("exactly once"), "{finished:?}");
}

#[tokio::test]
async fn failures_are_retried_and_timeouts_work_without_a_server() {
    let yaml = "executions:\n  a: {run: 'echo no disk >&2; exit 3', retries: 1, backoff: 50ms}\n  \
                b: {run: 'true', needs: a}\n  c: {run: sleep 60, deadline: 500ms}\n";
    let (_directory, path) = file("flow.yaml", yaml);
    let finished = ff(&["run", &path, "--workers", "2"]).await;
    assert_eq!((finished.code, finished.stderr.as_str()), (1, NOTE), "{finished:?}");
    for part in ["exit status 3: no disk", "attempt 2", "1 failed", "1 skipped", "1 expired"] {
        assert!(finished.stdout.contains(part), "`{part}` is not in:\n{}", finished.stdout);
    }
}

#[tokio::test]
async fn ctrl_c_cancels_a_flow_without_a_server() {
    let (_directory, path) = file("flow.yaml", "executions: {a: {run: 'sleep 300'}, b: {run: 'true', needs: a}}");
    let mut child = command(&["run", &path]).spawn().unwrap();
    let mut stdout = BufReader::new(child.stdout.take().unwrap());
    let (finished, shown) = tokio::task::spawn_blocking(move || {
        let mut shown = String::new();
        while !shown.contains("started") {
            assert!(stdout.read_line(&mut shown).unwrap() > 0, "{shown}");
        }
        let pid = child.id();
        signal(pid, Signal::INT);
        std::io::Read::read_to_string(&mut stdout, &mut shown).unwrap();
        (child, shown)
    })
    .await
    .unwrap();
    assert_eq!(finish(finished).await.code, 130, "{shown}");
    assert!(shown.contains("2 cancelled"), "{shown}");
}

#[tokio::test]
async fn the_partition_count_applies_without_a_server() {
    let finished = ok_here(ff(&["run", &example("hello.yaml"), "--json", "--partitions", "1"]).await);
    let id = finished.json()[1]["execution_id"].as_str().unwrap().to_owned();
    assert!(id.starts_with("{fp:0}:"), "{id}");
}

#[tokio::test]
async fn without_a_server_the_library_is_the_programs_own() {
    let checked = ok_here(ff(&["script", "check"]).await);
    assert!(checked.stdout.contains("in this process: ") && checked.stdout.contains("the same"), "{checked:?}");
    let printed = ff(&["script", "print"]).await.ok();
    assert_eq!(printed.stderr, "", "it runs nothing");
}

#[tokio::test]
async fn the_embedded_backend_can_be_chosen_although_the_environment_names_a_server() {
    let mut named = command(&["run", &example("hello.yaml"), "--url", "embedded:"]);
    let finished = finish(named.env("FF_URL", "redis://127.0.0.1:1").spawn().unwrap()).await.ok();
    assert_eq!(finished.stderr, "ff: --url embedded: running in this process, nothing outlives it\n");
    let mut empty = command(&["run", &example("hello.yaml")]);
    ok_here(finish(empty.env("FF_URL", "").spawn().unwrap()).await);
}

#[tokio::test]
async fn a_wrong_flow_is_refused_before_the_note_about_the_backend() {
    ff(&["run", "no-such.yaml"]).await.refused(2, &["no-such.yaml", "cannot be read"]);
}
