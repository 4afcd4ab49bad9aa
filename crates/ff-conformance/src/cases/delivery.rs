//! Unfiltered streams.

use std::collections::HashMap;

use bytes::Bytes;
use ff_core::{ExecutionSubmission, Failure, Outcome, Scope, Tags};

use super::Backend;
use crate::fixture::{Fixture, is_silent, next, take};

pub async fn a_completion_committed_right_after_subscribing_is_delivered(backend: Backend) {
    let fixture = Fixture::new(backend);
    for _ in 0..50 {
        let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
        let claimed = fixture.claim(id).await;
        let mut stream = fixture.backend.subscribe_completions().await.expect("subscribed");
        fixture.backend.complete(&claimed.lease, Bytes::new()).await.expect("completed");
        // Completions committed shortly before the call may come first.
        while next(&mut stream).await.execution_id != id {}
    }
}

pub async fn a_completion_has_the_attributes_and_the_outcome_of_its_execution(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut stream = fixture.backend.subscribe_completions().await.expect("subscribed");
    let tags = Tags::new([("team", "blüe \"quoted\" \\ tag"), ("k", "")]).expect("valid tags");
    let mut flow = fixture.flow(&[("good", &[]), ("bad", &["good"])]);
    flow.executions[0].tags = tags.clone();
    let submitted = fixture.submit(&flow).await;
    let (good, bad) = (submitted.executions[0].execution_id, submitted.executions[1].execution_id);

    let claimed = fixture.claim(good).await;
    fixture.backend.complete(&claimed.lease, Bytes::from_static(b"{\"n\":1}\n")).await.expect("completed");
    let seen = next(&mut stream).await;
    assert_eq!((seen.execution_id, seen.flow_id, seen.outcome), (good, Some(submitted.flow_id), Outcome::Success));
    assert_eq!((seen.namespace.as_ref(), seen.lane.as_ref()), (Some(&fixture.namespace), Some(&fixture.lane)));
    assert_eq!((seen.attempt, seen.generation, &seen.tags), (1, 0, &tags));
    assert_eq!(seen.payload_bytes.as_deref(), Some(&b"{\"n\":1}\n"[..]));
    assert!(seen.produced_at_ms.is_some() && seen.reason.is_none());
    let position = seen.position.expect("our own completions have a position");
    assert_eq!((position.log.partition, position.log.scope), (good.partition(), Scope::Flows));

    let claimed = fixture.claim(bad).await;
    let failure = Failure::permanent("no \"luck\"\n\u{1}ü");
    fixture.backend.fail(&claimed.lease, &failure).await.expect("failed");
    let seen = next(&mut stream).await;
    assert_eq!((seen.execution_id, seen.outcome), (bad, Outcome::Failed));
    assert_eq!(seen.reason.as_deref(), Some(failure.reason.as_str()));
}

pub async fn every_subscription_gets_every_completion_once_and_in_commit_order(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut streams = Vec::new();
    for _ in 0..3 {
        streams.push(fixture.backend.subscribe_completions().await.expect("subscribed"));
    }
    let mut committed: HashMap<_, Vec<_>> = HashMap::new();
    for _ in 0..20 {
        let flow = fixture.submit_members(&[("a", &[]), ("b", &["a"]), ("c", &["a"])]).await;
        for id in flow.ids() {
            fixture.complete(id).await;
            committed.entry(flow.flow_id).or_default().push(id);
        }
    }
    for stream in &mut streams {
        let mut seen: HashMap<_, Vec<_>> = HashMap::new();
        for completion in take(stream, 60).await {
            seen.entry(completion.flow_id.expect("members only")).or_default().push(completion.execution_id);
        }
        assert_eq!(seen, committed);
        assert!(is_silent(stream), "something came twice");
    }
}

pub async fn a_solo_execution_is_not_announced(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut stream = fixture.backend.subscribe_completions().await.expect("subscribed");
    let solo = ExecutionSubmission::new(fixture.namespace.clone(), fixture.spec("solo"));
    let id = fixture.backend.submit_execution(&solo).await.expect("accepted").execution_id;
    fixture.complete(id).await;
    assert_eq!(fixture.describe(id).await.outcome, Some(Outcome::Success));
    let marker = fixture.end_one().await;
    assert_eq!(next(&mut stream).await.execution_id, marker);
}

pub async fn a_slow_reader_gets_everything_and_delays_nobody(backend: Backend) {
    const FLOWS: usize = 6;
    const MEMBERS: usize = 500;
    let fixture = Fixture::new(backend);
    let mut slow = fixture.backend.subscribe_completions().await.expect("subscribed");
    let mut quick = fixture.backend.subscribe_completions().await.expect("subscribed");
    let mut expected = Vec::new();
    for _ in 0..FLOWS {
        let names: Vec<_> = (0..MEMBERS).map(|n| n.to_string()).collect();
        let members: Vec<_> = names.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
        let flow = fixture.submit_members(&members).await;
        fixture.backend.cancel_flow(flow.flow_id, "enough").await.expect("cancelled");
        expected.extend(flow.ids());
        // The quick reader keeps up although the slow one has not read anything.
        take(&mut quick, MEMBERS).await;
    }
    let mut seen: Vec<_> = take(&mut slow, expected.len()).await.iter().map(|seen| seen.execution_id).collect();
    seen.sort_unstable();
    expected.sort_unstable();
    assert_eq!(seen, expected);
    let marker = fixture.end_one().await;
    assert_eq!(next(&mut slow).await.execution_id, marker);
    assert_eq!(next(&mut quick).await.execution_id, marker);
}

pub async fn dropping_a_stream_does_not_affect_the_others(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut kept = fixture.backend.subscribe_completions().await.expect("subscribed");
    let dropped = fixture.backend.subscribe_completions().await.expect("subscribed");
    let first = fixture.end_one().await;
    drop(dropped);
    let second = fixture.end_one().await;
    let seen: Vec<_> = take(&mut kept, 2).await.iter().map(|seen| seen.execution_id).collect();
    assert_eq!(seen, [first, second]);
}

pub async fn a_large_result_is_announced_by_its_length(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut stream = fixture.backend.subscribe_completions().await.expect("subscribed");
    let results = [Bytes::from(vec![b'x'; 100_000]), Bytes::from_static(b"\xff\xfe not text")];
    for result in results {
        let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
        let claimed = fixture.claim(id).await;
        fixture.backend.complete(&claimed.lease, result.clone()).await.expect("completed");
        let seen = next(&mut stream).await;
        assert_eq!((seen.payload_bytes, seen.result_len), (None, Some(result.len() as u64)));
        assert_eq!(fixture.describe(id).await.result, Some(result));
    }
}
