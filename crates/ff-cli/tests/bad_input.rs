//! Every mistake is reported in one line that names it, with an exit code other than 0, and nothing is written.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]

mod support;

use ff_testserver::TestServer;
use support::{example, ff, ff_with_input, file, finish, keys};

/// An address without a server: the port is reserved and never served.
const NOWHERE: &str = "redis://127.0.0.1:1";

#[tokio::test]
async fn an_unknown_flag_is_named() {
    ff(&["run", "--wrokers", "3", "flow.yaml"]).await.refused(2, &["--wrokers", "--help"]);
    ff(&["rum"]).await.refused(2, &["rum"]);
    ff(&["run"]).await.refused(2, &["<FLOW>"]);
    ff(&["watch", "--tag", "blue"]).await.refused(2, &["KEY=VALUE"]);
}

#[tokio::test]
async fn help_and_version_are_not_errors() {
    assert!(ff(&["--help"]).await.ok().stdout.contains("Exit codes"));
    assert!(ff(&["run", "--help"]).await.ok().stdout.contains("--time-scale"));
    assert!(ff(&["--version"]).await.ok().stdout.starts_with("ff "));
}

#[tokio::test]
async fn without_a_server_the_message_says_how_to_name_one() {
    let id = "0192f0c1-2b3c-7d4e-8f50-617283940a1b";
    for command in [&["watch"][..], &["describe", id], &["cancel", id], &["doctor"], &["script", "load"]] {
        ff(command).await.refused(2, &["no server is named", "--url", "FF_URL"]);
        ff(&[command, &["--url", "embedded:"]].concat()).await.refused(2, &["`embedded:`", "--url", "FF_URL"]);
    }
    for command in ["watch", "demo"] {
        ff(&[command, "--url", "http://example"]).await.refused(2, &["http://…", "redis://"]);
    }
}

#[tokio::test]
async fn connection_options_are_refused_without_a_server() {
    let hello = example("hello.yaml");
    for command in [&["run", hello.as_str()][..], &["demo"], &["script", "check"], &["demo", "--url", "embedded:"]] {
        for (given, option) in [
            (&["--ca", "ca.pem"][..], "--ca"),
            (&["--cert", "cert.pem", "--key", "key.pem"], "--cert"),
            (&["--password-file", "password"], "--password-file"),
            (&["--username", "ann", "--password-file", "password"], "--username"),
        ] {
            ff(&[command, given].concat()).await.refused(2, &[option, "applies to a server", "--url", "FF_URL"]);
        }
    }
}

#[tokio::test]
async fn a_malformed_id_is_shown_before_anything_is_connected_to() {
    ff(&["describe", "seven", "--url", NOWHERE]).await.refused(2, &["`seven`", "{fp:7}:"]);
    ff(&["cancel", "{fp:x}:1", "--url", NOWHERE]).await.refused(2, &["`{fp:x}:1`"]);
}

#[tokio::test]
async fn a_flow_that_is_wrong_is_refused_before_anything_is_connected_to() {
    let run = async |yaml: &str| ff_with_input(&["run", "-", "--url", NOWHERE], yaml).await;
    let cycle = run("executions: {a: {run: x, needs: [b]}, b: {run: x, needs: [a]}}").await;
    cycle.refused(2, &["cycle", "a", "b", "remove"]);
    run("executions: {a: {run: x, needs: [ghost]}}").await.refused(2, &["`a`", "`ghost`"]);
    run("executions: [{name: a, run: x}, {name: a, run: y}]").await.refused(2, &["`a`", "twice"]);
    run("executions:\n  a: {run: x}\n  a: {run: y}\n").await.refused(2, &["`a`", "twice", "line 3"]);
    run("executions:\n  a:\n    run: x\n    retrys: 1\n").await.refused(2, &["`retrys`", "line 4"]);
    run("executions: {a: {run: x, timeout: soon}}").await.refused(2, &["`soon`"]);
    run("executions: {}").await.refused(2, &["a flow of 0"]);
    run(": : :").await.refused(2, &["not a valid flow"]);
    ff(&["run", "no-such.yaml", "--url", NOWHERE]).await.refused(2, &["no-such.yaml", "cannot be read"]);
}

#[tokio::test]
async fn a_payload_beyond_the_limit_is_refused_with_its_size() {
    let yaml = format!("executions: {{a: {{run: '{}'}}}}", "x".repeat(1024 * 1024));
    ff_with_input(&["run", "-", "--url", NOWHERE], &yaml).await.refused(2, &["`a`", "payload", "1048576"]);
}

#[tokio::test]
async fn a_recorded_workflow_that_is_wrong_is_refused() {
    let (_directory, path) = file("trace.json", r#"{"schemaVersion": "1.2", "workflow": {}}"#);
    ff(&["run", &path, "--url", NOWHERE]).await.refused(2, &["trace.json", "`1.2`", "1.5"]);
    let (_directory, path) = file("trace.json", "{\"schemaVersion\": \"1.5\",\n \"workflow\": 7}");
    ff(&["run", &path, "--url", NOWHERE]).await.refused(2, &["trace.json", "line 2"]);
    let hello = example("hello.yaml");
    ff(&["run", &hello, "--time-scale", "0.1", "--url", NOWHERE]).await.refused(2, &["--time-scale", "hello.yaml"]);
}

#[tokio::test]
async fn an_unreachable_server_is_reported_with_its_address() {
    for args in [&["watch"][..], &["demo"], &["doctor"], &["script", "check"], &["run", &example("hello.yaml")]] {
        ff(&[args, &["--url", NOWHERE]].concat()).await.refused(3, &["127.0.0.1:1"]);
    }
}

#[tokio::test]
async fn a_wrong_password_is_reported_and_never_shown() {
    let server = TestServer::builder().password("right").build().await.unwrap();
    let url = format!("redis://:wr0ng@127.0.0.1:{}", server.port());
    let refused = ff(&["watch", "--url", &url]).await.refused(3, &["password"]);
    assert!(!refused.stderr.contains("wr0ng"), "{}", refused.stderr);
    let without = format!("redis://127.0.0.1:{}", server.port());
    ff(&["watch", "--url", &without]).await.refused(3, &["password"]);
    let (_directory, path) = file("password", "right\n");
    let count = ["watch", "--for", "1ms", "--url", &without, "--password-file", &path];
    ff(&count).await.ok();
}

#[tokio::test]
async fn missing_permission_on_the_channels_is_reported_with_the_rule() {
    let server = TestServer::start().await.unwrap();
    let acl = ["ACL", "SETUSER", "ann", "on", ">pw", "~*", "+@all", "resetchannels"];
    assert!(!server.command(&acl).await.unwrap().is_error());
    let url = format!("redis://ann:pw@127.0.0.1:{}", server.port());
    ff(&["watch", "--url", &url]).await.refused(3, &["not permitted", "&ff:*"]);
    let hello = example("hello.yaml");
    ff(&["run", &hello, "--url", &url]).await.refused(3, &["not permitted", "&ff:*"]);
    let keys = server.command(&["KEYS", "*:core"]).await.unwrap();
    assert!(keys.items().is_empty(), "a flow was written: {keys}");
}

#[tokio::test]
async fn another_partition_count_is_refused_with_the_recorded_one() {
    let server = TestServer::start().await.unwrap();
    ff(&["watch", "--for", "1ms", "--partitions", "7", "--url", server.url()]).await.ok();
    let refused = ff(&["watch", "--for", "1ms", "--partitions", "8", "--url", server.url()]).await;
    refused.refused(3, &["partition count 8", "7"]);
    ff(&["watch", "--for", "1ms", "--url", server.url()]).await.ok();
    ff(&["watch", "--partitions", "0", "--url", server.url()]).await.refused(2, &["partitions", "16384"]);
}

#[tokio::test]
async fn an_unknown_id_is_reported() {
    let server = TestServer::start().await.unwrap();
    let flow = "0192f0c1-2b3c-7d4e-8f50-617283940a1b";
    let execution = format!("{{fp:7}}:{flow}");
    for command in ["describe", "cancel"] {
        ff(&[command, flow, "--url", server.url()]).await.refused(1, &[flow, "does not exist"]);
        ff(&[command, &execution, "--url", server.url()]).await.refused(1, &[&execution, "does not exist"]);
    }
    let beyond = format!("{{fp:300}}:{flow}");
    ff(&["describe", &beyond, "--url", server.url()]).await.refused(2, &["256 partitions"]);
}

#[tokio::test]
async fn a_server_that_is_too_old_is_reported_with_its_version() {
    let old = support::OldServer::start().await;
    ff(&["watch", "--url", &old.url()]).await.refused(2, &["redis 6.2.14", "7.2"]);
}

#[tokio::test]
async fn a_server_that_refuses_a_flow_for_lack_of_memory_keeps_nothing_of_it() {
    let server = TestServer::start().await.unwrap();
    ff(&["watch", "--for", "1ms", "--url", server.url()]).await.ok();
    let before = keys(&server).await;
    server.command(&["CONFIG", "SET", "maxmemory", "1"]).await.unwrap();
    let hello = example("hello.yaml");
    let child = support::command(&["run", &hello, "--url", server.url()]).spawn().unwrap();
    finish(child).await.refused(3, &["memory"]);
    server.command(&["CONFIG", "SET", "maxmemory", "0"]).await.unwrap();
    assert_eq!(keys(&server).await, before);
}
