//! Every example runs and prints what its text says.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

use std::{collections::BTreeSet, env, fs, path::PathBuf};

use ff_testserver::TestServer;
use tokio::process::Command;

/// Each example and its whole output, but for the one that needs a server.
const OUTPUTS: [(&str, &str); 13] = [
    ("cancel", "the handler stops\nthe flow is cancelled\nlong: cancelled\nafter: cancelled\n"),
    ("dashboard", "every event was shown or declared missing: true\n"),
    ("first_flow", "Hello, world!\n"),
    ("graceful_shutdown", "a deploy stops the process while `work` runs\nwork: ended\nlater: left to others\n"),
    ("idempotent_submit", "the same flow: true\nrefused: true\n"),
    ("metrics_and_tracing", "ff_worker_completed{lane=\"default\"} 1\n"),
    ("resume_from_cursor", "success\nsuccess\nrestart\nsuccess\n"),
    (
        "retry_timeout_deadline",
        "flaky: success after 3 attempts\nslow: failed after 1 attempts\nlate: expired after 0 attempts\n",
    ),
    ("subscribe", "team-a: success\nteam-a: success\n"),
    ("typed_handlers", "charged 2500 cents, sent to number 12\n"),
    ("unit_test", "the offer expired after a day that took no time\n"),
    ("wait_for_result", "HELLO\n"),
    ("worker", "words: 3\n"),
];
const WITH_A_SERVER: &str = "sentinel_tls";

/// The program of an example, which `cargo test` builds beside this test.
fn program(name: &str) -> Command {
    let test = env::current_exe().unwrap();
    let path = test.ancestors().nth(2).unwrap().join("examples").join(name);
    assert!(path.exists(), "{} is missing; build it with `cargo build -p flowfabric --examples`", path.display());
    Command::new(path)
}

async fn output(mut program: Command) -> String {
    let output = program.kill_on_drop(true).output().await.unwrap();
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "{}: {errors}", output.status);
    String::from_utf8(output.stdout).unwrap()
}

#[tokio::test]
async fn each_example_prints_its_documented_output() {
    for (name, expected) in OUTPUTS {
        let printed = output(program(name)).await;
        // Log lines begin with a time.
        let printed: String = printed.split_inclusive('\n').filter(|line| !line.contains("INFO")).collect();
        assert_eq!(printed, expected, "{name}");
    }
}

#[tokio::test]
async fn the_example_of_a_server_behind_tls_submits_a_flow() {
    let server = TestServer::builder().tls().password("s3cret").build().await.unwrap();
    let mut program = program(WITH_A_SERVER);
    program.env("FF_URL", server.url()).env("FF_CA", &server.tls().unwrap().ca_cert);
    assert_eq!(output(program).await, "submitted a flow of 1 execution\nconnected: true\n");
}

#[test]
fn every_file_of_the_folder_is_an_example_that_runs_and_has_a_line_in_its_readme() {
    let folder = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let names = |entry: std::io::Result<fs::DirEntry>| {
        let path = entry.unwrap().path();
        let rust = path.extension().is_some_and(|extension| extension == "rs");
        rust.then(|| path.file_stem().unwrap().to_str().unwrap().to_owned())
    };
    let files: BTreeSet<String> = fs::read_dir(&folder).unwrap().filter_map(names).collect();
    let run = OUTPUTS.iter().map(|(name, _)| *name).chain([WITH_A_SERVER]).map(str::to_owned).collect();
    assert_eq!(files, run);
    let readme = fs::read_to_string(folder.join("README.md")).unwrap();
    for name in files {
        assert!(readme.contains(&format!("`{name}`")), "examples/README.md has no line for {name}");
        let text = fs::read_to_string(folder.join(format!("{name}.rs"))).unwrap();
        assert!(text.lines().count() <= 60, "{name} has more than 60 lines");
    }
}
