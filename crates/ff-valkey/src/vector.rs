//! How far this process has come in every log: judges pushes, says which logs to read, takes what was read. Pure.
//!
//! # States of a log
//!
//! ```text
//! Starting --heads--> Live --push that does not follow, or a head beyond the cursor--> Reading
//!                      ^                                                                  |
//!                      +--- end of the log reached, and every held push is accounted for -+
//! ```
//!
//! While a log is read its pushes are held, not delivered: they would overtake what is being read. At the end of the
//! log they are judged again in the order in which they came. What is known by then is dropped, what follows is
//! delivered, and what still does not follow either came after the page was read (read on) or is not known to the log
//! (look up the epochs, read again a few times, and give the push up: it was undone, or will be found by a later read).

use std::{collections::VecDeque, sync::Arc};

use ff_core::{CompletionPayload, EntryId, LogCursor, LogId, Partition, PartitionCount, Predecessor, Scope, Verdict};

use crate::reading::{GapCause, LogReading, Step};

/// How many pushes of logs that are being read are held; what exceeds it is read from the log.
const HELD_PUSHES: usize = 4096;
/// How often a log is read again for a push that it does not show: a reader and the subscriber may be connected to
/// different servers during a failover.
const UNKNOWN_RETRIES: u32 = 6;

/// An entry of a log, pushed or read.
#[derive(Debug, Clone)]
pub(crate) struct Shown {
    pub(crate) entry: EntryId,
    pub(crate) prev: Option<Predecessor>,
    /// `None` when the log's entry cannot be read.
    pub(crate) event: Option<Arc<CompletionPayload>>,
}

/// Takes what is delivered, in the order of each log.
pub(crate) trait Deliver {
    /// `before` is the vector up to and excluding this event.
    fn deliver(&mut self, event: &Arc<CompletionPayload>, before: &[LogCursor]);
    /// Entries are missing, or cannot be read.
    fn gap(&mut self, log: LogId, cause: GapCause, after: Option<EntryId>, next: EntryId);
    fn unreadable(&mut self, log: LogId, entry: EntryId);
    fn duplicate(&mut self);
    /// A push was given up.
    fn unknown(&mut self, log: LogId, entry: EntryId);
}

/// What is to be read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// The entries after this one.
    Page(LogId, Option<EntryId>),
    /// The log's epochs.
    Epochs(LogId),
}

#[derive(Debug)]
enum Mode {
    Starting(Held),
    Live,
    Reading(Reading),
}

#[derive(Debug)]
struct Reading {
    at: LogReading,
    held: Held,
    want: Want,
    retries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Page,
    Epochs,
    Later,
}

/// Pushes that wait for the end of a reading.
#[derive(Debug, Default)]
struct Held {
    pushes: VecDeque<Shown>,
    /// How many of them came before the read under way was issued.
    seen_by_read: usize,
    /// The log must be read once more: a push was not held, or may have been lost.
    again: bool,
}

/// The cursors of all logs of one scope.
#[derive(Debug)]
pub(crate) struct Vector {
    scope: Scope,
    cursors: Vec<LogCursor>,
    modes: Vec<Mode>,
    /// Logs in [`Mode::Reading`], in the order in which they are served.
    reading: VecDeque<usize>,
    held: usize,
}

impl Vector {
    pub(crate) fn new(scope: Scope, count: PartitionCount) -> Self {
        let logs = usize::from(count.get());
        Self {
            scope,
            cursors: vec![LogCursor::default(); logs],
            modes: (0..logs).map(|_| Mode::Starting(Held::default())).collect(),
            reading: VecDeque::new(),
            held: 0,
        }
    }

    pub(crate) fn cursors(&self) -> &[LogCursor] {
        &self.cursors
    }

    pub(crate) fn log(&self, index: usize) -> LogId {
        // There are at most 16,384.
        let number = u16::try_from(index).unwrap_or(u16::MAX);
        LogId { partition: Partition::new(number), scope: self.scope }
    }

    pub(crate) fn logs(&self) -> Vec<LogId> {
        (0..self.cursors.len()).map(|index| self.log(index)).collect()
    }

    /// The logs that are not live.
    pub(crate) fn reading(&self) -> usize {
        self.reading.len()
    }

    fn index(&self, log: LogId) -> Option<usize> {
        let index = usize::from(log.partition.number());
        (log.scope == self.scope && index < self.cursors.len()).then_some(index)
    }

    /// Takes a push. `false` if this deployment has no such log.
    pub(crate) fn push(&mut self, log: LogId, shown: Shown, out: &mut impl Deliver) -> bool {
        let Some(index) = self.index(log) else { return false };
        match &mut self.modes[index] {
            Mode::Live => match self.cursors[index].judge(shown.entry, shown.prev) {
                Verdict::Duplicate => out.duplicate(),
                Verdict::Deliver => self.deliver(index, &shown, out),
                Verdict::ReadLog => {
                    self.start_reading(index, Held::default());
                    self.hold(index, shown);
                }
            },
            Mode::Starting(_) | Mode::Reading(_) => self.hold(index, shown),
        }
        true
    }

    /// Takes the heads of all logs, read after the subscription was acknowledged: the first ones are where this
    /// process begins, later ones show which logs have gone on meanwhile.
    pub(crate) fn heads(&mut self, heads: &[Option<EntryId>], out: &mut impl Deliver) {
        for (index, head) in heads.iter().enumerate().take(self.cursors.len()) {
            match &mut self.modes[index] {
                Mode::Starting(held) => {
                    let held = std::mem::take(held);
                    self.cursors[index] = LogCursor::after(*head);
                    self.modes[index] = Mode::Live;
                    self.settle_start(index, held, out);
                }
                Mode::Live => {
                    let beyond = head.is_some_and(|head| self.cursors[index].judge(head, None) != Verdict::Duplicate);
                    if beyond {
                        self.start_reading(index, Held::default());
                    }
                }
                // The page under way may have been read before the head was.
                Mode::Reading(reading) => reading.held.again = true,
            }
        }
    }

    /// What to read now, at most `limit` things; each is asked for again until it is answered.
    pub(crate) fn work(&mut self, limit: usize) -> Vec<Work> {
        let mut work = Vec::new();
        for index in self.reading.iter().copied() {
            if work.len() == limit {
                break;
            }
            let log = LogId { partition: self.log(index).partition, scope: self.scope };
            let Mode::Reading(reading) = &mut self.modes[index] else { continue };
            match reading.want {
                Want::Page => {
                    reading.held.seen_by_read = reading.held.pushes.len();
                    reading.held.again = false;
                    work.push(Work::Page(log, reading.at.after()));
                }
                Want::Epochs => work.push(Work::Epochs(log)),
                Want::Later => {}
            }
        }
        work
    }

    /// Whether logs wait to be read again after a pause.
    pub(crate) fn has_later(&self) -> bool {
        self.reading.iter().any(|index| matches!(&self.modes[*index], Mode::Reading(r) if r.want == Want::Later))
    }

    /// The pause is over.
    pub(crate) fn wake_later(&mut self) {
        for index in &self.reading {
            if let Mode::Reading(reading) = &mut self.modes[*index]
                && reading.want == Want::Later
            {
                reading.want = Want::Page;
            }
        }
    }

    /// Takes a page of a log; `is_last` if the log held no more.
    pub(crate) fn page(&mut self, log: LogId, page: &[Shown], is_last: bool, out: &mut impl Deliver) {
        let Some((index, mut reading)) = self.take_reading(log) else { return };
        for shown in page {
            let before = self.cursors[index].last();
            let mut cursor = self.cursors[index].clone();
            match reading.at.step(&mut cursor, shown.entry, shown.prev) {
                Step::Skip => {}
                Step::LookUp => {
                    reading.want = Want::Epochs;
                    self.put_back(index, reading);
                    return;
                }
                Step::Deliver(gap) => {
                    if let Some(cause) = gap {
                        out.gap(log, cause, before, shown.entry);
                    }
                    self.deliver(index, shown, out);
                }
            }
        }
        reading.want = Want::Page;
        if is_last { self.settle(index, reading, out) } else { self.put_back(index, reading) }
    }

    /// Takes the ends of a log's epochs.
    pub(crate) fn epochs(&mut self, log: LogId, ends: &[EntryId]) {
        let Some((index, mut reading)) = self.take_reading(log) else { return };
        reading.at.resolve(&self.cursors[index], ends);
        reading.want = Want::Page;
        self.put_back(index, reading);
    }

    fn deliver(&mut self, index: usize, shown: &Shown, out: &mut impl Deliver) {
        match &shown.event {
            Some(event) => out.deliver(event, &self.cursors),
            None => out.unreadable(self.log(index), shown.entry),
        }
        self.cursors[index].advance(shown.entry);
    }

    fn start_reading(&mut self, index: usize, held: Held) {
        let at = LogReading::from(&self.cursors[index]);
        self.modes[index] = Mode::Reading(Reading { at, held, want: Want::Page, retries: 0 });
        self.reading.push_back(index);
    }

    fn take_reading(&mut self, log: LogId) -> Option<(usize, Reading)> {
        let index = self.index(log)?;
        if !matches!(self.modes[index], Mode::Reading(_)) {
            return None;
        }
        self.reading.retain(|other| *other != index);
        match std::mem::replace(&mut self.modes[index], Mode::Live) {
            Mode::Reading(reading) => Some((index, reading)),
            Mode::Live | Mode::Starting(_) => None,
        }
    }

    /// At the end of the queue, so that other logs have their turn.
    fn put_back(&mut self, index: usize, reading: Reading) {
        self.modes[index] = Mode::Reading(reading);
        self.reading.push_back(index);
    }

    fn hold(&mut self, index: usize, shown: Shown) {
        let (Mode::Starting(held) | Mode::Reading(Reading { held, .. })) = &mut self.modes[index] else { return };
        if self.held < HELD_PUSHES {
            held.pushes.push_back(shown);
            self.held += 1;
        } else {
            held.again = true;
        }
    }

    fn settle_start(&mut self, index: usize, mut held: Held, out: &mut impl Deliver) {
        if held.again {
            self.held -= held.pushes.len();
            self.start_reading(index, Held::default());
            return;
        }
        held.seen_by_read = 0;
        let reading = Reading { at: LogReading::from(&self.cursors[index]), held, want: Want::Page, retries: 0 };
        self.settle(index, reading, out);
    }

    /// The log was read to its end: judges what was held meanwhile, and goes live if all of it is accounted for.
    fn settle(&mut self, index: usize, mut reading: Reading, out: &mut impl Deliver) {
        if reading.held.again {
            self.held -= reading.held.pushes.len();
            reading.held = Held::default();
            self.put_back(index, reading);
            return;
        }
        while let Some(shown) = reading.held.pushes.front() {
            match self.cursors[index].judge(shown.entry, shown.prev) {
                Verdict::Duplicate => {}
                Verdict::Deliver => {
                    self.deliver(index, &shown.clone(), out);
                    reading.at = LogReading::from(&self.cursors[index]);
                }
                Verdict::ReadLog => {
                    if reading.held.seen_by_read == 0 {
                        // It came after the page was read.
                        reading.want = Want::Page;
                    } else if !reading.at.is_resolved() {
                        reading.want = Want::Epochs;
                    } else if reading.retries < UNKNOWN_RETRIES {
                        reading.retries += 1;
                        reading.at = LogReading::from(&self.cursors[index]);
                        reading.want = Want::Later;
                    } else {
                        out.unknown(self.log(index), shown.entry);
                        self.drop_front(&mut reading);
                        continue;
                    }
                    self.put_back(index, reading);
                    return;
                }
            }
            self.drop_front(&mut reading);
        }
    }

    fn drop_front(&mut self, reading: &mut Reading) {
        if reading.held.pushes.pop_front().is_some() {
            reading.held.seen_by_read = reading.held.seen_by_read.saturating_sub(1);
            reading.retries = 0;
            self.held -= 1;
        }
    }
}

#[cfg(test)]
#[path = "vector_tests.rs"]
mod tests;
