//! Cancellation.

use bytes::Bytes;
use ff_core::{CancelOutcome, EngineError, FlowCancellation, FlowState, Outcome, PublicState};

use super::Backend;
use crate::fixture::{Fixture, take};

pub async fn cancelling_an_execution_skips_its_dependents(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &["a"]), ("c", &[])]).await;
    let outcome =
        fixture.backend.cancel_execution(flow.executions[0].execution_id, "not needed").await.expect("answered");
    assert_eq!(outcome, CancelOutcome::Cancelled);
    let ended = fixture.describe(flow.executions[0].execution_id).await;
    assert_eq!((ended.state, ended.reason.as_deref()), (PublicState::Cancelled, Some("not needed")));
    assert_eq!(fixture.state(flow.executions[1].execution_id).await, PublicState::Skipped);
    assert_eq!(fixture.state(flow.executions[2].execution_id).await, PublicState::Waiting);
    let claimable = fixture.claim_some(ended.execution_id.partition(), 10, std::time::Duration::from_secs(60)).await;
    assert_eq!(claimable.iter().map(|claimed| claimed.name.as_str()).collect::<Vec<_>>(), ["c"]);
}

pub async fn a_flow_with_a_cancelled_member_ends_as_cancelled(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &["a"]), ("c", &[]), ("d", &[])]).await;
    let state = async || fixture.backend.describe_flow(flow.flow_id).await.expect("it exists").state;
    fixture.backend.cancel_execution(flow.executions[0].execution_id, "not needed").await.expect("answered");
    fixture.fail(flow.executions[2].execution_id).await;
    assert_eq!(state().await, FlowState::Running);
    fixture.complete(flow.executions[3].execution_id).await;
    assert_eq!(state().await, FlowState::Cancelled);
}

pub async fn cancelling_a_running_execution_fences_its_worker(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let claimed = fixture.claim(id).await;
    fixture.backend.cancel_execution(id, "stop").await.expect("answered");
    let late = fixture.backend.complete(&claimed.lease, Bytes::new()).await;
    assert!(matches!(late, Err(EngineError::State { .. })), "{late:?}");
    assert_eq!(fixture.state(id).await, PublicState::Cancelled);
}

pub async fn cancelling_an_ended_execution_changes_nothing(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[])]).await;
    let (a, b) = (flow.executions[0].execution_id, flow.executions[1].execution_id);
    fixture.complete(a).await;
    let outcome = fixture.backend.cancel_execution(a, "too late").await.expect("answered");
    assert_eq!(outcome, CancelOutcome::AlreadyEnded(Outcome::Success));
    assert_eq!(fixture.state(a).await, PublicState::Success);
    for _ in 0..2 {
        let outcome = fixture.backend.cancel_execution(b, "stop").await.expect("answered");
        assert_eq!(outcome, CancelOutcome::Cancelled, "a repeated call gives the same outcome");
    }
    let flow = fixture.backend.cancel_flow(flow.flow_id, "all over").await.expect("answered");
    assert_eq!(flow, FlowCancellation::new(0, 2));
}

pub async fn cancelling_a_flow_ends_all_its_open_members(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut stream = fixture.backend.subscribe_completions().await.expect("subscribed");
    // More members than one call cancels, in a chain behind the first.
    let names: Vec<_> = (0..400).map(|n| n.to_string()).collect();
    let mut flow = fixture.flow(&[("done", &[]), ("running", &[])]);
    for (index, name) in names.iter().enumerate() {
        let need = if index == 0 { "running" } else { &names[index - 1] };
        flow = flow.execution(fixture.spec(name).needs([need]));
    }
    let submitted = fixture.submit(&flow).await;
    fixture.complete(submitted.executions[0].execution_id).await;
    fixture.claim(submitted.executions[1].execution_id).await;
    let cancelled = fixture.backend.cancel_flow(submitted.flow_id, "enough").await.expect("answered");
    assert_eq!(cancelled, FlowCancellation::new(401, 1));
    let described = fixture.backend.describe_flow(submitted.flow_id).await.expect("it exists");
    assert_eq!(described.state, FlowState::Cancelled);
    assert!(described.members[1..].iter().all(|member| member.state == PublicState::Cancelled));
    let outcomes: Vec<_> = take(&mut stream, 402).await.iter().map(|seen| seen.outcome).collect();
    assert_eq!(outcomes[0], Outcome::Success);
    assert!(outcomes[1..].iter().all(|outcome| *outcome == Outcome::Cancelled));
}
