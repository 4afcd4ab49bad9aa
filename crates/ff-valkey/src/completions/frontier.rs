//! The position of this process in every log: judges pushes, plans which logs to read, takes pages. Pure.
//!
//! # States of a log
//!
//! ```text
//! Starting --starts--> Live --push that does not follow, or a head that is not the cursor's--> Reading
//!                       ^                                                                         |
//!                       +------ end of the log reached, and every held push is accounted for -----+
//! ```
//!
//! A head beyond the cursor means that entries were not pushed. A head that was passed long ago, or no head at all,
//! means that the log may have lost what was delivered. Only the log's epochs can decide, so they are looked up.
//!
//! While a log is read its pushes are held, not delivered: they would overtake the entries being read. At the end of
//! the log they are judged again in the order of their arrival. Known ones are dropped, and those that follow the
//! cursor are delivered. A push that still does not follow either arrived after the page was read (read on) or is not
//! in the log (look up the epochs, read again a few times, then give the push up: it was rolled back, or a later read
//! will find it). Those repeated reads count for all pushes that arrived before the first of them.
//!
//! # A push that contradicts the log
//!
//! Any client with the right to publish can announce a completion at exactly the next position. It is delivered,
//! because nothing distinguishes it from a true one. So for the latest pushes of each log the execution that each named
//! is remembered, with outcome and time. If another push or a page reports another end at that position, or the newest
//! entry of the log another execution, the log is read again from before it. If the log confirms the suspicion,
//! everything from there on is taken back, [`GapCause::Forged`], and the log's own entries are delivered.
//!
//! # A log that cannot be read
//!
//! Its key has another type, or the user lacks the right to read it. Its pushes are delivered as long as they follow. A
//! log that must be read waits until it can be, and is tried at each comparison; of its pushes only the newest is kept.

mod comparison;

use std::{
    collections::{BTreeMap, VecDeque},
    sync::Arc,
};

use ff_core::{
    CompletionPayload, EntryId, Gap, GapCause, LogId, Outcome, Partition, PartitionCount, Scope,
    reader::{self, EpochEnds, LogCursor, LogItem, LogReader, Verdict},
};
use ff_script::operations::{Head, Newest};
use uuid::Uuid;

use crate::completions::source::OfEach;

/// How many pushes of logs under reading are held; pushes beyond that are read from the log.
const HELD_PUSHES: usize = 4096;
/// How often a log is read again for a push that it does not contain: during a failover the reading connection and the
/// subscriber may be connected to different servers.
const UNKNOWN_RETRIES: u32 = 6;
/// For how many delivered pushes of each log the named execution is remembered.
const REMEMBERED_PUSHES: usize = 32;
/// Every log has its turn once in this many comparisons, even if the server reports that nothing was appended to it.
const ROUND: usize = 4;

/// An entry of a log, pushed or read.
pub(crate) type LogEntry = reader::LogEntry<Arc<CompletionPayload>>;

/// Takes the deliveries, in the order of each log.
pub(crate) trait Deliver {
    /// `before` is the frontier up to and excluding this event.
    fn deliver(&mut self, event: &Arc<CompletionPayload>, before: &[LogReader]);
    /// Entries are missing, or were rolled back. `before` is the frontier up to and excluding them.
    fn gap(&mut self, gap: &Gap, before: &[LogReader]);
    fn duplicate(&mut self);
    /// A push was given up.
    fn unknown(&mut self, log: LogId, entry: EntryId);
}

/// The next read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// The entries after this one.
    Page(LogId, Option<EntryId>),
    /// The log's epochs.
    Epochs(LogId),
}

/// The logs that wait to be read.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Waiting {
    /// Some are to be read now.
    pub(crate) reads: bool,
    /// Some are to be read again after a pause.
    pub(crate) later: bool,
    /// Some are to be read if pushes in transit do not arrive.
    pub(crate) overdue: bool,
}

#[derive(Debug)]
enum Mode {
    Starting(Deferred),
    Live,
    Reading(Reading),
}

#[derive(Debug)]
struct Reading {
    held: Deferred,
    want: Want,
    retries: u32,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Want {
    Page,
    Epochs,
    Later,
    /// The log could not be read.
    Unreadable,
}

/// A push that was delivered.
#[derive(Debug, Clone, Copy)]
struct Pushed {
    entry: EntryId,
    /// The entry before it.
    before: Option<EntryId>,
    execution: Uuid,
    outcome: Outcome,
    produced_at_ms: Option<u64>,
}

impl Pushed {
    /// Whether an event at the same position reports another end.
    fn differs(&self, event: &CompletionPayload) -> bool {
        let own = (self.execution, &self.outcome, self.produced_at_ms);
        own != (event.execution_id.uuid(), &event.outcome, event.produced_at_ms)
    }
}

/// Sightings that wait for the end of a reading.
#[derive(Debug, Default)]
struct Deferred {
    sightings: VecDeque<Sighting>,
    /// How many of them arrived before the read under way was sent.
    before_read: usize,
    /// How many of them arrived before the first of the repeated reads.
    before_retry: usize,
    /// The newest push that exceeded the capacity.
    overflow: Option<EntryId>,
}

/// Evidence that the log holds an entry.
#[derive(Debug)]
enum Sighting {
    /// The entry itself, pushed.
    Push(LogEntry),
    /// Only its id: a push that was not kept.
    Id(EntryId),
    /// Only its id: the head of the log at this time of the server (ms).
    Head(EntryId, u64),
}

/// The readers of all logs of one scope.
#[derive(Debug)]
pub(crate) struct Frontier {
    scope: Scope,
    readers: Vec<LogReader>,
    modes: Vec<Mode>,
    /// Logs in [`Mode::Reading`], in the order in which they are served.
    reading: VecDeque<usize>,
    held: usize,
    /// The time of the server (ms) up to which everything of each log has been delivered.
    complete_as_of: Vec<u64>,
    /// The logs of which a push was delivered since the previous comparison of the heads.
    confirmed: Vec<bool>,
    /// Entries that the server has appended and whose pushes had not arrived when the heads were compared, with the
    /// server's time (ms) then.
    overdue: Vec<(usize, EntryId, u64)>,
    /// The logs that were found empty for a known reason.
    empty: Vec<bool>,
    /// The latest delivered pushes of each log.
    pushed: Vec<VecDeque<Pushed>>,
    /// The logs that cannot be read, and why.
    unreadable: BTreeMap<usize, String>,
    /// The log with which the next comparison starts its share of logs in turn.
    turn: usize,
    snapshot: Option<Arc<[LogCursor]>>,
}

/// The basis of a comparison: the cursors as they were when the heads were requested.
#[derive(Debug)]
pub(crate) struct Comparison {
    /// The logs whose newest entry to request, and the newest entry known to this process.
    pub(crate) logs: Vec<(LogId, Option<Newest>)>,
    before: Arc<[LogCursor]>,
    /// The logs of which a push was delivered since the previous comparison.
    confirmed: Vec<bool>,
    /// The first of the logs in turn.
    turn: usize,
    /// The only logs to which the server has appended since the previous comparison, if it knows.
    appended: Option<Vec<(LogId, Newest)>>,
}

impl Frontier {
    pub(crate) fn new(scope: Scope, count: PartitionCount) -> Self {
        let logs = usize::from(count.get());
        Self {
            scope,
            readers: readers(scope, &vec![LogCursor::default(); logs]),
            modes: (0..logs).map(|_| Mode::Starting(Deferred::default())).collect(),
            reading: VecDeque::new(),
            held: 0,
            complete_as_of: vec![0; logs],
            confirmed: vec![false; logs],
            overdue: Vec::new(),
            empty: vec![false; logs],
            pushed: vec![VecDeque::new(); logs],
            unreadable: BTreeMap::new(),
            turn: 0,
            snapshot: None,
        }
    }

    /// The current cursors, shared until one of them changes.
    pub(crate) fn snapshot(&mut self) -> Arc<[LogCursor]> {
        self.snapshot.get_or_insert_with(|| cursors(&self.readers)).clone()
    }

    /// The time of the server (ms) up to which everything committed has been delivered; `None` before all logs were
    /// read.
    pub(crate) fn complete_as_of(&self) -> Option<u64> {
        self.complete_as_of.iter().copied().min().filter(|at| *at > 0)
    }

    pub(crate) fn readers(&self) -> &[LogReader] {
        &self.readers
    }

    pub(crate) fn log(&self, index: usize) -> LogId {
        self.readers[index].log()
    }

    pub(crate) fn logs(&self) -> Vec<LogId> {
        self.readers.iter().map(LogReader::log).collect()
    }

    /// The logs that are not live.
    pub(crate) fn reading(&self) -> usize {
        self.reading.len()
    }

    fn index(&self, log: LogId) -> Option<usize> {
        let index = usize::from(log.partition.number());
        (log.scope == self.scope && index < self.readers.len()).then_some(index)
    }

    /// Takes a push. `false` if this deployment has no such log.
    pub(crate) fn push(&mut self, log: LogId, shown: LogEntry, out: &mut impl Deliver) -> bool {
        let Some(index) = self.index(log) else { return false };
        match &mut self.modes[index] {
            Mode::Live => match self.readers[index].judge(&shown) {
                Verdict::Duplicate => {
                    if let Some(pushed) = self.contradicted(index, &shown) {
                        self.read_again(index, pushed.before);
                    }
                    out.duplicate();
                }
                Verdict::Deliver => self.deliver_push(index, shown, out),
                Verdict::ReadLog => {
                    self.start_reading(index, Want::Page);
                    self.hold(index, shown);
                }
            },
            Mode::Starting(_) | Mode::Reading(_) => self.hold(index, shown),
        }
        true
    }

    /// Takes the positions of all logs, read after the subscription was acknowledged: this process begins there. A log
    /// that could not be read is later read from its start.
    pub(crate) fn starts(&mut self, at_ms: u64, starts: OfEach<LogCursor>, out: &mut impl Deliver) {
        for (index, start) in starts.into_iter().enumerate().take(self.readers.len()) {
            let Mode::Starting(held) = &mut self.modes[index] else { continue };
            let mut held = std::mem::take(held);
            held.before_read = 0;
            match start {
                Ok(start) => {
                    self.modes[index] = Mode::Live;
                    self.empty[index] = start.last().is_none();
                    self.set(index, start);
                    self.complete_as_of[index] = at_ms;
                    self.settle(index, Reading::new(held, Want::Page), out);
                }
                Err(error) => {
                    self.set(index, LogCursor::earliest());
                    self.put_back(index, Reading::new(held, Want::Page));
                    self.failed(self.log(index), error.to_string());
                }
            }
        }
    }

    /// The next reads, at most `limit`; each is returned again until its answer arrives.
    pub(crate) fn work(&mut self, limit: usize) -> Vec<Work> {
        let mut work = Vec::new();
        for index in self.reading.iter().copied() {
            if work.len() == limit {
                break;
            }
            let Mode::Reading(reading) = &mut self.modes[index] else { continue };
            let reader = &self.readers[index];
            match reading.want {
                Want::Page => {
                    reading.held.before_read = reading.held.sightings.len();
                    work.push(Work::Page(reader.log(), reader.after()));
                }
                Want::Epochs => work.push(Work::Epochs(reader.log())),
                Want::Later | Want::Unreadable => {}
            }
        }
        work
    }

    /// Which reads wait.
    pub(crate) fn waiting(&self) -> Waiting {
        let mut waiting = Waiting { overdue: !self.overdue.is_empty(), ..Waiting::default() };
        for index in &self.reading {
            if let Mode::Reading(reading) = &self.modes[*index] {
                waiting.reads |= matches!(reading.want, Want::Page | Want::Epochs);
                waiting.later |= reading.want == Want::Later;
            }
        }
        waiting
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
    pub(crate) fn page(&mut self, log: LogId, page: Vec<LogEntry>, is_last: bool, out: &mut impl Deliver) {
        let Some((index, mut reading)) = self.take_reading(log) else { return };
        self.unreadable.remove(&index);
        for shown in page {
            if let Some(forged) = self.contradicted(index, &shown) {
                self.take_back(index, forged, out);
            }
            let Ok(items) = self.readers[index].read(shown) else {
                reading.want = Want::Epochs;
                self.put_back(index, reading);
                return;
            };
            items.for_each(|item| self.hand_out(index, item, out));
        }
        reading.want = Want::Page;
        if is_last { self.settle(index, reading, out) } else { self.put_back(index, reading) }
    }

    /// Takes the ends of a log's epochs, newest first.
    pub(crate) fn epochs(&mut self, log: LogId, ends: &EpochEnds, out: &mut impl Deliver) {
        let Some((index, mut reading)) = self.take_reading(log) else { return };
        self.unreadable.remove(&index);
        if let Some(gap) = self.readers[index].resolve(ends) {
            self.pass(index, &gap, out);
        }
        reading.want = Want::Page;
        self.put_back(index, reading);
    }

    /// Delivers an entry that only a push has announced so far.
    fn deliver_push(&mut self, index: usize, shown: LogEntry, out: &mut impl Deliver) {
        self.confirmed[index] = true;
        if let Some(event) = &shown.event {
            let (before, execution) = (self.cursor(index).last(), event.execution_id.uuid());
            let pushed = &mut self.pushed[index];
            if pushed.len() == REMEMBERED_PUSHES {
                pushed.pop_front();
            }
            let (outcome, produced_at_ms) = (event.outcome, event.produced_at_ms);
            pushed.push_back(Pushed { entry: shown.entry, before, execution, outcome, produced_at_ms });
        }
        // It follows, so it is read.
        self.readers[index].read(shown).into_iter().flatten().for_each(|item| self.hand_out(index, item, out));
    }

    /// Gives an item to the subscriptions, and moves past it.
    fn hand_out(&mut self, index: usize, item: LogItem<Arc<CompletionPayload>>, out: &mut impl Deliver) {
        let (entry, event) = match item {
            LogItem::Event(entry, event) => (entry, event),
            LogItem::Gap(gap) => return self.pass(index, &gap, out),
        };
        out.deliver(&event, &self.readers);
        self.readers[index].advance(entry);
        self.empty[index] = false;
        self.snapshot = None;
        if let Some(at) = event.produced_at_ms {
            let known = &mut self.complete_as_of[index];
            *known = at.max(*known);
        }
    }

    fn pass(&mut self, index: usize, gap: &Gap, out: &mut impl Deliver) {
        out.gap(gap, &self.readers);
        self.readers[index].pass(gap);
        self.snapshot = None;
        if gap.cause.is_undone() {
            self.pushed[index].clear();
        } else {
            self.empty[index] = false;
        }
    }

    fn cursor(&self, index: usize) -> &LogCursor {
        self.readers[index].cursor()
    }

    fn set(&mut self, index: usize, cursor: LogCursor) {
        self.readers[index] = LogReader::new(self.log(index), cursor);
        self.snapshot = None;
    }

    fn start_reading(&mut self, index: usize, want: Want) {
        self.readers[index].restart();
        self.put_back(index, Reading::new(Deferred::default(), want));
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

    /// Puts the log at the end of the queue, so that other logs have their turn.
    fn put_back(&mut self, index: usize, reading: Reading) {
        self.modes[index] = Mode::Reading(reading);
        self.reading.push_back(index);
    }

    fn hold(&mut self, index: usize, shown: LogEntry) {
        let waits = matches!(&self.modes[index], Mode::Reading(reading) if reading.want == Want::Unreadable);
        if self.held < HELD_PUSHES && !waits {
            self.defer(index, Sighting::Push(shown));
        } else if let Mode::Starting(held) | Mode::Reading(Reading { held, .. }) = &mut self.modes[index] {
            held.overflow = Some(shown.entry);
        }
    }

    fn defer(&mut self, index: usize, sighting: Sighting) {
        if let Mode::Starting(held) | Mode::Reading(Reading { held, .. }) = &mut self.modes[index] {
            let later = held.sightings.range_mut(held.before_read.min(held.sightings.len())..);
            match (later.last(), sighting) {
                // The newer head covers the older one, and heads may be requested more often than logs are read.
                (Some(last @ Sighting::Head(..)), sighting @ Sighting::Head(..)) => *last = sighting,
                (_, sighting) => {
                    held.sightings.push_back(sighting);
                    self.held += 1;
                }
            }
        }
    }

    /// The log was read to its end: judges the held pushes, and goes live if all of them are accounted for.
    fn settle(&mut self, index: usize, mut reading: Reading, out: &mut impl Deliver) {
        if let Some(newest) = reading.held.overflow {
            // Pushes that were not kept are older than the next read. That read must contain the newest of them.
            self.held -= reading.held.sightings.len();
            reading.held = Deferred::default();
            self.put_back(index, reading);
            self.defer(index, Sighting::Id(newest));
            return;
        }
        while let Some(sighting) = reading.held.sightings.pop_front() {
            self.held -= 1;
            let (entry, prev) = match &sighting {
                Sighting::Push(shown) => (shown.entry, shown.prev),
                Sighting::Id(entry) | Sighting::Head(entry, _) => (*entry, None),
            };
            let cursor = self.cursor(index);
            let verdict = match &sighting {
                // Not a push that may be late: the log ended with it.
                Sighting::Head(..) if !cursor.has(entry) => Verdict::ReadLog,
                _ => cursor.judge(entry, prev),
            };
            match (verdict, sighting) {
                (Verdict::Duplicate, Sighting::Head(_, at_ms)) => {
                    let known = &mut self.complete_as_of[index];
                    *known = at_ms.max(*known);
                }
                (Verdict::Duplicate, Sighting::Push(shown)) => {
                    if let Some(pushed) = self.contradicted(index, &shown) {
                        self.readers[index].read_from(pushed.before);
                        reading.want = Want::Page;
                        self.put_back(index, reading);
                        return;
                    }
                }
                (Verdict::Duplicate, Sighting::Id(_)) => {}
                (Verdict::Deliver, Sighting::Push(shown)) => self.deliver_push(index, shown, out),
                (Verdict::ReadLog, sighting) | (Verdict::Deliver, sighting) => {
                    match reading.next_want(&mut self.readers[index], entry) {
                        Some(want) => {
                            if want == Want::Later {
                                self.readers[index].restart();
                            }
                            reading.want = want;
                            reading.held.sightings.push_front(sighting);
                            self.held += 1;
                            self.put_back(index, reading);
                            return;
                        }
                        None => out.unknown(self.log(index), entry),
                    }
                }
            }
            reading.held.before_read = reading.held.before_read.saturating_sub(1);
            reading.held.before_retry = reading.held.before_retry.saturating_sub(1);
        }
    }
}

/// The readers of the logs of a scope at these positions.
pub(crate) fn readers(scope: Scope, cursors: &[LogCursor]) -> Vec<LogReader> {
    let log = |number| LogId { partition: Partition::new(number), scope };
    (0..).zip(cursors).map(|(number, cursor)| LogReader::new(log(number), cursor.clone())).collect()
}

/// The positions of these readers.
pub(crate) fn cursors(readers: &[LogReader]) -> Arc<[LogCursor]> {
    readers.iter().map(|reader| reader.cursor().clone()).collect()
}

impl Reading {
    const fn new(held: Deferred, want: Want) -> Self {
        Self { held, want, retries: 0 }
    }

    /// The next step for a sighting that the log, read to its end, does not confirm; `None` to give it up.
    fn next_want(&mut self, reader: &mut LogReader, claimed: EntryId) -> Option<Want> {
        if self.held.before_read == 0 {
            // It arrived after the page was read.
            return Some(Want::Page);
        }
        if !reader.is_resolved_for(claimed) {
            return Some(Want::Epochs);
        }
        if self.held.before_retry == 0 {
            // Waiting sightings share these retries; one after another they could delay going live by minutes.
            (self.retries, self.held.before_retry) = (0, self.held.before_read);
        }
        self.retries += 1;
        (self.retries <= UNKNOWN_RETRIES).then_some(Want::Later)
    }
}

#[cfg(test)]
#[path = "frontier_tests.rs"]
mod tests;
