//! Delivers the messages of the channel of timers to the engines of this process.
//!
//! A listener that does not read keeps at most one timer per partition, the earliest. A timer only says which partition
//! to sweep, and the sweep finds the later timers.

use std::{
    collections::BTreeMap,
    pin::Pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, Weak},
    task::{Context, Poll},
    time::{Duration, Instant},
};

use ff_core::{
    Partition,
    backend::{TimerSignal, TimerSignals},
};
use futures::{Stream, task::AtomicWaker};

/// All listeners of this process.
#[derive(Debug, Default)]
pub struct TimerFeed(Mutex<Vec<Weak<Inbox>>>);

/// The signals that one listener has not read yet.
#[derive(Debug, Default)]
struct Inbox {
    unseen: Mutex<Unseen>,
    waker: AtomicWaker,
}

#[derive(Debug, Default)]
struct Unseen {
    due: BTreeMap<Partition, Instant>,
    engines: bool,
    missed: bool,
    closed: bool,
}

/// A message of the channel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Message {
    Due(Partition, Duration),
    Engines,
}

fn parse(message: &[u8]) -> Option<Message> {
    let text = std::str::from_utf8(message).ok()?;
    if text == "engines" {
        return Some(Message::Engines);
    }
    let (number, millis) = text.split_once(' ')?;
    Some(Message::Due(Partition::new(number.parse().ok()?), Duration::from_millis(millis.parse::<u32>().ok()?.into())))
}

impl TimerFeed {
    /// The signals from now on. The stream holds `keep` until it is dropped.
    pub fn listen(&self, keep: Arc<dyn Send + Sync>) -> TimerSignals {
        let inbox = Arc::new(Inbox::default());
        let mut inboxes = lock(&self.0);
        inboxes.retain(|inbox| inbox.strong_count() > 0);
        inboxes.push(Arc::downgrade(&inbox));
        Box::pin(Signals { inbox, _keep: keep })
    }

    /// Delivers a message of the channel: `<partition number> <ms until it is due>`, or `engines`. Returns the number
    /// of listeners.
    pub fn announced(&self, message: &[u8]) -> usize {
        let Some(parsed) = parse(message) else {
            tracing::debug!(bytes = message.len(), "a message on the channel of timers is not a signal");
            return 0;
        };
        let now = Instant::now();
        self.each(|unseen| match parsed {
            Message::Engines => unseen.engines = true,
            Message::Due(partition, after) => {
                let at = now + after;
                unseen.due.entry(partition).and_modify(|known| *known = at.min(*known)).or_insert(at);
            }
        })
    }

    /// Reports to all listeners that messages may have been missed.
    pub fn missed(&self) {
        self.each(|unseen| unseen.missed = true);
    }

    /// Ends all streams.
    pub fn close(&self) {
        self.each(|unseen| unseen.closed = true);
    }

    fn each(&self, note: impl Fn(&mut Unseen)) -> usize {
        let inboxes: Vec<_> = lock(&self.0).iter().filter_map(Weak::upgrade).collect();
        for inbox in &inboxes {
            note(&mut lock(&inbox.unseen));
            inbox.waker.wake();
        }
        inboxes.len()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Unseen {
    fn take(&mut self) -> Option<TimerSignal> {
        if std::mem::take(&mut self.missed) {
            return Some(TimerSignal::Missed);
        }
        if std::mem::take(&mut self.engines) {
            return Some(TimerSignal::Engines);
        }
        let (partition, at) = self.due.pop_first()?;
        Some(TimerSignal::Due { partition, after: at.saturating_duration_since(Instant::now()) })
    }
}

struct Signals {
    inbox: Arc<Inbox>,
    _keep: Arc<dyn Send + Sync>,
}

impl Stream for Signals {
    type Item = TimerSignal;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<TimerSignal>> {
        // Registered before the check, so that a signal in between wakes this task.
        self.inbox.waker.register(context.waker());
        let mut unseen = lock(&self.inbox.unseen);
        match unseen.take() {
            None if !unseen.closed => Poll::Pending,
            signal => Poll::Ready(signal),
        }
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    fn next(signals: &mut TimerSignals) -> Option<TimerSignal> {
        signals.next().now_or_never().flatten()
    }

    #[test]
    fn each_listener_gets_the_earliest_timer_of_each_partition_once() {
        let feed = TimerFeed::default();
        let (mut one, mut other) = (feed.listen(Arc::new(())), feed.listen(Arc::new(())));
        for message in ["7 5000", "7 200", "7 4000", "2 300"] {
            assert_eq!(feed.announced(message.as_bytes()), 2);
        }
        for signals in [&mut one, &mut other] {
            for (number, millis) in [(2, 300), (7, 200)] {
                let Some(TimerSignal::Due { partition, after }) = next(signals) else { panic!("partition {number}") };
                assert_eq!(partition.number(), number);
                assert!(after <= Duration::from_millis(millis), "{after:?}");
            }
            assert_eq!(next(signals), None);
        }
    }

    #[test]
    fn changes_of_engines_and_missed_signals_are_delivered_once_and_first() {
        let feed = TimerFeed::default();
        let mut signals = feed.listen(Arc::new(()));
        feed.announced(b"1 0");
        feed.announced(b"engines");
        feed.announced(b"engines");
        feed.missed();
        assert_eq!(next(&mut signals), Some(TimerSignal::Missed));
        assert_eq!(next(&mut signals), Some(TimerSignal::Engines));
        let due = TimerSignal::Due { partition: Partition::new(1), after: Duration::ZERO };
        assert_eq!((next(&mut signals), next(&mut signals)), (Some(due), None));
    }

    #[test]
    fn other_messages_are_ignored_and_a_dropped_listener_is_not_counted() {
        let feed = TimerFeed::default();
        let mut signals = feed.listen(Arc::new(()));
        for message in ["", "7", "7 x", "99999999 1", "7 -1", "7 99999999999999"] {
            assert_eq!(feed.announced(message.as_bytes()), 0, "{message}");
        }
        assert_eq!(next(&mut signals), None);
        drop(signals);
        assert_eq!(feed.announced(b"7 1"), 0);
    }
}
