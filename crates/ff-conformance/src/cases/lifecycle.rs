//! The life of an execution, from submission to its end.

use std::time::Duration;

use bytes::Bytes;
use ff_core::{
    EngineError, ExecutionId, ExecutionSubmission, FlowId, FlowState, FlowSubmission, LifecyclePhase, Outcome,
    PublicState, SweepPolicy, backend::WorkSignal,
};
use futures::StreamExt;

use super::Backend;
use crate::fixture::{Fixture, name, within};

/// Members of a flow that no backend need take in one call, and the delay of some of them.
const MEMBERS: usize = 200;
const DELAY: Duration = Duration::from_millis(50);

pub async fn a_solo_execution_runs_from_submission_to_its_result(backend: Backend) {
    let fixture = Fixture::new(backend);
    let spec = fixture.spec("solo").payload("input");
    let solo = ExecutionSubmission::new(fixture.namespace.clone(), spec);
    let id = fixture.backend.submit_execution(&solo).await.expect("accepted").execution_id;
    assert_eq!(fixture.state(id).await, PublicState::Waiting);
    let claimed = fixture.claim(id).await;
    assert_eq!((claimed.payload.as_ref(), claimed.name.as_str()), (&b"input"[..], "solo"));
    assert_eq!((&claimed.namespace, claimed.lease.attempt), (&fixture.namespace, 1));
    let running = fixture.describe(id).await;
    assert_eq!((running.phase, running.state, running.outcome), (LifecyclePhase::Active, PublicState::Active, None));
    fixture.backend.complete(&claimed.lease, Bytes::from_static(b"output")).await.expect("completed");
    let ended = fixture.describe(id).await;
    assert_eq!((ended.phase, ended.outcome), (LifecyclePhase::Terminal, Some(Outcome::Success)));
    assert_eq!(ended.result.as_deref(), Some(&b"output"[..]));
    assert!(ended.completed_at_ms >= Some(ended.created_at_ms));
}

pub async fn a_repeated_submission_is_recognised_after_retention_and_does_not_run_again(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.flow(&[("a", &[])]).idempotency_key("once");
    let submitted = fixture.submit(&flow).await;
    let id = submitted.executions[0].execution_id;
    fixture.complete(id).await;
    let policy = SweepPolicy::retention(Duration::ZERO);
    let is_removed = async || {
        let _ = fixture.backend.sweep(&[id.partition()], &policy).await;
        fixture.backend.describe_execution(id).await.is_err()
    };
    within("retention", async { while !is_removed().await {} }).await;
    assert!(fixture.submit(&flow).await.already_submitted);
    let other = fixture.flow(&[("b", &[])]).idempotency_key("once");
    let conflict = fixture.backend.submit_flow(&other).await;
    assert!(matches!(conflict, Err(EngineError::Conflict { .. })), "{conflict:?}");
    assert!(fixture.claim_some(id.partition(), 1, Duration::from_secs(60)).await.is_empty());
    let gone = fixture.backend.describe_flow(submitted.flow_id).await;
    assert!(matches!(gone, Err(EngineError::NotFound { .. })), "{gone:?}");
}

pub async fn higher_priority_is_claimed_first_then_older(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut flow = fixture.flow(&[("low-1", &[]), ("high", &[]), ("low-2", &[]), ("mid", &[])]);
    flow.executions[1].priority = 999;
    flow.executions[3].priority = 5;
    let submitted = fixture.submit(&flow).await;
    let partition = submitted.executions[0].execution_id.partition();
    let mut order = Vec::new();
    while let Some(claimed) = fixture.claim_some(partition, 1, Duration::from_secs(60)).await.pop() {
        order.push(claimed.name);
    }
    assert_eq!(order, ["high", "mid", "low-1", "low-2"]);
}

pub async fn a_delayed_execution_waits_for_its_time(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0].delay = Duration::from_millis(50);
    let id = fixture.submit(&flow).await.executions[0].execution_id;
    assert_eq!(fixture.state(id).await, PublicState::Delayed);
    assert!(fixture.claim_some(id.partition(), 1, Duration::from_secs(60)).await.is_empty());
    fixture.sweep_until(id, PublicState::Waiting).await;
    let (created, now) = (fixture.describe(id).await.created_at_ms, fixture.claim(id).await.lease.execution_id);
    assert_eq!(now, id);
    let started = fixture.describe(id).await.started_at_ms.expect("it runs");
    assert!(started >= created + 50, "started {} ms after its submission", started - created);
}

pub async fn a_deadline_ends_an_execution_that_nobody_claimed(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut flow = fixture.flow(&[("a", &[]), ("b", &["a"])]);
    flow.executions[0].deadline = Some(Duration::from_millis(20));
    let submitted = fixture.submit(&flow).await;
    fixture.sweep_until(submitted.executions[0].execution_id, PublicState::Expired).await;
    assert_eq!(fixture.state(submitted.executions[1].execution_id).await, PublicState::Skipped);
    let flow = fixture.backend.describe_flow(submitted.flow_id).await.expect("it exists");
    assert_eq!(flow.state, FlowState::Failed);
}

pub async fn a_deadline_ends_an_execution_that_is_running(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut flow = fixture.flow(&[("a", &[])]);
    flow.executions[0].deadline = Some(Duration::from_millis(20));
    let id = fixture.submit(&flow).await.executions[0].execution_id;
    let claimed = fixture.claim(id).await;
    fixture.sweep_until(id, PublicState::Expired).await;
    let late = fixture.backend.complete(&claimed.lease, Bytes::new()).await;
    assert!(matches!(late, Err(EngineError::State { .. })), "{late:?}");
    assert_eq!(fixture.state(id).await, PublicState::Expired);
}

pub async fn a_repeated_submission_under_one_key_is_the_same_flow(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.flow(&[("a", &[]), ("b", &["a"])]).idempotency_key("order-7");
    let first = fixture.submit(&flow).await;
    fixture.complete(first.executions[0].execution_id).await;
    let again = fixture.submit(&flow).await;
    assert!(!first.already_submitted && again.already_submitted);
    assert_eq!((first.flow_id, &first.executions), (again.flow_id, &again.executions));
    assert_eq!(fixture.state(first.executions[0].execution_id).await, PublicState::Success);

    let solo = ExecutionSubmission::new(fixture.namespace.clone(), fixture.spec("s")).idempotency_key("k");
    let first = fixture.backend.submit_execution(&solo).await.expect("accepted");
    let again = fixture.backend.submit_execution(&solo).await.expect("accepted");
    assert_eq!(first.execution_id, again.execution_id);
    assert!(!first.already_submitted && again.already_submitted);
}

/// More bytes and more members than one call may take: `0`, then groups of which the first needs `0`, and members that
/// need the one before them. Every tenth waits for its time.
fn beyond_one_call(fixture: &Fixture, last: &str) -> FlowSubmission {
    let flow = FlowSubmission::new(fixture.namespace.clone()).idempotency_key("large");
    (0..MEMBERS).fold(flow, |flow, n| {
        let text = if n + 1 == MEMBERS { last } else { "x" };
        let spec = fixture.spec(&n.to_string()).payload(text.repeat(8 << 10));
        let spec = if n % 10 == 9 { spec.delay(DELAY) } else { spec };
        let need = match n % 3 {
            0 => 0,
            _ => n - 1,
        };
        flow.execution(if n == 0 || n % 10 == 9 { spec } else { spec.needs([need.to_string()]) })
    })
}

pub async fn a_flow_beyond_one_call_is_there_once_and_whole_whoever_submits_it(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = beyond_one_call(&fixture, "x");
    let (one, other) = futures::join!(fixture.submit(&flow), fixture.submit(&flow));
    assert_eq!((one.flow_id, &one.executions), (other.flow_id, &other.executions));
    assert!(one.already_submitted != other.already_submitted, "exactly one of them submitted it");
    let refused = fixture.backend.submit_flow(&beyond_one_call(&fixture, "y")).await;
    assert!(matches!(refused, Err(EngineError::Conflict { .. })), "{refused:?}");
    let found = fixture.backend.describe_flow(one.flow_id).await.expect("it exists");
    let members: Vec<_> = found.members.iter().map(|member| (&member.name, member.execution_id)).collect();
    let submitted: Vec<_> = one.executions.iter().map(|member| (&member.name, member.execution_id)).collect();
    assert_eq!(members, submitted);
    // Nothing is claimed before, and a claim takes all that it finds.
    for id in one.ids().skip(9).step_by(10) {
        fixture.sweep_until(id, PublicState::Waiting).await;
    }
    for (index, member) in one.executions.iter().enumerate() {
        let claimed = fixture.claim(member.execution_id).await;
        assert_eq!((&claimed.name, claimed.payload.len()), (&member.name, 8 << 10));
        fixture.backend.complete(&claimed.lease, Bytes::new()).await.expect("the owner may complete");
        if index == 0 {
            // More than one call promotes.
            fixture.resolve_all(member.execution_id.partition()).await;
        }
    }
    let ended = fixture.backend.describe_flow(one.flow_id).await.expect("it exists");
    assert_eq!(ended.state, FlowState::Success);
    assert!(fixture.submit(&flow).await.already_submitted);
}

pub async fn a_key_used_for_other_content_is_a_conflict(backend: Backend) {
    let fixture = Fixture::new(backend);
    let first = fixture.submit(&fixture.flow(&[("a", &[])]).idempotency_key("k")).await;
    let other = fixture.backend.submit_flow(&fixture.flow(&[("b", &[])]).idempotency_key("k")).await;
    assert!(matches!(other, Err(EngineError::Conflict { .. })), "{other:?}");
    assert_eq!(fixture.backend.describe_flow(first.flow_id).await.expect("it exists").members.len(), 1);
}

pub async fn unknown_executions_and_flows_are_not_found(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = ExecutionId::generate_solo(fixture.backend.partition_count());
    let flow = FlowId::generate();
    let answers = [
        fixture.backend.describe_execution(id).await.map(drop),
        fixture.backend.cancel_execution(id, "x").await.map(drop),
        fixture.backend.describe_flow(flow).await.map(drop),
        fixture.backend.cancel_flow(flow, "x").await.map(drop),
    ];
    for (answer, named) in answers.into_iter().zip([id.to_string(), id.to_string(), flow.to_string(), flow.to_string()])
    {
        let error = answer.expect_err("it does not exist");
        assert!(matches!(error, EngineError::NotFound { .. }) && error.to_string().contains(&named), "{error}");
    }
}

pub async fn work_of_another_lane_is_not_claimed(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut flow = fixture.flow(&[("a", &[]), ("b", &[])]);
    // The name of one lane is a prefix of the other's.
    flow.executions[1].lane = name(&format!("{}-other", fixture.lane));
    let submitted = fixture.submit(&flow).await;
    let claimed =
        fixture.claim_some(submitted.executions[0].execution_id.partition(), 10, Duration::from_secs(60)).await;
    assert_eq!(claimed.iter().map(|claimed| claimed.name.as_str()).collect::<Vec<_>>(), ["a"]);
}

pub async fn a_waiting_process_is_signalled_when_work_arrives(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut signals = fixture.backend.work_signals(&fixture.lane).await.expect("subscribed");
    let partitions: Vec<_> = fixture.backend.partition_count().partitions().collect();
    let ready = fixture.backend.await_work(&fixture.lane, &partitions).await.expect("answered");
    assert!(ready.is_empty());
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let wait = async {
        // Signals for all partitions may come before; the one that names the partition must come too.
        while signals.next().await.expect("signals never end") != WorkSignal::Ready(id.partition()) {}
    };
    within("the signal", wait).await;
    let ready = fixture.backend.await_work(&fixture.lane, &partitions).await.expect("answered");
    assert_eq!(ready, [id.partition()]);
}
