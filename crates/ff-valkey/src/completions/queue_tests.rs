use std::task::Waker;

use ff_core::{Frame, GapCause, Partition, Scope};
use futures::FutureExt;
use proptest::prelude::*;

use super::*;
use crate::completions::{simulated, stream::Place};

const LOG: LogId = LogId { partition: Partition::new(0), scope: Scope::Flows };

fn entry(number: u64) -> EntryId {
    EntryId { epoch: 1, seq: number }
}

fn event(number: u64) -> Item {
    Item::Event(simulated::event(LOG, Some(entry(number)), number))
}

fn poll(queue: &Queue) -> Poll<Option<Item>> {
    queue.poll(&mut Context::from_waker(Waker::noop()))
}

fn numbers(queue: &Queue) -> Vec<u64> {
    let next = || match poll(queue) {
        Poll::Ready(Some(Item::Event(event))) => Some(simulated::number(&event)),
        _ => None,
    };
    std::iter::from_fn(next).collect()
}

#[test]
fn a_full_queue_accepts_nothing_and_yields_its_items_in_order() {
    let queue = Queue::new(2, Accepts::Frames);
    assert_eq!([0, 1, 2].map(|number| queue.push(event(number))), [true, true, false]);
    assert_eq!(numbers(&queue), [0, 1]);
    assert!(queue.push(event(3)));
    assert_eq!(numbers(&queue), [3]);
}

#[test]
fn reserved_capacity_is_exclusive_and_is_released() {
    let queue = Queue::new(3, Accepts::Frames);
    let mut room = queue.reserve(2).now_or_never().expect("there is capacity");
    assert_eq!([queue.push(event(0)), queue.push(event(1))], [true, false]);
    assert!(queue.try_reserve(1).is_none());
    assert_eq!([room.push_all([event(2)]), room.push_all([event(3), event(4)]), room.push_all([event(5)])], [1, 1, 0]);
    assert_eq!(numbers(&queue), [0, 2, 3]);
    let mut room = queue.reserve(3).now_or_never().expect("all of it is free again");
    room.give_back();
    assert!(queue.push(event(5)), "what was given back is free at once");
    drop(room);
    assert_eq!(numbers(&queue), [5]);
    assert!(queue.push(event(5)));
}

#[test]
fn items_that_must_not_be_lost_need_no_capacity() {
    let queue = Queue::new(1, Accepts::Frames);
    let mut room = queue.try_reserve(1).expect("there is capacity");
    assert_eq!(room.push_all([event(0), Item::CaughtUp, event(1)]), 1);
    assert!(matches!(poll(&queue), Poll::Ready(Some(Item::Event(_)))));
    assert!(matches!(poll(&queue), Poll::Ready(Some(Item::CaughtUp))));
    assert!(poll(&queue).is_pending());
}

#[test]
fn a_queue_of_completions_drops_what_its_reader_does_not_take() {
    let queue = Queue::new(1, Accepts::Completions);
    let gap = || Item::Gap(Arc::new(Gap::new(LOG, None, entry(0), GapCause::Trimmed)));
    queue.push_always(Item::CaughtUp);
    assert!(queue.push(event(0)));
    assert!(queue.push(gap()), "it needs no capacity");
    queue.push_dropping(gap());
    assert_eq!(numbers(&queue), [0]);
    let mut room = queue.try_reserve(1).expect("nothing is left in it");
    assert_eq!(room.push_all([gap(), event(1), Item::Checkpoint(Arc::default())]), 1);
    assert_eq!((numbers(&queue), queue.counts().queued, queue.counts().dropped), (vec![1], 0, 0));
}

#[tokio::test]
async fn a_wait_for_capacity_ends_when_enough_was_taken() {
    let queue = Queue::new(2, Accepts::Frames);
    assert!(queue.push(event(0)) && queue.push(event(1)));
    let mut waiting = Box::pin(queue.reserve(2));
    assert!(futures::poll!(&mut waiting).is_pending());
    assert!(poll(&queue).is_ready());
    assert!(futures::poll!(&mut waiting).is_pending(), "one place is not two");
    assert!(poll(&queue).is_ready());
    assert!(futures::poll!(&mut waiting).is_ready());
}

#[test]
fn a_gap_of_dropped_items_comes_after_the_earlier_gap() {
    let queue = Queue::new(2, Accepts::Frames);
    let gap = Gap::new(LOG, Some(entry(0)), entry(1), GapCause::HistoryRewritten);
    assert!(queue.push(event(1)) && queue.push(Item::Gap(Arc::new(gap))));
    for number in 2..5 {
        queue.push_dropping(event(number));
    }
    assert!(matches!(poll(&queue), Poll::Ready(Some(Item::Dropped(LOG, through))) if through == entry(1)));
    assert!(matches!(poll(&queue), Poll::Ready(Some(Item::Gap(kept))) if *kept == gap));
    assert!(matches!(poll(&queue), Poll::Ready(Some(Item::Dropped(LOG, through))) if through == entry(3)));
    assert_eq!(numbers(&queue), [4]);
    assert_eq!(queue.counts().dropped, 3);
}

#[test]
fn gaps_are_merged_if_nothing_else_is_left_to_drop() {
    let queue = Queue::new(2, Accepts::Frames);
    for number in 0..5 {
        let gap = Gap::new(LOG, None, entry(number), GapCause::Unreadable);
        queue.push_dropping(Item::Gap(Arc::new(gap)));
    }
    assert_eq!(queue.counts().queued, 2);
    assert!(matches!(poll(&queue), Poll::Ready(Some(Item::Dropped(LOG, through))) if through == entry(2)));
    assert!(matches!(poll(&queue), Poll::Ready(Some(Item::Gap(kept))) if kept.through == entry(3)));
}

#[test]
fn the_caught_up_frame_is_not_dropped_for_events() {
    let queue = Queue::new(2, Accepts::Frames);
    queue.push_always(Item::CaughtUp);
    for number in 0..3 {
        queue.push_dropping(event(number));
    }
    assert!(matches!(poll(&queue), Poll::Ready(Some(Item::CaughtUp))));
    assert!(matches!(poll(&queue), Poll::Ready(Some(Item::Dropped(..)))));
    assert_eq!(numbers(&queue), [2]);
}

#[test]
fn a_closed_queue_yields_its_items_and_then_ends() {
    let queue = Queue::new(2, Accepts::Frames);
    queue.push(event(0));
    queue.close();
    assert_eq!(numbers(&queue), [0]);
    assert!(matches!(poll(&queue), Poll::Ready(None)));
}

#[tokio::test]
async fn a_poll_is_woken_by_new_items() {
    let queue = Queue::new(2, Accepts::Frames);
    let polled = queue.clone();
    let taken = tokio::spawn(async move { std::future::poll_fn(|context| polled.poll(context)).await });
    tokio::task::yield_now().await;
    queue.push(event(7));
    assert!(matches!(taken.await.unwrap(), Some(Item::Event(event)) if simulated::number(&event) == 7));
}

/// The events of two logs and of their consumer.
#[derive(Debug, Clone, Copy)]
enum Event {
    /// The next entry of a log.
    Append(usize),
    /// This many entries of a log are rolled back, and it continues in another epoch.
    Rewrite(usize, usize),
    /// An entry of a log is unreadable.
    Unreadable(usize),
    Checkpoint,
    Poll(usize),
}

fn happenings() -> impl Strategy<Value = Vec<Event>> {
    let log = 0..2usize;
    let event = prop_oneof![
        6 => log.clone().prop_map(Event::Append),
        1 => (log.clone(), 0..4usize).prop_map(|(log, count)| Event::Rewrite(log, count)),
        1 => log.prop_map(Event::Unreadable),
        1 => Just(Event::Checkpoint),
        2 => (1..4usize).prop_map(Event::Poll),
    ];
    prop::collection::vec(event, 0..80)
}

/// One log as its writer and a reader without losses know it.
struct History {
    log: LogId,
    cursor: LogCursor,
    entries: Vec<EntryId>,
    epoch: u64,
}

impl History {
    fn of(number: u16) -> Self {
        let log = LogId { partition: Partition::new(number), scope: Scope::Flows };
        Self { log, cursor: LogCursor::default(), entries: Vec::new(), epoch: 1 }
    }

    fn next(&mut self) -> EntryId {
        let last = self.entries.last().filter(|last| last.epoch == self.epoch);
        let entry = EntryId { epoch: self.epoch, seq: last.map_or(0, |last| last.seq + 1) };
        self.entries.push(entry);
        entry
    }

    fn item(&mut self, event: Event) -> Option<Item> {
        let after = self.cursor.last();
        match event {
            Event::Append(_) => {
                let entry = self.next();
                self.cursor.advance(entry);
                Some(Item::Event(simulated::event(self.log, Some(entry), entry.seq)))
            }
            Event::Unreadable(_) => {
                let through = self.next();
                self.cursor.advance(through);
                Some(Item::Gap(Arc::new(Gap::new(self.log, after, through, GapCause::Unreadable))))
            }
            Event::Rewrite(_, count) => {
                self.epoch += 1;
                let rolled_back = self.entries.split_off(self.entries.len().saturating_sub(count));
                let through = *rolled_back.last()?;
                let after = self.entries.last().copied();
                let gap = Gap::new(self.log, after, through, GapCause::HistoryRewritten);
                self.cursor.pass(&gap);
                Some(Item::Gap(Arc::new(gap)))
            }
            Event::Checkpoint | Event::Poll(_) => None,
        }
    }
}

/// Compares the frames of one log with those of an unbounded queue: an overflow stands for the frames of the other
/// queue up to its end, within one history.
fn check(all: &[Frame], bounded: &[Frame], log: LogId) -> Result<(), TestCaseError> {
    let of_log = |frame: &&Frame| match frame {
        Frame::Completion(event) => event.position.is_some_and(|position| position.log == log),
        Frame::Gap(gap) => gap.log == log,
        _ => false,
    };
    let mut all = all.iter().filter(of_log);
    let mut at = None;
    for frame in bounded.iter().filter(of_log) {
        let overflow = match frame {
            Frame::Gap(gap) if gap.cause == GapCause::Overflow => Some(*gap),
            _ => None,
        };
        let Some(overflow) = overflow else {
            prop_assert_eq!(all.next(), Some(frame));
            at = stands(frame, at);
            continue;
        };
        prop_assert_eq!(overflow.after, at, "it begins at the subscription's position: {}", overflow);
        while at != Some(overflow.through) {
            let filled = all.next();
            let rolled_back = matches!(filled, Some(Frame::Gap(gap)) if gap.cause.is_undone());
            prop_assert!(filled.is_some() && !rolled_back, "{} spans {:?}", overflow, filled);
            at = filled.and_then(|frame| stands(frame, at));
        }
    }
    prop_assert_eq!(all.next(), None);
    Ok(())
}

/// The position of a subscription after a frame.
fn stands(frame: &Frame, before: Option<EntryId>) -> Option<EntryId> {
    match frame {
        Frame::Completion(event) => event.position.map(|position| position.entry),
        Frame::Gap(gap) if gap.cause.is_undone() => gap.after,
        Frame::Gap(gap) => Some(gap.through),
        _ => before,
    }
}

proptest! {
    #[test]
    fn the_frames_of_a_dropping_queue_and_its_gaps_make_those_of_an_unbounded_one(
        events in happenings(), capacity in 1..5usize,
    ) {
        let (all, bounded) = (Queue::new(usize::MAX, Accepts::Frames), Queue::new(capacity, Accepts::Frames));
        let mut histories = [History::of(0), History::of(1)];
        let mut places = [0, 1].map(|_| Place(vec![LogCursor::default(); 2].into()));
        let mut frames = [Vec::new(), Vec::new()];
        let mut take = |place: usize, queue: &Queue| match poll(queue) {
            Poll::Ready(Some(Item::Checkpoint(cursors))) => {
                for (now, then) in cursors.iter().zip(places[place].0.iter()) {
                    assert!(then.last().is_none_or(|then| now.had(then)), "{now:?} is before {then:?}");
                }
                places[place] = Place(cursors);
                true
            }
            Poll::Ready(Some(item)) => {
                frames[place].extend(places[place].frame(item));
                true
            }
            _ => false,
        };
        for event in events {
            let item = match event {
                Event::Append(log) | Event::Rewrite(log, _) | Event::Unreadable(log) => histories[log].item(event),
                Event::Checkpoint => {
                    let cursors: Vec<LogCursor> = histories.iter().map(|history| history.cursor.clone()).collect();
                    Some(Item::Checkpoint(cursors.into()))
                }
                Event::Poll(count) => {
                    for _ in 0..count {
                        take(1, &bounded);
                    }
                    None
                }
            };
            if let Some(item) = item {
                all.push_always(item.clone());
                bounded.push_dropping(item);
                let epochs: u64 = histories.iter().map(|history| history.epoch).sum();
                prop_assert!(bounded.counts().queued <= capacity + usize::try_from(epochs).unwrap());
            }
        }
        while take(0, &all) {}
        while take(1, &bounded) {}
        let [all, bounded] = frames;
        for history in &histories {
            check(&all, &bounded, history.log)?;
        }
    }
}
