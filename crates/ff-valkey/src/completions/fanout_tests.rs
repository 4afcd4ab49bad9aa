use std::task::{Context, Poll, Waker};

use ff_core::{Outcome, Partition, Scope};
use uuid::Uuid;

use super::*;
use crate::completions::{queue::Accepts, simulated};

fn log() -> LogId {
    LogId { partition: Partition::new(0), scope: Scope::Flows }
}

/// Odd numbers belong to namespace `a`, even ones to `b`.
fn event(number: u64) -> Arc<CompletionPayload> {
    simulated::event(log(), Some(EntryId { epoch: 1, seq: number }), number)
}

fn of(name: &str) -> ScannerFilter {
    ScannerFilter::new().namespace(Namespace::new(name).unwrap())
}

fn at(seq: u64) -> [LogReader; 1] {
    [LogReader::new(log(), LogCursor::after(Some(EntryId { epoch: 1, seq })))]
}

fn channel(capacity: usize) -> (Arc<Queue>, Arc<Queue>) {
    queue(capacity, Accepts::Completions)
}

fn queue(capacity: usize, accepts: Accepts) -> (Arc<Queue>, Arc<Queue>) {
    let queue = Queue::new(capacity, accepts);
    (queue.clone(), queue)
}

/// A subscription that joins with these options and this queue.
fn joining(options: SubscribeOptions, queue: Arc<Queue>) -> Joining {
    Joining { options: Arc::new(options), queue, from: None }
}

fn join(fanout: &mut Fanout, filter: &ScannerFilter, queue: Arc<Queue>) -> SubscriptionId {
    fanout.join(joining(SubscribeOptions::new().filter(filter.clone()), queue))
}

fn items(queue: &Queue) -> Vec<Item> {
    let next = || match queue.poll(&mut Context::from_waker(Waker::noop())) {
        Poll::Ready(Some(item)) => Some(item),
        _ => None,
    };
    std::iter::from_fn(next).collect()
}

fn numbers(queue: &Queue) -> Vec<u64> {
    let number = |item| match item {
        Item::Event(event) => Some(simulated::number(&event)),
        _ => None,
    };
    items(queue).into_iter().filter_map(number).collect()
}

#[test]
fn an_event_goes_to_every_subscription_that_wants_it_and_to_no_other() {
    let mut fanout = Fanout::default();
    let filters = [ScannerFilter::NOOP, of("a"), of("b"), of("a").instance_tag("k", "v"), of("a")];
    let queues: Vec<_> = filters
        .iter()
        .map(|filter| {
            let (queue, events) = channel(8);
            join(&mut fanout, filter, queue);
            events
        })
        .collect();
    assert_eq!(fanout.distinct_filters().count(), 4);
    for number in 1..4 {
        fanout.deliver(&event(number), &at(number - 1));
    }
    let got: Vec<Vec<u64>> = queues.iter().map(|queue| numbers(queue)).collect();
    assert_eq!(got, [vec![1, 2, 3], vec![1, 3], vec![2], vec![], vec![1, 3]]);
    assert_eq!((fanout.counts.delivered, fanout.counts.filtered), (8, 7));
}

#[test]
fn a_subscription_to_certain_executions_also_applies_its_filter() {
    let mut fanout = Fanout::default();
    let ids = [1, 2, 3].map(|number| event(number).execution_id);
    let (queue, events) = channel(8);
    let id = fanout.join(joining(SubscribeOptions::new().only(ids).filter(of("a")), queue));
    for number in 0..6 {
        fanout.deliver(&event(number), &at(number));
    }
    assert_eq!(numbers(&events), [1, 3]);
    fanout.leave(id);
    assert!(fanout.picked.is_empty() && fanout.picking.is_empty());
}

#[test]
fn subscriptions_with_frames_get_gaps_and_checkpoints_regardless_of_their_filter() {
    let mut fanout = Fanout::default();
    let (plain, plain_events) = channel(8);
    let (framed, framed_events) = queue(8, Accepts::Frames);
    join(&mut fanout, &ScannerFilter::NOOP, plain);
    fanout.join(joining(SubscribeOptions::new().filter(of("nobody")), framed));
    let through = EntryId { epoch: 1, seq: 4 };
    let gap = Gap::new(log(), None, through, GapCause::Trimmed);
    fanout.deliver(&event(3), &at(2));
    fanout.gap(&gap, &at(3));
    fanout.checkpoint(&cursors(&at(4)));
    assert_eq!(items(&plain_events).len(), 1);
    let frames = items(&framed_events);
    assert!(matches!(&frames[..], [Item::CaughtUp, Item::Gap(found), Item::Checkpoint(_)] if **found == gap));
    assert!(fanout.ring.after(&[0], &at(2)).is_none(), "a reader behind the gap has to read the log");
}

#[test]
fn a_full_queue_drops_its_oldest_or_ends_as_configured() {
    let mut fanout = Fanout::default();
    let of_policy = |overflow| SubscribeOptions::new().overflow(overflow);
    let (dropping, dropped) = channel(2);
    let (closing, closed) = channel(2);
    fanout.join(joining(of_policy(Overflow::DropOldest), dropping));
    fanout.join(joining(of_policy(Overflow::Close), closing));
    for number in 0..5 {
        fanout.deliver(&event(number), &at(number));
    }
    assert!(fanout.take_lagged().is_empty());
    assert_eq!((dropped.counts().dropped, dropped.counts().queued), (3, 2));
    assert_eq!(numbers(&closed), [0, 1]);
    assert!(matches!(closed.poll(&mut Context::from_waker(Waker::noop())), Poll::Ready(None)));
}

#[test]
fn a_full_queue_freezes_its_frontier_before_the_event_and_spares_the_others() {
    let mut fanout = Fanout::default();
    let (small, small_events) = channel(1);
    let (large, large_events) = channel(8);
    let small = join(&mut fanout, &ScannerFilter::NOOP, small);
    join(&mut fanout, &ScannerFilter::NOOP, large);
    for number in 0..3 {
        fanout.deliver(&event(number), &at(number));
    }
    let lagged = fanout.take_lagged();
    assert_eq!((lagged.len(), lagged[0].id, fanout.lagging()), (1, small, 1));
    assert_eq!(lagged[0].frontier, cursors(&at(1)));
    assert_eq!((numbers(&small_events), numbers(&large_events)), (vec![0], vec![0, 1, 2]));
    fanout.go_live(small);
    fanout.go_live(small);
    assert_eq!(fanout.lagging(), 0);
    fanout.deliver(&event(3), &at(3));
    assert_eq!(numbers(&small_events), [3]);
}

#[test]
fn a_closed_subscription_leaves_nothing_behind() {
    let mut fanout = Fanout::default();
    let ids: Vec<SubscriptionId> =
        [ScannerFilter::NOOP, of("a"), of("b")].iter().map(|filter| join(&mut fanout, filter, channel(1).0)).collect();
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
fn an_unpositioned_event_goes_only_to_subscriptions_that_existed_then() {
    let mut fanout = Fanout::default();
    let id = ExecutionId::from_parts(Partition::new(0), Uuid::from_u128(7));
    let unpositioned = Arc::new(CompletionPayload::new(id, None, Outcome::Success));
    let (early, early_events) = channel(4);
    join(&mut fanout, &of("a"), early);
    let horizon = fanout.horizon();
    let (late, late_events) = channel(4);
    join(&mut fanout, &of("a"), late);
    fanout.deliver_bare(&unpositioned, horizon, |filter| *filter == of("a"));
    assert_eq!((numbers(&early_events), numbers(&late_events)), (vec![7], vec![]));
}

#[test]
fn a_subscription_to_certain_executions_gets_the_gaps_of_their_partitions_only() {
    let mut fanout = Fanout::default();
    let (sender, receiver) = queue(8, Accepts::Frames);
    fanout.join(joining(SubscribeOptions::new().only([event(1).execution_id]), sender));
    let through = EntryId { epoch: 1, seq: 4 };
    let gap_in = |partition| {
        let log = LogId { partition: Partition::new(partition), ..log() };
        Gap::new(log, None, through, GapCause::Trimmed)
    };
    let before = [0, 1].map(|partition| LogReader::new(gap_in(partition).log, LogCursor::default()));
    fanout.gap(&gap_in(1), &before);
    fanout.gap(&gap_in(0), &before);
    assert!(matches!(&items(&receiver)[..], [Item::CaughtUp, Item::Gap(gap)] if **gap == gap_in(0)));
}

#[test]
fn twenty_thousand_distinct_filters_are_found_by_the_names_in_them() {
    const FILTERS: u64 = 20_000;
    let mut fanout = Fanout::default();
    let begin = std::time::Instant::now();
    let of_number = |number: u64| of("a").instance_tag("instance", number.to_string());
    let ids: Vec<SubscriptionId> =
        (0..FILTERS).map(|number| join(&mut fanout, &of_number(number), channel(1).0)).collect();
    let (queue, events) = channel(8);
    join(&mut fanout, &of_number(77), queue);
    for number in [1, 3] {
        let mut tagged = CompletionPayload::clone(&event(number));
        tagged.tags = ff_core::Tags::new([("instance", if number == 1 { "77" } else { "none" })]).unwrap();
        fanout.deliver(&Arc::new(tagged), &at(number - 1));
    }
    assert_eq!(numbers(&events), [1]);
    ids.into_iter().for_each(|id| fanout.leave(id));
    // With a linear search for each subscription this would take minutes.
    assert!(begin.elapsed() < std::time::Duration::from_secs(5), "{:?}", begin.elapsed());
}
