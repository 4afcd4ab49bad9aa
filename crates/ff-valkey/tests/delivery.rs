//! The guarantees of a subscription, on a real server: ready means subscribed, nothing is lost, nothing arrives twice,
//! and no subscription waits for another.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod common;

use std::time::Duration;

use common::{
    Checker, PARTITIONS, Writer, calls, eventually, flow_in, flows, namespace, number, partitions, stays_silent,
};
use ff_core::{
    CompletionBackend, EngineError, ExecutionId, ExecutionSpec, FlowState, FlowSubmission, Outcome, ScannerFilter,
    SubmitBackend, SubmittedFlow, Tags,
};
use ff_engine::{WaitExt, WaitOptions};
use ff_testserver::TestServer;
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use futures::{FutureExt, StreamExt};

/// Far longer than any step of these tests takes.
const LONG: WaitOptions = WaitOptions::within(Duration::from_secs(30));

fn config(server: &TestServer) -> ValkeyConfig {
    ValkeyConfig::from_url(server.url()).unwrap().partition_count(partitions())
}

async fn backend(server: &TestServer) -> ValkeyBackend {
    ValkeyBackend::connect_with(config(server)).await.unwrap()
}

async fn subscriber_connections(server: &TestServer) -> usize {
    server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.unwrap().text().lines().count()
}

#[tokio::test]
async fn completions_right_after_subscribing_are_always_delivered() {
    let server = TestServer::start().await.unwrap();
    let mut writer = Writer::new(&server).await;
    let flow = flow_in(3);
    for _ in 0..20 {
        let backend = backend(&server).await;
        let first = writer.next;
        let mut stream = backend.subscribe_completions().await.unwrap();
        writer.end(flow, "a", &Tags::default(), 1).await;
        let event = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap();
        assert_eq!(number(&event), first);
    }
    let backend = backend(&server).await;
    for _ in 0..980 {
        let first = writer.next;
        let mut stream = backend.subscribe_completions().await.unwrap();
        writer.end(flow, "a", &Tags::default(), 1).await;
        let event = tokio::time::timeout(Duration::from_secs(5), stream.next()).await.unwrap().unwrap();
        assert_eq!(number(&event), first);
    }
}

#[tokio::test]
async fn a_thousand_subscriptions_share_one_connection_and_leave_nothing_behind() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server).await;
    let mut writer = Writer::new(&server).await;
    let mut streams = Vec::new();
    for _ in 0..1_000 {
        streams.push(backend.subscribe_completions().await.unwrap());
    }
    assert_eq!(subscriber_connections(&server).await, 1);
    assert_eq!(backend.health().subscriptions, 1_000);
    writer.end_many(&flows(4), 20).await;
    for stream in &mut streams {
        Checker::default().take_until(stream, 20).await;
    }
    drop(streams);
    assert_eq!(backend.health().subscriptions, 0);
    drop(backend);
    eventually("all connections are closed", async || subscriber_connections(&server).await == 0).await;
}

#[tokio::test]
async fn a_killed_connection_loses_nothing_and_repeats_nothing() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server).await;
    let mut stream = backend.subscribe_completions().await.unwrap();
    let mut writer = Writer::new(&server).await;
    let flows = flows(40);
    let total = 10_000;
    let writing = tokio::spawn(async move {
        for round in 0..10 {
            writer.end_many(&flows, 500).await;
            writer.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
            writer.end_many(&flows, 500).await;
            if round % 3 == 0 {
                tokio::time::sleep(Duration::from_millis(60)).await;
            }
        }
    });
    let mut checker = Checker::default();
    checker.take_until(&mut stream, total).await;
    writing.await.unwrap();
    stays_silent(&mut stream, Duration::from_millis(300)).await;
}

#[tokio::test]
async fn a_restarted_server_loses_nothing_of_its_log() {
    let server = TestServer::builder().persistent().build().await.unwrap();
    let backend = backend(&server).await;
    let mut stream = backend.subscribe_completions().await.unwrap();
    let mut writer = Writer::new(&server).await;
    let flows = flows(5);
    writer.end_many(&flows, 50).await;
    server.restart().await.unwrap();
    let mut after = Writer::new(&server).await;
    (after.next, after.epoch) = (writer.next, 2_000);
    after.end_many(&flows, 50).await;
    let mut checker = Checker::default();
    checker.take_until(&mut stream, 100).await;
    after.end_many(&flows, 50).await;
    checker.take_until(&mut stream, 150).await;
}

#[tokio::test]
async fn a_slow_subscription_gets_everything_and_delays_nobody() {
    let server = TestServer::start().await.unwrap();
    let backend = ValkeyBackend::connect_with(config(&server).subscription_capacity(64)).await.unwrap();
    let mut slow = backend.subscribe_completions().await.unwrap();
    let mut fast = backend.subscribe_completions().await.unwrap();
    let mut writer = Writer::new(&server).await;
    let flows = flows(40);
    let mut seen = Checker::default();
    for round in 1..=60 {
        for flow in &flows {
            writer.end(*flow, "a", &Tags::default(), 5).await;
        }
        seen.take_until(&mut fast, round * 200).await;
    }
    assert_eq!(backend.health().lagging, 1);
    let mut late = Checker::default();
    late.take_until(&mut slow, 12_000).await;
    // It reaches the live end while more events are committed.
    let writing = tokio::spawn(async move {
        for _ in 0..100 {
            writer.end_many(&flows, 20).await;
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    });
    late.take_until(&mut slow, 14_000).await;
    seen.take_until(&mut fast, 14_000).await;
    writing.await.unwrap();
    eventually("both are live", async || backend.health().lagging == 0).await;
}

#[tokio::test]
async fn a_filtered_subscription_that_lags_gets_its_own_events_only() {
    let server = TestServer::start().await.unwrap();
    let backend = ValkeyBackend::connect_with(config(&server).subscription_capacity(4)).await.unwrap();
    let filter = ScannerFilter::new().namespace(common::namespace("b"));
    let mut stream = backend.subscribe_completions_filtered(&filter).await.unwrap();
    let mut writer = Writer::new(&server).await;
    let flows = flows(10);
    let mut expected = Vec::new();
    for n in 0..200_u64 {
        let flow = flows[usize::try_from(n % 10).unwrap()];
        writer.end(flow, "a", &Tags::default(), 3).await;
        expected.push(writer.next);
        writer.end(flow, "b", &Tags::default(), 1).await;
    }
    let mut checker = Checker::default();
    checker.take_until(&mut stream, 200).await;
    assert!(checker.seen.iter().eq(&expected));
    stays_silent(&mut stream, Duration::from_millis(100)).await;
}

#[tokio::test]
async fn a_dropped_subscription_that_lags_is_gone_at_once() {
    let server = TestServer::start().await.unwrap();
    let backend = ValkeyBackend::connect_with(config(&server).subscription_capacity(2)).await.unwrap();
    let stream = backend.subscribe_completions().await.unwrap();
    let mut other = backend.subscribe_completions().await.unwrap();
    Writer::new(&server).await.end_many(&flows(3), 50).await;
    Checker::default().take_until(&mut other, 50).await;
    assert_eq!(backend.health().lagging, 1);
    drop(stream);
    assert_eq!((backend.health().subscriptions, backend.health().lagging), (1, 0));
}

#[tokio::test]
async fn entries_that_were_never_pushed_are_delivered_with_the_next_one() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server).await;
    let mut stream = backend.subscribe_completions().await.unwrap();
    let mut writer = Writer::new(&server).await;
    let flow = flow_in(PARTITIONS - 1);
    writer.end(flow, "a", &Tags::default(), 3).await;
    writer.silent = true;
    writer.end(flow, "a", &Tags::default(), 700).await;
    writer.silent = false;
    writer.end(flow, "a", &Tags::default(), 3).await;
    Checker::default().take_until(&mut stream, 706).await;
}

#[tokio::test]
async fn trimmed_entries_are_a_gap_and_delivery_continues() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server).await;
    let mut stream = backend.subscribe_completions().await.unwrap();
    let mut writer = Writer::new(&server).await;
    let flow = flow_in(0);
    writer.end(flow, "a", &Tags::default(), 2).await;
    let mut checker = Checker::default();
    checker.take_until(&mut stream, 2).await;
    writer.silent = true;
    writer.end(flow, "a", &Tags::default(), 100).await;
    writer.command(&["XTRIM", "ff:part:{fp:0}:completions", "MAXLEN", "10"]).await;
    writer.silent = false;
    writer.end(flow, "a", &Tags::default(), 1).await;
    checker.take_until(&mut stream, 13).await;
    assert!(checker.seen.iter().copied().eq([0, 1].into_iter().chain(92..=102)));
}

#[tokio::test]
async fn a_recreated_log_with_smaller_epochs_is_read_from_its_start() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server).await;
    let mut stream = backend.subscribe_completions().await.unwrap();
    let mut writer = Writer::new(&server).await;
    let flow = flow_in(0);
    writer.end(flow, "a", &Tags::default(), 5).await;
    let mut checker = Checker::default();
    checker.take_until(&mut stream, 5).await;
    writer.command(&["FLUSHALL"]).await;
    writer.epoch = 500;
    writer.silent = true;
    writer.end(flow, "a", &Tags::default(), 5).await;
    writer.silent = false;
    writer.end(flow, "a", &Tags::default(), 5).await;
    checker.take_until(&mut stream, 15).await;
    writer.end(flow, "a", &Tags::default(), 5).await;
    checker.take_until(&mut stream, 20).await;
}

#[tokio::test]
async fn a_lost_tail_under_an_epoch_with_a_smaller_number_loses_nothing_that_the_log_holds() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server).await;
    let mut stream = backend.subscribe_completions().await.unwrap();
    let mut writer = Writer::new(&server).await;
    let flow = flow_in(0);
    let tags = Tags::default();
    writer.end(flow, "a", &tags, 10).await;
    writer.epoch = 9_000;
    writer.end(flow, "a", &tags, 4).await;
    let mut checker = Checker::default();
    checker.take_until(&mut stream, 14).await;
    // The state of a promoted replica that lacks the last entry of one epoch and all of the next epoch.
    let log = "ff:part:{fp:0}:completions";
    let saved = writer.command(&["XRANGE", log, "-", "1000-8"]).await;
    writer.command(&["DEL", log]).await;
    for entry in saved.items() {
        let mut add = vec!["XADD".to_owned(), log.to_owned(), entry.items()[0].text()];
        add.extend(entry.items()[1].items().iter().map(ff_testserver::Reply::text));
        writer.command(&add.iter().map(String::as_str).collect::<Vec<_>>()).await;
    }
    writer.command(&["HDEL", "ff:part:{fp:0}:completions:epochs", "9000"]).await;
    writer.epoch = 5_000;
    writer.end(flow, "a", &tags, 6).await;
    checker.take_until(&mut stream, 20).await;
    writer.epoch = 10_000;
    writer.end(flow, "a", &tags, 6).await;
    checker.take_until(&mut stream, 26).await;
    stays_silent(&mut stream, Duration::from_millis(200)).await;
}

#[tokio::test]
async fn the_configured_number_of_subscriptions_is_the_limit() {
    let server = TestServer::start().await.unwrap();
    let backend = ValkeyBackend::connect_with(config(&server).max_subscriptions(2)).await.unwrap();
    let first = backend.subscribe_completions().await.unwrap();
    let _second = backend.subscribe_completions().await.unwrap();
    let error = backend.subscribe_completions().await.err().unwrap();
    assert!(matches!(error, EngineError::ResourceExhausted { resource: "subscriptions", .. }), "{error}");
    drop(first);
    assert!(backend.subscribe_completions().await.is_ok());
}

#[tokio::test]
async fn a_malformed_message_is_skipped() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server).await;
    let mut stream = backend.subscribe_completions().await.unwrap();
    let mut writer = Writer::new(&server).await;
    for text in ["", "nonsense", "{}", "{\"execution_id\":\"{fp:1}:x\",\"outcome\":\"success\"}", "\u{0}\u{1}"] {
        writer.command(&["PUBLISH", "ff:dag:completions", text]).await;
    }
    writer.end(flow_in(1), "a", &Tags::default(), 1).await;
    Checker::default().take_until(&mut stream, 1).await;
    assert!(stream.next().now_or_never().is_none());
}

#[tokio::test]
async fn streams_outlive_the_backend_that_opened_them() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server).await;
    let mut stream = backend.subscribe_completions().await.unwrap();
    drop(backend);
    let mut writer = Writer::new(&server).await;
    writer.end_many(&flows(2), 10).await;
    writer.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await;
    writer.end_many(&flows(2), 10).await;
    Checker::default().take_until(&mut stream, 20).await;
}

/// A flow whose members are named by numbers, so that a separate writer can announce their ends.
async fn numbered(backend: &ValkeyBackend, members: u64) -> SubmittedFlow {
    let flow = FlowSubmission::new(namespace("a"));
    let flow = (0..members).fold(flow, |flow, n| flow.execution(ExecutionSpec::new(n.to_string())));
    backend.submit_flow(&flow).await.unwrap()
}

/// How often executions and flows were described.
async fn looks(server: &TestServer) -> u64 {
    calls(server).await.get("fcall_ro").copied().unwrap_or_default()
}

/// The entries that the repair of an interrupted end writes.
async fn repair(server: &TestServer, id: ExecutionId) {
    let core = format!("ff:exec:{}:{id}:core", id.partition());
    let phase = ["lifecycle_phase", "terminal", "public_state", "success", "terminal_outcome", "success"];
    let ended = [&["HSET", core.as_str()], &phase[..], &["completed_at", "1", "log_pos", "1000-0"]].concat();
    assert!(!server.command(&ended).await.unwrap().is_error());
}

#[tokio::test]
async fn a_wait_that_is_notified_before_the_end_is_visible_checks_again() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server).await;
    let submitted = numbered(&backend, 1).await;
    let id = submitted.execution("0").unwrap();
    let mut writer = Writer::new(&server).await;
    let before = looks(&server).await;
    let end = async {
        eventually("both have subscribed and looked", async || looks(&server).await >= before + 4).await;
        // The state after a call that was interrupted between the log and the execution.
        writer.end(submitted.flow_id, "a", &Tags::default(), 1).await;
        eventually("both were notified and have checked", async || looks(&server).await >= before + 6).await;
        repair(&server, id).await;
        let flow = format!("ff:flow:{}:{}:core", id.partition(), submitted.flow_id);
        let ended = ["HSET", &flow, "state", "success", "completed_at", "1"];
        assert!(!server.command(&ended).await.unwrap().is_error());
    };
    let (execution, flow) = (backend.wait_for(id, &LONG), backend.wait_for_flow(submitted.flow_id, &LONG));
    let (execution, flow, ()) = tokio::join!(execution, flow, end);
    assert_eq!(execution.unwrap().outcome, Some(Outcome::Success));
    assert_eq!(flow.unwrap().state, FlowState::Success);
}

#[tokio::test]
async fn an_end_that_is_announced_twice_counts_once_for_a_wait_for_all() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server).await;
    let submitted = numbered(&backend, 2).await;
    let ids = ["0", "1"].map(|name| submitted.execution(name).unwrap());
    let mut writer = Writer::new(&server).await;
    let before = looks(&server).await;
    let mut wait = Box::pin(backend.wait_for_all(&ids, &LONG));
    let first = async {
        eventually("it has subscribed and looked", async || looks(&server).await >= before + 4).await;
        writer.end(submitted.flow_id, "a", &Tags::default(), 1).await;
        eventually("it was notified and has checked", async || looks(&server).await >= before + 5).await;
        repair(&server, ids[0]).await;
        writer.next = 0;
        writer.end(submitted.flow_id, "a", &Tags::default(), 1).await;
        // Longer than the interval between its checks.
        tokio::time::sleep(Duration::from_secs(1)).await;
    };
    tokio::select! {
        ended = &mut wait => panic!("one is not all: {ended:?}"),
        () = first => {}
    }
    repair(&server, ids[1]).await;
    writer.end(submitted.flow_id, "a", &Tags::default(), 1).await;
    assert_eq!(wait.await.unwrap().iter().map(|ended| ended.execution_id).collect::<Vec<_>>(), ids);
}
