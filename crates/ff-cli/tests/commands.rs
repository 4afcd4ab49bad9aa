//! `ff watch`, `describe`, `cancel`, `demo`, `script` and `doctor` on a real server.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use std::{
    io::{BufRead, BufReader},
    process::{Child, ChildStderr},
};

use ff_testserver::{Sentinels, TestServer};
use support::{command, example, ff, file, finish};

/// Starts `ff watch` and waits until it reports that it is subscribed.
async fn watching(args: &[&str]) -> Child {
    let mut command = command(args);
    tokio::task::spawn_blocking(move || {
        let mut child = command.spawn().unwrap();
        let mut line = String::new();
        BufReader::new(child.stderr.take().unwrap()).read_line(&mut line).unwrap();
        assert!(line.contains("watching"), "{line}");
        child
    })
    .await
    .unwrap()
}

async fn watch(server: &TestServer, args: &[&str]) -> Child {
    watching(&[&["watch", "--json", "--url", server.url()], args].concat()).await
}

#[tokio::test]
async fn watchers_see_only_what_their_filter_passes() {
    let server = TestServer::start().await.unwrap();
    let yaml = "namespace: red\nexecutions:\n  a: {run: 'true', tags: {step: one}}\n  b: {run: 'true', needs: a}\n";
    let (_directory, path) = file("flow.yaml", yaml);
    let all = watch(&server, &["--count", "4"]).await;
    let red = watch(&server, &["--namespace", "red", "--count", "2"]).await;
    let tag = watch(&server, &["--tag", "step=one", "--count", "1"]).await;
    let both = watch(&server, &["--namespace", "default", "--tag", "step=one", "--for", "3s"]).await;
    ff(&["run", &example("hello.yaml"), "--url", server.url()]).await.ok();
    ff(&["run", &path, "--url", server.url()]).await.ok();
    let (all, red, tag, both) = tokio::join!(finish(all), finish(red), finish(tag), finish(both));
    let names = |finished: support::Finished| -> Vec<String> {
        finished.ok().json().iter().map(|line| line["tags"]["ff.name"].as_str().unwrap().to_owned()).collect()
    };
    assert_eq!(names(all), ["greet", "reply", "a", "b"]);
    assert_eq!(names(red), ["a", "b"]);
    assert_eq!(names(tag), ["a"]);
    assert_eq!(names(both), [""; 0]);
}

#[tokio::test]
async fn a_watch_resumes_where_the_previous_one_ended() {
    let server = TestServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cursor = directory.path().join("cursor").display().to_string();
    let hello = example("hello.yaml");
    let names = |finished: &support::Finished| -> Vec<String> {
        finished.json().iter().map(|line| line["tags"]["ff.name"].as_str().unwrap().to_owned()).collect()
    };
    let first = watch(&server, &["--count", "1", "--cursor-file", &cursor]).await;
    ff(&["run", &hello, "--url", server.url()]).await.ok();
    assert_eq!(names(&finish(first).await.ok()), ["greet"]);
    // While no watch runs.
    ff(&["run", &hello, "--url", server.url()]).await.ok();
    let second = watch(&server, &["--count", "3", "--cursor-file", &cursor]).await;
    let mut rest = names(&finish(second).await.ok());
    rest.sort();
    assert_eq!(rest, ["greet", "reply", "reply"]);
    let all = watch(&server, &["--count", "4", "--from", "earliest"]).await;
    assert_eq!(names(&finish(all).await.ok()).len(), 4);
    std::fs::write(&cursor, "ff1:garbled").unwrap();
    let url = ["watch", "--cursor-file", &cursor, "--url", server.url()];
    ff(&url).await.refused(2, &[&cursor, "garbled"]);
}

#[tokio::test]
async fn metrics_are_served_while_watching() {
    let server = TestServer::start().await.unwrap();
    let address = {
        let free = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        free.local_addr().unwrap().to_string()
    };
    let mut watcher = watch(&server, &["--metrics", &address]).await;
    ff(&["run", &example("hello.yaml"), "--url", server.url()]).await.ok();
    let scrape = || {
        let mut connection = std::net::TcpStream::connect(&address).unwrap();
        std::io::Write::write_all(&mut connection, b"GET /metrics HTTP/1.1\r\nHost: ff\r\nConnection: close\r\n\r\n")
            .unwrap();
        std::io::read_to_string(connection).unwrap()
    };
    let wanted =
        ["ff_completion_delivered_total 2", "ff_subscription_lag_events", "ff_completion_complete_as_of_seconds"];
    // Gauges are updated once a second.
    let mut text = String::new();
    let patience = std::time::Instant::now() + std::time::Duration::from_secs(60);
    while !wanted.iter().all(|wanted| text.contains(wanted)) {
        assert!(std::time::Instant::now() < patience, "{text}");
        tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        text = scrape();
    }
    assert!(text.contains("subscription=\"watch\""), "{text}");
    ff(&["watch", "--metrics", &address, "--url", server.url()]).await.refused(2, &["--metrics", &address]);
    watcher.kill().unwrap();
}

#[tokio::test]
async fn a_reader_that_goes_away_ends_the_watch_without_noise() {
    let server = TestServer::start().await.unwrap();
    let mut watcher = watch(&server, &[]).await;
    // At once, although nothing is written any more.
    drop(watcher.stdout.take());
    assert_eq!(finish(watcher).await.code, 0);
}

#[tokio::test]
async fn flows_and_executions_are_described_and_cancelled() {
    let server = TestServer::start().await.unwrap();
    let (_directory, path) = file("flow.yaml", "name: long\nexecutions: {a: {run: sleep 60}, b: {run: sleep 60}}");
    let watcher = watch(&server, &["--count", "2"]).await;
    let mut child = command(&["run", &path, "--url", server.url()]).spawn().unwrap();
    let mut line = String::new();
    let stdout = child.stdout.take().unwrap();
    let (flow, stdout) = tokio::task::spawn_blocking(move || {
        let mut stdout = BufReader::new(stdout);
        stdout.read_line(&mut line).unwrap();
        (line.trim().rsplit(' ').next().unwrap().to_owned(), stdout)
    })
    .await
    .unwrap();
    let described = ff(&["describe", &flow, "--json", "--url", server.url()]).await.ok().json().remove(0);
    assert_eq!((&described["state"], &described["name"]), (&"running".into(), &"long".into()));
    let execution = described["members"][0]["execution_id"].as_str().unwrap();
    let table = ff(&["describe", &flow, "--url", server.url()]).await.ok().stdout;
    assert!(table.contains(execution) && table.contains("running"), "{table}");
    let cancelled = ff(&["cancel", execution, "--reason", "not needed", "--url", server.url()]).await.ok();
    assert!(cancelled.stdout.contains("is cancelled"), "{cancelled:?}");
    let described = ff(&["describe", execution, "--url", server.url()]).await.ok().stdout;
    assert!(described.contains("cancelled") && described.contains("not needed"), "{described}");
    ff(&["cancel", &flow, "--url", server.url()]).await.ok();
    drop(stdout);
    assert_eq!(finish(child).await.code, 130);
    let seen = finish(watcher).await.json();
    assert!(seen.iter().all(|line| line["outcome"] == "cancelled"), "{seen:?}");
    assert!(ff(&["cancel", &flow, "--url", server.url()]).await.ok().stdout.contains("0 executions ended now"));
    let ended = ff(&["describe", &flow, "--json", "--url", server.url()]).await.ok().json().remove(0);
    assert_eq!(ended["state"], "cancelled");
}

#[tokio::test]
async fn an_ended_execution_is_not_cancelled() {
    let server = TestServer::start().await.unwrap();
    let finished = ff(&["run", &example("hello.yaml"), "--json", "--url", server.url()]).await.ok();
    let greet = &finished.json()[1];
    for id in ["flow_id", "execution_id"].map(|id| greet[id].as_str().unwrap()) {
        ff(&["cancel", id, "--url", server.url()]).await.refused(1, &[id, "ended already: success"]);
    }
}

#[tokio::test]
async fn the_user_of_the_command_line_overrides_the_one_of_the_url() {
    let server = TestServer::start().await.unwrap();
    let acl = ["ACL", "SETUSER", "ann", "on", ">pw", "~*", "&*", "+@all"];
    assert!(!server.command(&acl).await.unwrap().is_error());
    let url = format!("redis://bob:other@127.0.0.1:{}", server.port());
    let (_directory, path) = file("password", "pw\n");
    let watch = ["watch", "--for", "1ms", "--url", &url, "--password-file", &path];
    ff(&[&watch[..], &["--username", "ann"]].concat()).await.ok();
    ff(&watch).await.refused(3, &["password"]);
}

#[tokio::test]
async fn every_command_speaks_tls_with_client_certificates() {
    let server = TestServer::builder().tls_client_auth().build().await.unwrap();
    let tls = server.tls().unwrap();
    let [ca, cert, key] = [&tls.ca_cert, &tls.client_cert, &tls.client_key].map(|path| path.to_str().unwrap());
    let with = ["--url", server.url(), "--ca", ca, "--cert", cert, "--key", key];
    let hello = example("hello.yaml");
    for command in [&["run", hello.as_str()][..], &["watch", "--for", "1ms"], &["script", "check"]] {
        ff(&[command, &with].concat()).await.ok();
    }
    ff(&["watch", "--url", server.url(), "--ca", ca]).await.refused(2, &["127.0.0.1", "--cert and --key"]);
    ff(&["watch", "--url", server.url(), "--ca", ca, "--cert", cert]).await.refused(2, &["--key"]);
    ff(&["watch", "--url", server.url(), "--ca", "nowhere.pem"]).await.refused(2, &["nowhere.pem"]);
}

#[tokio::test]
async fn the_demo_counts_for_every_watcher_what_was_committed() {
    let server = TestServer::start().await.unwrap();
    let started = std::time::Instant::now();
    let demo = ff(&["demo", "--url", server.url()]).await.ok();
    assert!(started.elapsed().as_secs() < 20, "{}", demo.stdout);
    for part in ["attempt failed", "skipped", "cancelled", "tenant A", "118 completions committed", "no other"] {
        assert!(demo.stdout.contains(part), "`{part}` is not in:\n{}", demo.stdout);
    }
}

#[tokio::test]
async fn the_library_is_printed_loaded_and_compared() {
    let server = TestServer::start().await.unwrap();
    let script = async |args: &[&str]| ff(&[&["script", "--url", server.url()], args].concat()).await;
    assert!(ff(&["script", "print"]).await.ok().stdout.starts_with("#!lua"));
    assert!(ff(&["script", "print", "--digest"]).await.ok().stdout.contains("digest"));
    let absent = script(&["check"]).await;
    assert!(absent.code == 1 && absent.stdout.contains("not loaded"), "{absent:?}");
    assert!(script(&["load"]).await.ok().stdout.contains("there was none"));
    assert!(script(&["load"]).await.ok().stdout.contains("there already"));
    assert!(script(&["check"]).await.ok().stdout.contains("the same"));
}

#[tokio::test]
async fn the_doctor_reports_problems_and_passes_without_them() {
    let server = TestServer::start().await.unwrap();
    let doctor =
        async |args: &[&str]| ff(&[&["doctor", "--sample", "100ms", "--url", server.url()], args].concat()).await;
    let sick = doctor(&[]).await;
    assert!(sick.code == 1 && sick.stdout.contains("a restart loses all flows"), "{sick:?}");
    let functions = server.command(&["FUNCTION", "LIST"]).await.unwrap();
    assert!(functions.items().is_empty(), "it changes nothing");
    for setting in [["appendonly", "yes"], ["appendfsync", "always"]] {
        assert!(!server.command(&[&["CONFIG", "SET"][..], &setting].concat()).await.unwrap().is_error());
    }
    ff(&["run", &example("hello.yaml"), "--url", server.url()]).await.ok();
    let well = doctor(&["--json"]).await.ok();
    let findings = well.json();
    // The default user has all permissions.
    // Some versions have a further problem.
    let worry = |finding: &&serde_json::Value| finding["level"] != "ok" && finding["topic"] != "torn file";
    let worries: Vec<_> = findings.iter().filter(worry).map(|finding| finding["topic"].as_str()).collect();
    assert_eq!(worries, [Some("permissions")], "{findings:?}");
    let logs = findings.iter().find(|finding| finding["topic"] == "logs: flows").unwrap();
    assert!(logs["says"].as_str().unwrap().contains("2 completions"), "{logs}");
    server.command(&["CONFIG", "SET", "maxmemory", "1gb"]).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory-policy", "allkeys-lru"]).await.unwrap();
    let evicting = doctor(&[]).await;
    assert!(evicting.code == 1 && evicting.stdout.contains("allkeys-lru"), "{evicting:?}");
    server.command(&["CONFIG", "SET", "maxmemory-policy", "noeviction"]).await.unwrap();
    server.command(&["CONFIG", "SET", "maxmemory", "100kb"]).await.unwrap();
    let full = doctor(&[]).await;
    assert!(
        full.code == 1 && full.stdout.contains("limit 100.0 KiB: submissions and completions are refused"),
        "{full:?}"
    );
}

/// What the doctor reports as bad.
async fn bad(server: &TestServer, args: &[&str]) -> Vec<String> {
    let reported = ff(&[&["doctor", "--json", "--sample", "10ms", "--url", server.url()], args].concat()).await;
    let findings = reported.json();
    let bad = findings.iter().filter(|finding| finding["level"] == "bad");
    bad.map(|finding| format!("{}: {}", finding["topic"].as_str().unwrap(), finding["says"].as_str().unwrap()))
        .collect()
}

#[tokio::test]
async fn the_doctor_reports_each_reason_why_a_server_refuses_writes() {
    let server = TestServer::builder().arg("--appendonly").arg("yes").build().await.unwrap();
    let set = async |name: &str, value: &str| {
        assert!(!server.command(&["CONFIG", "SET", name, value]).await.unwrap().is_error(), "{name}");
    };
    assert_eq!(bad(&server, &[]).await, [""; 0]);
    set("min-replicas-to-write", "1").await;
    assert!(server.command(&["SET", "x", "y"]).await.unwrap().is_error());
    let found = bad(&server, &[]).await;
    assert!(found.len() == 1 && found[0].starts_with("writes: refused (NOREPLICAS): 0 replicas"), "{found:?}");
    set("min-replicas-to-write", "0").await;
    set("maxmemory-policy", "volatile-lru").await;
    set("maxmemory", "100kb").await;
    assert!(server.command(&["SET", "x", "y"]).await.unwrap().is_error());
    let found = bad(&server, &[]).await;
    assert!(found.len() == 1 && found[0].contains("submissions and completions are refused"), "{found:?}");
}

#[tokio::test]
async fn the_doctor_reports_a_snapshot_that_failed() {
    // No file can be written there.
    let server = TestServer::builder().process().arg("--dir").arg("/proc").arg("--save").arg("3600 1");
    let server = server.build().await.unwrap();
    server.command(&["BGSAVE"]).await.unwrap();
    while !server.command(&["SET", "x", "y"]).await.unwrap().is_error() {
        tokio::time::sleep(std::time::Duration::from_millis(20)).await;
    }
    ff(&["doctor", "--url", server.url()]).await.refused(3, &["MISCONF", "unable to persist to disk"]);
    server.command(&["CONFIG", "SET", "stop-writes-on-bgsave-error", "no"]).await.unwrap();
    assert_eq!(bad(&server, &[]).await, ["persistence: the last snapshot failed"]);
}

#[tokio::test]
async fn the_doctor_compares_the_given_partition_count_with_the_recorded_one() {
    let server = TestServer::builder().arg("--appendonly").arg("yes").build().await.unwrap();
    ff(&["script", "load", "--partitions", "8", "--url", server.url()]).await.ok();
    assert_eq!(bad(&server, &["--partitions", "8"]).await, [""; 0]);
    let found = bad(&server, &["--partitions", "7"]).await;
    assert!(found.len() == 1 && found[0].starts_with("partitions: 8 recorded"), "{found:?}");
}

#[tokio::test]
async fn the_doctor_names_a_log_that_cannot_be_read_and_measures_the_others() {
    let server = TestServer::start().await.unwrap();
    ff(&["run", &example("hello.yaml"), "--url", server.url()]).await.ok();
    let free = "ff:part:{fp:0}:completions:solo";
    server.command(&["SET", free, "x"]).await.unwrap();
    let reported = ff(&["doctor", "--json", "--sample", "10ms", "--url", server.url()]).await;
    let findings = reported.json();
    let says = |topic: &str, text: &str| {
        let finding = findings.iter().find(|f| f["topic"] == topic && f["says"].as_str().unwrap().contains(text));
        finding.unwrap_or_else(|| panic!("{text}: {findings:?}"))["level"].clone()
    };
    assert_eq!(says("logs", &format!("1 log cannot be read: {free}")), "bad");
    assert_eq!(says("logs: flows", "2 completions"), "ok");
    assert_eq!(reported.code, 1);
}

#[tokio::test]
async fn the_doctor_names_a_cluster_that_is_down() {
    let server = TestServer::builder().process().arg("--cluster-enabled").arg("yes").build().await.unwrap();
    let sick = ff(&["doctor", "--sample", "10ms", "--url", server.url()]).await;
    assert!(sick.code == 1 && sick.stdout.contains("CLUSTERDOWN"), "{sick:?}");
}

#[tokio::test]
async fn the_roles_are_listed_if_none_is_named() {
    let listed = ff(&["script", "acl"]).await.ok().stdout;
    for role in ["subscriber", "submitter", "worker", "administrator"] {
        assert!(listed.contains(role), "{listed}");
    }
}

#[tokio::test]
async fn help_is_printed_by_ff_alone_and_by_its_own_command_short_or_long() {
    let alone = ff(&[]).await.ok();
    assert!(alone.stdout.contains("Usage: ff") && alone.stderr.is_empty(), "{alone:?}");
    assert!(ff(&["help"]).await.ok().stdout.contains("Exit codes"));
    assert!(ff(&["help", "watch"]).await.ok().stdout.contains("--cursor-file"));
    let (short, long) = (ff(&["run", "-h"]).await.ok().stdout, ff(&["run", "--help"]).await.ok().stdout);
    assert!(!short.contains("--password-file") && long.contains("--password-file"), "{short}");
    assert!(short.contains("--url") && short.lines().count() < long.lines().count());
}

#[tokio::test]
async fn completions_are_printed_for_each_supported_shell() {
    for shell in ["bash", "zsh", "fish", "elvish", "powershell"] {
        let script = ff(&["completions", shell]).await.ok().stdout;
        assert!(script.contains("cursor-file") && script.contains("doctor"), "{shell}");
    }
    ff(&["completions", "dos"]).await.refused(2, &["dos", "bash"]);
}

/// Runs a command whose stdout is a full disk.
fn onto_a_full_disk(args: &[&str]) -> Child {
    let full = std::fs::OpenOptions::new().write(true).open("/dev/full").unwrap();
    command(args).stdout(full).spawn().unwrap()
}

#[tokio::test]
async fn a_failure_to_write_is_reported_with_exit_code_1() {
    let server = TestServer::start().await.unwrap();
    let hello = example("hello.yaml");
    for args in [
        &["run", hello.as_str(), "--json", "--url", server.url()][..],
        &["run", &hello, "--url", server.url()],
        &["doctor", "--sample", "10ms", "--url", server.url()],
        &["script", "print"],
        &["--help"],
    ] {
        let finished = finish(onto_a_full_disk(args)).await;
        assert_eq!(finished.code, 1, "{args:?} {finished:?}");
        assert!(
            finished.stderr.contains("ff: stdout cannot be written: No space left on device"),
            "{args:?} {finished:?}"
        );
    }
}

#[tokio::test]
async fn a_stdout_that_cannot_be_written_is_refused_before_anything_is_submitted() {
    let server = TestServer::start().await.unwrap();
    for redirection in [">&-", ">&- <&-", "1</dev/null"] {
        for args in [&format!("run '{}' --json", example("hello.yaml")), "watch --count 1", "doctor", "--help"] {
            let url = server.url();
            let line = format!("exec '{}' {args} --url {url} {redirection}", env!("CARGO_BIN_EXE_ff"));
            finish(shell(&line)).await.refused(2, &["stdout is closed or read-only", "/dev/null"]);
        }
    }
    assert_eq!(support::keys(&server).await, [""; 0]);
}

#[tokio::test]
async fn a_stdin_or_stderr_that_is_closed_is_no_error() {
    for redirection in ["<&-", "2>&-"] {
        let line = format!("exec '{}' run '{}' --json {redirection}", env!("CARGO_BIN_EXE_ff"), example("hello.yaml"));
        assert_eq!(finish(shell(&line)).await.ok().json().len(), 4);
    }
}

#[tokio::test]
async fn an_output_file_that_cannot_be_written_is_reported_with_exit_code_1() {
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::symlink("/dev/full", directory.path().join("a.1.log")).unwrap();
    let (_file, flow) = file("flow.yaml", "executions: {a: {run: echo x}}");
    let kept = directory.path().display().to_string();
    let finished = ff(&["run", &flow, "--keep-outputs", &kept]).await;
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stdout.contains("1 success"), "{finished:?}");
    let said = format!("ff: output file `{kept}/a.1.log` cannot be written: No space left on device\n");
    assert!(finished.stderr.ends_with(&said), "{finished:?}");
}

#[tokio::test]
async fn a_limit_of_file_sizes_is_reported_like_a_full_disk() {
    let out = tempfile::NamedTempFile::new().unwrap();
    let line = format!("ulimit -f 1; exec '{}' script print > '{}'", env!("CARGO_BIN_EXE_ff"), out.path().display());
    let finished = finish(shell(&line)).await;
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stderr.contains("ff: stdout cannot be written: File too large"), "{finished:?}");
}

fn shell(line: &str) -> Child {
    use std::process::{Command, Stdio};
    Command::new("sh").args(["-c", line]).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap()
}

#[tokio::test]
async fn a_cursor_never_passes_lines_that_could_not_be_written() {
    let server = TestServer::start().await.unwrap();
    let directory = tempfile::tempdir().unwrap();
    let cursor = directory.path().join("cursor").display().to_string();
    ff(&["run", &example("hello.yaml"), "--url", server.url()]).await.ok();
    let watch = ["watch", "--json", "--cursor-file", &cursor, "--url", server.url()];
    let unwritten = finish(onto_a_full_disk(&[&watch[..], &["--from", "earliest"]].concat())).await;
    assert!(unwritten.code == 1 && unwritten.stderr.contains("No space left"), "{unwritten:?}");
    // The file has the start of the watch that could write nothing.
    let again = ff(&[&watch[..], &["--count", "2"]].concat()).await.ok();
    assert_eq!(again.json().len(), 2);
    // A later watch continues after the lines that were written.
    ff(&["run", &example("hello.yaml"), "--url", server.url()]).await.ok();
    assert_eq!(finish(onto_a_full_disk(&watch)).await.code, 1);
    assert_eq!(ff(&[&watch[..], &["--count", "2"]].concat()).await.ok().json().len(), 2);
}

#[tokio::test]
async fn malformed_messages_are_logged_in_few_lines() {
    let server = TestServer::start().await.unwrap();
    let mut watcher = command(&["watch", "--json", "--count", "2", "--url", server.url()]).spawn().unwrap();
    let mut stderr = BufReader::new(watcher.stderr.take().unwrap());
    let mut said = String::new();
    stderr.read_line(&mut said).unwrap();
    assert!(said.contains("watching"), "{said}");
    let flood = "for i = 1, 20000 do redis.call('PUBLISH', 'ff:dag:completions', 'nonsense ' .. i) end";
    assert!(!server.command(&["EVAL", flood, "0"]).await.unwrap().is_error());
    ff(&["run", &example("hello.yaml"), "--url", server.url()]).await.ok();
    let (finished, rest) =
        tokio::join!(finish(watcher), tokio::task::spawn_blocking(move || std::io::read_to_string(stderr).unwrap()));
    assert_eq!(finished.code, 0);
    let lines = rest.unwrap();
    assert!(lines.contains("is not a completion") && lines.lines().count() <= 5, "{lines}");
}

/// Text that would clear the screen, add a line, and reverse what follows.
const ACTIVE: &str = "\u{1b}[2Jx\nsuccess \u{202e}y";
const SHOWN: &str = "\\u{1b}[2Jx\\nsuccess \\u{202e}y";

#[tokio::test]
async fn what_other_publishers_send_cannot_control_the_terminal() {
    let server = TestServer::start().await.unwrap();
    let watcher = watching(&["watch", "--count", "1", "--url", server.url()]).await;
    let id = "{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b";
    let event = serde_json::json!({"execution_id": id, "flow_id": &id[7..], "outcome": "failed",
        "tags": {"ff.name": ACTIVE, "k": ACTIVE}});
    server.command(&["PUBLISH", "ff:dag:completions", &event.to_string()]).await.unwrap();
    let shown = finish(watcher).await.ok().stdout;
    assert_eq!(shown, format!("failed     {SHOWN}  {id}  k={SHOWN}\n"));
}

#[tokio::test]
async fn what_others_write_into_a_record_cannot_control_the_terminal() {
    let server = TestServer::start().await.unwrap();
    let finished = ff(&["run", &example("hello.yaml"), "--json", "--url", server.url()]).await.ok();
    let greet = &finished.json()[1];
    let id: ff_core::ExecutionId = greet["execution_id"].as_str().unwrap().parse().unwrap();
    let record = ff_script::keys::execution_core(id);
    server.command(&["HSET", &record, "name", ACTIVE]).await.unwrap();
    for target in ["execution_id", "flow_id"].map(|target| greet[target].as_str().unwrap()) {
        let shown = ff(&["describe", target, "--url", server.url()]).await.ok().stdout;
        assert!(shown.contains(SHOWN) && !shown.contains(['\u{1b}', '\u{202e}']), "{shown}");
    }
}

/// The next lines up to the one that contains this text.
async fn lines_until(part: &'static str, mut from: BufReader<ChildStderr>) -> (String, BufReader<ChildStderr>) {
    tokio::task::spawn_blocking(move || {
        let mut lines = String::new();
        while !lines.contains(part) {
            assert!(from.read_line(&mut lines).unwrap() > 0, "{lines}");
        }
        (lines, from)
    })
    .await
    .unwrap()
}

#[tokio::test]
async fn an_outage_is_logged_once_at_its_begin_and_once_at_its_end() {
    let server = TestServer::builder().persistent().build().await.unwrap();
    let mut watcher = command(&["watch", "--json", "--count", "2", "--url", server.url()]).spawn().unwrap();
    let stderr = BufReader::new(watcher.stderr.take().unwrap());
    let (watching, stderr) = lines_until("watching", stderr).await;
    assert_eq!(watching.lines().count(), 1, "{watching}");
    server.kill().await.unwrap();
    let (first, stderr) = lines_until(" lost: ", stderr).await;
    server.restart().await.unwrap();
    let (rest, _) = lines_until(" is back after ", stderr).await;
    assert_eq!(first.lines().count(), 1, "{first}");
    assert_eq!(
        rest.lines().filter(|line| line.contains(" lost: ") || line.contains(" back after ")).count(),
        1,
        "{rest}"
    );
    assert_eq!(rest.lines().count(), 1, "{rest}");
    watcher.kill().unwrap();
    finish(watcher).await;
}

#[tokio::test]
async fn the_doctor_names_missing_permissions_and_the_checks_that_were_denied() {
    let server = TestServer::start().await.unwrap();
    let url = format!("redis://ann:pw@127.0.0.1:{}", server.port());
    let acl = ["ACL", "SETUSER", "ann", "on", ">pw", "~ff:*", "+@all", "resetchannels"];
    assert!(!server.command(&acl).await.unwrap().is_error());
    let sick = ff(&["doctor", "--sample", "10ms", "--url", &url]).await;
    assert!(sick.stdout.contains("cannot act as subscriber: missing &ff:dag:completions"), "{sick:?}");
    assert!(sick.stdout.contains("more than any role needs: ") && sick.stdout.contains("FLUSHALL"), "{sick:?}");
    let acl = ["ACL", "SETUSER", "ann", "&ff:*", "-config", "-acl"];
    assert!(!server.command(&acl).await.unwrap().is_error());
    let blind = ff(&["doctor", "--sample", "10ms", "--url", &url]).await;
    assert!(blind.stdout.contains("not known") && blind.stdout.contains("+config|get"), "{blind:?}");
}

#[tokio::test]
async fn the_doctor_recognises_users_with_the_printed_rules() {
    let server = TestServer::start().await.unwrap();
    let url = |user: &str| format!("redis://{user}:pw@127.0.0.1:{}", server.port());
    let grant = async |user: &str, roles: &[&str]| {
        let printed = ff(&[&["script", "acl"], roles].concat()).await.ok().stdout;
        let mut acl = vec!["ACL", "SETUSER", user, "on", ">pw", "resetkeys", "resetchannels", "-@all"];
        acl.extend(printed.split_whitespace());
        assert!(!server.command(&acl).await.unwrap().is_error(), "{printed}");
    };
    grant("root", &["administrator"]).await;
    let prepared = ff(&["script", "load", "--partitions", "8", "--url", &url("root")]).await.ok();
    assert!(prepared.stdout.contains("there was none") && prepared.stdout.contains("8 partitions"), "{prepared:?}");
    let doctor = async |user: &str| ff(&["doctor", "--sample", "10ms", "--url", &url(user)]).await.stdout;
    let said = doctor("root").await;
    assert!(said.contains("has all that the role administrator needs"), "{said}");
    assert!(!said.contains("not known") && !said.contains("more than any role"), "{said}");
    grant("both", &["submitter", "worker", "subscriber"]).await;
    let run = ff(&["run", &example("hello.yaml"), "--url", &url("both")]).await;
    run.ok();
    let blind = doctor("both").await;
    assert!(blind.contains("+acl|whoami"), "{blind}");
    let unknown = ff(&["script", "acl", "king"]).await;
    assert!(unknown.code == 2 && unknown.stderr.contains("subscriber, submitter, worker"), "{unknown:?}");
}

#[tokio::test]
async fn a_primary_is_found_through_sentinels_and_runs_flows() {
    let server = TestServer::builder().process().build().await.unwrap();
    let sentinels = Sentinels::watching(&server, "orders").start().await.unwrap();
    let at = |service: &str| format!("redis-sentinel://{}/{service}", sentinels.hosts());
    ff(&["run", &example("hello.yaml"), "--url", &at("orders")]).await.ok();
    let said = ff(&["doctor", "--sample", "10ms", "--url", &at("orders")]).await.stdout;
    assert!(said.contains(&format!("found by sentinels at 127.0.0.1:{}", server.port())), "{said}");
    ff(&["doctor", "--url", &at("bills")]).await.refused(2, &["`bills`", "`orders`"]);
}
