//! The announcement of timers, and of the engines that share them.

use std::time::Duration;

use ff_core::{
    Backoff, EngineId, ExecutionId, Failure, FlowSubmission,
    backend::{TimerSignal, TimerSignals},
    limits::TIMER_HORIZON,
};
use futures::{FutureExt, StreamExt};

use super::Backend;
use crate::fixture::{Fixture, name, within};

const SECOND: Duration = Duration::from_secs(1);
const STAYS: Duration = Duration::from_secs(60);

/// In how many partitions a timer is created. On a shared server, an earlier timer of another case in the same
/// partition prevents an announcement.
const PARTITIONS: usize = 8;

/// The next announced timer in the partition of one of these executions: which of them, and when it is due.
async fn next_due(signals: &mut TimerSignals, ids: &[ExecutionId]) -> (usize, Duration) {
    let wait = async {
        loop {
            let signal = signals.next().await.expect("timer signals never end on their own");
            let TimerSignal::Due { partition, after } = signal else { continue };
            if let Some(place) = ids.iter().position(|id| id.partition() == partition) {
                return (place, after);
            }
        }
    };
    within(&format!("a timer of one of {ids:?} is announced"), wait).await
}

/// Waits for a timer of one of these executions that is due within `limit`.
async fn due_within(signals: &mut TimerSignals, ids: &[ExecutionId], limit: Duration) {
    while next_due(signals, ids).await.1 > limit {}
}

/// Submits flows of one member.
async fn submit_to_partitions(fixture: &Fixture, flow: &FlowSubmission) -> Vec<ExecutionId> {
    let mut ids = Vec::new();
    for _ in 0..PARTITIONS {
        ids.push(fixture.submit(flow).await.executions[0].execution_id);
    }
    ids
}

/// A flow of one member that is delayed.
fn delayed(fixture: &Fixture, delay: Duration) -> FlowSubmission {
    FlowSubmission::new(fixture.namespace.clone()).execution(fixture.spec("a").delay(delay))
}

pub async fn a_timer_that_is_due_soon_is_announced(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut signals = fixture.backend.timer_signals().await.expect("timers are announced");
    let ids = submit_to_partitions(&fixture, &delayed(&fixture, 3 * SECOND)).await;
    due_within(&mut signals, &ids, 3 * SECOND).await;
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0].deadline = Some(4 * SECOND);
    let ids = submit_to_partitions(&fixture, &flow).await;
    due_within(&mut signals, &ids, 4 * SECOND).await;
    let ids = submit_to_partitions(&fixture, &fixture.flow(&[("a", &[])])).await;
    for id in &ids {
        fixture.claim_for(*id, 2 * SECOND).await;
    }
    due_within(&mut signals, &ids, 2 * SECOND).await;
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0] = flow.executions[0].clone().attempts(2, Backoff { initial: SECOND, max: SECOND });
    let ids = submit_to_partitions(&fixture, &flow).await;
    for id in &ids {
        let claimed = fixture.claim(*id).await;
        fixture.backend.fail(&claimed.lease, &Failure::retryable("flaky")).await.expect("the owner may fail");
    }
    due_within(&mut signals, &ids, SECOND).await;
}

pub async fn a_lease_of_half_a_minute_is_not_announced(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut signals = fixture.backend.timer_signals().await.expect("timers are announced");
    let ids = submit_to_partitions(&fixture, &fixture.flow(&[("a", &[])])).await;
    let mut leases = Vec::new();
    for id in &ids {
        leases.push(fixture.claim_for(*id, 30 * SECOND).await.lease);
    }
    // These are announced, and come after what the claims may have announced.
    let (renewed, rest) = ids.split_at(PARTITIONS / 2);
    fixture.backend.renew(&leases[..renewed.len()], SECOND).await.expect("the owner may renew");
    due_within(&mut signals, renewed, SECOND).await;
    while let Some(Some(signal)) = signals.next().now_or_never() {
        let TimerSignal::Due { partition, after } = signal else { continue };
        let is_ours = rest.iter().any(|id| id.partition() == partition);
        assert!(!is_ours || after <= TIMER_HORIZON, "a timer is announced that is due in {after:?}");
    }
}

pub async fn a_timer_is_announced_only_if_it_is_earlier_than_the_known_one(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut signals = fixture.backend.timer_signals().await.expect("timers are announced");
    let ids = submit_to_partitions(&fixture, &fixture.flow(&[("a", &[])])).await;
    let mut leases = Vec::new();
    for id in &ids {
        leases.push(fixture.claim_for(*id, 5 * SECOND).await.lease);
    }
    let (place, after) = next_due(&mut signals, &ids).await;
    assert!(after <= 5 * SECOND, "the lease of the claim comes first, not {after:?}");
    for lease in [7, 6, 2].map(|seconds| seconds * SECOND) {
        fixture.backend.renew(&leases[place..=place], lease).await.expect("the owner may renew");
    }
    loop {
        let (_, after) = next_due(&mut signals, &ids[place..=place]).await;
        assert!(after <= 5 * SECOND, "a timer is announced behind another: {after:?}");
        if after <= 2 * SECOND {
            return;
        }
    }
}

pub async fn running_engines_are_listed_until_they_stop_or_are_gone(backend: Backend) {
    let [a, b, c] = ["a", "b", "c"].map(name::<EngineId>);
    let note = async |engine: &EngineId, stays| {
        let mut engines = backend.note_engine(engine, stays).await.expect("an engine is noted");
        engines.sort_unstable();
        engines
    };
    assert_eq!(note(&a, STAYS).await, std::slice::from_ref(&a));
    assert_eq!(note(&b, STAYS).await, [a.clone(), b.clone()]);
    assert_eq!(note(&b, Duration::ZERO).await, std::slice::from_ref(&a));
    note(&c, Duration::from_millis(20)).await;
    let gone = async {
        while note(&a, STAYS).await.contains(&c) {
            tokio::task::yield_now().await;
        }
    };
    within("an engine that does not call again is gone", gone).await;
}

pub async fn a_change_of_the_running_engines_is_announced(backend: Backend) {
    let mut signals = backend.timer_signals().await.expect("timers are announced");
    for stays in [STAYS, Duration::ZERO] {
        backend.note_engine(&name("a"), stays).await.expect("an engine is noted");
        let changed = async {
            while signals.next().await.expect("timer signals never end on their own") != TimerSignal::Engines {}
        };
        within("a change of the engines is announced", changed).await;
    }
}
