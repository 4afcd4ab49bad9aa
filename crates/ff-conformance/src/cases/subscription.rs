//! Subscriptions with options: starts, cursors, frames, scopes and full queues.

use std::{collections::BTreeSet, num::NonZeroUsize};

use ff_core::{
    Cursor, EngineError, ExecutionId, ExecutionSubmission, Frame, GapCause, Namespace, Overflow, ScannerFilter, Start,
    SubscribeOptions, Subscription, SubscriptionScope,
};
use futures::StreamExt;

use super::Backend;
use crate::fixture::{Fixture, within};

async fn subscribe(fixture: &Fixture, options: SubscribeOptions) -> Subscription {
    fixture.backend.subscribe(&options).await.expect("subscribed")
}

async fn frame(subscription: &mut Subscription) -> Frame {
    within("the next frame", subscription.next()).await.expect("it does not end")
}

/// The next completion; panics at a gap.
async fn completion(subscription: &mut Subscription) -> ExecutionId {
    loop {
        match frame(subscription).await {
            Frame::Completion(completion) => return completion.execution_id,
            Frame::Gap(gap) => panic!("nothing is missing here: {gap}"),
            _ => {}
        }
    }
}

async fn completions(subscription: &mut Subscription, count: usize) -> Vec<ExecutionId> {
    let mut ids = Vec::with_capacity(count);
    while ids.len() < count {
        ids.push(completion(subscription).await);
    }
    ids
}

/// Ends this many executions of one flow, in one partition.
async fn end_many(fixture: &Fixture, count: usize) -> BTreeSet<ExecutionId> {
    let names: Vec<_> = (0..count).map(|n| n.to_string()).collect();
    let members: Vec<_> = names.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
    let flow = fixture.submit_members(&members).await;
    fixture.backend.cancel_flow(flow.flow_id, "enough").await.expect("cancelled");
    flow.ids().collect()
}

pub async fn the_earliest_start_replays_the_logs_and_reports_the_end_of_the_replay(backend: Backend) {
    let fixture = Fixture::new(backend);
    let before: Vec<_> = [fixture.end_one().await, fixture.end_one().await].into();
    let mut subscription = subscribe(&fixture, SubscribeOptions::new().start(Start::Earliest)).await;
    let mut replayed = BTreeSet::new();
    loop {
        match frame(&mut subscription).await {
            Frame::Completion(completion) => drop(replayed.insert(completion.execution_id)),
            Frame::CaughtUp => break,
            _ => {}
        }
    }
    assert!(before.iter().all(|id| replayed.contains(id)), "{replayed:?} lacks one of {before:?}");
    let after = fixture.end_one().await;
    assert_eq!(completion(&mut subscription).await, after);
}

pub async fn a_cursor_resumes_right_after_the_last_delivered_completion(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut first = subscribe(&fixture, SubscribeOptions::new()).await;
    let ended = end_many(&fixture, 40).await;
    let mut seen = completions(&mut first, 17).await;
    // Through its text, as another process would.
    let cursor: Cursor = first.close().await.to_string().parse().expect("a cursor's text is a cursor");
    let while_away = end_many(&fixture, 5).await;
    let mut second = subscribe(&fixture, SubscribeOptions::new().start(Start::After(cursor))).await;
    seen.extend(completions(&mut second, 40 - 17 + 5).await);
    assert_eq!(seen.len(), 45);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), &ended | &while_away);
    let last = fixture.end_one().await;
    assert_eq!(completion(&mut second).await, last);
}

pub async fn a_cursor_advances_past_completions_that_the_filter_rejects(backend: Backend) {
    let fixture = Fixture::new(backend);
    let nobody = Namespace::new(&format!("{}-nobody", fixture.namespace)).expect("a name");
    let filter = ScannerFilter::new().namespace(nobody);
    let mut subscription = subscribe(&fixture, SubscribeOptions::new().filter(filter)).await;
    let mut ended = end_many(&fixture, 3).await;
    ended.insert(fixture.end_one().await);
    let wait = async {
        loop {
            match frame(&mut subscription).await {
                Frame::Completion(completion) => panic!("{} passed the filter", completion.execution_id),
                // A checkpoint may be from before the last of them.
                Frame::Checkpoint(cursor) => {
                    let lag = subscription.lag().await.expect("asked");
                    if lag.events == 0 {
                        return cursor;
                    }
                }
                _ => {}
            }
        }
    };
    let cursor = within("a checkpoint", wait).await;
    let mut after = subscribe(&fixture, SubscribeOptions::new().start(Start::After(cursor))).await;
    let next = fixture.end_one().await;
    assert_eq!(completion(&mut after).await, next, "the cursor has passed the rejected completions");
}

pub async fn solo_executions_are_delivered_to_subscriptions_of_their_scope(backend: Backend) {
    let fixture = Fixture::new(backend);
    let both = SubscribeOptions::new().scope(SubscriptionScope::FlowsAndSolo);
    let mut subscription = subscribe(&fixture, both.clone()).await;
    let mut of_flows = subscribe(&fixture, SubscribeOptions::new()).await;
    let solo = ExecutionSubmission::new(fixture.namespace.clone(), fixture.spec("solo"));
    let solo = fixture.backend.submit_execution(&solo).await.expect("accepted").execution_id;
    fixture.complete(solo).await;
    assert_eq!(completion(&mut subscription).await, solo);
    let member = fixture.end_one().await;
    assert_eq!(completion(&mut subscription).await, member);
    assert_eq!(completion(&mut of_flows).await, member);
    let cursor = subscription.close().await;
    let mut resumed = subscribe(&fixture, both.start(Start::After(cursor))).await;
    let next = fixture.end_one().await;
    assert_eq!(completion(&mut resumed).await, next);
}

pub async fn a_subscription_to_certain_executions_gets_only_those(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &[]), ("c", &["a", "b"])]).await;
    let wanted = [flow.executions[1].execution_id, flow.executions[2].execution_id];
    let mut subscription = subscribe(&fixture, SubscribeOptions::new().only(wanted)).await;
    for id in flow.ids() {
        fixture.complete(id).await;
    }
    assert_eq!(completions(&mut subscription, 2).await, wanted);
}

pub async fn a_filter_decides_the_same_live_and_on_replay(backend: Backend) {
    let fixture = Fixture::new(backend);
    let other = Fixture::new(fixture.backend.clone());
    let options = SubscribeOptions::new().filter(ScannerFilter::new().namespace(fixture.namespace.clone()));
    let mut live = subscribe(&fixture, options.clone()).await;
    let mut ours = Vec::new();
    for _ in 0..4 {
        other.end_one().await;
        ours.push(fixture.end_one().await);
    }
    // They belong to several flows, between which there is no order.
    let mut seen = completions(&mut live, 4).await;
    let mut replayed = completions(&mut subscribe(&fixture, options.start(Start::Earliest)).await, 4).await;
    for ids in [&mut ours, &mut seen, &mut replayed] {
        ids.sort_unstable();
    }
    assert_eq!((&seen, &replayed), (&ours, &ours));
}

pub async fn a_full_queue_that_drops_its_oldest_reports_them_as_gaps(backend: Backend) {
    let fixture = Fixture::new(backend);
    let capacity = NonZeroUsize::new(8).expect("not zero");
    let options = SubscribeOptions::new().capacity(capacity).overflow(Overflow::DropOldest);
    let mut subscription = subscribe(&fixture, options).await;
    let mut witness = subscribe(&fixture, SubscribeOptions::new()).await;
    let ended = end_many(&fixture, 100).await;
    // Once this subscription has them all, so has the other's queue.
    completions(&mut witness, 100).await;
    let (mut seen, mut missing) = (Vec::new(), 0);
    while seen.len() + missing < ended.len() {
        match frame(&mut subscription).await {
            Frame::Completion(completion) => seen.push(completion.execution_id),
            Frame::Gap(gap) => {
                assert_eq!(gap.cause, GapCause::Overflow);
                let before =
                    gap.after.filter(|after| after.epoch == gap.through.epoch).map_or(0, |after| after.seq + 1);
                missing += usize::try_from(gap.through.seq + 1 - before).expect("a few");
            }
            _ => {}
        }
    }
    assert_eq!(seen.len() + missing, ended.len(), "each is delivered or in a gap");
    assert!(!seen.is_empty() && seen.len() <= 8 && seen.iter().all(|id| ended.contains(id)), "{seen:?}");
    assert_eq!(subscription.stats().dropped, missing as u64);
}

pub async fn a_full_queue_that_closes_ends_the_stream_and_the_cursor_resumes(backend: Backend) {
    let fixture = Fixture::new(backend);
    let capacity = NonZeroUsize::new(8).expect("not zero");
    let options = SubscribeOptions::new().capacity(capacity).overflow(Overflow::Close);
    let mut subscription = subscribe(&fixture, options).await;
    let mut witness = subscribe(&fixture, SubscribeOptions::new()).await;
    let ended = end_many(&fixture, 100).await;
    completions(&mut witness, 100).await;
    let mut seen = Vec::new();
    while let Some(frame) = within("the end", subscription.next()).await {
        if let Frame::Completion(completion) = frame {
            seen.push(completion.execution_id);
        }
    }
    assert!(seen.len() <= 8);
    let resumed = SubscribeOptions::new().start(Start::After(subscription.close().await));
    seen.extend(completions(&mut subscribe(&fixture, resumed).await, 100 - seen.len()).await);
    assert_eq!(seen.into_iter().collect::<BTreeSet<_>>(), ended);
}

pub async fn lag_counts_the_unread_completions(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut subscription = subscribe(&fixture, SubscribeOptions::new()).await;
    assert_eq!(subscription.lag().await.expect("asked").events, 0);
    end_many(&fixture, 5).await;
    let lag = subscription.lag().await.expect("asked");
    assert_eq!(lag.events, 5);
    assert!(lag.oldest_unread.is_some() && lag.until_forgotten.is_some(), "{lag:?}");
    completions(&mut subscription, 5).await;
    assert_eq!(subscription.lag().await.expect("asked").events, 0);
    assert_eq!(subscription.stats().delivered, 5);
}

pub async fn a_cursor_of_another_scope_is_refused(backend: Backend) {
    let fixture = Fixture::new(backend);
    let cursor = subscribe(&fixture, SubscribeOptions::new()).await.close().await;
    let options = SubscribeOptions::new().scope(SubscriptionScope::FlowsAndSolo).start(Start::After(cursor));
    let refused = fixture.backend.subscribe(&options).await.expect_err("refused");
    assert!(matches!(refused, EngineError::InvalidInput { .. }) && refused.to_string().contains("scope"), "{refused}");
}
