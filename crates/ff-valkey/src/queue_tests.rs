use std::task::Waker;

use ff_core::{GapCause, Partition, Scope};
use futures::FutureExt;

use super::*;
use crate::simulated;

const LOG: LogId = LogId { partition: Partition::new(0), scope: Scope::Flows };

fn entry(number: u64) -> EntryId {
    EntryId { epoch: 1, seq: number }
}

fn event(number: u64) -> Item {
    Item::Event(simulated::event(LOG, Some(entry(number)), number))
}

fn poll(queue: &Queue) -> Poll<Option<Taken>> {
    queue.poll(&mut Context::from_waker(Waker::noop()))
}

fn numbers(queue: &Queue) -> Vec<u64> {
    let next = || match poll(queue) {
        Poll::Ready(Some(Taken::Item(Item::Event(event)))) => Some(simulated::number(&event)),
        _ => None,
    };
    std::iter::from_fn(next).collect()
}

#[test]
fn a_full_queue_takes_nothing_and_gives_what_it_has_in_order() {
    let queue = Queue::new(2);
    assert_eq!([0, 1, 2].map(|number| queue.push(event(number))), [true, true, false]);
    assert_eq!(numbers(&queue), [0, 1]);
    assert!(queue.push(event(3)));
    assert_eq!(numbers(&queue), [3]);
}

#[test]
fn room_that_is_kept_is_nobody_elses_and_is_given_back() {
    let queue = Queue::new(3);
    let mut room = queue.reserve(2).now_or_never().expect("there is room");
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
fn what_must_not_be_lost_needs_no_room() {
    let queue = Queue::new(1);
    let mut room = queue.try_reserve(1).expect("there is room");
    assert_eq!(room.push_all([event(0), Item::CaughtUp, event(1)]), 1);
    assert!(matches!(poll(&queue), Poll::Ready(Some(Taken::Item(Item::Event(_))))));
    assert!(matches!(poll(&queue), Poll::Ready(Some(Taken::Item(Item::CaughtUp)))));
    assert!(poll(&queue).is_pending());
}

#[tokio::test]
async fn who_waits_for_room_gets_it_when_enough_was_taken() {
    let queue = Queue::new(2);
    assert!(queue.push(event(0)) && queue.push(event(1)));
    let mut waiting = Box::pin(queue.reserve(2));
    assert!(futures::poll!(&mut waiting).is_pending());
    assert!(poll(&queue).is_ready());
    assert!(futures::poll!(&mut waiting).is_pending(), "one place is not two");
    assert!(poll(&queue).is_ready());
    assert!(futures::poll!(&mut waiting).is_ready());
}

#[test]
fn the_oldest_events_give_way_and_are_told_of_first() {
    let queue = Queue::new(2);
    let gap = Gap { log: LOG, after: None, through: entry(0), cause: GapCause::Trimmed };
    assert!(queue.push(event(1)) && queue.push(Item::Gap(Arc::new(gap))));
    for number in 2..5 {
        queue.push_dropping(event(number));
    }
    assert!(matches!(poll(&queue), Poll::Ready(Some(Taken::Dropped(LOG, through))) if through == entry(3)));
    assert!(matches!(poll(&queue), Poll::Ready(Some(Taken::Item(Item::Gap(kept)))) if *kept == gap));
    assert_eq!(numbers(&queue), [4]);
    assert_eq!(queue.counts().dropped, 3);
}

#[test]
fn that_all_was_caught_up_with_does_not_give_way_to_events() {
    let queue = Queue::new(2);
    queue.push_always(Item::CaughtUp);
    for number in 0..3 {
        queue.push_dropping(event(number));
    }
    assert!(matches!(poll(&queue), Poll::Ready(Some(Taken::Dropped(..)))));
    assert!(matches!(poll(&queue), Poll::Ready(Some(Taken::Item(Item::CaughtUp)))));
    assert_eq!(numbers(&queue), [2]);
}

#[test]
fn a_closed_queue_gives_what_it_has_and_then_ends() {
    let queue = Queue::new(2);
    queue.push(event(0));
    queue.close();
    assert_eq!(numbers(&queue), [0]);
    assert!(matches!(poll(&queue), Poll::Ready(None)));
}

#[tokio::test]
async fn who_polls_is_woken_by_what_comes() {
    let queue = Queue::new(2);
    let polled = queue.clone();
    let taken = tokio::spawn(async move { std::future::poll_fn(|context| polled.poll(context)).await });
    tokio::task::yield_now().await;
    queue.push(event(7));
    assert!(matches!(taken.await.unwrap(), Some(Taken::Item(Item::Event(event))) if simulated::number(&event) == 7));
}
