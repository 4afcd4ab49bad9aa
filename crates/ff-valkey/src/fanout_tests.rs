use ff_core::{ExecutionId, Outcome, Partition, Scope};
use tokio::sync::mpsc::{Receiver, channel};
use uuid::Uuid;

use super::*;
use crate::simulated;

fn log() -> LogId {
    LogId { partition: Partition::new(0), scope: Scope::Flows }
}

/// Odd numbers are of namespace `a`, even ones of `b`.
fn event(number: u64) -> Queued {
    simulated::event(log(), Some(EntryId { epoch: 1, seq: number }), number)
}

fn of(name: &str) -> ScannerFilter {
    ScannerFilter::new().with_namespace(Namespace::new(name).unwrap())
}

fn at(seq: u64) -> [LogCursor; 1] {
    [LogCursor::after(Some(EntryId { epoch: 1, seq }))]
}

fn numbers(queue: &mut Receiver<Queued>) -> Vec<u64> {
    std::iter::from_fn(|| queue.try_recv().ok()).map(|event| simulated::number(&event)).collect()
}

#[test]
fn an_event_goes_to_every_subscription_that_wants_it_and_to_no_other() {
    let mut fanout = Fanout::default();
    let filters = [ScannerFilter::NOOP, of("a"), of("b"), of("a").with_instance_tag("k", "v"), of("a")];
    let mut queues: Vec<Receiver<Queued>> = Vec::new();
    for filter in &filters {
        let (queue, events) = channel(8);
        fanout.join(filter, queue);
        queues.push(events);
    }
    assert_eq!(fanout.distinct_filters().count(), 4);
    for number in 1..4 {
        fanout.deliver(&event(number), &at(number - 1));
    }
    let got: Vec<Vec<u64>> = queues.iter_mut().map(numbers).collect();
    assert_eq!(got, [vec![1, 2, 3], vec![1, 3], vec![2], vec![], vec![1, 3]]);
    assert_eq!((fanout.counts.delivered, fanout.counts.filtered), (8, 7));
}

#[test]
fn a_full_queue_freezes_the_vector_before_the_event_and_spares_the_others() {
    let mut fanout = Fanout::default();
    let (small, mut small_events) = channel(1);
    let (large, mut large_events) = channel(8);
    let small = fanout.join(&ScannerFilter::NOOP, small);
    fanout.join(&ScannerFilter::NOOP, large);
    for number in 0..3 {
        fanout.deliver(&event(number), &at(number));
    }
    let lagged = fanout.take_lagged();
    assert_eq!((lagged.len(), lagged[0].id, fanout.lagging()), (1, small, 1));
    assert_eq!(*lagged[0].vector, at(1));
    assert_eq!((numbers(&mut small_events), numbers(&mut large_events)), (vec![0], vec![0, 1, 2]));
    fanout.go_live(small);
    fanout.go_live(small);
    assert_eq!(fanout.lagging(), 0);
    fanout.deliver(&event(3), &at(3));
    assert_eq!(numbers(&mut small_events), [3]);
}

#[test]
fn who_left_leaves_nothing_behind() {
    let mut fanout = Fanout::default();
    let ids: Vec<SubscriptionId> =
        [ScannerFilter::NOOP, of("a"), of("b")].iter().map(|filter| fanout.join(filter, channel(1).0)).collect();
    for number in 0..3 {
        fanout.deliver(&event(number), &at(number));
    }
    for id in &ids {
        fanout.leave(*id);
        fanout.leave(*id);
    }
    assert_eq!((fanout.subscriptions(), fanout.lagging(), fanout.groups.len()), (0, 0, 0));
    assert!(fanout.ring.after(&[0], &at(2)).is_none(), "the ring is empty");
}

#[test]
fn a_bare_event_is_owed_to_those_who_were_there_only() {
    let mut fanout = Fanout::default();
    let id = ExecutionId::from_parts(Partition::new(0), Uuid::from_u128(7));
    let bare = Arc::new(CompletionPayload::new(id, None, Outcome::Success));
    let (early, mut early_events) = channel(4);
    fanout.join(&of("a"), early);
    let horizon = fanout.horizon();
    let (late, mut late_events) = channel(4);
    fanout.join(&of("a"), late);
    fanout.deliver_bare(&bare, horizon, |filter| *filter == of("a"));
    assert_eq!((numbers(&mut early_events), numbers(&mut late_events)), (vec![7], vec![]));
}
