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

/// What waits for the end of a reading.
#[derive(Debug, Default)]
struct Held {
    claims: VecDeque<Claim>,
    /// How many of them came before the read under way was issued.
    seen_by_read: usize,
    /// The newest push that found no room.
    overflow: Option<EntryId>,
}

/// Something says that the log holds an entry.
#[derive(Debug)]
enum Claim {
    /// The entry itself, pushed.
    Push(Shown),
    /// Its id only: the head of the log, or a push that was not kept.
    Id(EntryId),
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
                Mode::Live | Mode::Reading(_) => {
                    let Some(head) = *head else { continue };
                    if self.cursors[index].judge(head, None) == Verdict::Duplicate {
                        continue;
                    }
                    if matches!(self.modes[index], Mode::Live) {
                        self.start_reading(index, Held::default());
                    }
                    self.claim(index, Claim::Id(head));
                }
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
                    reading.held.seen_by_read = reading.held.claims.len();
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
        if self.held < HELD_PUSHES {
            self.claim(index, Claim::Push(shown));
        } else if let Mode::Starting(held) | Mode::Reading(Reading { held, .. }) = &mut self.modes[index] {
            held.overflow = Some(shown.entry);
        }
    }

    fn claim(&mut self, index: usize, claim: Claim) {
        if let Mode::Starting(held) | Mode::Reading(Reading { held, .. }) = &mut self.modes[index] {
            held.claims.push_back(claim);
            self.held += 1;
        }
    }

    fn settle_start(&mut self, index: usize, mut held: Held, out: &mut impl Deliver) {
        held.seen_by_read = 0;
        let reading = Reading { at: LogReading::from(&self.cursors[index]), held, want: Want::Page, retries: 0 };
        self.settle(index, reading, out);
    }

    /// The log was read to its end: judges what was held meanwhile, and goes live if all of it is accounted for.
    fn settle(&mut self, index: usize, mut reading: Reading, out: &mut impl Deliver) {
        if let Some(newest) = reading.held.overflow {
            // What was not kept is older than the next read. That read must show the newest of it.
            self.held -= reading.held.claims.len();
            reading.held = Held::default();
            self.put_back(index, reading);
            self.claim(index, Claim::Id(newest));
            return;
        }
        while let Some(claim) = reading.held.claims.pop_front() {
            self.held -= 1;
            let (entry, prev) = match &claim {
                Claim::Push(shown) => (shown.entry, shown.prev),
                Claim::Id(entry) => (*entry, None),
            };
            match (self.cursors[index].judge(entry, prev), &claim) {
                (Verdict::Duplicate, _) => {}
                (Verdict::Deliver, Claim::Push(shown)) => {
                    self.deliver(index, shown, out);
                    reading.at = LogReading::from(&self.cursors[index]);
                }
                (Verdict::ReadLog, _) | (Verdict::Deliver, Claim::Id(_)) => match reading.next_want(entry) {
                    Some(want) => {
                        if want == Want::Later {
                            reading.at = LogReading::from(&self.cursors[index]);
                        }
                        reading.want = want;
                        reading.held.claims.push_front(claim);
                        self.held += 1;
                        self.put_back(index, reading);
                        return;
                    }
                    None => out.unknown(self.log(index), entry),
                },
            }
            reading.held.seen_by_read = reading.held.seen_by_read.saturating_sub(1);
            reading.retries = 0;
        }
    }
}

impl Reading {
    /// What to do for a claim that the log, read to its end, does not bear out; `None` to give it up.
    fn next_want(&mut self, claimed: EntryId) -> Option<Want> {
        if self.held.seen_by_read == 0 {
            // It came after the page was read.
            return Some(Want::Page);
        }
        if !self.at.is_resolved_for(claimed) {
            return Some(Want::Epochs);
        }
        self.retries += 1;
        (self.retries <= UNKNOWN_RETRIES).then_some(Want::Later)
    }
}

#[cfg(test)]
#[path = "vector_tests.rs"]
mod tests;
