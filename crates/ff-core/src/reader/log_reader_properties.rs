//! A reader against a simple model of a log: nothing is lost silently, nothing comes twice, no gap is too wide.

use std::collections::{HashMap, HashSet};

use proptest::prelude::*;

use super::*;
use crate::{Partition, Scope};

const LOG: LogId = LogId { partition: Partition::new(0), scope: Scope::Flows };

/// A change of the log, or a turn of the reader.
#[derive(Debug, Clone)]
enum Op {
    Append {
        is_readable: bool,
    },
    /// Another process writes from now on; its clock may be behind.
    BeginEpoch {
        is_behind: bool,
    },
    /// The last entries are rolled back.
    Lose(usize),
    Delete,
    Trim(usize),
    /// A copy of the log, and its return.
    Save,
    Restore,
    /// A push of an entry that existed at some time.
    Push(prop::sample::Index),
    /// The next page is requested.
    Request(usize),
    /// What was requested arrives.
    Take,
    /// The epochs are looked up, as after a comparison of heads.
    LookUp,
}

fn op() -> impl Strategy<Value = Op> {
    prop_oneof![
        8 => prop::bool::weighted(0.9).prop_map(|is_readable| Op::Append { is_readable }),
        2 => any::<bool>().prop_map(|is_behind| Op::BeginEpoch { is_behind }),
        2 => (1usize..6).prop_map(Op::Lose),
        1 => Just(Op::Delete),
        2 => (1usize..6).prop_map(Op::Trim),
        1 => Just(Op::Save),
        1 => Just(Op::Restore),
        4 => any::<prop::sample::Index>().prop_map(Op::Push),
        6 => (1usize..6).prop_map(Op::Request),
        6 => Just(Op::Take),
        2 => Just(Op::LookUp),
    ]
}

type Entry = LogEntry<EntryId>;

/// A log as a server keeps it.
#[derive(Debug, Default)]
struct Model {
    /// The current history; the first `trimmed` entries are removed.
    history: Vec<Entry>,
    trimmed: usize,
    epochs: Vec<(u64, Predecessor)>,
    /// The next append begins an epoch, from this number on.
    next_epoch: Option<u64>,
    used: HashSet<u64>,
    /// Every entry that ever existed, with the entry before it.
    ever: Vec<Entry>,
    before: HashMap<EntryId, Option<EntryId>>,
    rolled_back: HashSet<EntryId>,
    removed: HashSet<EntryId>,
    saved: (Vec<Entry>, Vec<(u64, Predecessor)>),
}

impl Model {
    fn last(&self) -> Option<EntryId> {
        self.history.last().map(|last| last.entry)
    }

    fn held(&self) -> &[Entry] {
        &self.history[self.trimmed..]
    }

    fn holds(&self, entry: EntryId) -> bool {
        self.held().iter().any(|held| held.entry == entry)
    }

    fn append(&mut self, is_readable: bool) {
        let last = self.last();
        let (entry, prev) = match (last, self.next_epoch.take()) {
            (Some(last), None) => (EntryId { seq: last.seq + 1, ..last }, None),
            (_, from) => {
                // Within one history epochs grow, and no two processes share one.
                let floor = last.map_or(1, |last| last.epoch + 1).max(from.unwrap_or(1));
                let epoch = (floor..).find(|epoch| !self.used.contains(epoch)).unwrap_or(floor);
                self.used.insert(epoch);
                let prev = last.map_or(Predecessor::Start, Predecessor::Entry);
                self.epochs.push((epoch, prev));
                (EntryId { epoch, seq: 0 }, Some(prev))
            }
        };
        let entry = LogEntry { entry, prev, event: is_readable.then_some(entry) };
        self.before.insert(entry.entry, last);
        self.history.push(entry);
        self.ever.push(entry);
    }

    fn begin_epoch(&mut self, is_behind: bool) {
        let newest = self.used.iter().max().copied().unwrap_or(0);
        self.next_epoch = Some(if is_behind { 1 } else { newest + 10 });
    }

    fn lose(&mut self, count: usize) {
        let lost = self.history.split_off(self.history.len().saturating_sub(count));
        self.rolled_back.extend(lost.iter().map(|lost| lost.entry));
        self.trimmed = self.trimmed.min(self.history.len());
        let last = self.last();
        self.epochs.retain(|(epoch, _)| last.is_some_and(|last| *epoch <= last.epoch));
        self.begin_epoch(true);
    }

    fn trim(&mut self, count: usize) {
        self.trimmed = self.history.len().min(self.trimmed + count);
        self.removed.extend(self.history[..self.trimmed].iter().map(|gone| gone.entry));
    }

    fn restore(&mut self) {
        self.lose(self.history.len());
        (self.history, self.epochs) = self.saved.clone();
        let is_removed = |entry: &Entry| self.removed.contains(&entry.entry);
        self.trimmed = self.history.iter().rposition(is_removed).map_or(0, |at| at + 1);
    }

    fn page(&self, after: Option<EntryId>, limit: usize) -> Vec<Entry> {
        let is_after = |entry: &&Entry| after.is_none_or(|after| entry.entry > after);
        self.held().iter().filter(is_after).take(limit).copied().collect()
    }

    fn ends(&self) -> EpochEnds {
        EpochEnds::of(&self.epochs, self.held().last().map(|head| head.entry))
    }
}

/// A driver of the reader, and what it has handed out: the entries that are not rolled back, in order, and whether each
/// was read or only trimmed.
struct Driver {
    reader: LogReader,
    handed_out: Vec<(EntryId, bool)>,
    /// The epochs must be fetched before the next page.
    wants_epochs: bool,
    requested: Option<(Vec<Entry>, EpochEnds)>,
}

impl Driver {
    fn new() -> Self {
        let reader = LogReader::new(LOG, LogCursor::default());
        Self { reader, handed_out: Vec::new(), wants_epochs: false, requested: None }
    }

    fn last(&self) -> Option<EntryId> {
        self.handed_out.last().map(|(entry, _)| *entry)
    }

    fn gap(&mut self, gap: &Gap, log: &Model) -> Result<(), TestCaseError> {
        match gap.cause {
            GapCause::HistoryRewritten | GapCause::LogRecreated => {
                prop_assert_eq!(self.last(), Some(gap.through), "{}", gap);
                prop_assert_eq!(gap.after.is_none(), gap.cause == GapCause::LogRecreated, "{}", gap);
                while self.last() != gap.after {
                    let popped = self.handed_out.pop().ok_or_else(|| TestCaseError::fail(format!("{gap}")))?;
                    // A reader remembers no epochs within trimmed entries, so it may declare these once more.
                    let (entry, was_read) = popped;
                    let is_exact = !was_read || log.rolled_back.contains(&entry);
                    prop_assert!(is_exact, "{}: {} was never rolled back", gap, entry);
                }
            }
            GapCause::Trimmed | GapCause::Unreadable => {
                prop_assert_eq!(self.last(), gap.after, "{}", gap);
                let mut covered = Vec::new();
                let mut at = Some(gap.through);
                while at != gap.after {
                    let entry = at.ok_or_else(|| TestCaseError::fail(format!("{gap} does not follow")))?;
                    let is_trimmed = gap.cause == GapCause::Trimmed;
                    prop_assert!(!is_trimmed || !log.holds(entry), "{}: the log holds {}", gap, entry);
                    covered.push((entry, !is_trimmed));
                    at = log.before[&entry];
                }
                prop_assert!(gap.cause == GapCause::Trimmed || covered.len() == 1, "{}", gap);
                self.handed_out.extend(covered.into_iter().rev());
            }
            _ => return Err(TestCaseError::fail(format!("{gap}: nothing here causes that"))),
        }
        self.reader.pass(gap);
        Ok(())
    }

    /// Reads entries until one does not follow.
    fn read(&mut self, entries: Vec<Entry>, log: &Model) -> Result<(), TestCaseError> {
        for shown in entries {
            let Ok(items) = self.reader.read(shown) else {
                self.wants_epochs = true;
                return Ok(());
            };
            for item in items {
                match item {
                    LogItem::Gap(gap) => self.gap(&gap, log)?,
                    LogItem::Event(entry, event) => {
                        prop_assert_eq!(entry, event);
                        prop_assert_eq!(log.before[&entry], self.last(), "{} was handed out", entry);
                        self.handed_out.push((entry, true));
                        self.reader.advance(entry);
                    }
                }
            }
        }
        prop_assert_eq!(self.reader.cursor().last(), self.last());
        Ok(())
    }

    fn request(&mut self, limit: usize, log: &Model) {
        if self.requested.is_none() {
            self.requested = Some((log.page(self.reader.after(), limit), log.ends()));
        }
    }

    fn take(&mut self, log: &Model) -> Result<(), TestCaseError> {
        let Some((page, ends)) = self.requested.take() else { return Ok(()) };
        if std::mem::take(&mut self.wants_epochs) {
            return self.resolve(&ends, log);
        }
        self.read(page, log)
    }

    fn resolve(&mut self, ends: &EpochEnds, log: &Model) -> Result<(), TestCaseError> {
        self.reader.resolve(ends).map_or(Ok(()), |gap| self.gap(&gap, log))
    }

    fn push(&mut self, pushed: Entry, log: &Model) -> Result<(), TestCaseError> {
        // A log has one way in at a time: a driver that reads it holds pushes back.
        if self.requested.is_some() || self.wants_epochs {
            return Ok(());
        }
        match self.reader.judge(&pushed) {
            Verdict::Deliver => self.read(vec![pushed], log),
            Verdict::Duplicate => {
                let is_pushed = |(entry, _): &(EntryId, bool)| *entry == pushed.entry;
                let had = self.handed_out.iter().any(is_pushed) || log.rolled_back.contains(&pushed.entry);
                prop_assert!(had, "{} was dropped and never handed out", pushed.entry);
                Ok(())
            }
            Verdict::ReadLog => {
                self.request(1, log);
                Ok(())
            }
        }
    }

    /// Compares and reads until the reader has everything.
    fn settle(&mut self, log: &Model) -> Result<(), TestCaseError> {
        self.requested = None;
        self.reader.restart();
        self.resolve(&log.ends(), log)?;
        for _ in 0..10 * (log.history.len() + 1) {
            self.request(3, log);
            self.take(log)?;
        }
        Ok(())
    }
}

fn run(ops: Vec<Op>) -> Result<(), TestCaseError> {
    let (mut log, mut driver) = (Model::default(), Driver::new());
    for op in ops {
        match op {
            Op::Append { is_readable } => log.append(is_readable),
            Op::BeginEpoch { is_behind } => log.begin_epoch(is_behind),
            Op::Lose(count) => log.lose(count),
            Op::Delete => log.lose(log.history.len()),
            Op::Trim(count) => log.trim(count),
            Op::Save => log.saved = (log.history.clone(), log.epochs.clone()),
            Op::Restore => log.restore(),
            Op::Push(_) if log.ever.is_empty() => {}
            Op::Push(index) => driver.push(*index.get(&log.ever), &log)?,
            Op::Request(limit) => driver.request(limit, &log),
            Op::Take => driver.take(&log)?,
            Op::LookUp if driver.requested.is_some() => {}
            Op::LookUp => driver.resolve(&log.ends(), &log)?,
        }
    }
    // So that the log has a head: without one a reader cannot see what was trimmed.
    log.append(true);
    driver.settle(&log)?;
    let expected: Vec<EntryId> = log.history.iter().map(|entry| entry.entry).collect();
    let handed_out: Vec<EntryId> = driver.handed_out.into_iter().map(|(entry, _)| entry).collect();
    prop_assert_eq!(handed_out, expected);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1000))]
    #[test]
    fn every_entry_of_a_log_is_handed_out_once_or_lies_in_an_exact_gap(ops in prop::collection::vec(op(), 0..60)) {
        run(ops)?;
    }
}
