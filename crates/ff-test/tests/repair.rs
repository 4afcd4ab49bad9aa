//! An interrupted call is completed by its repetition, the sweep or the reconciler.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use bytes::Bytes;
use ff_conformance::Fixture;
use ff_core::{ExecutionId, FlowState, Outcome, Partition, PublicState, Scope, SubmittedFlow};
use ff_script::keys;
use futures::StreamExt;
use support::Stand;

/// A flow `a <- b`; the terminal call of `a` has just been interrupted.
struct Interrupted {
    stand: Stand,
    fixture: Fixture,
    flow: SubmittedFlow,
    lease: ff_core::Lease,
}

impl Interrupted {
    async fn after_the_core() -> Self {
        let stand = Stand::start().await;
        let fixture = Fixture::new(stand.backend.clone());
        let flow = fixture.submit_members(&[("a", &[]), ("b", &["a"])]).await;
        let lease = fixture.claim(flow.executions[0].execution_id).await.lease;
        let this = Self { stand, fixture, flow, lease };
        let core = keys::execution_core(this.a());
        let now = format!("{}000", this.stand.command(&["TIME"]).await.items()[0].text());
        let set = "lifecycle_phase terminal public_state success terminal_outcome success completed_at";
        let set: Vec<_> = ["HSET", &core].into_iter().chain(set.split(' ')).chain([now.as_str()]).collect();
        this.stand.command(&set).await;
        this
    }

    fn a(&self) -> ExecutionId {
        self.flow.executions[0].execution_id
    }

    fn b(&self) -> ExecutionId {
        self.flow.executions[1].execution_id
    }

    async fn assert_whole(&self) {
        assert_eq!(self.stand.log_length(self.a(), Scope::Flows).await, 1);
        assert_eq!(self.fixture.describe(self.a()).await.outcome, Some(Outcome::Success));
        assert_eq!(self.fixture.state(self.b()).await, PublicState::Waiting);
        self.fixture.complete(self.b()).await;
        assert_eq!(self.stand.log_length(self.a(), Scope::Flows).await, 2);
    }

    async fn zset(&self, index: &str, member: &str) -> Option<String> {
        let key = format!("ff:part:{}:{index}", self.a().partition());
        let score = self.stand.command(&["ZSCORE", &key, member]).await.text();
        Some(score).filter(|score| !score.is_empty())
    }
}

async fn reconcile(stand: &Stand, partition: Partition) -> u32 {
    stand.backend.reconcile(partition, None, 100).await.unwrap().repaired
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_without_its_log_entry_counts_as_not_ended() {
    let interrupted = Interrupted::after_the_core().await;
    let seen = interrupted.fixture.describe(interrupted.a()).await;
    assert_eq!((seen.state, seen.outcome), (PublicState::Active, None));
    assert_eq!(interrupted.fixture.state(interrupted.b()).await, PublicState::Blocked);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repeated_call_of_the_holder_completes_an_interrupted_end() {
    let interrupted = Interrupted::after_the_core().await;
    interrupted.stand.backend.complete(&interrupted.lease, Bytes::new()).await.unwrap();
    interrupted.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reconciler_completes_an_interrupted_end() {
    let interrupted = Interrupted::after_the_core().await;
    assert_eq!(reconcile(&interrupted.stand, interrupted.a().partition()).await, 1);
    interrupted.assert_whole().await;
    assert_eq!(reconcile(&interrupted.stand, interrupted.a().partition()).await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_sweep_completes_an_interrupted_end_when_its_lease_expires() {
    let interrupted = Interrupted::after_the_core().await;
    let leases = format!("ff:part:{}:leases", interrupted.a().partition());
    interrupted.stand.command(&["ZADD", &leases, "1", &interrupted.a().uuid().to_string()]).await;
    assert_eq!(interrupted.fixture.sweep(interrupted.a().partition()).await.ended, 1);
    interrupted.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_end_recorded_but_not_followed_up_is_completed_without_a_second_entry() {
    let interrupted = Interrupted::after_the_core().await;
    interrupted.stand.backend.complete(&interrupted.lease, Bytes::new()).await.unwrap();
    // As if the call had stopped right after it recorded the entry's position.
    let partition = interrupted.a().partition();
    let (core, b) = (keys::execution_core(interrupted.a()), keys::execution_core(interrupted.b()));
    let uuid = interrupted.a().uuid().to_string();
    let open = format!("{uuid}{}", interrupted.flow.flow_id);
    interrupted.stand.command(&["ZADD", &format!("ff:part:{partition}:open"), "0", &open]).await;
    interrupted.stand.command(&["HDEL", &core, "dependents_done"]).await;
    interrupted.stand.command(&["HSET", &b, "unmet_needs", "1", "public_state", "blocked"]).await;
    interrupted.stand.command(&["HSET", &b, "lifecycle_phase", "submitted"]).await;
    interrupted.stand.command(&["HDEL", &b, &format!("met:{uuid}")]).await;
    interrupted.stand.command(&["DEL", &format!("ff:part:{partition}:ready")]).await;
    interrupted.stand.backend.complete(&interrupted.lease, Bytes::new()).await.unwrap();
    interrupted.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_completion_of_an_interrupted_end_has_its_result_or_its_length() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    for result in ["short".to_owned(), "long".repeat(2_000)] {
        let flow = fixture.submit_members(&[("a", &[])]).await;
        let a = flow.executions[0].execution_id;
        let lease = fixture.claim(a).await.lease;
        stand.backend.complete(&lease, Bytes::from(result.clone())).await.unwrap();
        // As if the call had stopped before the log entry.
        stand.command(&["HDEL", &keys::execution_core(a), "log_pos", "log_expected"]).await;
        stand
            .command(&[
                "ZADD",
                &format!("ff:part:{}:open", a.partition()),
                "0",
                &format!("{}{}", a.uuid(), flow.flow_id),
            ])
            .await;
        let mut completions = fixture.backend.subscribe_completions().await.unwrap();
        assert_eq!(reconcile(&stand, a.partition()).await, 1);
        let seen = completions.next().await.unwrap();
        let travelled = (result.len() <= 4_096).then(|| Bytes::from(result.clone()));
        assert_eq!((seen.execution_id, seen.payload_bytes), (a, travelled));
        assert_eq!(seen.result_len, (result.len() > 4_096).then_some(result.len() as u64));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reconciler_restores_missing_index_entries() {
    let interrupted = Interrupted::after_the_core().await;
    interrupted.stand.backend.complete(&interrupted.lease, Bytes::new()).await.unwrap();
    let partition = interrupted.a().partition();
    interrupted.stand.command(&["DEL", &format!("ff:part:{partition}:ready")]).await;
    assert_eq!(reconcile(&interrupted.stand, partition).await, 1);
    let claimed = interrupted.fixture.claim(interrupted.b()).await;
    interrupted.stand.command(&["DEL", &format!("ff:part:{partition}:leases")]).await;
    assert_eq!(reconcile(&interrupted.stand, partition).await, 1);
    assert!(interrupted.zset("leases", &claimed.lease.execution_id.uuid().to_string()).await.is_some());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_reconciler_finds_a_need_that_was_met_without_being_counted() {
    let interrupted = Interrupted::after_the_core().await;
    interrupted.stand.backend.complete(&interrupted.lease, Bytes::new()).await.unwrap();
    let b = keys::execution_core(interrupted.b());
    let met = format!("met:{}", interrupted.a().uuid());
    interrupted.stand.command(&["HDEL", &b, &met, "ready_member"]).await;
    interrupted.stand.command(&["HSET", &b, "unmet_needs", "1", "public_state", "blocked"]).await;
    interrupted.stand.command(&["DEL", &format!("ff:part:{}:ready", interrupted.a().partition())]).await;
    assert_eq!(reconcile(&interrupted.stand, interrupted.a().partition()).await, 1);
    interrupted.assert_whole().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_reconciler_continues_where_it_stopped() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let names: Vec<_> = (0..25).map(|n| n.to_string()).collect();
    let members: Vec<_> = names.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
    let flow = fixture.submit_members(&members).await;
    let partition = flow.executions[0].execution_id.partition();
    let (mut cursor, mut steps) = (None, Vec::new());
    loop {
        let report = stand.backend.reconcile(partition, cursor, 10).await.unwrap();
        steps.push(report.examined);
        cursor = report.next;
        if cursor.is_none() {
            break;
        }
    }
    assert_eq!(steps, [10, 10, 5]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_key_of_another_type_is_refused_before_anything_is_written() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let flow = fixture.flow(&[("a", &[])]).idempotency_key("k");
    let id = ff_core::FlowId::from_idempotency_key(&fixture.namespace, "k");
    let partition = id.partition(stand.backend.partition_count());
    let foreign = format!("ff:part:{partition}:completions");
    stand.command(&["SET", &foreign, "mine"]).await;
    let error = stand.backend.submit_flow(&flow).await.unwrap_err().to_string();
    assert!(error.contains(&foreign), "{error}");
    assert_eq!(stand.command(&["KEYS", &format!("ff:*{partition}*")]).await.items().len(), 1);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn members_of_an_interrupted_submission_are_discarded_and_can_be_submitted_again() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let flow = fixture.flow(&[("a", &[]), ("b", &["a"])]).idempotency_key("k");
    let submitted = fixture.submit(&flow).await;
    let partition = submitted.executions[0].execution_id.partition();
    // As if the call had stopped after the first member's core.
    stand.command(&["DEL", &keys::flow_core(partition, submitted.flow_id)]).await;
    stand.command(&["DEL", &keys::execution_core(submitted.executions[1].execution_id)]).await;
    stand.command(&["DEL", &format!("ff:part:{partition}:ready")]).await;
    assert_eq!(reconcile(&stand, partition).await, 2);
    assert_eq!(stand.command(&["KEYS", &format!("ff:*{partition}*")]).await.items().len(), 0);
    let again = fixture.submit(&flow).await;
    assert!(!again.already_submitted);
    fixture.complete(again.executions[0].execution_id).await;
    fixture.complete(again.executions[1].execution_id).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_repair_counts_no_member_twice() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[]), ("c", &["a", "b"])]).await;
    let (a, b, c) = (flow.executions[0].execution_id, flow.executions[1].execution_id, flow.executions[2].execution_id);
    let lease = fixture.claim(a).await.lease;
    stand.backend.complete(&lease, Bytes::new()).await.unwrap();
    // As if the call had stopped before it recorded its progress with the dependents.
    stand.command(&["HDEL", &keys::execution_core(a), "dependents_done"]).await;
    let open = format!("ff:part:{}:open", a.partition());
    stand.command(&["ZADD", &open, "0", &format!("{}{}", a.uuid(), flow.flow_id)]).await;
    stand.backend.complete(&lease, Bytes::new()).await.unwrap();
    let blocked = fixture.describe(c).await;
    assert_eq!((blocked.state, blocked.unmet_needs), (PublicState::Blocked, 1));
    fixture.complete(b).await;
    let state = async || stand.backend.describe_flow(flow.flow_id).await.unwrap().state;
    assert_eq!(state().await, FlowState::Running, "a was counted twice");
    fixture.complete(c).await;
    assert_eq!(state().await, FlowState::Success);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_skips_processes_that_are_gone_and_the_sweep_removes_them() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let partitions: Vec<_> = stand.backend.partition_count().partitions().collect();
    let mut signals = stand.backend.work_signals(&fixture.lane).await.unwrap();
    stand.backend.await_work(&fixture.lane, &partitions).await.unwrap();
    let flow = fixture.flow(&[("a", &[])]).idempotency_key("k");
    let id = ff_core::FlowId::from_idempotency_key(&fixture.namespace, "k");
    let partition = id.partition(stand.backend.partition_count());
    let waiters = format!("ff:part:{partition}:waiters");
    for n in 0..20 {
        // Sorts before any uuid.
        stand.command(&["ZADD", &waiters, "0", &format!("{}\n!gone-{n}", fixture.lane)]).await;
        stand.command(&["ZADD", &waiters, "0", &format!("unused-lane-{n}\n!gone")]).await;
    }
    fixture.submit(&flow).await;
    let signal = futures::StreamExt::next(&mut signals).await;
    assert_eq!(signal, Some(ff_core::backend::WorkSignal::Ready(partition)));
    // A process checks the waiters of idle lanes once a minute; a reloaded library starts at once.
    let left = async || stand.command(&["ZCARD", &waiters]).await.int().unwrap();
    assert_eq!(left().await, 20);
    stand.backend.await_work(&fixture.lane, &[partition]).await.unwrap();
    stand.command(&["FUNCTION", "LOAD", "REPLACE", ff_script::SOURCE]).await;
    for _ in 0..3 {
        fixture.sweep(partition).await;
    }
    assert_eq!(left().await, 0);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_entry_whose_result_names_an_interrupted_end_is_not_taken_for_its_own() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[]), ("c", &[])]).await;
    let [a, b, c] = [0, 1, 2].map(|index| flow.executions[index].execution_id);
    fixture.complete(c).await;
    let lease = fixture.claim(a).await.lease;
    let before: ff_core::EntryId = stand.field(c, "log_pos").await.parse().unwrap();
    let expected = format!("{}-{}", before.epoch, before.seq + 1);
    // The call that ended `a` stopped after it had written the core, and the next entry is that of `b`.
    let set = "lifecycle_phase terminal public_state success terminal_outcome success completed_at 1 log_expected";
    let core = keys::execution_core(a);
    let set: Vec<_> = ["HSET", &core].into_iter().chain(set.split(' ')).chain([expected.as_str()]).collect();
    stand.command(&set).await;
    let claimed = fixture.claim(b).await.lease;
    let result = format!("{{\"execution_id\":\"{a}\"}}");
    stand.backend.complete(&claimed, Bytes::from(result)).await.unwrap();
    stand.backend.complete(&lease, Bytes::new()).await.unwrap();
    assert_eq!(stand.field(b, "log_pos").await, expected);
    assert_ne!(stand.field(a, "log_pos").await, expected);
    assert_eq!(stand.log_length(a, Scope::Flows).await, 3);
}
