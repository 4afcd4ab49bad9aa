//! What becomes of readers that do not keep up. That a slow one gets everything and delays nobody is demanded of all
//! backends, under `delivery`; here are the turns that this can take.

use ff_core::{CompletionStream, ExecutionId, FlowSubmission, Namespace, ScannerFilter};

use super::Backend;
use crate::fixture::{Fixture, name, next, take};

/// More than the queue of a subscription is expected to hold.
const MANY: usize = 1_500;

/// Ends `MANY` executions of a tenant, and returns them sorted.
async fn end_many(fixture: &Fixture, namespace: &Namespace) -> Vec<ExecutionId> {
    let mut ended = Vec::with_capacity(MANY);
    while ended.len() < MANY {
        let flow = (0..500)
            .fold(FlowSubmission::new(namespace.clone()), |flow, n| flow.execution(fixture.spec(&n.to_string())));
        let flow = fixture.submit(&flow).await;
        fixture.backend.cancel_flow(flow.flow_id, "enough").await.expect("cancelled");
        ended.extend(flow.executions.iter().map(|(_, id)| *id));
    }
    ended.sort_unstable();
    ended
}

/// Reads as many completions as `expected`, which are these in any order, and then that of one more.
async fn expect(fixture: &Fixture, stream: &mut CompletionStream, expected: &[ExecutionId]) {
    let mut seen: Vec<_> = take(stream, expected.len()).await.iter().map(|seen| seen.execution_id).collect();
    seen.sort_unstable();
    let first_difference = seen.iter().zip(expected).position(|(seen, expected)| seen != expected);
    assert_eq!(first_difference, None, "something is missing, came twice or should not have come");
    // Caught up: what ends now arrives next.
    let marker = fixture.end_one().await;
    assert_eq!(next(stream).await.execution_id, marker);
}

pub async fn a_slow_reader_with_a_filter_gets_all_that_passes(backend: Backend) {
    let fixture = Fixture::new(backend);
    let other: Namespace = name(&format!("{}-other", fixture.namespace));
    let filter = ScannerFilter::new().with_namespace(fixture.namespace.clone());
    let mut slow = fixture.backend.subscribe_completions_filtered(&filter).await.expect("subscribed");
    end_many(&fixture, &other).await;
    let expected = end_many(&fixture, &fixture.namespace).await;
    end_many(&fixture, &other).await;
    expect(&fixture, &mut slow, &expected).await;
}

pub async fn a_reader_that_falls_behind_twice_loses_nothing(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut slow = fixture.backend.subscribe_completions().await.expect("subscribed");
    for _ in 0..2 {
        let expected = end_many(&fixture, &fixture.namespace).await;
        expect(&fixture, &mut slow, &expected).await;
    }
}

pub async fn a_slow_reader_that_gives_up_leaves_the_others_alone(backend: Backend) {
    let fixture = Fixture::new(backend);
    let slow = fixture.backend.subscribe_completions().await.expect("subscribed");
    let mut kept = fixture.backend.subscribe_completions().await.expect("subscribed");
    let expected = end_many(&fixture, &fixture.namespace).await;
    drop(slow);
    expect(&fixture, &mut kept, &expected).await;
}
