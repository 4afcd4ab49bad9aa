//! The reader's rule: what a reader of one log does with an entry that it observes.
//!
//! Neither order nor sequence number distinguishes a duplicate from a new entry. A failover to a replica that lagged
//! can roll back entries that were delivered, and the new primary numbers its own entries in a new epoch, whose value
//! may be smaller than the old one (clocks differ). So an entry is delivered only if it *proves* that it follows the
//! reader's last entry, and is dropped only if the reader *knows* that it has passed it. In all other cases the reader
//! reads the log, which is the only authority.
//!
//! ```text
//! shown: same epoch, seq = last + 1      -> deliver
//! shown: prev = last                     -> deliver (an epoch begins)
//! shown: an epoch passed, seq <= passed  -> duplicate
//! anything else                          -> read the log after `last`
//! ```
//!
//! [`LogReader`] applies the rule, reads the log, and finds the part of the reader's history that the log no longer
//! contains. All readers of a backend use it: it alone finds gaps and moves cursors.
//!
//! Rolled-back entries can return: a server starts from an old file, or a replica never received the FLUSHALL. So a
//! *pushed* entry that was rolled back is a duplicate, because the push may be late. A rolled-back entry that is read
//! from the *log* is new again and is delivered again, because the reader has reported it as gone.

mod ends;
mod lag;
mod log_reader;
mod predecessor;

use std::sync::Arc;

pub use ends::EpochEnds;
pub use lag::{LogFacts, LogLimits};
pub use log_reader::{LogEntry, LogItem, LogItems, LogReader};
pub use predecessor::Predecessor;

use crate::{EntryId, Gap, GapCause};

/// How many epochs a cursor remembers in addition to its current one. An older duplicate only costs one read of the
/// log; a rewrite that reaches further back is declared from the log's beginning.
const REMEMBERED_EPOCHS: usize = 8;

/// What a reader does with an entry that it observes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "complete by definition")]
pub enum Verdict {
    /// It is the next one.
    Deliver,
    /// It was passed before.
    Duplicate,
    /// Entries may be missing in between: read the log after [`LogCursor::last`].
    ReadLog,
}

/// The start of a reader, or its last entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
enum Place {
    /// Before the log's first entry: every entry that is not delivered is missing.
    #[default]
    Start,
    /// Before the oldest entry that the log still holds: entries that were removed earlier are not missing.
    Earliest,
    /// After this entry.
    After(EntryId),
}

/// The position of a reader in one log. Cloning copies no history.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogCursor {
    place: Place,
    /// The last entries of the epochs passed before the current one, newest last.
    passed: Arc<[EntryId]>,
    /// The last entries of epochs with rolled-back entries, newest last.
    undone: Arc<[EntryId]>,
}

impl LogCursor {
    /// A reader that has everything up to and including `last`; with `None`, a reader at the start of an empty log.
    #[must_use]
    pub fn after(last: Option<EntryId>) -> Self {
        Self::with_history(last, &[])
    }

    /// A reader that starts at the oldest entry that the log still holds.
    #[must_use]
    pub fn earliest() -> Self {
        Self { place: Place::Earliest, ..Self::default() }
    }

    /// As [`LogCursor::after`]; `passed` are the known last entries of the epochs before that of `last`, newest last.
    #[must_use]
    pub fn with_history(last: Option<EntryId>, passed: &[EntryId]) -> Self {
        Self::restored(last, passed, &[])
    }

    /// Restores a saved reader; `undone` is the result of [`LogCursor::undone`].
    pub(crate) fn restored(last: Option<EntryId>, passed: &[EntryId], undone: &[EntryId]) -> Self {
        Self {
            place: last.map_or(Place::Start, Place::After),
            passed: newest(passed.iter().copied()),
            undone: newest(undone.iter().copied()),
        }
    }

    /// A reader at the end of a log with these ends of epochs, newest first.
    #[must_use]
    pub fn at_end(ends: &[EntryId]) -> Self {
        let history: Vec<EntryId> = ends.iter().skip(1).rev().copied().collect();
        Self::with_history(ends.first().copied(), &history)
    }

    /// The newest entry that the reader has.
    #[must_use]
    pub const fn last(&self) -> Option<EntryId> {
        match self.place {
            Place::After(last) => Some(last),
            Place::Start | Place::Earliest => None,
        }
    }

    /// The ends of earlier epochs that the reader remembers as passed, newest last.
    #[must_use]
    pub fn passed(&self) -> &[EntryId] {
        &self.passed
    }

    /// The ends of epochs of which the reader had entries that were rolled back, newest last.
    pub(crate) fn undone(&self) -> &[EntryId] {
        &self.undone
    }

    /// Whether the reader accepts any entry as the first one.
    #[must_use]
    pub const fn is_earliest(&self) -> bool {
        matches!(self.place, Place::Earliest)
    }

    /// What to do with the pushed entry `shown`; `prev` is what an epoch's first entry records about the log before it.
    #[must_use]
    pub fn judge(&self, shown: EntryId, prev: Option<Predecessor>) -> Verdict {
        if self.had(shown) {
            return Verdict::Duplicate;
        }
        if self.is_followed_by(shown, prev) { Verdict::Deliver } else { Verdict::ReadLog }
    }

    /// Whether `shown` directly follows the reader's last entry.
    fn is_followed_by(&self, shown: EntryId, prev: Option<Predecessor>) -> bool {
        match (self.place, prev) {
            (Place::After(last), _) if shown.epoch == last.epoch => last.seq.checked_add(1) == Some(shown.seq),
            (Place::After(last), Some(prev)) => prev == Predecessor::Entry(last),
            (Place::Start | Place::Earliest, Some(prev)) => prev == Predecessor::Start,
            (_, None) => false,
        }
    }

    /// Moves the reader to `entry`, which has been delivered.
    pub fn advance(&mut self, entry: EntryId) {
        if let Some(last) = self.last().filter(|last| last.epoch != entry.epoch) {
            self.passed = newest(self.passed.iter().copied().chain([last]));
        }
        self.place = Place::After(entry);
    }

    /// Moves the reader back to `common`, the newest of its entries that the log's history still contains. The reader
    /// remembers the later entries as rolled back, so that late pushes of them are duplicates.
    fn rewind(&mut self, common: Option<EntryId>) {
        let undone = self.go_back(common);
        self.undone = newest(self.undone.iter().copied().chain(undone));
    }

    /// As [`LogCursor::rewind`], for positions that the log may still fill: pushes of them are new entries.
    fn retract(&mut self, common: Option<EntryId>) {
        self.go_back(common);
    }

    /// Moves the reader past a gap that it received.
    pub fn pass(&mut self, gap: &Gap) {
        match gap.cause {
            GapCause::HistoryRewritten | GapCause::LogRecreated => self.rewind(gap.after),
            GapCause::Forged => self.retract(gap.after),
            GapCause::Trimmed | GapCause::Unreadable | GapCause::Overflow => self.advance(gap.through),
        }
    }

    /// Goes back, and returns the ends of the epochs of which entries are left behind.
    fn go_back(&mut self, common: Option<EntryId>) -> Vec<EntryId> {
        let mut had: Vec<EntryId> = self.passed.iter().copied().chain(self.last()).collect();
        let kept = common.map_or(0, |common| had.iter().take_while(|end| end.epoch != common.epoch).count());
        let left = had.split_off(kept);
        self.passed = newest(had.into_iter());
        self.place = common.map_or(Place::Start, Place::After);
        left
    }

    /// Whether the reader has this entry and it is not known to be rolled back.
    #[must_use]
    pub fn has(&self, shown: EntryId) -> bool {
        self.reached_in(shown.epoch).is_some_and(|reached| shown.seq <= reached)
    }

    /// Whether the reader has this entry, or had it before it was rolled back.
    #[must_use]
    pub fn had(&self, shown: EntryId) -> bool {
        let is_passed = |end: &EntryId| end.epoch == shown.epoch && shown.seq <= end.seq;
        self.has(shown) || self.undone.iter().any(is_passed)
    }

    /// The greatest sequence number of an epoch that the reader has.
    fn reached_in(&self, epoch: u64) -> Option<u64> {
        self.lineage().find(|last| last.epoch == epoch).map(|last| last.seq)
    }

    /// The newest entry that both the reader and a log with these ends of epochs have had.
    ///
    /// If the log has forgotten its first epochs, the reader's entries from before the known epochs count as common:
    /// the log holds none of these entries any more, so their history does not matter.
    #[must_use]
    pub fn common_with(&self, ends: &EpochEnds) -> Option<EntryId> {
        let known = ends.iter().find_map(|end| {
            let reached = self.reached_in(end.epoch)?;
            Some(EntryId { epoch: end.epoch, seq: reached.min(end.seq) })
        });
        known.or_else(|| self.lineage().find(|had| ends.has_forgotten(had.epoch)))
    }

    /// The last entries that the reader has of each epoch, newest first.
    fn lineage(&self) -> impl Iterator<Item = EntryId> {
        self.last().into_iter().chain(self.passed.iter().rev().copied())
    }

    /// How many entries a log with these ends of epochs (newest first) has had after this reader. An epoch that is not
    /// among the ends counts as empty.
    #[must_use]
    pub fn unread(&self, ends: &[EntryId]) -> u64 {
        ends.iter()
            .map(|end| match self.reached_in(end.epoch) {
                Some(reached) => end.seq.saturating_sub(reached),
                None => end.seq.saturating_add(1),
            })
            .fold(0, u64::saturating_add)
    }
}

fn newest(ends: impl Iterator<Item = EntryId>) -> Arc<[EntryId]> {
    let ends: Vec<EntryId> = ends.collect();
    ends[ends.len().saturating_sub(REMEMBERED_EPOCHS)..].into()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn id(epoch: u64, seq: u64) -> EntryId {
        EntryId { epoch, seq }
    }

    fn at(epoch: u64, seq: u64) -> LogCursor {
        LogCursor::after(Some(id(epoch, seq)))
    }

    #[test]
    fn the_next_number_of_the_same_epoch_is_delivered() {
        assert_eq!(at(5, 3).judge(id(5, 4), None), Verdict::Deliver);
    }

    #[test]
    fn a_hole_in_the_numbers_makes_the_reader_read_the_log() {
        assert_eq!(at(5, 3).judge(id(5, 5), None), Verdict::ReadLog);
    }

    #[test]
    fn a_number_already_passed_is_a_duplicate() {
        assert_eq!(at(5, 3).judge(id(5, 3), None), Verdict::Duplicate);
        assert_eq!(at(5, 3).judge(id(5, 0), Some(Predecessor::Start)), Verdict::Duplicate);
    }

    #[test]
    fn an_epoch_that_begins_right_after_the_cursor_is_delivered() {
        for epoch in [1, 9] {
            let follows = Some(Predecessor::Entry(id(5, 3)));
            assert_eq!(at(5, 3).judge(id(epoch, 0), follows), Verdict::Deliver);
        }
    }

    #[test]
    fn an_epoch_that_begins_elsewhere_makes_the_reader_read_the_log() {
        // A promoted replica had only 5-1: 5-2 and 5-3 were rolled back.
        assert_eq!(at(5, 3).judge(id(9, 0), Some(Predecessor::Entry(id(5, 1)))), Verdict::ReadLog);
        assert_eq!(at(5, 3).judge(id(9, 1), None), Verdict::ReadLog);
        assert_eq!(at(5, 3).judge(id(9, 0), Some(Predecessor::Start)), Verdict::ReadLog);
    }

    #[test]
    fn the_first_entry_of_an_empty_log_is_delivered() {
        let empty = LogCursor::default();
        assert_eq!(empty.judge(id(5, 0), Some(Predecessor::Start)), Verdict::Deliver);
        assert_eq!(empty.judge(id(5, 1), None), Verdict::ReadLog);
    }

    #[test]
    fn an_entry_of_an_epoch_passed_before_is_a_duplicate() {
        let mut cursor = at(5, 3);
        cursor.advance(id(9, 0));
        assert_eq!(cursor.judge(id(5, 2), None), Verdict::Duplicate);
        assert_eq!(cursor.judge(id(5, 4), None), Verdict::ReadLog);
    }

    proptest! {
        /// A log of random epochs, shown with drops, repeats and swaps: what is delivered is a prefix-free run of the
        /// log in order, and reading the log where the rule asks for it makes it whole.
        #[test]
        fn the_reader_delivers_every_entry_once_and_in_order(
            epochs in prop::collection::vec((1u64..1_000_000, 1u64..6), 1..6),
            shown in prop::collection::vec(0usize..30, 0..80),
        ) {
            let mut log: Vec<(EntryId, Option<Predecessor>)> = Vec::new();
            let mut used = std::collections::HashSet::new();
            for (epoch, len) in epochs {
                if !used.insert(epoch) { continue; }
                for seq in 0..len {
                    let prev = (seq == 0).then(|| {
                        log.last().map_or(Predecessor::Start, |(last, _)| Predecessor::Entry(*last))
                    });
                    log.push((id(epoch, seq), prev));
                }
            }
            let mut cursor = LogCursor::default();
            let mut delivered: Vec<EntryId> = Vec::new();
            for index in shown.into_iter().map(|n| n % log.len()).chain([log.len() - 1]) {
                let (entry, prev) = log[index];
                match cursor.judge(entry, prev) {
                    Verdict::Duplicate => prop_assert!(delivered.contains(&entry)),
                    Verdict::Deliver => {
                        delivered.push(entry);
                        cursor.advance(entry);
                    }
                    Verdict::ReadLog => {
                        let index_of = |last| log.iter().position(|(entry, _)| *entry == last).unwrap();
                        let from = cursor.last().map_or(0, |last| index_of(last) + 1);
                        for (entry, prev) in &log[from..=index.max(from.saturating_sub(1)).min(log.len() - 1)] {
                            prop_assert_eq!(cursor.judge(*entry, *prev), Verdict::Deliver);
                            delivered.push(*entry);
                            cursor.advance(*entry);
                        }
                    }
                }
            }
            prop_assert_eq!(delivered, log.iter().map(|(entry, _)| *entry).collect::<Vec<_>>());
        }
    }
}
