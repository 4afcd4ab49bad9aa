//! How one log is read when pushes alone do not tell what follows: pure decisions, no socket.
//!
//! Reading after the cursor's id finds everything as long as the log still tells the history that the reader knows. It
//! may not: a failover to a replica that lagged takes entries back, and the new primary goes on in an epoch whose
//! number can even be smaller. So an entry that does not follow the cursor is not believed at once. The log's epochs
//! are looked up, [`common`] finds the newest entry that reader and log have both had, and reading starts again after
//! it. What then comes first is delivered as the log's own next entry: between it and the common one the log holds
//! nothing.

use ff_core::{EntryId, LogCursor, Predecessor, Verdict};

/// Why entries are missing between what the reader has and what the log shows next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum GapCause {
    /// The log no longer holds them.
    Trimmed,
    /// The log's history is another one now: what the reader has beyond the common entry was undone.
    Rewritten,
}

impl GapCause {
    pub(crate) const fn as_str(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::Rewritten => "rewritten",
        }
    }
}

/// What to do with an entry that the log shows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Step {
    /// It is the next one; something before it may be missing.
    Deliver(Option<GapCause>),
    /// The reader has it.
    Skip,
    /// It does not follow: look up the log's epochs, [`LogReading::resolve`], and read again.
    LookUp,
}

/// The reading of one log, from a cursor on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct LogReading {
    after: Option<EntryId>,
    /// What the epochs are, or were, looked up for.
    asked: Option<EntryId>,
    /// They were looked up.
    resolved: Option<GapCause>,
}

impl LogReading {
    pub(crate) const fn from(cursor: &LogCursor) -> Self {
        Self { after: cursor.last(), asked: None, resolved: None }
    }

    /// The id after which the next page begins.
    pub(crate) const fn after(&self) -> Option<EntryId> {
        self.after
    }

    /// Whether the epochs were looked up since something said that the log holds `entry`. If not, they are to be.
    pub(crate) fn is_resolved_for(&mut self, entry: EntryId) -> bool {
        if self.asked != Some(entry) {
            (self.asked, self.resolved) = (Some(entry), None);
        }
        self.resolved.is_some()
    }

    /// Takes the next entry of a page; moves `cursor` when it is to be delivered.
    pub(crate) fn step(&mut self, cursor: &mut LogCursor, entry: EntryId, prev: Option<Predecessor>) -> Step {
        let gap = match cursor.judge(entry, prev) {
            Verdict::Duplicate => {
                self.after = Some(entry);
                return Step::Skip;
            }
            Verdict::Deliver => None,
            // Who has nothing misses nothing of what a log held before.
            Verdict::ReadLog if cursor.last().is_none() => None,
            Verdict::ReadLog if self.is_resolved_for(entry) => self.resolved,
            Verdict::ReadLog => return Step::LookUp,
        };
        cursor.advance(entry);
        *self = Self { after: Some(entry), asked: None, resolved: None };
        Step::Deliver(gap)
    }

    /// Starts again after the newest entry that the reader and a log with these ends have in common.
    pub(crate) fn resolve(&mut self, cursor: &LogCursor, ends: &[EntryId]) {
        self.after = common(cursor, ends);
        let trimmed = self.after.is_some() && self.after == cursor.last();
        self.resolved = Some(if trimmed { GapCause::Trimmed } else { GapCause::Rewritten });
    }
}

/// The last entries of a log's epochs, newest first, from its hash of epochs (each with the entry before it) and its
/// head.
///
/// Without a head (a log trimmed to nothing) the end of the newest epoch is not known; nothing is left to be read of
/// it, so any end serves.
pub(crate) fn epoch_ends(epochs: &[(u64, Predecessor)], head: Option<EntryId>) -> Vec<EntryId> {
    let mut epochs = epochs.to_vec();
    // Within one log as it stands, epochs only grow.
    epochs.sort_unstable_by_key(|(epoch, _)| std::cmp::Reverse(*epoch));
    let newest = head.or_else(|| epochs.first().map(|(epoch, _)| EntryId { epoch: *epoch, seq: u64::MAX }));
    let before = epochs.iter().filter_map(|(_, prev)| match prev {
        Predecessor::Entry(id) => Some(*id),
        Predecessor::Start => None,
    });
    let mut ends: Vec<EntryId> = newest.into_iter().chain(before).collect();
    ends.dedup_by_key(|end| end.epoch);
    ends
}

/// The newest entry that the reader has had and that a log with these ends (newest first) has had too.
pub(crate) fn common(cursor: &LogCursor, ends: &[EntryId]) -> Option<EntryId> {
    ends.iter().find_map(|end| last_had(cursor, *end))
}

/// The greatest number up to `end.seq` of that epoch that the reader has had.
fn last_had(cursor: &LogCursor, end: EntryId) -> Option<EntryId> {
    let had = |seq| cursor.judge(EntryId { epoch: end.epoch, seq }, None) == Verdict::Duplicate;
    if !had(0) {
        return None;
    }
    // Had are exactly the numbers up to some one: search for it.
    let (mut low, mut high) = (0, end.seq);
    while low < high {
        let middle = high - (high - low) / 2;
        if had(middle) {
            low = middle;
        } else {
            high = middle - 1;
        }
    }
    Some(EntryId { epoch: end.epoch, seq: low })
}

#[cfg(test)]
mod tests {
    use super::*;

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

    #[test]
    fn the_common_entry_is_the_cursor_while_the_log_tells_the_same_history() {
        let cursor = having(&[id(5, 3)]);
        assert_eq!(common(&cursor, &[id(5, 9)]), Some(id(5, 3)));
        assert_eq!(common(&cursor, &[id(9, 2), id(5, 3)]), Some(id(5, 3)));
    }

    #[test]
    fn a_lost_tail_ends_the_common_history_before_it() {
        let cursor = having(&[id(5, 3)]);
        assert_eq!(common(&cursor, &[id(9, 4), id(5, 1)]), Some(id(5, 1)));
    }

    #[test]
    fn an_undone_epoch_is_stepped_over_even_when_its_number_is_greater() {
        let cursor = having(&[id(40, 9), id(100, 3)]);
        assert_eq!(common(&cursor, &[id(50, 9), id(40, 7)]), Some(id(40, 7)));
        assert_eq!(common(&cursor, &[id(110, 2), id(50, 9), id(40, 9)]), Some(id(40, 9)));
    }

    #[test]
    fn a_log_that_was_made_anew_has_nothing_in_common() {
        assert_eq!(common(&having(&[id(5, 3)]), &[id(9, 4)]), None);
        assert_eq!(common(&LogCursor::default(), &[id(9, 4)]), None);
    }

    #[test]
    fn the_ends_of_epochs_come_from_the_links_and_the_head() {
        let epochs = [(5, Predecessor::Start), (9, Predecessor::Entry(id(5, 1))), (12, Predecessor::Entry(id(9, 0)))];
        assert_eq!(epoch_ends(&epochs, Some(id(12, 4))), [id(12, 4), id(9, 0), id(5, 1)]);
        assert_eq!(epoch_ends(&epochs, None)[0].epoch, 12);
        assert_eq!(epoch_ends(&[], Some(id(7, 7))), [id(7, 7)]);
        assert_eq!(epoch_ends(&[], None), []);
    }

    #[test]
    fn entries_that_were_trimmed_away_are_one_gap_and_reading_goes_on() {
        let mut cursor = having(&[id(5, 3)]);
        let mut reading = LogReading::from(&cursor);
        assert_eq!(reading.step(&mut cursor, id(5, 9), None), Step::LookUp);
        reading.resolve(&cursor, &[id(5, 10)]);
        assert_eq!(reading.after(), Some(id(5, 3)));
        assert_eq!(reading.step(&mut cursor, id(5, 9), None), Step::Deliver(Some(GapCause::Trimmed)));
        assert_eq!(reading.step(&mut cursor, id(5, 10), None), Step::Deliver(None));
        assert_eq!(cursor.last(), Some(id(5, 10)));
    }

    #[test]
    fn a_rewritten_log_is_read_from_the_common_entry() {
        let mut cursor = having(&[id(40, 9), id(100, 3)]);
        let mut reading = LogReading::from(&cursor);
        assert_eq!(reading.step(&mut cursor, id(110, 0), Some(Predecessor::Entry(id(50, 1)))), Step::LookUp);
        reading.resolve(&cursor, &[id(110, 0), id(50, 1), id(40, 7)]);
        assert_eq!(reading.after(), Some(id(40, 7)));
        // Seen for the first time: it may be of a history that began after the look-up.
        assert_eq!(reading.step(&mut cursor, id(50, 0), Some(Predecessor::Entry(id(40, 7)))), Step::LookUp);
        reading.resolve(&cursor, &[id(110, 0), id(50, 1), id(40, 7)]);
        let rest = [
            (id(50, 0), Some(Predecessor::Entry(id(40, 7))), Step::Deliver(Some(GapCause::Rewritten))),
            (id(50, 1), None, Step::Deliver(None)),
            (id(110, 0), Some(Predecessor::Entry(id(50, 1))), Step::Deliver(None)),
            (id(50, 0), None, Step::Skip),
        ];
        for (entry, prev, expected) in rest {
            assert_eq!(reading.step(&mut cursor, entry, prev), expected, "{entry}");
        }
        // Late pushes of the history that was undone stay duplicates.
        assert_eq!(cursor.judge(id(100, 2), None), Verdict::Duplicate);
    }

    #[test]
    fn a_reader_that_has_nothing_takes_what_the_log_still_holds() {
        let mut cursor = LogCursor::default();
        let mut reading = LogReading::from(&cursor);
        assert_eq!(reading.step(&mut cursor, id(7, 4), None), Step::Deliver(None));
    }
}
