//! The final state of a log.

use std::fmt;

use ff_core::{EntryId, ExecutionId};

/// One life of one execution, which ends once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct End {
    /// The execution.
    pub execution: ExecutionId,
    /// 0 for its first life, one more for each replay.
    pub generation: u32,
}

impl fmt::Display for End {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "the end of {}", self.execution)?;
        if self.generation > 0 { write!(f, " (life {})", self.generation + 1) } else { Ok(()) }
    }
}

/// A log's history, as the log itself has it.
#[derive(Debug, Clone, Default)]
pub struct LogTruth {
    /// The last entry of each epoch, in order.
    ends: Vec<EntryId>,
    /// The entries of the log and those that retention removed, in order.
    entries: Vec<(EntryId, End)>,
    /// The entries that retention removed.
    trimmed: Vec<EntryId>,
}

impl LogTruth {
    /// A log with the last entry `last`, the `epochs` with the entry before each, the entries `held`, and the entries
    /// `trimmed` that retention removed.
    #[must_use]
    pub fn new(
        last: Option<EntryId>,
        epochs: &[(u64, Option<EntryId>)],
        held: impl IntoIterator<Item = (EntryId, End)>,
        trimmed: impl IntoIterator<Item = (EntryId, End)>,
    ) -> Self {
        let before = |of: EntryId| epochs.iter().find(|(epoch, _)| *epoch == of.epoch).and_then(|(_, prev)| *prev);
        let mut ends: Vec<EntryId> = std::iter::successors(last, |end| before(*end)).collect();
        ends.sort_unstable();
        let mut truth = Self { ends, ..Self::default() };
        let mut entries: Vec<_> = held.into_iter().collect();
        // An entry trimmed from a history that was rolled back since does not belong to this one.
        let gone: Vec<_> = trimmed.into_iter().filter(|(entry, _)| truth.has_in_history(*entry)).collect();
        truth.trimmed = gone.iter().map(|(entry, _)| *entry).collect();
        truth.trimmed.sort_unstable();
        entries.extend(gone);
        entries.sort_unstable();
        entries.dedup();
        truth.entries = entries;
        truth
    }

    /// Whether this position belongs to the log's history: it was committed and not rolled back.
    #[must_use]
    pub fn has_in_history(&self, entry: EntryId) -> bool {
        self.ends.iter().any(|end| end.epoch == entry.epoch && entry.seq <= end.seq)
    }

    /// The last entry of its history.
    #[must_use]
    pub fn last(&self) -> Option<EntryId> {
        self.ends.last().copied()
    }

    /// Whether one of the `earlier` states, oldest first, shows that `entry`, which is in this history, was rolled back
    /// for a while: then the log had another history, or less of this one than before.
    pub(super) fn was_restored(&self, entry: EntryId, earlier: &[&Self]) -> bool {
        let lost = |then: &Self, had: &Self| {
            had.last().is_some_and(|last| self.has_in_history(last) && !then.has_in_history(last))
        };
        earlier.iter().enumerate().any(|(moment, then)| {
            let is_other = then.last().is_some_and(|last| !self.has_in_history(last));
            !then.has_in_history(entry) && (is_other || earlier[..moment].iter().any(|had| lost(then, had)))
        })
    }

    /// All known entries of its history, in order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (EntryId, End)> + '_ {
        self.entries.iter().copied()
    }

    /// The entries after `after` up to and including `through`.
    pub(super) fn between(
        &self,
        after: Option<EntryId>,
        through: EntryId,
    ) -> impl DoubleEndedIterator<Item = (EntryId, End)> + '_ {
        let from = after.map_or(0, |after| self.entries.partition_point(|(entry, _)| *entry <= after));
        let to = self.entries.partition_point(|(entry, _)| *entry <= through).max(from);
        self.entries[from..to].iter().copied()
    }

    /// The end at this position.
    pub(super) fn end_at(&self, entry: EntryId) -> Option<End> {
        let at = self.entries.binary_search_by_key(&entry, |(entry, _)| *entry).ok()?;
        Some(self.entries[at].1)
    }

    /// Whether retention removed it.
    pub(super) fn is_trimmed(&self, entry: EntryId) -> bool {
        self.trimmed.binary_search(&entry).is_ok()
    }

    /// The position after this one in the log's history.
    pub(super) fn next(&self, after: Option<EntryId>) -> Option<EntryId> {
        let first_of = |end: &EntryId| EntryId { epoch: end.epoch, seq: 0 };
        let Some(after) = after else { return self.ends.first().map(first_of) };
        let at = self.ends.iter().position(|end| end.epoch == after.epoch)?;
        if after.seq < self.ends[at].seq {
            return Some(EntryId { seq: after.seq + 1, ..after });
        }
        self.ends.get(at + 1).map(first_of)
    }
}
