//! Reads one log when pushes alone do not show what follows.
//!
//! Reading after the cursor's id finds everything as long as the log still has the history that the reader knows. That
//! can change: a failover to a replica that lagged rolls entries back, and the new primary continues in an epoch whose
//! number can even be smaller. So an entry that does not follow the cursor is not trusted immediately. The log's epochs
//! are fetched, and the histories part after the newest entry that both reader and log have had:
//!
//! 1. The reader's entries after it were rolled back: a gap, [`GapCause::HistoryRewritten`], or
//!    [`GapCause::LogRecreated`] if they have nothing in common. The reader goes back to the common entry and continues
//!    from there.
//! 2. If the next entry still does not follow, it is the oldest one that the log holds: all entries in between were
//!    removed, a gap, [`GapCause::Trimmed`].

use super::EpochEnds;
use crate::{
    EntryId, Gap, GapCause, LogId,
    reader::{LogCursor, Predecessor},
};

/// How often the epochs are fetched for an entry that they do not contain.
const LOOKS: u32 = 2;

/// What to do with an entry that was read from the log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "complete by definition")]
pub enum Step {
    /// It is the next one; the entries of this range are missing before it. The cursor has moved.
    Deliver(Option<Gap>),
    /// The reader has it.
    Skip,
    /// It does not follow: fetch the log's epochs, call [`LogReading::resolve`], and read again.
    LookUp,
}

/// The state of reading one log from a cursor on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogReading {
    log: LogId,
    after: Option<EntryId>,
    /// The entry for which the epochs are being, or were, fetched.
    asked: Option<EntryId>,
    /// The entry in the log that does not follow, and how often the epochs were fetched since.
    shown: Option<(EntryId, u32)>,
    /// The ends of the log's epochs, if they were fetched for it.
    ends: Option<EpochEnds>,
}

impl LogReading {
    /// A reading that begins after `cursor`.
    #[must_use]
    pub const fn from(log: LogId, cursor: &LogCursor) -> Self {
        Self::after_entry(log, cursor.last())
    }

    const fn after_entry(log: LogId, after: Option<EntryId>) -> Self {
        Self { log, after, asked: None, shown: None, ends: None }
    }

    /// The id after which the next page starts.
    #[must_use]
    pub const fn after(&self) -> Option<EntryId> {
        self.after
    }

    /// Whether the epochs have been fetched since `entry` was first claimed to be in the log. If not, the caller must
    /// fetch them.
    pub fn is_resolved_for(&mut self, entry: EntryId) -> bool {
        if self.asked != Some(entry) {
            (self.asked, self.ends) = (Some(entry), None);
        }
        self.ends.is_some()
    }

    /// Whether the fetched epochs belong to the history of `entry`. An epoch has one writer, so the history before any
    /// of its entries never changes.
    fn tells_of(&self, entry: EntryId) -> bool {
        self.ends.iter().flat_map(|ends| ends.iter()).any(|end| end.epoch == entry.epoch)
    }

    /// Whether the epochs, fetched repeatedly for `entry`, do not contain it although the log does: they were lost or
    /// forgotten. After a single fetch, the log may also have been a different one at that moment.
    fn was_looked_up_in_vain(&mut self, entry: EntryId) -> bool {
        let (shown, looks) = *self.shown.get_or_insert((entry, 0));
        if shown != entry {
            self.shown = Some((entry, 0));
        }
        shown == entry && looks >= LOOKS
    }

    /// Whether the log had contained `entry` when its epochs were last fetched.
    #[must_use]
    pub fn log_had(&self, entry: EntryId) -> bool {
        self.ends.iter().flat_map(|ends| ends.iter()).any(|end| end.epoch == entry.epoch && entry.seq <= end.seq)
    }

    /// Handles the next entry of a page. Moves `cursor` if the entry must be delivered.
    pub fn step(&mut self, cursor: &mut LogCursor, entry: EntryId, prev: Option<Predecessor>) -> Step {
        if cursor.has(entry) {
            self.after = Some(entry);
            return Step::Skip;
        }
        let gap = if cursor.is_earliest() || cursor.is_followed_by(entry, prev) {
            None
        } else if self.tells_of(entry) || self.was_looked_up_in_vain(entry) {
            self.before(cursor, entry, prev)
        } else {
            return Step::LookUp;
        };
        cursor.advance(entry);
        *self = Self::after_entry(self.log, Some(entry));
        Step::Deliver(gap)
    }

    /// The entries between the cursor and `entry`, which the log no longer holds.
    fn before(&self, cursor: &LogCursor, entry: EntryId, prev: Option<Predecessor>) -> Option<Gap> {
        let through = match (entry.seq.checked_sub(1), prev) {
            (Some(seq), _) => Some(EntryId { epoch: entry.epoch, seq }),
            (None, Some(Predecessor::Entry(prev))) => Some(prev),
            (None, Some(Predecessor::Start)) => None,
            // The entry does not show it; the ends of the epochs do.
            (None, None) => {
                let older = self.ends.iter().flat_map(|ends| ends.iter()).skip_while(|end| end.epoch != entry.epoch);
                older.skip(1).copied().next()
            }
        };
        let through = through.filter(|through| !cursor.has(*through))?;
        Some(Gap { log: self.log, after: cursor.last(), through, cause: GapCause::Trimmed })
    }

    /// Handles the fetched ends of the log's epochs. If the log's history differs from the reader's, moves `cursor`
    /// back to the newest common entry, and returns the reader's later entries as a gap.
    pub fn resolve(&mut self, cursor: &mut LogCursor, ends: &EpochEnds) -> Option<Gap> {
        let common = cursor.common_with(ends);
        let undone = cursor.last().filter(|_| common != cursor.last()).map(|through| Gap {
            log: self.log,
            after: common,
            through,
            cause: if common.is_some() { GapCause::HistoryRewritten } else { GapCause::LogRecreated },
        });
        if undone.is_some() {
            cursor.rewind(common);
        }
        self.after = cursor.last();
        self.ends = Some(ends.clone());
        self.shown = self.shown.map(|(entry, looks)| (entry, looks + 1));
        undone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Partition, Scope, reader::Verdict};

    const LOG: LogId = LogId { partition: Partition::new(3), scope: Scope::Flows };

    fn id(epoch: u64, seq: u64) -> EntryId {
        EntryId { epoch, seq }
    }

    fn having(ends: &[EntryId]) -> LogCursor {
        let mut cursor = LogCursor::default();
        for end in ends {
            cursor.advance(*end);
        }
        cursor
    }

    /// The ends of a log that has not forgotten any epoch, newest first.
    fn whole<const N: usize>(ends: [EntryId; N]) -> EpochEnds {
        EpochEnds::whole(ends.to_vec())
    }

    fn gap(cause: GapCause, after: Option<EntryId>, through: EntryId) -> Option<Gap> {
        Some(Gap { log: LOG, after, through, cause })
    }

    #[test]
    fn the_common_entry_is_the_cursor_while_the_history_is_the_same() {
        let cursor = having(&[id(5, 3)]);
        assert_eq!(cursor.common_with(&whole([id(5, 9)])), Some(id(5, 3)));
        assert_eq!(cursor.common_with(&whole([id(9, 2), id(5, 3)])), Some(id(5, 3)));
    }

    #[test]
    fn a_rolled_back_epoch_is_skipped_even_if_its_number_is_greater() {
        let cursor = having(&[id(40, 9), id(100, 3)]);
        assert_eq!(cursor.common_with(&whole([id(50, 9), id(40, 7)])), Some(id(40, 7)));
        assert_eq!(cursor.common_with(&whole([id(110, 2), id(50, 9), id(40, 9)])), Some(id(40, 9)));
    }

    #[test]
    fn trimmed_entries_are_one_gap_and_reading_continues() {
        let mut cursor = having(&[id(5, 3)]);
        let mut reading = LogReading::from(LOG, &cursor);
        assert_eq!(reading.step(&mut cursor, id(5, 9), None), Step::LookUp);
        assert_eq!(reading.resolve(&mut cursor, &whole([id(5, 10)])), None);
        assert_eq!(reading.after(), Some(id(5, 3)));
        let trimmed = gap(GapCause::Trimmed, Some(id(5, 3)), id(5, 8));
        assert_eq!(reading.step(&mut cursor, id(5, 9), None), Step::Deliver(trimmed));
        assert_eq!(reading.step(&mut cursor, id(5, 10), None), Step::Deliver(None));
        assert_eq!(cursor.last(), Some(id(5, 10)));
    }

    #[test]
    fn trimming_during_a_look_up_of_epochs_does_not_block_the_reader() {
        let mut cursor = having(&[id(5, 3)]);
        let mut reading = LogReading::from(LOG, &cursor);
        assert_eq!(reading.step(&mut cursor, id(5, 9), None), Step::LookUp);
        assert_eq!(reading.resolve(&mut cursor, &whole([id(5, 10)])), None);
        let trimmed = gap(GapCause::Trimmed, Some(id(5, 3)), id(5, 19));
        assert_eq!(reading.step(&mut cursor, id(5, 20), None), Step::Deliver(trimmed));
    }

    #[test]
    fn a_gap_up_to_an_epochs_first_entry_ends_with_the_entry_before_it() {
        for (prev, through) in [(Some(Predecessor::Entry(id(5, 6))), id(5, 6)), (None, id(5, 6))] {
            let mut cursor = having(&[id(5, 3)]);
            let mut reading = LogReading::from(LOG, &cursor);
            assert_eq!(reading.step(&mut cursor, id(9, 0), prev), Step::LookUp);
            assert_eq!(reading.resolve(&mut cursor, &whole([id(9, 0), id(5, 6)])), None);
            let trimmed = gap(GapCause::Trimmed, Some(id(5, 3)), through);
            assert_eq!(reading.step(&mut cursor, id(9, 0), prev), Step::Deliver(trimmed));
        }
    }

    #[test]
    fn a_lost_tail_is_a_gap_at_once_and_reading_continues_after_the_common_entry() {
        let mut cursor = having(&[id(40, 9), id(100, 3)]);
        let mut reading = LogReading::from(LOG, &cursor);
        assert_eq!(reading.step(&mut cursor, id(110, 0), Some(Predecessor::Entry(id(50, 1)))), Step::LookUp);
        let undone = gap(GapCause::HistoryRewritten, Some(id(40, 7)), id(100, 3));
        assert_eq!(reading.resolve(&mut cursor, &whole([id(110, 0), id(50, 1), id(40, 7)])), undone);
        assert_eq!((reading.after(), cursor.last()), (Some(id(40, 7)), Some(id(40, 7))));
        let rest = [
            (id(50, 0), Some(Predecessor::Entry(id(40, 7))), Step::Deliver(None)),
            (id(50, 1), None, Step::Deliver(None)),
            (id(110, 0), Some(Predecessor::Entry(id(50, 1))), Step::Deliver(None)),
            (id(50, 0), None, Step::Skip),
        ];
        for (entry, prev, expected) in rest {
            assert_eq!(reading.step(&mut cursor, entry, prev), expected, "{entry}");
        }
        for late in [id(100, 2), id(40, 8)] {
            assert_eq!(cursor.judge(late, None), Verdict::Duplicate, "a late push of a rolled-back entry");
        }
    }

    #[test]
    fn a_lost_tail_and_a_trimmed_head_are_two_gaps() {
        let mut cursor = having(&[id(40, 9)]);
        let mut reading = LogReading::from(LOG, &cursor);
        assert_eq!(reading.step(&mut cursor, id(50, 5), None), Step::LookUp);
        let undone = gap(GapCause::HistoryRewritten, Some(id(40, 7)), id(40, 9));
        assert_eq!(reading.resolve(&mut cursor, &whole([id(50, 6), id(40, 7)])), undone);
        let trimmed = gap(GapCause::Trimmed, Some(id(40, 7)), id(50, 4));
        assert_eq!(reading.step(&mut cursor, id(50, 5), None), Step::Deliver(trimmed));
    }

    /// A log that knows the epochs 50 and 60 and the ends before them, and nothing earlier.
    fn forgetful() -> EpochEnds {
        let epochs = [(50, Predecessor::Entry(id(40, 7))), (60, Predecessor::Entry(id(50, 2)))];
        EpochEnds::of(&epochs, Some(id(60, 5)))
    }

    #[test]
    fn entries_between_an_old_cursor_and_the_first_entry_count_as_trimmed() {
        let mut cursor = having(&[id(20, 3), id(30, 9)]);
        let mut reading = LogReading::from(LOG, &cursor);
        assert_eq!(reading.step(&mut cursor, id(50, 2), None), Step::LookUp);
        assert_eq!(reading.resolve(&mut cursor, &forgetful()), None);
        let trimmed = gap(GapCause::Trimmed, Some(id(30, 9)), id(50, 1));
        assert_eq!(reading.step(&mut cursor, id(50, 2), None), Step::Deliver(trimmed));
    }

    #[test]
    fn an_epoch_missing_among_the_kept_ones_was_rolled_back() {
        let mut cursor = having(&[id(30, 9), id(55, 1)]);
        let mut reading = LogReading::from(LOG, &cursor);
        let undone = gap(GapCause::HistoryRewritten, Some(id(30, 9)), id(55, 1));
        assert_eq!(reading.resolve(&mut cursor, &forgetful()), undone);
    }

    #[test]
    fn a_recreated_log_is_a_gap_over_everything_delivered() {
        let mut cursor = having(&[id(5, 3)]);
        let mut reading = LogReading::from(LOG, &cursor);
        assert_eq!(reading.resolve(&mut cursor, &whole([])), gap(GapCause::LogRecreated, None, id(5, 3)));
        assert_eq!(reading.resolve(&mut cursor, &whole([])), None, "once");
        assert_eq!(reading.step(&mut cursor, id(9, 0), Some(Predecessor::Start)), Step::Deliver(None));
    }

    #[test]
    fn restored_entries_are_delivered_again() {
        // FLUSHALL, then a server that starts without it.
        let mut cursor = having(&[id(5, 1)]);
        let mut reading = LogReading::from(LOG, &cursor);
        assert_eq!(reading.resolve(&mut cursor, &whole([])), gap(GapCause::LogRecreated, None, id(5, 1)));
        assert_eq!(reading.step(&mut cursor, id(9, 0), Some(Predecessor::Start)), Step::Deliver(None));
        assert_eq!(cursor.judge(id(5, 1), None), Verdict::Duplicate, "a push may be late");
        let mut reading = LogReading::from(LOG, &cursor);
        let ends = whole([id(12, 0), id(5, 1)]);
        assert_eq!(reading.resolve(&mut cursor, &ends), gap(GapCause::LogRecreated, None, id(9, 0)));
        let back =
            [(id(5, 0), Predecessor::Start), (id(5, 1), Predecessor::Start), (id(12, 0), Predecessor::Entry(id(5, 1)))];
        for (entry, prev) in back {
            let prev = (entry.seq == 0).then_some(prev);
            assert_eq!(reading.step(&mut cursor, entry, prev), Step::Deliver(None), "{entry}");
        }
        assert_eq!(cursor.last(), Some(id(12, 0)));
    }

    #[test]
    fn restored_entries_without_their_beginning_are_a_gap_and_then_delivered() {
        let mut cursor = having(&[id(5, 7)]);
        cursor.rewind(None);
        let mut reading = LogReading::from(LOG, &cursor);
        assert_eq!(reading.step(&mut cursor, id(5, 4), None), Step::LookUp);
        assert_eq!(reading.resolve(&mut cursor, &whole([id(5, 7)])), None);
        assert_eq!(reading.step(&mut cursor, id(5, 4), None), Step::Deliver(gap(GapCause::Trimmed, None, id(5, 3))));
    }

    #[test]
    fn trimmed_entries_are_a_gap_for_a_reader_of_an_empty_log_and_not_from_the_earliest() {
        let mut cursor = LogCursor::default();
        let mut reading = LogReading::from(LOG, &cursor);
        assert_eq!(reading.step(&mut cursor, id(7, 4), None), Step::LookUp);
        assert_eq!(reading.resolve(&mut cursor, &whole([id(7, 9)])), None);
        let trimmed = gap(GapCause::Trimmed, None, id(7, 3));
        assert_eq!(reading.step(&mut cursor, id(7, 4), None), Step::Deliver(trimmed));
        let mut cursor = LogCursor::earliest();
        let mut reading = LogReading::from(LOG, &cursor);
        assert_eq!(reading.step(&mut cursor, id(7, 4), None), Step::Deliver(None));
    }

    #[test]
    fn unread_entries_are_counted_over_epochs() {
        let cursor = having(&[id(5, 3)]);
        assert_eq!(cursor.unread(&[id(5, 3)]), 0);
        assert_eq!(cursor.unread(&[id(9, 1), id(5, 5)]), 4);
    }
}
