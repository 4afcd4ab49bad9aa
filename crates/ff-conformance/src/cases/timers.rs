//! Timers that are announced, and the engines that share them.

use std::time::Duration;

use ff_core::{Backoff, EngineId, ExecutionId, Failure, FlowSubmission, TimerSignal, TimerSignals};
use futures::StreamExt;

use super::Backend;
use crate::fixture::{Fixture, name, within};

const SECOND: Duration = Duration::from_secs(1);
const STAYS: Duration = Duration::from_secs(60);

/// The next announced timer of this execution's partition.
async fn due(signals: &mut TimerSignals, id: ExecutionId) -> Duration {
    let wait = async {
        loop {
            match signals.next().await.expect("timer signals never end by themselves") {
                TimerSignal::Due { partition, after } if partition == id.partition() => return after,
                _ => {}
            }
        }
    };
    within(&format!("a timer of {id} is announced"), wait).await
}

/// A flow of one member that is delayed.
fn delayed(fixture: &Fixture, delay: Duration) -> FlowSubmission {
    FlowSubmission::new(fixture.namespace.clone()).execution(fixture.spec("a").delay(delay))
}

pub async fn a_timer_that_is_due_soon_is_announced(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut signals = fixture.backend.timer_signals().await.expect("timers are announced");
    let id = fixture.submit(&delayed(&fixture, 3 * SECOND)).await.executions[0].1;
    let after = due(&mut signals, id).await;
    assert!(after <= 3 * SECOND, "{after:?}");
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0].deadline = Some(4 * SECOND);
    let id = fixture.submit(&flow).await.executions[0].1;
    assert!(due(&mut signals, id).await <= 4 * SECOND);
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].1;
    fixture.claim_for(id, 2 * SECOND).await;
    assert!(due(&mut signals, id).await <= 2 * SECOND);
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0] = flow.executions[0].clone().attempts(2, Backoff { initial: SECOND, max: SECOND });
    let id = fixture.submit(&flow).await.executions[0].1;
    let claimed = fixture.claim(id).await;
    fixture.backend.fail(&claimed.lease, &Failure::retryable("flaky")).await.expect("the owner may fail");
    assert!(due(&mut signals, id).await <= SECOND);
}

pub async fn a_lease_of_half_a_minute_is_not_announced(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut signals = fixture.backend.timer_signals().await.expect("timers are announced");
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].1;
    let claimed = fixture.claim_for(id, 30 * SECOND).await;
    fixture.backend.renew(&[claimed.lease], SECOND).await.expect("the owner may renew");
    // Had the claim announced its lease, that would be the first one.
    assert!(due(&mut signals, id).await <= SECOND);
}

pub async fn a_timer_behind_another_is_not_announced_and_one_before_it_is(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut signals = fixture.backend.timer_signals().await.expect("timers are announced");
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].1;
    let claimed = fixture.claim_for(id, 5 * SECOND).await;
    let after = due(&mut signals, id).await;
    assert!(after > 3 * SECOND, "the lease of the claim comes first, not {after:?}");
    for lease in [7, 6, 2].map(|seconds| seconds * SECOND) {
        fixture.backend.renew(&[claimed.lease], lease).await.expect("the owner may renew");
    }
    let after = due(&mut signals, id).await;
    assert!(after <= 2 * SECOND, "{after:?}");
}

pub async fn engines_at_work_are_named_until_they_stop_or_are_gone(backend: Backend) {
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
    within("an engine that is not noted again is gone", gone).await;
}

pub async fn a_change_of_the_engines_at_work_is_announced(backend: Backend) {
    let mut signals = backend.timer_signals().await.expect("timers are announced");
    for stays in [STAYS, Duration::ZERO] {
        backend.note_engine(&name("a"), stays).await.expect("an engine is noted");
        let changed = async {
            while signals.next().await.expect("timer signals never end by themselves") != TimerSignal::Engines {}
        };
        within("a change of the engines is announced", changed).await;
    }
}
