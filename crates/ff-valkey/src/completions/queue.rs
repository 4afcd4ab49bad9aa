//! The bounded queue between the hub and the consumer of a subscription. A producer never waits, unless it reserved
//! capacity; a consumer never delays anything.
//!
//! An item that is dropped leaves a mark in its place, behind the gaps that were there before it. So an overflow is
//! reported in its order, never spans two histories of a log, and never moves a cursor back.

use std::{
    collections::VecDeque,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    task::{Context, Poll, ready},
};

use ff_core::{CompletionPayload, EntryId, Gap, LogId, reader::LogCursor};
use futures::task::AtomicWaker;
use tokio::{sync::Notify, task::coop};

/// An item of a queue.
#[derive(Debug, Clone)]
pub(crate) enum Item {
    Event(Arc<CompletionPayload>),
    Gap(Arc<Gap>),
    CaughtUp,
    /// The cursors of all logs of the scope.
    Checkpoint(Arc<[LogCursor]>),
    /// Events of this log up to this entry were dropped here. Only the queue itself creates it.
    Dropped(LogId, EntryId),
}

impl Item {
    /// The log that the item belongs to, if any.
    fn log(&self) -> Option<LogId> {
        match self {
            Self::Event(event) => event.position.map(|position| position.log),
            Self::Gap(gap) => Some(gap.log),
            Self::Dropped(log, _) => Some(*log),
            Self::CaughtUp | Self::Checkpoint(_) => None,
        }
    }
}

/// The items that a queue's reader takes; the queue drops all others.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Accepts {
    Completions,
    /// Gaps, checkpoints and the notice of having caught up too.
    Frames,
}

impl Accepts {
    const fn takes(self, item: &Item) -> bool {
        matches!((self, item), (Self::Frames, _) | (_, Item::Event(_) | Item::Dropped(..)))
    }
}

#[derive(Debug)]
pub(crate) struct Queue {
    capacity: usize,
    accepts: Accepts,
    inner: Mutex<Inner>,
    reader: AtomicWaker,
    room: Notify,
    catching_up: AtomicBool,
    /// Log entries that its subscription has yet to read while it catches up.
    unread: AtomicU64,
}

#[derive(Debug, Default)]
struct Inner {
    items: VecDeque<Item>,
    /// Reserved places.
    reserved: usize,
    /// A producer waits for this many places.
    awaited: Option<usize>,
    /// The queue takes no more items.
    closed: bool,
    /// How many of the items are marks of dropped events. They take no place: there is at most one per log between two
    /// gaps of it.
    marks: usize,
    counts: QueueCounts,
}

impl Inner {
    /// The number of taken places.
    fn taken(&self) -> usize {
        self.items.len() - self.marks + self.reserved
    }

    /// Drops the oldest event or checkpoint; if there is none, the oldest gap over events that were never delivered.
    /// `false` if nothing may be dropped.
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

    /// Records that the item at `at` was dropped.
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

/// Events of a queue.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct QueueCounts {
    pub(crate) overflows: u64,
    pub(crate) dropped: u64,
    pub(crate) queued: usize,
}

impl Queue {
    pub(crate) fn new(capacity: usize, accepts: Accepts) -> Arc<Self> {
        Arc::new(Self {
            capacity: capacity.max(1),
            accepts,
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

    /// Whether its subscription is catching up. For information only.
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

    /// The number of completions that wait in the queue, and in the logs to be read for it.
    pub(crate) fn lag(&self) -> u64 {
        self.lock().items.len() as u64 + self.unread.load(Ordering::Relaxed)
    }

    pub(crate) fn counts(&self) -> QueueCounts {
        let inner = self.lock();
        QueueCounts { queued: inner.items.len() - inner.marks, ..inner.counts }
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        // A panic under the lock cannot leave it inconsistent.
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Puts an item in; `false` if the queue is full.
    pub(crate) fn push(&self, item: Item) -> bool {
        if !self.accepts.takes(&item) {
            return true;
        }
        let inner = self.lock();
        if inner.taken() >= self.capacity {
            return false;
        }
        self.put(inner, item);
        true
    }

    /// Puts an item in, even if the queue is full: for the few that must not be lost.
    pub(crate) fn push_always(&self, item: Item) {
        if self.accepts.takes(&item) {
            self.put(self.lock(), item);
        }
    }

    /// Puts an item in; replaces the oldest if the queue is full.
    pub(crate) fn push_dropping(&self, item: Item) {
        if !self.accepts.takes(&item) {
            return;
        }
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

    /// Ends the queue after the items that are in it.
    pub(crate) fn close(&self) {
        self.lock().closed = true;
        self.reader.wake();
    }

    /// Reserves `count` places (at most the capacity) if they are free now.
    pub(crate) fn try_reserve(self: &Arc<Self>, count: usize) -> Option<Room> {
        let count = count.clamp(1, self.capacity);
        let mut inner = self.lock();
        if inner.taken() + count > self.capacity {
            return None;
        }
        inner.reserved += count;
        Some(Room { queue: self.clone(), left: count })
    }

    /// Waits until `count` places are free (at most the capacity), and reserves them.
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

    /// The next item; `None` when the queue is closed and empty.
    pub(crate) fn poll(&self, context: &mut Context<'_>) -> Poll<Option<Item>> {
        // Lets other tasks of this thread run although there is always an item here.
        let turn = ready!(coop::poll_proceed(context));
        if let Some(taken) = self.take() {
            turn.made_progress();
            return Poll::Ready(taken);
        }
        // Registered before the second check, so that an item that arrives in between wakes this task.
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
        // Not before enough places are free: a waiter for many places would be woken for each.
        let taken = inner.taken();
        let made_room = inner.awaited.take_if(|count| taken + *count <= self.capacity);
        drop(inner);
        if made_room.is_some() {
            self.room.notify_one();
        }
        Some(Some(item))
    }
}

/// Reserved places of a queue; unused ones are released on drop.
#[derive(Debug)]
pub(crate) struct Room {
    queue: Arc<Queue>,
    left: usize,
}

impl Room {
    pub(crate) const fn left(&self) -> usize {
        self.left
    }

    /// Releases the places that are not used yet.
    pub(crate) fn give_back(&mut self) {
        self.queue.lock().reserved -= std::mem::take(&mut self.left);
    }

    /// Puts items in, with one wake for all. Events use reserved places; events beyond them are left out. Items that
    /// must not be lost always go in. Returns how many events went in.
    pub(crate) fn push_all(&mut self, items: impl IntoIterator<Item = Item>) -> usize {
        let before = self.left;
        let mut inner = self.queue.lock();
        for item in items.into_iter().filter(|item| self.queue.accepts.takes(item)) {
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
