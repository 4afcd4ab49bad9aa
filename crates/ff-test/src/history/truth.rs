//! A log as it stands in the end.

use std::fmt;

use ff_core::{EntryId, ExecutionId};

/// One life of one execution, which ends once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct End {
    /// Whose.
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

/// What a log's history is, by the log itself.
#[derive(Debug, Clone, Default)]
pub struct LogTruth {
    /// The last entry of each epoch, in order.
    ends: Vec<EntryId>,
    /// What it holds and what retention took from it, in order.
    entries: Vec<(EntryId, End)>,
    /// What of it retention took.
    trimmed: Vec<EntryId>,
}

impl LogTruth {
    /// A log whose last entry is `last`, whose `epochs` are each with the entry before it, that holds `held`, and from
    /// which retention took `trimmed`.
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
        // What was trimmed from a history that was undone since is no entry of this one.
        let gone: Vec<_> = trimmed.into_iter().filter(|(entry, _)| truth.tells_of(*entry)).collect();
        truth.trimmed = gone.iter().map(|(entry, _)| *entry).collect();
        truth.trimmed.sort_unstable();
        entries.extend(gone);
        entries.sort_unstable();
        entries.dedup();
        truth.entries = entries;
        truth
    }

    /// Whether this position belongs to the log's history: it was committed and is not undone.
    #[must_use]
    pub fn tells_of(&self, entry: EntryId) -> bool {
        self.ends.iter().any(|end| end.epoch == entry.epoch && entry.seq <= end.seq)
    }

    /// The last entry of its history.
    #[must_use]
    pub fn last(&self) -> Option<EntryId> {
        self.ends.last().copied()
    }

    /// Whether one of the `earlier` moments, oldest first, shows that `entry`, of which this log tells, was undone for a
    /// while: another history stood then, or less of this one than before.
    pub(super) fn has_back(&self, entry: EntryId, earlier: &[&Self]) -> bool {
        let lost = |then: &Self, had: &Self| had.last().is_some_and(|last| self.tells_of(last) && !then.tells_of(last));
        earlier.iter().enumerate().any(|(moment, then)| {
            let is_other = then.last().is_some_and(|last| !self.tells_of(last));
            !then.tells_of(entry) && (is_other || earlier[..moment].iter().any(|had| lost(then, had)))
        })
    }

    /// All that is known to be in its history, in order.
    pub fn entries(&self) -> impl DoubleEndedIterator<Item = (EntryId, End)> + '_ {
        self.entries.iter().copied()
    }

    /// Those after `after` up to and including `through`.
    pub(super) fn between(
        &self,
        after: Option<EntryId>,
        through: EntryId,
    ) -> impl DoubleEndedIterator<Item = (EntryId, End)> + '_ {
        let from = after.map_or(0, |after| self.entries.partition_point(|(entry, _)| *entry <= after));
        let to = self.entries.partition_point(|(entry, _)| *entry <= through).max(from);
        self.entries[from..to].iter().copied()
    }

    /// What stands there.
    pub(super) fn end_at(&self, entry: EntryId) -> Option<End> {
        let at = self.entries.binary_search_by_key(&entry, |(entry, _)| *entry).ok()?;
        Some(self.entries[at].1)
    }

    /// Whether retention took it.
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
