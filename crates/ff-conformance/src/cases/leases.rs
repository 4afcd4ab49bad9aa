//! Leases: who may end an attempt.

use std::time::Duration;

use bytes::Bytes;
use ff_core::{
    ClaimId, EngineError, ExecutionId, Failure, Lease, Outcome, Partition, PublicState,
    backend::{ReleaseOutcome, RenewOutcome, WorkSignal, WorkSignals},
    limits,
};
use futures::StreamExt;

use super::Backend;
use crate::fixture::{Fixture, is_silent, take, within};

const SHORT: Duration = Duration::from_millis(20);
const LONG: Duration = Duration::from_secs(600);

pub async fn a_worker_whose_lease_expired_is_fenced(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let first = fixture.claim_for(id, SHORT).await;
    fixture.sweep_until(id, PublicState::Waiting).await;
    let second = fixture.claim_for(id, LONG).await;
    assert_eq!((first.lease.attempt, second.lease.attempt), (1, 2));
    let stale = fixture.backend.complete(&first.lease, Bytes::from_static(b"stale")).await.expect_err("fenced");
    assert!(stale.is_lease_lost(), "{stale}");
    fixture.backend.complete(&second.lease, Bytes::from_static(b"fresh")).await.expect("completed");
    assert_eq!(fixture.describe(id).await.result.as_deref(), Some(&b"fresh"[..]));
}

pub async fn a_renewed_lease_does_not_expire(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let claimed = fixture.claim_for(id, SHORT).await;
    let renewed = fixture.backend.renew(&[claimed.lease], LONG).await.expect("answered");
    assert_eq!(renewed, [RenewOutcome::Renewed]);
    tokio::time::sleep(2 * SHORT).await;
    assert_eq!(fixture.sweep(id.partition()).await.reclaimed, 0);
    fixture.backend.complete(&claimed.lease, Bytes::new()).await.expect("still the owner");
}

pub async fn too_many_expired_leases_end_an_execution(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0].max_lease_expiries = 2;
    let id = fixture.submit(&flow).await.executions[0].execution_id;
    fixture.claim_confirmed(id, SHORT).await;
    fixture.sweep_until(id, PublicState::Waiting).await;
    fixture.claim_confirmed(id, SHORT).await;
    fixture.sweep_until(id, PublicState::Failed).await;
    assert_eq!(fixture.describe(id).await.reason.as_deref(), Some("lease_expired"));
}

pub async fn a_repeated_completion_by_the_holder_gives_the_same_reply(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut stream = fixture.backend.subscribe_completions().await.expect("subscribed");
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let claimed = fixture.claim(id).await;
    for _ in 0..3 {
        fixture.backend.complete(&claimed.lease, Bytes::from_static(b"r")).await.expect("the same reply");
    }
    let marker = fixture.end_one().await;
    let seen: Vec<_> = take(&mut stream, 2).await.iter().map(|seen| seen.execution_id).collect();
    assert_eq!(seen, [id, marker]);
    assert!(is_silent(&mut stream));
}

pub async fn a_lost_lease_is_reported_at_renewal(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[])]).await;
    let (a, b) =
        (fixture.claim(flow.executions[0].execution_id).await, fixture.claim(flow.executions[1].execution_id).await);
    fixture.backend.cancel_execution(a.lease.execution_id, "enough").await.expect("cancelled");
    let outcomes = fixture.backend.renew(&[a.lease, b.lease], LONG).await.expect("answered");
    assert_eq!(outcomes, [RenewOutcome::LeaseLost, RenewOutcome::Renewed]);
    assert_eq!(fixture.describe(a.lease.execution_id).await.outcome, Some(Outcome::Cancelled));
}

pub async fn a_lost_lease_is_reported_when_it_is_given_back(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[])]).await;
    let (a, b) =
        (fixture.claim(flow.executions[0].execution_id).await, fixture.claim(flow.executions[1].execution_id).await);
    fixture.backend.cancel_execution(a.lease.execution_id, "enough").await.expect("cancelled");
    let outcomes = fixture.backend.release(&[a.lease, b.lease]).await.expect("answered");
    assert_eq!(outcomes, [ReleaseOutcome::LeaseLost, ReleaseOutcome::Released]);
    // Back in the queue after another lease, it is not what the earlier lease has given back.
    let later = fixture.claim(b.lease.execution_id).await;
    fixture.backend.release(&[later.lease]).await.expect("answered");
    let outcomes = fixture.backend.release(&[b.lease, later.lease]).await.expect("answered");
    assert_eq!(outcomes, [ReleaseOutcome::LeaseLost, ReleaseOutcome::Released]);
}

pub async fn an_unconfirmed_lease_expires_without_being_counted(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0].max_lease_expiries = 1;
    flow.executions[0].timeout = Some(SHORT / 2);
    let id = fixture.submit(&flow).await.executions[0].execution_id;
    for unconfirmed in 0..3 {
        assert_eq!(fixture.claim_for(id, SHORT).await.unconfirmed_leases, unconfirmed, "the claim reports it");
        fixture.sweep_until(id, PublicState::Waiting).await;
    }
    assert_eq!(fixture.describe(id).await.failures, 0);
    fixture.claim_confirmed(id, SHORT).await;
    fixture.sweep_until(id, PublicState::Failed).await;
}

pub async fn a_repeated_claim_gets_the_same_executions(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[])]).await;
    let partition = flow.executions[0].execution_id.partition();
    let (first, other) = (Some(ClaimId::generate()), Some(ClaimId::generate()));
    let claimed = fixture.claim_as(first, partition, 3, LONG).await;
    assert_eq!(claimed.len(), 3);
    let leases = |claimed: &[ff_core::ClaimedExecution]| claimed.iter().map(|one| one.lease).collect::<Vec<_>>();
    for _ in 0..2 {
        let again = fixture.claim_as(first, partition, 3, LONG).await;
        assert_eq!(leases(&again), leases(&claimed));
    }
    fixture.backend.complete(&claimed[1].lease, Bytes::new()).await.expect("completed");
    let again = fixture.claim_as(first, partition, 3, LONG).await;
    assert_eq!(leases(&again), [claimed[0].lease, claimed[2].lease], "what it still holds");
    let rest = fixture.claim_as(other, partition, 3, LONG).await;
    assert_eq!(rest.iter().map(|claimed| claimed.name.as_str()).collect::<Vec<_>>(), ["d"]);
}

pub async fn a_released_execution_goes_to_another_worker_at_once_and_nothing_is_counted(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0].max_lease_expiries = 1;
    let id = fixture.submit(&flow).await.executions[0].execution_id;
    for attempt in 1..4 {
        let claimed = fixture.claim_confirmed(id, LONG).await;
        assert_eq!(claimed.lease.attempt, attempt);
        for _ in 0..2 {
            let released = fixture.backend.release(&[claimed.lease]).await.expect("answered");
            assert_eq!(released, [ReleaseOutcome::Released]);
        }
        let late = fixture.backend.complete(&claimed.lease, Bytes::new()).await.expect_err("given back");
        assert!(late.is_lease_lost(), "{late}");
    }
    assert_eq!(fixture.describe(id).await.failures, 0);
    fixture.complete(id).await;
}

pub async fn a_release_signals_a_waiting_process(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let claimed = fixture.claim(id).await;
    let mut signals = fixture.backend.work_signals(&fixture.lane).await.expect("subscribed");
    fixture.backend.await_work(&fixture.lane, &[id.partition()]).await.expect("answered");
    fixture.backend.release(&[claimed.lease]).await.expect("answered");
    signalled(&mut signals, id.partition()).await;
}

/// Waits until this process is signalled that a partition has work.
async fn signalled(signals: &mut WorkSignals, partition: Partition) {
    let wait = async { while signals.next().await.expect("signals never end") != WorkSignal::Ready(partition) {} };
    within("the signal", wait).await;
}

pub async fn a_signal_is_passed_on_while_the_lane_has_work_and_the_work_stays_claimable(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    for _ in 0..2 {
        let passed_on = fixture.backend.pass_on(&fixture.lane, id.partition()).await.expect("answered");
        assert!(passed_on, "the lane has work");
    }
    assert_eq!(fixture.state(id).await, PublicState::Waiting);
    fixture.complete(id).await;
    let passed_on = fixture.backend.pass_on(&fixture.lane, id.partition()).await.expect("answered");
    assert!(!passed_on, "the lane has no work left");
}

pub async fn a_process_that_passes_a_signal_on_from_an_empty_lane_is_signalled_again(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.flow(&[("a", &[])]).idempotency_key("work");
    let partition = flow.flow_id().partition(fixture.backend.partition_count());
    let mut signals = fixture.backend.work_signals(&fixture.lane).await.expect("subscribed");
    for _ in 0..2 {
        let passed_on = fixture.backend.pass_on(&fixture.lane, partition).await.expect("answered");
        assert!(!passed_on, "the lane has no work");
    }
    fixture.submit(&flow).await;
    signalled(&mut signals, partition).await;
}

pub async fn completions_that_are_sent_together_have_their_own_outcomes(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[]), ("c", &[])]).await;
    let ids: Vec<_> = flow.ids().collect();
    let partition = ids[0].partition();
    let mut held: Vec<_> = fixture.claim_some(partition, 3, LONG).await.iter().map(|claimed| claimed.lease).collect();
    held.sort_by_key(|lease| ids.iter().position(|id| *id == lease.execution_id));
    fixture.backend.release(&[held[1]]).await.expect("answered");
    fixture.backend.complete(&held[2], Bytes::from_static(b"c")).await.expect("completed");
    let unknown = Lease { execution_id: ExecutionId::from_parts(partition, uuid::Uuid::new_v4()), ..held[0] };
    let too_long = Bytes::from(vec![0; limits::PAYLOAD_BYTES + 1]);
    let result = Bytes::from_static(b"done");
    let ended = [held[0], held[0], held[1], held[2], unknown].map(|lease| (lease, result.clone()));
    let outcomes = fixture.backend.complete_many(&[ended.as_slice(), &[(held[0], too_long)]].concat()).await;
    let words = outcomes.iter().map(|outcome| match outcome {
        Ok(()) => "ok",
        Err(error) if error.is_lease_lost() => "lost",
        Err(EngineError::NotFound { .. }) => "not found",
        Err(EngineError::InvalidInput { .. }) => "refused",
        Err(error) => panic!("{error}"),
    });
    assert_eq!(words.collect::<Vec<_>>(), ["ok", "ok", "lost", "ok", "not found", "refused"]);
    assert_eq!(fixture.describe(ids[0]).await.result.as_deref(), Some(&b"done"[..]));
    assert_eq!(fixture.describe(ids[2]).await.result.as_deref(), Some(&b"c"[..]), "the first result counts");
}

pub async fn members_that_end_together_promote_what_needs_all_of_them(backend: Backend) {
    let fixture = Fixture::new(backend);
    let names: Vec<_> = (0..40).map(|index| format!("n{index}")).collect();
    let needs: Vec<_> = names.iter().map(String::as_str).collect();
    let mut members: Vec<(&str, &[&str])> = needs.iter().map(|name| (*name, &[][..])).collect();
    members.push(("last", &needs));
    let flow = fixture.submit_members(&members).await;
    let partition = flow.executions[0].execution_id.partition();
    let held = fixture.claim_some(partition, 40, LONG).await;
    let ended: Vec<_> = held.iter().map(|claimed| (claimed.lease, Bytes::new())).collect();
    assert_eq!(ended.len(), 40);
    let outcomes = fixture.backend.complete_many(&ended).await;
    assert!(outcomes.iter().all(Result::is_ok), "{outcomes:?}");
    fixture.resolve_all(partition).await;
    let last = flow.execution("last").expect("a member");
    assert_eq!(fixture.claim(last).await.name, "last");
}

pub async fn a_reported_failure_resets_the_count_of_expired_leases(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0].max_lease_expiries = 2;
    flow.executions[0] = flow.executions[0].clone().attempts(5, ff_core::Backoff::default());
    flow.executions[0].backoff = ff_core::Backoff { initial: Duration::ZERO, max: Duration::ZERO };
    let id = fixture.submit(&flow).await.executions[0].execution_id;
    for _ in 0..3 {
        fixture.claim_confirmed(id, SHORT).await;
        fixture.sweep_until(id, PublicState::Waiting).await;
        let claimed = fixture.claim(id).await;
        fixture.backend.fail(&claimed.lease, &Failure::retryable("flaky")).await.expect("reported");
    }
    assert_eq!(fixture.state(id).await, PublicState::Waiting);
}

/// Waits until this process is notified that it has lost the lease of an execution.
async fn notified_of_loss(signals: &mut WorkSignals, id: ExecutionId) {
    let wait = async {
        loop {
            let signal = signals.next().await.expect("signals never end");
            if matches!(signal, WorkSignal::Lost { execution_id, epoch: 1 } if execution_id == id) {
                return;
            }
        }
    };
    within("the loss", wait).await;
}

pub async fn the_holder_of_a_lease_is_notified_when_another_caller_ends_its_execution(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut signals = fixture.backend.work_signals(&fixture.lane).await.expect("subscribed");
    let mut flow = fixture.flow(&[("cancelled", &[]), ("with its flow", &[]), ("expired", &[])]);
    flow.executions[2].deadline = Some(SHORT);
    let flow = fixture.submit(&flow).await;
    let [cancelled, with_flow, expired] = [0, 1, 2].map(|index| flow.executions[index].execution_id);
    fixture.claim(cancelled).await;
    fixture.backend.cancel_execution(cancelled, "enough").await.expect("cancelled");
    notified_of_loss(&mut signals, cancelled).await;
    if fixture.state(expired).await == PublicState::Active {
        fixture.sweep_until(expired, PublicState::Expired).await;
        notified_of_loss(&mut signals, expired).await;
    }
    fixture.backend.cancel_flow(flow.flow_id, "enough").await.expect("cancelled");
    notified_of_loss(&mut signals, with_flow).await;
}
