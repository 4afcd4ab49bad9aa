//! Readers that do not keep up. `delivery` has the basic requirement, which no backend may leave out: a slow reader
//! gets everything and delays nobody. The cases here combine it with filters, repetition and an early end.

use ff_core::{CompletionStream, ExecutionId, FlowSubmission, Namespace, ScannerFilter};

use super::Backend;
use crate::fixture::{Fixture, name, next, take};

/// More than the queue of a subscription holds.
const MANY: usize = 1_500;

/// Ends `MANY` executions of a tenant, and returns them sorted.
async fn end_many(fixture: &Fixture, namespace: &Namespace) -> Vec<ExecutionId> {
    let mut ended = Vec::with_capacity(MANY);
    while ended.len() < MANY {
        let flow = (0..500)
            .fold(FlowSubmission::new(namespace.clone()), |flow, n| flow.execution(fixture.spec(&n.to_string())));
        let flow = fixture.submit(&flow).await;
        fixture.backend.cancel_flow(flow.flow_id, "enough").await.expect("cancelled");
        ended.extend(flow.ids());
    }
    ended.sort_unstable();
    ended
}

/// Reads exactly the completions `expected`, in any order, and then that of one more execution.
async fn expect(fixture: &Fixture, stream: &mut CompletionStream, expected: &[ExecutionId]) {
    let mut seen: Vec<_> = take(stream, expected.len()).await.iter().map(|seen| seen.execution_id).collect();
    seen.sort_unstable();
    let first_difference = seen.iter().zip(expected).position(|(seen, expected)| seen != expected);
    assert_eq!(first_difference, None, "a completion is missing, repeated or unexpected");
    // The reader has caught up: the next completion is the next to arrive.
    let marker = fixture.end_one().await;
    assert_eq!(next(stream).await.execution_id, marker);
}

pub async fn a_slow_reader_with_a_filter_gets_every_completion_that_passes(backend: Backend) {
    let fixture = Fixture::new(backend);
    let other: Namespace = name(&format!("{}-other", fixture.namespace));
    let filter = ScannerFilter::new().namespace(fixture.namespace.clone());
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

pub async fn a_slow_reader_that_gives_up_does_not_affect_the_others(backend: Backend) {
    let fixture = Fixture::new(backend);
    let slow = fixture.backend.subscribe_completions().await.expect("subscribed");
    let mut kept = fixture.backend.subscribe_completions().await.expect("subscribed");
    let expected = end_many(&fixture, &fixture.namespace).await;
    drop(slow);
    expect(&fixture, &mut kept, &expected).await;
}
