//! Each role with exactly its rules: the permitted operations, and the refused ones.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod common;

use std::{fmt::Debug, time::Duration};

use bytes::Bytes;
use common::{eventually, namespace, partitions};
use ff_core::{
    CancelOutcome, ClaimedExecution, CompletionBackend, ControlBackend, EngineError, EngineId, ExecutionSpec,
    ExecutionSubmission, Failure, FlowSubmission, Frame, LaneId, Start, SubmitBackend, SubscribeBackend,
    SubscribeOptions, SubscriptionScope, SweepPolicy, WorkerId,
    backend::{ClaimRequest, MaintenanceBackend, WorkBackend},
};
use ff_script::{
    SOURCE,
    host::ScriptHost,
    loader::LibraryState,
    permissions::{EXCESSIVE, Role},
};
use ff_testserver::{RawClient, TestServer};
use ff_valkey::{ValkeyBackend, ValkeyConfig, ValkeyHost};
use futures::{FutureExt, StreamExt};

const PATIENCE: Duration = Duration::from_secs(20);
const LEASE: Duration = Duration::from_secs(30);

fn config(url: &str) -> ValkeyConfig {
    ValkeyConfig::from_url(url).unwrap().partition_count(partitions())
}

/// A server with the library and the deployment's record, and an administrator.
async fn prepared() -> (TestServer, ValkeyBackend) {
    let server = TestServer::builder().build().await.unwrap();
    let owner = ValkeyBackend::connect_with(config(server.url())).await.unwrap();
    (server, owner)
}

/// Creates a user with exactly the rules of a role.
async fn grant(server: &TestServer, role: Role) -> ValkeyConfig {
    let mut command = vec!["ACL", "SETUSER", role.name(), "on", ">pw", "resetkeys", "resetchannels", "-@all"];
    let rules = role.acl_rules();
    command.extend(rules.iter().map(String::as_str));
    let reply = server.command(&command).await.unwrap();
    assert!(!reply.is_error(), "{reply}");
    config(&format!("redis://{role}:pw@127.0.0.1:{}", server.port()))
}

async fn backend(server: &TestServer, role: Role) -> ValkeyBackend {
    ValkeyBackend::connect_with(grant(server, role).await).await.unwrap()
}

/// Checks that no operation so far was refused, including operations whose refusal is ignored.
async fn nothing_was_refused(server: &TestServer) {
    let log = server.command(&["ACL", "LOG"]).await.unwrap();
    assert!(log.items().is_empty(), "{log}");
}

fn is_denied<T: Debug>(answer: Result<T, EngineError>) {
    assert!(matches!(answer, Err(EngineError::PermissionDenied { .. })), "{answer:?}");
}

/// The user's own connection, for commands that no backend sends.
async fn refuses(server: &TestServer, role: Role, commands: &[&[&str]]) {
    let mut client: RawClient = server.client().await.unwrap();
    assert!(!client.command(&["AUTH", role.name(), "pw"]).await.unwrap().is_error());
    let more = EXCESSIVE.iter().map(|(_, command)| *command);
    for command in commands.iter().copied().chain(more).chain([&["GETDEL", "ff:x"][..], &["HGET", "fg:x", "f"]]) {
        let reply = client.command(command).await.unwrap();
        assert!(reply.is_error() && reply.text().starts_with("NOPERM"), "{role}: {command:?}: {reply}");
    }
}

fn flow() -> FlowSubmission {
    let second = ExecutionSpec::new("second").needs(["first"]);
    FlowSubmission::new(namespace("a")).execution(ExecutionSpec::new("first")).execution(second)
}

fn solo() -> ExecutionSubmission {
    ExecutionSubmission::new(namespace("a"), ExecutionSpec::new("alone"))
}

async fn claim(backend: &ValkeyBackend) -> Result<Vec<ClaimedExecution>, EngineError> {
    let mut claimed = Vec::new();
    for partition in partitions().partitions() {
        let worker = WorkerId::new("w").unwrap();
        let request = ClaimRequest::new(worker, LaneId::default_lane(), partition).max(8).lease(LEASE);
        claimed.extend(backend.claim(&request).await?.executions);
    }
    Ok(claimed)
}

/// Completes everything that can be claimed, until nothing is left.
async fn work_off(backend: &ValkeyBackend) -> usize {
    let mut done = 0;
    loop {
        let claimed = claim(backend).await.unwrap();
        if claimed.is_empty() {
            return done;
        }
        let ended: Vec<_> = claimed.iter().map(|claimed| (claimed.lease, Bytes::from_static(b"r"))).collect();
        for outcome in backend.complete_many(&ended).await {
            outcome.unwrap();
            done += 1;
        }
    }
}

#[tokio::test]
async fn a_worker_with_the_rights_of_an_earlier_version_completes_one_by_one() {
    let (server, owner) = prepared().await;
    for key in ["a", "b"] {
        owner.submit_execution(&solo().idempotency_key(key)).await.unwrap();
    }
    let worker = grant(&server, Role::Worker).await;
    let earlier = Role::Worker.acl_rules().into_iter().filter(|rule| rule != "+fcall|ff1_complete_many");
    let mut command: Vec<_> =
        ["ACL", "SETUSER", Role::Worker.name(), "resetkeys", "resetchannels", "-@all"].map(str::to_owned).into();
    command.extend(earlier);
    server.command(&command).await.unwrap();
    let worker = ValkeyBackend::connect_with(worker).await.unwrap();
    let claimed = claim(&worker).await.unwrap();
    assert_eq!(claimed.len(), 2);
    let ended: Vec<_> = claimed.iter().map(|claimed| (claimed.lease, Bytes::new())).collect();
    for outcome in worker.complete_many(&ended).await {
        outcome.unwrap();
    }
}

#[tokio::test]
async fn a_subscriber_receives_everything_and_changes_nothing() {
    let (server, owner) = prepared().await;
    owner.submit_flow(&flow()).await.unwrap();
    owner.submit_execution(&solo()).await.unwrap();
    assert_eq!(work_off(&owner).await, 3);

    let subscriber = backend(&server, Role::Subscriber).await;
    let mut completions = subscriber.subscribe_completions().await.unwrap();
    let options = SubscribeOptions::new().scope(SubscriptionScope::FlowsAndSolo).start(Start::Earliest);
    let mut frames = subscriber.subscribe(&options).await.unwrap();
    assert_eq!(frames.lag().await.unwrap().events, 3);
    owner.submit_flow(&flow()).await.unwrap();
    owner.submit_execution(&solo()).await.unwrap();
    assert_eq!(work_off(&owner).await, 3);
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, completions.next()).await.unwrap().unwrap();
    }
    let mut seen = 0;
    while seen < 6 {
        let frame = tokio::time::timeout(PATIENCE, frames.next()).await.unwrap().unwrap();
        seen += u64::from(matches!(frame, Frame::Completion(_)));
    }
    assert_eq!(frames.lag().await.unwrap().events, 0);
    nothing_was_refused(&server).await;

    is_denied(subscriber.submit_flow(&flow()).await);
    is_denied(claim(&subscriber).await);
    owner.submit_execution(&solo()).await.unwrap();
    for execution in claim(&owner).await.unwrap() {
        is_denied(subscriber.complete(&execution.lease, Bytes::new()).await);
        is_denied(subscriber.cancel_execution(execution.lease.execution_id, "x").await);
    }
    is_denied(subscriber.verify_deployment().await);
    refuses(
        &server,
        Role::Subscriber,
        &[
            &["PUBLISH", "ff:dag:completions", "{}"],
            &["HSET", "ff:x", "f", "v"],
            &["XADD", "ff:x", "*", "f", "v"],
            &["DEL", "ff:deployment"],
            &["FUNCTION", "LOAD", "REPLACE", SOURCE],
        ],
    )
    .await;
}

#[tokio::test]
async fn a_submitter_submits_and_cancels_and_neither_works_nor_listens() {
    let (server, owner) = prepared().await;
    let submitter = backend(&server, Role::Submitter).await;
    let flow_id = submitter.submit_flow(&flow()).await.unwrap().flow_id;
    let alone = submitter.submit_execution(&solo()).await.unwrap().execution_id;
    let mut later = solo();
    later.execution = later.execution.delay(Duration::from_secs(1));
    submitter.submit_execution(&later).await.unwrap();
    assert_eq!(submitter.describe_flow(flow_id).await.unwrap().flow_id, flow_id);
    submitter.describe_execution(alone).await.unwrap();
    // Ends the execution and promotes or skips its dependents: log entries and announcements.
    assert!(matches!(submitter.cancel_execution(alone, "x").await.unwrap(), CancelOutcome::Cancelled));
    assert_eq!(submitter.cancel_flow(flow_id, "x").await.unwrap().cancelled, 2);
    nothing_was_refused(&server).await;

    submitter.submit_flow(&flow()).await.unwrap();
    is_denied(claim(&submitter).await);
    let executions = claim(&owner).await.unwrap();
    assert_eq!(executions.len(), 1);
    is_denied(submitter.complete(&executions[0].lease, Bytes::new()).await);
    is_denied(submitter.subscribe_completions().await.map(drop));
    let partition = executions[0].lease.execution_id.partition();
    is_denied(submitter.sweep(&[partition], &SweepPolicy::default()).await.remove(0));
    refuses(
        &server,
        Role::Submitter,
        &[&["SUBSCRIBE", "ff:dag:completions"], &["FUNCTION", "LOAD", "REPLACE", SOURCE], &["UNLINK", "ff:x"]],
    )
    .await;
}

#[tokio::test]
async fn a_worker_keeps_flows_going_and_neither_submits_nor_changes_the_server() {
    let (server, owner) = prepared().await;
    let worker = backend(&server, Role::Worker).await;
    let lane = LaneId::default_lane();
    let mut completions = worker.subscribe_completions().await.unwrap();
    let mut signals = worker.work_signals(&lane).await.unwrap();
    let all: Vec<_> = partitions().partitions().collect();
    assert!(worker.await_work(&lane, &all).await.unwrap().is_empty());
    owner.submit_flow(&flow()).await.unwrap();
    tokio::time::timeout(PATIENCE, signals.next()).await.unwrap().unwrap();
    let claimed = claim(&worker).await.unwrap();
    worker.renew(&[claimed[0].lease], LEASE).await.unwrap();
    worker.complete(&claimed[0].lease, Bytes::from_static(b"r")).await.unwrap();
    let claimed = claim(&worker).await.unwrap();
    worker.fail(&claimed[0].lease, &Failure::permanent("x")).await.unwrap();
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, completions.next()).await.unwrap().unwrap();
    }
    owner.submit_execution(&solo()).await.unwrap();
    assert_eq!(work_off(&worker).await, 1);
    // More dependents than one call handles: the worker resolves the others.
    let children = (0..300).map(|n| ExecutionSpec::new(format!("child-{n}")).needs(["first"]));
    let wide = children.fold(FlowSubmission::new(namespace("a")), FlowSubmission::execution);
    owner.submit_flow(&wide.execution(ExecutionSpec::new("first"))).await.unwrap();
    let claimed = claim(&worker).await.unwrap();
    worker.complete(&claimed[0].lease, Bytes::new()).await.unwrap();
    let resolved = worker.resolve_dependents(claimed[0].lease.execution_id.partition()).await.unwrap().resolved;
    assert!(resolved > 0, "the call that completed dealt with all");
    let core = owner.submit_flow(&flow()).await.unwrap();
    owner.cancel_flow(core.flow_id, "x").await.unwrap();
    let forget = SweepPolicy::retention(Duration::ZERO);
    tokio::time::sleep(Duration::from_millis(5)).await;
    let reports = worker.sweep(&all, &forget).await;
    assert!(reports.iter().any(|report| report.as_ref().unwrap().removed > 0), "{reports:?}");
    for partition in all {
        worker.resolve_dependents(partition).await.unwrap();
        worker.reconcile(partition, None, 100).await.unwrap();
    }
    worker.verify_deployment().await.unwrap();
    let mut timers = worker.timer_signals().await.unwrap();
    let engine = EngineId::new("engine").unwrap();
    assert_eq!(worker.note_engine(&engine, LEASE).await.unwrap(), [engine]);
    tokio::time::timeout(PATIENCE, timers.next()).await.unwrap().unwrap();
    nothing_was_refused(&server).await;

    is_denied(worker.submit_flow(&flow()).await);
    is_denied(worker.cancel_flow(core.flow_id, "x").await);
    refuses(
        &server,
        Role::Worker,
        &[&["FUNCTION", "LOAD", "REPLACE", SOURCE], &["CONFIG", "GET", "save"], &["DEL", "ff:deployment"]],
    )
    .await;
}

#[tokio::test]
async fn an_administrator_prepares_the_deployment_and_touches_no_flow() {
    let server = TestServer::builder().build().await.unwrap();
    // Other users cannot join an unprepared deployment, and the error names who can prepare it.
    for role in [Role::Subscriber, Role::Submitter, Role::Worker] {
        let refused = ValkeyBackend::connect_with(grant(&server, role).await).await.err().unwrap();
        assert!(matches!(refused, EngineError::PermissionDenied { .. }), "{refused}");
        assert!(refused.to_string().contains("ff script load"), "{refused}");
    }
    server.command(&["ACL", "LOG", "RESET"]).await.unwrap();
    let host = ValkeyHost::connect(grant(&server, Role::Administrator).await).await.unwrap();
    assert_eq!(ff_script::loader::ensure_loaded(&host).await.unwrap(), LibraryState::Absent);
    // The library without the record is not enough.
    let refused = ValkeyBackend::connect_with(grant(&server, Role::Subscriber).await).await.err().unwrap();
    assert!(refused.to_string().contains("ff script load --partitions"), "{refused}");
    server.command(&["ACL", "LOG", "RESET"]).await.unwrap();
    let administrator = backend(&server, Role::Administrator).await;
    for role in [Role::Subscriber, Role::Submitter, Role::Worker] {
        backend(&server, role).await;
    }
    host.load_library(SOURCE).await.unwrap();
    assert_eq!(host.whoami().await.unwrap(), "administrator");
    assert!(host.refusal("administrator", &["PING"]).await.unwrap().is_some());
    assert_eq!(host.recorded_partitions().await.unwrap(), Some(partitions()));
    assert!(host.setting("maxmemory-policy").await.unwrap().is_some());
    host.info("replication").await.unwrap();
    host.log_sizes(partitions()).await.unwrap();
    assert_eq!(host.engines().await.unwrap(), [""; 0]);
    nothing_was_refused(&server).await;

    is_denied(administrator.submit_flow(&flow()).await);
    is_denied(claim(&administrator).await);
    is_denied(administrator.subscribe_completions().await.map(drop));
    refuses(
        &server,
        Role::Administrator,
        &[&["HSET", "ff:x", "f", "v"], &["PUBLISH", "ff:dag:completions", "x"], &["FUNCTION", "LIST"]],
    )
    .await;
}

#[tokio::test]
async fn the_sample_of_each_need_is_allowed_to_its_role_and_refused_without_its_rule() {
    let (server, owner) = prepared().await;
    for role in Role::ALL {
        grant(&server, role).await;
        for need in role.needs() {
            let sample = need.sample();
            let words: Vec<&str> = sample.iter().map(String::as_str).collect();
            let refused = owner.host().refusal(role.name(), &words).await.unwrap();
            assert_eq!(refused, None, "{role}: {words:?}");
        }
    }
    server.command(&["ACL", "SETUSER", "nobody", "on", ">pw"]).await.unwrap();
    for need in Role::Worker.needs() {
        let sample = need.sample();
        let words: Vec<&str> = sample.iter().map(String::as_str).collect();
        let refused = owner.host().refusal("nobody", &words).await.unwrap().unwrap();
        let rules = Role::Worker.acl_rules();
        assert!(need.missing(&refused).iter().all(|rule| rules.contains(rule)), "{words:?}: {refused}");
    }
}

#[tokio::test]
async fn a_channel_that_is_refused_after_its_last_listener_left_affects_no_other() {
    let (server, owner) = prepared().await;
    let config = grant(&server, Role::Subscriber).await;
    let flows_only = ["ACL", "SETUSER", Role::Subscriber.name(), "resetchannels", "&ff:dag:completions", "&ff:wake:*"];
    assert!(!server.command(&flows_only).await.unwrap().is_error());
    let subscriber = ValkeyBackend::connect_with(config).await.unwrap();
    let mut completions = subscriber.subscribe_completions().await.unwrap();
    let solo = SubscribeOptions::new().scope(SubscriptionScope::FlowsAndSolo);
    assert!(subscriber.subscribe(&solo).now_or_never().is_none(), "it waits for the server");
    assert_eq!(server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap().text(), "1");
    eventually("it is subscribed again", async || {
        !server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.unwrap().text().is_empty()
    })
    .await;
    owner.submit_flow(&flow()).await.unwrap();
    assert_eq!(work_off(&owner).await, 2);
    for _ in 0..2 {
        tokio::time::timeout(PATIENCE, completions.next()).await.unwrap().unwrap();
    }
}
