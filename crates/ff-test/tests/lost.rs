//! Records that are deleted, evicted or overwritten outside the library: their executions end, and no others are
//! affected.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use ff_conformance::Fixture;
use ff_core::{
    ClaimId, EngineError, ExecutionId, ExecutionSpec, ExecutionSubmission, FlowState, LogId, Namespace, Outcome,
    Partition, PublicState, Scope, SweepPolicy,
    backend::{ReleaseOutcome, RenewOutcome},
};
use ff_script::keys;
use futures::StreamExt;
use support::Stand;

async fn start() -> (Stand, Fixture) {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    (stand, fixture)
}

async fn delete(stand: &Stand, id: ExecutionId) {
    stand.command(&["DEL", &keys::execution_core(id)]).await;
}

async fn overwrite(stand: &Stand, key: &str) {
    stand.command(&["SET", key, "mine"]).await;
}

async fn reconcile(stand: &Stand, partition: Partition) -> ff_core::backend::ReconcileReport {
    stand.backend.reconcile(partition, None, 1_000).await.unwrap()
}

async fn count(stand: &Stand, partition: Partition, index: &str) -> i64 {
    stand.command(&["ZCARD", &format!("ff:part:{partition}:{index}")]).await.int().unwrap()
}

/// Submits solo executions that all lie in one partition.
async fn solos_of(fixture: &Fixture, partition: Partition, wanted: usize, spec: &ExecutionSpec) -> Vec<ExecutionId> {
    let count = fixture.backend.partition_count();
    let namespace = Namespace::default_namespace();
    let lies_there = |key: &String| ExecutionId::from_idempotency_key(&namespace, key, count).partition() == partition;
    let mut ids = Vec::new();
    for key in (0..).map(|n| n.to_string()).filter(lies_there).take(wanted) {
        let solo = ExecutionSubmission::new(namespace.clone(), spec.clone()).idempotency_key(&key);
        ids.push(fixture.backend.submit_execution(&solo).await.unwrap().execution_id);
    }
    ids
}

async fn solos(fixture: &Fixture, partition: Partition, wanted: usize) -> Vec<ExecutionId> {
    solos_of(fixture, partition, wanted, &fixture.spec("solo")).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_member_whose_record_is_deleted_ends_as_failed_and_its_flow_continues() {
    let (stand, fixture) = start().await;
    let mut completions = fixture.backend.subscribe_completions().await.unwrap();
    let flow = fixture.submit_members(&[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("d", &["a"])]).await;
    let [a, b, c, d] = [0, 1, 2, 3].map(|index: usize| flow.executions[index].execution_id);
    delete(&stand, b).await;
    assert_eq!(reconcile(&stand, a.partition()).await.lost, 1);
    let lost = completions.next().await.unwrap();
    assert_eq!((lost.execution_id, lost.outcome, lost.reason.as_deref()), (b, Outcome::Failed, Some("record_lost")));
    assert_eq!(lost.namespace, Some(fixture.namespace.clone()));
    assert_eq!(fixture.state(c).await, PublicState::Skipped);
    assert_eq!(fixture.describe(b).await.reason.as_deref(), Some("record_lost"));
    fixture.complete(a).await;
    fixture.complete(d).await;
    let described = fixture.backend.describe_flow(flow.flow_id).await.unwrap();
    assert_eq!((described.state, described.members.len()), (FlowState::Failed, 4));
    assert_eq!(reconcile(&stand, a.partition()).await.lost, 0);
    assert_eq!(stand.log_length(a, Scope::Flows).await, 4, "each member ended once");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn dependents_of_an_ended_member_whose_record_is_deleted_are_promoted_by_its_outcome() {
    let (stand, fixture) = start().await;
    // More dependents than the terminal call resolves.
    let names: Vec<_> = (0..300).map(|n| n.to_string()).collect();
    let mut submission = fixture.flow(&[("root", &[])]);
    for name in &names {
        submission = submission.execution(fixture.spec(name).needs(["root"]));
    }
    let flow = fixture.submit(&submission).await;
    let root = flow.executions[0].execution_id;
    fixture.complete(root).await;
    delete(&stand, root).await;
    while reconcile(&stand, root.partition()).await.lost > 0 {}
    fixture.resolve_all(root.partition()).await;
    for id in flow.ids().skip(1) {
        assert_eq!(fixture.state(id).await, PublicState::Waiting);
    }
    assert_eq!(stand.log_length(root, Scope::Flows).await, 1, "no second completion");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_a_flow_whose_record_is_evicted_end() {
    let (stand, fixture) = start().await;
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[]), ("c", &["a"]), ("d", &["c"])]).await;
    let a = flow.executions[0].execution_id;
    stand.command(&["DEL", &keys::flow_core(a.partition(), flow.flow_id)]).await;
    reconcile(&stand, a.partition()).await;
    for member in &flow.executions {
        assert!(fixture.describe(member.execution_id).await.outcome.is_some(), "{}", member.name);
    }
    assert_eq!(stand.log_length(a, Scope::Flows).await, 4);
    for index in ["ready", "open", "pending"] {
        assert_eq!(count(&stand, a.partition(), index).await, 0, "{index}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn forty_queue_entries_without_a_record_do_not_block_their_lane() {
    let (stand, fixture) = start().await;
    let partition = Partition::new(0);
    let ids = solos(&fixture, partition, 41).await;
    for id in &ids[..20] {
        delete(&stand, *id).await;
    }
    for id in &ids[20..40] {
        overwrite(&stand, &keys::execution_core(*id)).await;
    }
    // Each claim removes the stale members that it read, so that the third one reaches the last member.
    let mut claimed = Vec::new();
    for _ in 0..3 {
        claimed.extend(fixture.claim_some(partition, 1, Duration::from_secs(60)).await);
    }
    assert_eq!(claimed.iter().map(|claimed| claimed.lease.execution_id).collect::<Vec<_>>(), [ids[40]]);
    let report = reconcile(&stand, partition).await;
    assert_eq!((report.repaired, report.unreadable), (20, 20), "the deleted ones are removed, the others named");
    assert_eq!(count(&stand, partition, "open").await, 21);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_without_a_record_leave_every_index() {
    let (stand, fixture) = start().await;
    let partition = Partition::new(1);
    let ids = solos(&fixture, partition, 70).await;
    while !fixture.claim_some(partition, 128, Duration::from_millis(1)).await.is_empty() {}
    for id in &ids {
        delete(&stand, *id).await;
        for index in ["delayed", "deadlines", "pending", "ended"] {
            let key = format!("ff:part:{partition}:{index}");
            stand.command(&["ZADD", &key, "1", &id.uuid().to_string()]).await;
        }
    }
    let mut sweeps = 0;
    while fixture.sweep(partition).await.more {
        sweeps += 1;
        assert!(sweeps < 20, "a sweep spins on what is gone");
    }
    for _ in 0..3 {
        fixture.sweep(partition).await;
        reconcile(&stand, partition).await;
    }
    for index in ["delayed", "leases", "deadlines", "pending", "ended", "open"] {
        assert_eq!(count(&stand, partition, index).await, 0, "{index}");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_overwritten_record_costs_no_other_lease() {
    let (stand, fixture) = start().await;
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[])]).await;
    let mut leases = Vec::new();
    for id in flow.ids() {
        leases.push(fixture.claim(id).await.lease);
    }
    overwrite(&stand, &keys::execution_core(flow.executions[0].execution_id)).await;
    let renewed = fixture.backend.renew(&leases, Duration::from_secs(60)).await.unwrap();
    assert_eq!(renewed, [RenewOutcome::Unknown, RenewOutcome::Renewed]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_whose_record_or_flow_is_unreadable_is_neither_given_back_nor_reported_as_lost() {
    let (stand, fixture) = start().await;
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[]), ("c", &[])]).await;
    let mut leases = Vec::new();
    for id in flow.ids() {
        leases.push(fixture.claim(id).await.lease);
    }
    overwrite(&stand, &keys::execution_core(flow.executions[0].execution_id)).await;
    fixture.backend.cancel_execution(flow.executions[1].execution_id, "enough").await.unwrap();
    let released = fixture.backend.release(&leases).await.unwrap();
    assert_eq!(released, [ReleaseOutcome::Unknown, ReleaseOutcome::LeaseLost, ReleaseOutcome::Released]);
    let held = fixture.claim(flow.executions[2].execution_id).await.lease;
    overwrite(&stand, &keys::flow_core(held.execution_id.partition(), flow.flow_id)).await;
    assert_eq!(fixture.backend.release(&[held]).await.unwrap(), [ReleaseOutcome::Unknown]);
    assert_eq!(stand.field(held.execution_id, "public_state").await, "active", "the lease runs on");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn leases_of_an_unreachable_partition_are_not_reported_as_lost() {
    let (stand, fixture) = start().await;
    let mut leases = Vec::new();
    for partition in [3, 4] {
        let id = solos(&fixture, Partition::new(partition), 1).await[0];
        leases.push(fixture.claim(id).await.lease);
    }
    stand.command(&["FUNCTION", "LOAD", "REPLACE", ff_script::SOURCE]).await;
    overwrite(&stand, &format!("ff:part:{}:deadlines", Partition::new(3))).await;
    let released = fixture.backend.release(&leases).await.unwrap();
    assert_eq!(released, [ReleaseOutcome::Unknown, ReleaseOutcome::Released]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn one_overwritten_record_does_not_stop_a_sweep() {
    let (stand, fixture) = start().await;
    let short = |name: &str| {
        let mut spec = fixture.spec(name);
        spec.deadline = Some(Duration::from_millis(1));
        spec
    };
    let submission = fixture.flow(&[]).execution(short("a")).execution(short("b"));
    let bad = fixture.submit(&submission).await;
    let partition = bad.executions[0].execution_id.partition();
    overwrite(&stand, &keys::flow_core(partition, bad.flow_id)).await;
    let id = solos_of(&fixture, partition, 1, &short("solo")).await[0];
    fixture.sweep_until(id, PublicState::Expired).await;
    assert_eq!(reconcile(&stand, partition).await.unreadable, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_unreadable_partition_does_not_affect_the_others() {
    let (stand, fixture) = start().await;
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let bad = Partition::new((id.partition().number() + 1) % stand.backend.partition_count().get());
    overwrite(&stand, &format!("ff:part:{bad}:ready")).await;
    let partitions = [bad, id.partition()];
    let found = fixture.backend.await_work(&fixture.lane, &partitions).await.unwrap();
    assert_eq!(found, [id.partition()]);
    let reports = fixture.backend.sweep(&partitions, &SweepPolicy::default()).await;
    assert!(reports[0].is_err() && reports[1].is_ok(), "{reports:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overwritten_log_delays_the_retention_of_its_own_executions_only() {
    let (stand, fixture) = start().await;
    let partition = Partition::new(2);
    let ids = solos(&fixture, partition, 2).await;
    for id in &ids {
        fixture.complete(*id).await;
    }
    let log = keys::completion_log(LogId { partition, scope: Scope::Flows });
    overwrite(&stand, &log).await;
    tokio::time::sleep(Duration::from_millis(5)).await;
    let policy = SweepPolicy::retention(Duration::ZERO);
    let mut removed = 0;
    for _ in 0..2 {
        removed += fixture.backend.sweep(&[partition], &policy).await.remove(0).unwrap().removed;
    }
    assert_eq!(removed, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overwritten_log_delays_no_timer_of_the_other_log() {
    let (stand, fixture) = start().await;
    let soon = Duration::from_millis(1);
    let flow = fixture.flow(&[]).execution(fixture.spec("later").delay(soon));
    let flow = fixture.submit(&flow.execution(fixture.spec("expires").deadline(soon))).await;
    let [later, expires] = [0, 1].map(|index: usize| flow.executions[index].execution_id);
    let log = keys::completion_log(LogId { partition: later.partition(), scope: Scope::Solo });
    let solo = solos_of(&fixture, later.partition(), 1, &fixture.spec("solo").deadline(soon)).await[0];
    overwrite(&stand, &log).await;
    fixture.sweep_until(expires, PublicState::Expired).await;
    fixture.sweep_until(later, PublicState::Waiting).await;
    assert_eq!(reconcile(&stand, later.partition()).await.unreadable, 1);
    assert_ne!(fixture.state(solo).await, PublicState::Expired);
    stand.command(&["DEL", &log]).await;
    // The sweep has postponed it for a minute.
    let deadlines = format!("ff:part:{}:deadlines", solo.partition());
    stand.command(&["ZADD", &deadlines, "1", &solo.uuid().to_string()]).await;
    fixture.sweep_until(solo, PublicState::Expired).await;
    assert_eq!(stand.log_length(solo, Scope::Solo).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overwritten_log_refuses_only_its_own_ones_of_several_completions() {
    let (stand, fixture) = start().await;
    let member = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let log = LogId { partition: member.partition(), scope: Scope::Solo };
    let solo = solos(&fixture, log.partition, 1).await[0];
    let held = [fixture.claim(solo).await.lease, fixture.claim(member).await.lease];
    overwrite(&stand, &keys::completion_log(log)).await;
    let outcomes = fixture.backend.complete_many(&held.map(|lease| (lease, Bytes::new()))).await;
    assert!(outcomes[0].is_err() && outcomes[1].is_ok(), "{outcomes:?}");
    assert_eq!(fixture.state(member).await, PublicState::Success);
    assert_eq!(fixture.state(solo).await, PublicState::Active);
    stand.command(&["DEL", &keys::completion_log(log)]).await;
    fixture.backend.complete(&held[0], Bytes::new()).await.unwrap();
    assert_eq!(stand.log_length(solo, Scope::Solo).await, 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overwritten_log_delays_no_repair_of_the_other_log() {
    let (stand, fixture) = start().await;
    let member = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let partition = member.partition();
    let solo = solos(&fixture, partition, 1).await[0];
    overwrite(&stand, &keys::completion_log(LogId { partition, scope: Scope::Solo })).await;
    let interrupted = fixture.backend.cancel_execution(solo, "enough").await;
    assert!(interrupted.is_err(), "its log entry could not be written");
    stand.command(&["DEL", &format!("ff:part:{partition}:ready")]).await;
    let report = reconcile(&stand, partition).await;
    assert_eq!((report.repaired, report.unreadable), (1, 1));
    assert_eq!(fixture.claim(member).await.lease.execution_id, member);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_overwritten_member_does_not_delay_the_queueing_of_the_others() {
    let (stand, fixture) = start().await;
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[]), ("c", &[])]).await;
    let partition = flow.executions[0].execution_id.partition();
    // Like a submission in parts whose members are not queued yet.
    stand.command(&["DEL", &format!("ff:part:{partition}:ready")]).await;
    overwrite(&stand, &keys::execution_core(flow.executions[1].execution_id)).await;
    let (block, uuids) = (keys::partition_block(partition), flow.ids().map(|id| id.uuid().to_string()));
    let key_count = block.len().to_string();
    let call = ["FCALL".to_owned(), "ff1_enqueue".to_owned(), key_count].into_iter().chain(block).chain(uuids);
    let call: Vec<String> = call.collect();
    stand.command(&call.iter().map(String::as_str).collect::<Vec<_>>()).await;
    assert_eq!(count(&stand, partition, "ready").await, 2);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_worker_whose_claim_record_is_overwritten_still_claims() {
    let (stand, fixture) = start().await;
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let record = keys::claim_record(id.partition(), &"worker".parse().unwrap());
    stand.command(&["HSET", &record, "mine", "1"]).await;
    let claim = Some(ClaimId::generate());
    for _ in 0..2 {
        let claimed = fixture.claim_as(claim, id.partition(), 1, Duration::from_secs(60)).await;
        assert_eq!(claimed.iter().map(|claimed| claimed.lease.execution_id).collect::<Vec<_>>(), [id]);
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_worker_of_a_deleted_record_is_fenced() {
    let (stand, fixture) = start().await;
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let lease = fixture.claim(id).await.lease;
    delete(&stand, id).await;
    reconcile(&stand, id.partition()).await;
    let late = fixture.backend.complete(&lease, Bytes::new()).await;
    assert!(matches!(late, Err(EngineError::State { .. })), "{late:?}");
    assert_eq!(stand.log_length(id, Scope::Flows).await, 1);
}

/// Sweeps with zero retention until nothing more is removed.
async fn forget(stand: &Stand, partition: Partition) {
    // An entry is due once the clock has advanced.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let policy = SweepPolicy::retention(Duration::ZERO);
    while stand.backend.sweep(&[partition], &policy).await.remove(0).unwrap().removed > 0 {}
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_removes_an_ended_flow_whose_records_are_all_deleted() {
    let (stand, fixture) = start().await;
    let flow = fixture.submit_members(&[("a", &[]), ("b", &["a"])]).await;
    for id in flow.ids() {
        fixture.complete(id).await;
    }
    let partition = flow.executions[0].execution_id.partition();
    for id in flow.ids() {
        delete(&stand, id).await;
    }
    forget(&stand, partition).await;
    let core = keys::flow_core(partition, flow.flow_id);
    assert_eq!(stand.command(&["EXISTS", &core]).await.int(), Some(0));
    assert_eq!(count(&stand, partition, "ended").await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_removes_a_flow_without_an_entry_through_those_of_its_members() {
    let (stand, fixture) = start().await;
    let flow = fixture.submit_members(&[("a", &[]), ("b", &["a"])]).await;
    for id in flow.ids() {
        fixture.complete(id).await;
    }
    let partition = flow.executions[0].execution_id.partition();
    let (index, member) = (format!("ff:part:{partition}:ended"), format!("flow:{}", flow.flow_id));
    assert_eq!(stand.command(&["ZREM", &index, &member]).await.int(), Some(1));
    forget(&stand, partition).await;
    for id in [flow.executions[0].execution_id, flow.executions[1].execution_id] {
        assert_eq!(stand.command(&["EXISTS", &keys::execution_core(id)]).await.int(), Some(0));
    }
    let core = keys::flow_core(partition, flow.flow_id);
    assert_eq!(stand.command(&["EXISTS", &core]).await.int(), Some(0));
    assert_eq!(count(&stand, partition, "ended").await, 0);
}
