//! Who may end what.

use std::time::Duration;

use bytes::Bytes;
use ff_core::{Outcome, PublicState, RenewOutcome};

use super::Backend;
use crate::fixture::{Fixture, is_silent, take};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(600);

pub async fn a_worker_whose_lease_ran_out_is_fenced_off(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].1;
    let first = fixture.claim_for(id, SHORT).await;
    fixture.sweep_until(id, PublicState::Waiting).await;
    let second = fixture.claim_for(id, LONG).await;
    assert_eq!((first.lease.attempt, second.lease.attempt), (1, 2));
    let stale = fixture.backend.complete(&first.lease, Bytes::from_static(b"stale")).await.expect_err("fenced");
    assert!(stale.is_lease_lost(), "{stale}");
    fixture.backend.complete(&second.lease, Bytes::from_static(b"fresh")).await.expect("completed");
    assert_eq!(fixture.describe(id).await.result.as_deref(), Some(&b"fresh"[..]));
}

pub async fn a_renewed_lease_does_not_run_out(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].1;
    let claimed = fixture.claim_for(id, SHORT).await;
    let renewed = fixture.backend.renew(&[claimed.lease], LONG).await.expect("answered");
    assert_eq!(renewed, [RenewOutcome::Renewed]);
    tokio::time::sleep(2 * SHORT).await;
    assert_eq!(fixture.sweep(id.partition()).await.reclaimed, 0);
    fixture.backend.complete(&claimed.lease, Bytes::new()).await.expect("still the owner");
}

pub async fn leases_exhausted_end_an_execution(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0].max_lease_expiries = 2;
    let id = fixture.submit(&flow).await.executions[0].1;
    fixture.claim_for(id, SHORT).await;
    fixture.sweep_until(id, PublicState::Waiting).await;
    fixture.claim_for(id, SHORT).await;
    fixture.sweep_until(id, PublicState::Failed).await;
    assert_eq!(fixture.describe(id).await.reason.as_deref(), Some("lease_expired"));
}

pub async fn a_repeated_completion_by_its_owner_gives_the_same_answer(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut stream = fixture.backend.subscribe_completions().await.expect("subscribed");
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].1;
    let claimed = fixture.claim(id).await;
    for _ in 0..3 {
        fixture.backend.complete(&claimed.lease, Bytes::from_static(b"r")).await.expect("the same answer");
    }
    let marker = fixture.end_one().await;
    let seen: Vec<_> = take(&mut stream, 2).await.iter().map(|seen| seen.execution_id).collect();
    assert_eq!(seen, [id, marker]);
    assert!(is_silent(&mut stream));
}

pub async fn a_lost_lease_is_reported_at_renewal(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[])]).await;
    let (a, b) = (fixture.claim(flow.executions[0].1).await, fixture.claim(flow.executions[1].1).await);
    fixture.backend.cancel_execution(a.lease.execution_id, "enough").await.expect("cancelled");
    let outcomes = fixture.backend.renew(&[a.lease, b.lease], LONG).await.expect("answered");
    assert_eq!(outcomes, [RenewOutcome::LeaseLost, RenewOutcome::Renewed]);
    assert_eq!(fixture.describe(a.lease.execution_id).await.outcome, Some(Outcome::Cancelled));
}
