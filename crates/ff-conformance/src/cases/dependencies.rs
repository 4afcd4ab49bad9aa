//! Dependencies between the members of a flow.

use std::collections::HashSet;

use ff_core::{FlowState, FlowSubmission, Outcome, PublicState, SubmittedFlow};

use super::Backend;
use crate::fixture::{Fixture, is_silent, take};

async fn states(fixture: &Fixture, flow: &SubmittedFlow) -> Vec<PublicState> {
    let flow = fixture.backend.describe_flow(flow.flow_id).await.expect("it exists");
    flow.members.iter().map(|member| member.state).collect()
}

/// One member that all others need.
fn fan_out(fixture: &Fixture, dependents: usize) -> FlowSubmission {
    (0..dependents)
        .fold(fixture.flow(&[("root", &[])]), |flow, n| flow.execution(fixture.spec(&n.to_string()).needs(["root"])))
}

pub async fn a_dependent_starts_only_when_all_its_needs_succeeded(backend: Backend) {
    use PublicState::{Blocked, Success, Waiting};
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[]), ("c", &["a", "b"])]).await;
    assert_eq!(states(&fixture, &flow).await, [Waiting, Waiting, Blocked]);
    fixture.complete(flow.executions[0].execution_id).await;
    assert_eq!(fixture.state(flow.executions[2].execution_id).await, Blocked);
    assert_eq!(fixture.describe(flow.executions[2].execution_id).await.unmet_needs, 1);
    fixture.complete(flow.executions[1].execution_id).await;
    assert_eq!(fixture.state(flow.executions[2].execution_id).await, Waiting);
    fixture.complete(flow.executions[2].execution_id).await;
    assert_eq!(states(&fixture, &flow).await, [Success, Success, Success]);
    let ended = fixture.backend.describe_flow(flow.flow_id).await.expect("it exists");
    assert_eq!(ended.state, FlowState::Success);
    assert!(ended.completed_at_ms.is_some());
}

pub async fn a_failed_need_skips_all_dependents_behind_it(backend: Backend) {
    use PublicState::{Failed, Skipped, Success};
    let fixture = Fixture::new(backend);
    let mut stream = fixture.backend.subscribe_completions().await.expect("subscribed");
    let flow =
        fixture.submit_members(&[("a", &[]), ("b", &["a"]), ("c", &["b"]), ("d", &["c", "e"]), ("e", &[])]).await;
    fixture.fail(flow.executions[0].execution_id).await;
    fixture.complete(flow.executions[4].execution_id).await;
    assert_eq!(states(&fixture, &flow).await, [Failed, Skipped, Skipped, Skipped, Success]);
    let ended = fixture.backend.describe_flow(flow.flow_id).await.expect("it exists");
    assert_eq!(ended.state, FlowState::Failed);
    let outcomes: Vec<_> = take(&mut stream, 5).await.iter().map(|seen| seen.outcome).collect();
    use Outcome as O;
    assert_eq!(outcomes, [O::Failed, O::Skipped, O::Skipped, O::Skipped, O::Success]);
}

pub async fn completions_follow_the_order_of_the_dependencies(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut stream = fixture.backend.subscribe_completions().await.expect("subscribed");
    let names: Vec<_> = (0..60).map(|n| format!("n{n}")).collect();
    let mut flow = FlowSubmission::new(fixture.namespace.clone());
    for (index, name) in names.iter().enumerate() {
        let needs = (0..index).filter(|need| (index * 7 + need) % 11 == 0).map(|need| names[need].clone());
        flow = flow.execution(fixture.spec(name).needs(needs));
    }
    let topology = flow.topology().expect("it has no cycle");
    let submitted = fixture.submit(&flow).await;
    for id in submitted.ids() {
        fixture.complete(id).await;
    }
    let mut seen = HashSet::new();
    for completion in take(&mut stream, names.len()).await {
        let index = submitted.ids().position(|id| id == completion.execution_id).expect("a member");
        assert!(topology.needs[index].iter().all(|need| seen.contains(need)), "{index} came before what it needs");
        assert!(seen.insert(index), "{index} came twice");
    }
}

pub async fn a_fan_out_beyond_the_bound_of_a_call_is_promoted_completely(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut stream = fixture.backend.subscribe_completions().await.expect("subscribed");
    let flow = fixture.submit(&fan_out(&fixture, 999)).await;
    let root = flow.executions[0].execution_id;
    fixture.complete(root).await;
    assert!(take(&mut stream, 1).await[0].dependents_pending, "the completion says that dependents are left");
    fixture.resolve_all(root.partition()).await;
    assert!(states(&fixture, &flow).await[1..].iter().all(|state| *state == PublicState::Waiting));
}

pub async fn a_skip_beyond_the_bound_of_a_call_reaches_all_dependents(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut stream = fixture.backend.subscribe_completions().await.expect("subscribed");
    let flow = fixture.submit(&fan_out(&fixture, 999)).await;
    let root = flow.executions[0].execution_id;
    fixture.fail(root).await;
    fixture.resolve_all(root.partition()).await;
    assert!(states(&fixture, &flow).await[1..].iter().all(|state| *state == PublicState::Skipped));
    let seen: HashSet<_> = take(&mut stream, 1_000).await.iter().map(|seen| seen.execution_id).collect();
    assert_eq!(seen.len(), 1_000);
    assert!(is_silent(&mut stream));
}

pub async fn the_largest_flow_is_accepted_as_a_whole(backend: Backend) {
    let fixture = Fixture::new(backend);
    // 20 layers of 50, and every member needs the whole layer before it: 47,500 dependencies.
    let mut flow = FlowSubmission::new(fixture.namespace.clone());
    for n in 0..1_000 {
        let layer = n / 50;
        let needs = (0..if layer == 0 { 0 } else { 50 }).map(|member| format!("{}", (layer - 1) * 50 + member));
        flow = flow.execution(fixture.spec(&n.to_string()).needs(needs).payload(vec![b'x'; 1_000]));
    }
    let submitted = fixture.submit(&flow).await;
    let described = fixture.backend.describe_flow(submitted.flow_id).await.expect("it exists");
    assert_eq!(described.members.len(), 1_000);
    for id in submitted.ids().take(50) {
        fixture.complete(id).await;
    }
    assert_eq!(fixture.state(submitted.executions[50].execution_id).await, PublicState::Waiting);
    assert_eq!(fixture.state(submitted.executions[100].execution_id).await, PublicState::Blocked);
}
