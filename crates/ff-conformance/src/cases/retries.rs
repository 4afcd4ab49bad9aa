//! Failed attempts.

use std::{collections::BTreeSet, time::Duration};

use ff_core::{
    Backoff, ExecutionId, Failure, PublicState,
    backend::{FailOutcome, RenewOutcome},
};

use super::Backend;
use crate::fixture::{Fixture, within};

/// Longer than the timeout.
const LEASE: Duration = Duration::from_millis(40);
const BACKOFF: Backoff = Backoff { initial: Duration::from_millis(20), max: Duration::from_millis(30) };

async fn submit(fixture: &Fixture, attempts: u32, timeout: Option<Duration>) -> ExecutionId {
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0] = flow.executions[0].clone().attempts(attempts, BACKOFF);
    flow.executions[0].timeout = timeout;
    fixture.submit(&flow).await.executions[0].execution_id
}

async fn fail(fixture: &Fixture, id: ExecutionId, failure: &Failure) -> FailOutcome {
    let claimed = fixture.claim(id).await;
    fixture.backend.fail(&claimed.lease, failure).await.expect("the owner may fail")
}

pub async fn a_retryable_failure_is_retried_after_its_backoff(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = submit(&fixture, 4, None).await;
    // The backoff doubles, up to its maximum.
    for backoff in [20, 30, 30] {
        let outcome = fail(&fixture, id, &Failure::retryable("flaky")).await;
        // Jitter shortens it by up to a fifth.
        let in_time = |after: Duration| (backoff * 4 / 5..=backoff).contains(&after.as_millis());
        assert!(matches!(outcome, FailOutcome::Retry { after } if in_time(after)), "{backoff} ms: {outcome:?}");
        assert_eq!(fixture.state(id).await, PublicState::Delayed);
        assert_eq!(fixture.describe(id).await.last_error.as_deref(), Some("flaky"));
        fixture.sweep_until(id, PublicState::Waiting).await;
    }
    fixture.complete(id).await;
    let ended = fixture.describe(id).await;
    assert_eq!((ended.state, ended.attempt, ended.failures), (PublicState::Success, 4, 3));
}

pub async fn exhausted_attempts_end_an_execution(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = submit(&fixture, 2, None).await;
    fail(&fixture, id, &Failure::retryable("flaky")).await;
    fixture.sweep_until(id, PublicState::Waiting).await;
    assert_eq!(fail(&fixture, id, &Failure::retryable("still flaky")).await, FailOutcome::Ended);
    let ended = fixture.describe(id).await;
    assert_eq!((ended.state, ended.reason.as_deref()), (PublicState::Failed, Some("attempts_exhausted")));
    assert_eq!(ended.last_error.as_deref(), Some("still flaky"));
}

pub async fn a_permanent_failure_ends_at_once(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = submit(&fixture, 5, None).await;
    assert_eq!(fail(&fixture, id, &Failure::permanent("bad input")).await, FailOutcome::Ended);
    let ended = fixture.describe(id).await;
    assert_eq!((ended.state, ended.reason.as_deref()), (PublicState::Failed, Some("bad input")));
}

pub async fn an_attempt_that_exceeds_its_timeout_has_failed(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = submit(&fixture, 2, Some(Duration::from_millis(20))).await;
    let slow = fixture.claim_confirmed(id, LEASE).await;
    fixture.sweep_until(id, PublicState::Waiting).await;
    let late = fixture.backend.complete(&slow.lease, bytes::Bytes::new()).await.expect_err("too late");
    assert!(late.is_lease_lost(), "{late}");
    assert_eq!(fixture.describe(id).await.last_error.as_deref(), Some("timeout"));
    fixture.claim_confirmed(id, LEASE).await;
    fixture.sweep_until(id, PublicState::Failed).await;
    assert_eq!(fixture.describe(id).await.reason.as_deref(), Some("attempts_exhausted"));
}

pub async fn attempts_do_not_overlap_while_a_lease_is_held(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = submit(&fixture, 2, Some(Duration::from_millis(1))).await;
    let claimed = fixture.claim(id).await;
    let long = Duration::from_secs(600);
    let wait = async {
        while fixture.backend.renew(&[claimed.lease], long).await.expect("answered") != [RenewOutcome::TimedOut] {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    within("the attempt times out", wait).await;
    assert_eq!(fixture.sweep(id.partition()).await.reclaimed, 0);
    assert_eq!(fixture.state(id).await, PublicState::Active, "its worker may still be running it");
    let reported = fixture.backend.fail(&claimed.lease, &Failure::retryable("timeout")).await;
    // Jitter shortens the backoff by up to a fifth.
    let in_time = |after: Duration| (BACKOFF.initial * 4 / 5..=BACKOFF.initial).contains(&after);
    assert!(matches!(reported, Ok(FailOutcome::Retry { after }) if in_time(after)), "{reported:?}");
}

pub async fn a_repeated_failure_report_gives_the_same_reply(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = submit(&fixture, 2, None).await;
    let claimed = fixture.claim(id).await;
    let first = fixture.backend.fail(&claimed.lease, &Failure::retryable("flaky")).await.expect("answered");
    assert!(matches!(first, FailOutcome::Retry { .. }), "{first:?}");
    for _ in 0..2 {
        let outcome = fixture.backend.fail(&claimed.lease, &Failure::retryable("flaky")).await.expect("answered");
        assert_eq!(outcome, first);
    }
    assert_eq!(fixture.describe(id).await.failures, 1);
    fixture.sweep_until(id, PublicState::Waiting).await;
    let claimed = fixture.claim(id).await;
    for _ in 0..3 {
        let outcome = fixture.backend.fail(&claimed.lease, &Failure::retryable("flaky")).await.expect("answered");
        assert_eq!(outcome, FailOutcome::Ended);
    }
}

pub async fn executions_that_fail_together_are_retried_at_different_times(backend: Backend) {
    let fixture = Fixture::new(backend);
    let backoff = Backoff { initial: Duration::from_secs(10), max: Duration::from_secs(10) };
    let mut moments = BTreeSet::new();
    for _ in 0..8 {
        let mut flow = fixture.flow(&[("a", &[])]);
        flow.executions[0] = flow.executions[0].clone().attempts(2, backoff);
        let id = fixture.submit(&flow).await.executions[0].execution_id;
        let outcome = fail(&fixture, id, &Failure::retryable("flaky")).await;
        let FailOutcome::Retry { after } = outcome else { panic!("{outcome:?}") };
        assert!((8..=10).contains(&after.as_secs()), "{after:?}");
        moments.insert(after);
    }
    assert!(moments.len() > 4, "{moments:?}");
}
