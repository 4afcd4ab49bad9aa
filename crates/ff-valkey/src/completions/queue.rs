//! The queue between the hub and who polls a subscription. Bounded; who puts into it never waits, unless it asked for
//! room beforehand, and who polls it never holds anybody up.
//!
//! What is dropped from a queue leaves a mark where it stood, behind the gaps that were there before it. So an overflow
//! is reported in its order, spans no two histories of a log, and never takes a cursor back.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use ff_core::{CompletionPayload, EntryId, Gap, LogCursor, LogId};
use futures::task::AtomicWaker;
use tokio::{sync::Notify, task::coop};

/// What a queue carries.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Event(Arc<CompletionPayload>),
    Gap(Arc<Gap>),
    CaughtUp,
    /// The cursors of all logs of the scope.
    Checkpoint(Arc<[LogCursor]>),
    /// What stood here of this log, up to this entry, was dropped. Only the queue itself makes one.
    Dropped(LogId, EntryId),
}

impl Item {
    /// The log that it is about, if it is about one.
    fn log(&self) -> Option<LogId> {
        match self {
            Self::Event(event) => event.position.map(|position| position.log),
            Self::Gap(gap) => Some(gap.log),
            Self::Dropped(log, _) => Some(*log),
            Self::CaughtUp | Self::Checkpoint(_) => None,
        }
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    capacity: usize,
    inner: Mutex<Inner>,
    reader: AtomicWaker,
    room: Notify,
    catching_up: AtomicBool,
    /// Log entries that its subscription has yet to read, when it reads by itself.
    unread: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    /// Places that are promised.
    reserved: usize,
    /// Somebody waits for so many places.
    awaited: Option<usize>,
    /// Nothing comes any more.
    closed: bool,
    /// How many of the items are marks of what was dropped. They take no place: there is at most one per log between
    /// two gaps of it.
    marks: usize,
    counts: QueueCounts,
}

impl Inner {
    /// How many places are taken.
    fn taken(&self) -> usize {
        self.items.len() - self.marks + self.reserved
    }

    /// Drops the oldest event or checkpoint; where there is none, the oldest gap of what had not come anyway. `false` if
    /// there is nothing that may be dropped.
    fn drop_oldest(&mut self) -> bool {
        let came = |item: &Item| matches!(item, Item::Event(_) | Item::Checkpoint(_));
        let missing = |item: &Item| matches!(item, Item::Gap(gap) if !gap.cause.is_undone());
        let oldest = self.items.iter().position(came).or_else(|| self.items.iter().position(missing));
        let Some(oldest) = oldest else { return false };
        match self.items.remove(oldest) {
            Some(Item::Event(event)) => {
                self.counts.dropped += 1;
                if let Some(position) = event.position {
                    self.mark(oldest, position.log, position.entry);
                }
            }
            Some(Item::Gap(gap)) => self.mark(oldest, gap.log, gap.through),
            _ => {}
        }
        true
    }

    /// Notes that what stood at `at` was dropped.
    fn mark(&mut self, at: usize, log: LogId, through: EntryId) {
        let before = self.items.range_mut(..at).rev().find(|item| item.log() == Some(log));
        if let Some(Item::Dropped(_, up_to)) = before {
            *up_to = through;
        } else {
            self.items.insert(at, Item::Dropped(log, through));
            self.marks += 1;
        }
    }
}

/// What has happened to a queue.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct QueueCounts {
    pub(crate) overflows: u64,
    pub(crate) dropped: u64,
    pub(crate) queued: usize,
}

impl Queue {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity: capacity.max(1),
            inner: Mutex::default(),
            reader: AtomicWaker::new(),
            room: Notify::new(),
            catching_up: AtomicBool::new(false),
            unread: AtomicU64::new(0),
        })
    }

    pub(crate) const fn capacity(&self) -> usize {
        self.capacity
    }

    /// Whether its subscription reads the log by itself; for who asks only.
    pub(crate) fn catching_up(&self) -> bool {
        self.catching_up.load(Ordering::Relaxed)
    }

    pub(crate) fn set_catching_up(&self, catching_up: bool) {
        self.catching_up.store(catching_up, Ordering::Relaxed);
        self.set_unread(0);
    }

    pub(crate) fn set_unread(&self, unread: u64) {
        self.unread.store(unread, Ordering::Relaxed);
    }

    /// What waits to be polled, and what waits in the logs to be read for it.
    pub(crate) fn lag(&self) -> u64 {
        self.lock().items.len() as u64 + self.unread.load(Ordering::Relaxed)
    }

    pub(crate) fn counts(&self) -> QueueCounts {
        let inner = self.lock();
        QueueCounts { queued: inner.items.len() - inner.marks, ..inner.counts }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // Nothing under the lock leaves it half-changed.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item in; `false` if there is no room.
    pub(crate) fn push(&self, item: Item) -> bool {
        let inner = self.lock();
        if inner.taken() >= self.capacity {
            return false;
        }
        self.put(inner, item);
        true
    }

    /// Puts an item in, room or not: for the few that must not be lost.
    pub(crate) fn push_always(&self, item: Item) {
        self.put(self.lock(), item);
    }

    /// Puts an item in, in the place of the oldest if there is no room.
    pub(crate) fn push_dropping(&self, item: Item) {
        let mut inner = self.lock();
        while inner.taken() >= self.capacity && inner.drop_oldest() {}
        self.put(inner, item);
    }

    fn put(&self, mut inner: MutexGuard<'_, Inner>, item: Item) {
        inner.items.push_back(item);
        drop(inner);
        self.reader.wake();
    }

    pub(crate) fn note_overflow(&self) {
        self.lock().counts.overflows += 1;
    }

    /// What is queued is the last.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.reader.wake();
    }

    /// Keeps room for `count` items (at most the capacity) if there is so much now.
    pub(crate) fn try_reserve(self: &Arc<Self>, count: usize) -> Option<Room> {
        let count = count.clamp(1, self.capacity);
        let mut inner = self.lock();
        if inner.taken() + count > self.capacity {
            return None;
        }
        inner.reserved += count;
        Some(Room { queue: self.clone(), left: count })
    }

    /// Waits until `count` items find room (at most the capacity), and keeps that room.
    pub(crate) async fn reserve(self: &Arc<Self>, count: usize) -> Room {
        let count = count.clamp(1, self.capacity);
        loop {
            let made = self.room.notified();
            self.lock().awaited = Some(count);
            if let Some(room) = self.try_reserve(count) {
                return room;
            }
            made.await;
        }
    }

    /// The next item; `None` when it is closed and empty.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Item>> {
        // Others on this thread have their turn although there is always something here.
        let turn = ready!(coop::poll_proceed(context));
        if let Some(taken) = self.take() {
            turn.made_progress();
            return Poll::Ready(taken);
        }
        // Registered before the second look, so that what comes in between wakes this task.
        self.reader.register(context.waker());
        match self.take() {
            Some(taken) => {
                turn.made_progress();
                Poll::Ready(taken)
            }
            None => Poll::Pending,
        }
    }

    fn take(&self) -> Option<Option<Item>> {
        let mut inner = self.lock();
        let Some(item) = inner.items.pop_front() else { return inner.closed.then_some(None) };
        inner.marks -= usize::from(matches!(item, Item::Dropped(..)));
        // Not before there is enough: whoever waits for many places would be woken for each.
        let taken = inner.taken();
        let made_room = inner.awaited.take_if(|count| taken + *count <= self.capacity);
        drop(inner);
        if made_room.is_some() {
            self.room.notify_one();
        }
        Some(Some(item))
    }
}

/// Room in a queue; what is not used is given back.
#[derive(Debug)]
pub(crate) struct Room {
    queue: Arc<Queue>,
    left: usize,
}

impl Room {
    pub(crate) const fn left(&self) -> usize {
        self.left
    }

    /// Keeps no more than what is used already.
    pub(crate) fn give_back(&mut self) {
        self.queue.lock().reserved -= std::mem::take(&mut self.left);
    }

    /// Puts items in, with one wake for all. Events take of the room, and those for which none is left stay out; what
    /// must not be lost finds its place in any case. Returns how many events went in.
    pub(crate) fn push_all(&mut self, items: impl IntoIterator<Item = Item>) -> usize {
        let before = self.left;
        let mut inner = self.queue.lock();
        for item in items {
            if matches!(item, Item::Event(_)) {
                let Some(left) = self.left.checked_sub(1) else { continue };
                self.left = left;
            }
            inner.items.push_back(item);
        }
        let used = before - self.left;
        inner.reserved -= used;
        drop(inner);
        self.queue.reader.wake();
        used
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        self.give_back();
    }
}

#[cfg(test)]
#[path = "queue_tests.rs"]
mod tests;
