//! A completion log as a server keeps it, with the faults that can happen to it, for tests of its readers.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    sync::Arc,
};

use ff_core::{
    CompletionPayload, EntryId, ExecutionId, Gap, GapCause, LogId, Namespace, Outcome, Position,
    reader::{EpochEnds, LogCursor, Predecessor},
};
use ff_script::operations::{Head, Newest};
use uuid::Uuid;

use crate::completions::frontier::LogEntry;

/// A log as a server keeps it, with all faults that can happen to it.
#[derive(Debug)]
pub(crate) struct Server {
    log: LogId,
    /// All entries of the current history; the first `trimmed` have been removed.
    history: Vec<Entry>,
    trimmed: usize,
    epochs: Vec<(u64, Predecessor)>,
    /// Epochs of all processes that ever wrote: no two processes share one.
    used: BTreeSet<u64>,
    /// The last writer is gone.
    deserted: bool,
    next: u64,
    step: u64,
    /// Every entry that ever existed, with the entry before it.
    before: HashMap<EntryId, Option<EntryId>>,
    /// Every entry that was ever rolled back, with its number, and every entry that retention removed.
    rolled_back: HashMap<EntryId, u64>,
    removed: HashSet<EntryId>,
    /// A copy of the history and the epochs, as an old file or a disconnected replica has it.
    copy: (Vec<Entry>, Vec<(u64, Predecessor)>),
    /// The writing process, and how many entries were ever appended.
    process: u64,
    appended: u64,
}

/// An entry, its record of the entry before it, and its number.
type Entry = (EntryId, Option<Predecessor>, u64);

impl Server {
    pub(crate) fn of(log: LogId) -> Self {
        Self::numbered(log, 0, 1)
    }

    /// Numbers its events from `first` in steps of `step`.
    pub(crate) fn numbered(log: LogId, first: u64, step: u64) -> Self {
        let (history, epochs, used, before) = Default::default();
        let (rolled_back, removed, copy) = Default::default();
        let (trimmed, deserted, next) = (0, false, first);
        let (process, appended) = (0, 0);
        Self {
            log,
            history,
            trimmed,
            epochs,
            used,
            deserted,
            next,
            step,
            before,
            rolled_back,
            removed,
            copy,
            process,
            appended,
        }
    }

    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// The numbers of the present entries.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.entries().iter().map(|(.., number)| *number)
    }

    pub(crate) fn trim(&mut self, count: usize) {
        self.trimmed = self.history.len().min(self.trimmed + count);
        self.removed.extend(self.history[..self.trimmed].iter().map(|(id, ..)| *id));
    }

    fn entries(&self) -> &[Entry] {
        &self.history[self.trimmed..]
    }

    pub(crate) fn head(&self) -> Option<EntryId> {
        self.entries().last().map(|(id, ..)| *id)
    }

    /// The newest entry.
    pub(crate) fn newest(&self) -> Option<Newest> {
        let newest = self.entries().last();
        newest.map(|(entry, _, number)| Newest { entry: *entry, execution: Some(Uuid::from_u128(u128::from(*number))) })
    }

    /// The writing process, and how many entries were ever appended.
    pub(crate) const fn tally(&self) -> (u64, u64) {
        (self.process, self.appended)
    }

    pub(crate) fn append(&mut self) -> LogEntry {
        let last = self.history.last().map(|(id, ..)| *id);
        let epoch = self.epochs.last().map(|(epoch, _)| *epoch);
        match (last, epoch) {
            (Some(last), Some(epoch)) if last.epoch == epoch && !self.deserted => {
                self.add(EntryId { epoch, seq: last.seq + 1 }, None)
            }
            _ => self.begin_epoch(10),
        }
    }

    fn add(&mut self, entry: EntryId, prev: Option<Predecessor>) -> LogEntry {
        let number = self.next;
        self.next += self.step;
        self.appended += 1;
        self.deserted = false;
        self.before.insert(entry, self.history.last().map(|(id, ..)| *id));
        self.history.push((entry, prev, number));
        LogEntry { entry, prev, event: Some(event(self.log, Some(entry), number)) }
    }

    /// Begins an epoch with the first free number from `from` on.
    fn begin_epoch(&mut self, from: u64) -> LogEntry {
        let last = self.history.last().map(|(id, ..)| *id);
        let floor = last.map_or(from, |last| from.max(last.epoch + 1));
        let epoch = (floor..).find(|epoch| !self.used.contains(epoch)).unwrap();
        self.used.insert(epoch);
        let prev = last.map_or(Predecessor::Start, Predecessor::Entry);
        self.epochs.push((epoch, prev));
        self.add(EntryId { epoch, seq: 0 }, Some(prev))
    }

    /// Another process takes over: in order, or a process that had not seen the last `lost` entries and whose clock may
    /// be behind.
    pub(crate) fn take_over(&mut self, lost: usize, behind: bool) -> LogEntry {
        self.lose(lost);
        let newest = self.used.last().copied().unwrap_or(0);
        self.begin_epoch(if behind { 1 } else { newest + 10 })
    }

    /// The last entries are rolled back, and no process writes for now.
    pub(crate) fn lose(&mut self, lost: usize) {
        self.deserted = true;
        self.process += 1;
        let lost = self.history.split_off(self.history.len().saturating_sub(lost));
        self.rolled_back.extend(lost.iter().map(|(id, _, number)| (*id, *number)));
        self.trimmed = self.trimmed.min(self.history.len());
        let last = self.history.last().map(|(id, ..)| *id);
        self.epochs.retain(|(epoch, _)| last.is_some_and(|last| *epoch <= last.epoch));
    }

    /// Copies the present state.
    pub(crate) fn save(&mut self) {
        self.copy = (self.history.clone(), self.epochs.clone());
    }

    /// The copy replaces the present state, and no process writes for now. What retention removed stays removed.
    pub(crate) fn restore(&mut self) {
        self.lose(self.history.len());
        (self.history, self.epochs) = self.copy.clone();
        self.trimmed = self.history.iter().rposition(|(id, ..)| self.removed.contains(id)).map_or(0, |at| at + 1);
    }

    /// Whether this number was ever rolled back.
    pub(crate) fn was_rolled_back(&self, number: u64) -> bool {
        self.rolled_back.values().any(|rolled_back| *rolled_back == number)
    }

    /// The position of a reader that has everything.
    pub(crate) fn start(&self) -> LogCursor {
        match self.history.last() {
            Some((last, ..)) => LogCursor::at_end(&EpochEnds::of(&self.epochs, Some(*last))),
            None => LogCursor::default(),
        }
    }

    pub(crate) fn page(&self, after: Option<EntryId>, up_to: Option<EntryId>, limit: usize) -> Vec<LogEntry> {
        let within = |id: EntryId| after.is_none_or(|after| id > after) && up_to.is_none_or(|up_to| id <= up_to);
        let page = self.entries().iter().filter(|(id, ..)| within(*id)).take(limit);
        page.map(|(id, prev, n)| LogEntry { entry: *id, prev: *prev, event: Some(event(self.log, Some(*id), *n)) })
            .collect()
    }

    /// The last entry of a log that is empty now.
    pub(crate) fn emptied(&self) -> Option<EntryId> {
        self.last().filter(|_| self.entries().is_empty())
    }

    pub(crate) fn ends(&self) -> EpochEnds {
        EpochEnds::of(&self.epochs, self.head())
    }
}

/// The events that one reader of one log received, checked against the history of the log: nothing twice, nothing lost
/// silently, no gap wider than the loss.
#[derive(Debug, Default)]
pub(crate) struct Account {
    /// The start position of the reader.
    start: Option<EntryId>,
    /// The entries that it has and that were not rolled back, in order, and whether they were delivered or declared as
    /// a gap.
    chain: Vec<(EntryId, bool)>,
    /// All entries that were ever delivered to it.
    delivered: HashSet<EntryId>,
}

impl Account {
    pub(crate) fn starting_after(start: Option<EntryId>) -> Self {
        Self { start, ..Self::default() }
    }

    pub(crate) fn delivered(&mut self, entry: EntryId) -> Result<(), String> {
        self.chain.push((entry, true));
        if self.delivered.insert(entry) { Ok(()) } else { Err(format!("{entry} was delivered twice")) }
    }

    fn last(&self) -> Option<EntryId> {
        self.chain.last().map(|(entry, _)| *entry).or(self.start)
    }

    /// Takes a declared gap, with the log in its present state.
    pub(crate) fn gap(&mut self, gap: &Gap, server: &Server) -> Result<(), String> {
        let last = self.last();
        if gap.cause.is_undone() {
            if last != Some(gap.through) {
                return Err(format!("{gap}: the reader was at {last:?}"));
            }
            while self.last() != gap.after {
                match self.chain.pop() {
                    Some((entry, _)) if server.rolled_back.contains_key(&entry) => {
                        self.delivered.remove(&entry);
                    }
                    Some((entry, false)) if server.tells_of(entry) => {}
                    Some((entry, _)) => return Err(format!("{gap}: {entry} was never rolled back")),
                    // Entries before the reader's start were rolled back as well.
                    None => {
                        self.start = gap.after;
                        break;
                    }
                }
            }
            return Ok(());
        }
        if gap.cause != GapCause::Trimmed {
            return Err(format!("{gap}: nothing here causes that"));
        }
        if gap.after != last {
            return Err(format!("{gap}: the reader was at {last:?}"));
        }
        // From the end of the gap back to the reader's position, along the log's former history.
        let mut covered = Vec::new();
        let mut at = Some(gap.through);
        while at != gap.after {
            let entry = at.ok_or_else(|| format!("{gap}: it does not follow {:?}", gap.after))?;
            if server.holds(entry) {
                return Err(format!("{gap}: the log still holds {entry}"));
            }
            covered.push((entry, false));
            at = *server.before.get(&entry).ok_or_else(|| format!("{gap}: there never was {entry}"))?;
        }
        self.chain.extend(covered.into_iter().rev());
        Ok(())
    }

    /// At the end, when the reader has received everything.
    pub(crate) fn settle(&self, server: &Server) -> Result<(), String> {
        let history = server.history.iter().map(|(id, ..)| *id);
        let from = match self.start {
            Some(start) => server.history.iter().position(|(id, ..)| *id == start).map(|at| at + 1),
            None => Some(0),
        };
        let from = from.ok_or_else(|| format!("the reader's start {:?} was rolled back silently", self.start))?;
        let expected: Vec<EntryId> = history.skip(from).collect();
        let found: Vec<EntryId> = self.chain.iter().map(|(entry, _)| *entry).collect();
        if expected == found {
            return Ok(());
        }
        let same = expected.iter().zip(&found).take_while(|(expected, found)| expected == found).count();
        let (wanted, came) = (&expected[same..], &found[same..]);
        Err(format!("after {same} entries: expected {wanted:?}, found {came:?}"))
    }
}

impl Server {
    fn holds(&self, entry: EntryId) -> bool {
        self.entries().iter().any(|(id, ..)| *id == entry)
    }

    fn tells_of(&self, entry: EntryId) -> bool {
        self.history.iter().any(|(id, ..)| *id == entry)
    }

    /// The entry before this one.
    pub(crate) fn before(&self, entry: EntryId) -> Option<EntryId> {
        self.before.get(&entry).copied().flatten()
    }

    /// The entry before the oldest present one.
    pub(crate) fn before_first(&self) -> Option<EntryId> {
        self.history[..self.trimmed].last().map(|(id, ..)| *id)
    }

    pub(crate) fn last(&self) -> Option<EntryId> {
        self.history.last().map(|(id, ..)| *id)
    }
}

/// The library's answer to a reader that has this entry of a log with that newest entry.
pub(crate) fn compared(newest: Option<Newest>, has: Option<Newest>) -> Head {
    match (newest, has) {
        (None, None) => Head::Known,
        (None, Some(_)) => Head::Empty,
        (Some(newest), Some(has))
            if has.entry == newest.entry && has.execution.is_none_or(|e| newest.execution == Some(e)) =>
        {
            Head::Known
        }
        (Some(newest), _) => Head::At(newest),
    }
}

/// The completion with this number; odd ones are of namespace `a`, even ones of `b`.
pub(crate) fn event(log: LogId, entry: Option<EntryId>, number: u64) -> Arc<CompletionPayload> {
    let id = ExecutionId::from_parts(log.partition, Uuid::from_u128(u128::from(number)));
    let mut event = CompletionPayload::new(id, None, Outcome::Success);
    event.position = entry.map(|entry| Position { log, entry });
    event.namespace = Namespace::new(if number % 2 == 1 { "a" } else { "b" }).ok();
    Arc::new(event)
}

pub(crate) fn number(event: &CompletionPayload) -> u64 {
    u64::try_from(event.execution_id.uuid().as_u128()).unwrap()
}
