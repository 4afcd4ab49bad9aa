//! The ends of a log's epochs.

use std::ops::Deref;

use crate::{EntryId, reader::Predecessor};

/// The last entries of a log's epochs, newest first, and whether these are all epochs that the log has had.
///
/// A log keeps the epochs of which it has entries, and some earlier ones. It has no information about forgotten epochs,
/// so it cannot show that they were rolled back.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct EpochEnds {
    ends: Vec<EntryId>,
    is_cut: bool,
}

impl EpochEnds {
    /// The ends, from a log's head and its hash of epochs (each with the entry before it). The head must be read first:
    /// of an epoch that began in between, only the beginning is known.
    ///
    /// Without a head (a log trimmed to nothing) the end of the newest epoch is not known. No entry of it is left to be
    /// read, so any end is sufficient.
    #[must_use]
    pub fn of(epochs: &[(u64, Predecessor)], head: Option<EntryId>) -> Self {
        let before = epochs.iter().filter_map(|(_, prev)| match prev {
            Predecessor::Entry(id) => Some(*id),
            Predecessor::Start => None,
        });
        let unknown_end = if head.is_some() { 0 } else { u64::MAX };
        let newest = epochs.iter().map(|(epoch, _)| *epoch).max().map(|epoch| EntryId { epoch, seq: unknown_end });
        // Within one log at one time, epochs only grow.
        let mut ends: Vec<EntryId> = head.into_iter().chain(before).chain(newest).collect();
        ends.sort_unstable_by(|a, b| b.cmp(a));
        ends.dedup_by_key(|end| end.epoch);
        let oldest = epochs.iter().min_by_key(|(epoch, _)| *epoch);
        let is_cut = oldest.is_some_and(|(_, prev)| *prev != Predecessor::Start);
        Self { ends, is_cut }
    }

    /// The ends of a log that has not forgotten any epoch, newest first.
    #[must_use]
    pub const fn whole(ends: Vec<EntryId>) -> Self {
        Self { ends, is_cut: false }
    }

    /// Whether this epoch, if it was part of the log, is one that the log has forgotten: within one log epochs only
    /// grow.
    pub(super) fn has_forgotten(&self, epoch: u64) -> bool {
        self.is_cut && self.ends.last().is_some_and(|oldest| epoch < oldest.epoch)
    }
}

impl Deref for EpochEnds {
    type Target = [EntryId];

    fn deref(&self) -> &[EntryId] {
        &self.ends
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(epoch: u64, seq: u64) -> EntryId {
        EntryId { epoch, seq }
    }

    #[test]
    fn the_ends_of_epochs_come_from_the_links_and_the_head() {
        let epochs = [(5, Predecessor::Start), (9, Predecessor::Entry(id(5, 1))), (12, Predecessor::Entry(id(9, 0)))];
        assert_eq!(EpochEnds::of(&epochs, Some(id(12, 4)))[..], [id(12, 4), id(9, 0), id(5, 1)]);
        assert_eq!(EpochEnds::of(&epochs, None)[0], id(12, u64::MAX));
        assert_eq!(EpochEnds::of(&[], Some(id(7, 7)))[..], [id(7, 7)]);
        assert_eq!(EpochEnds::of(&[], None)[..], []);
    }

    #[test]
    fn an_epoch_that_began_between_two_reads_hides_nothing_of_the_previous_one() {
        let epochs = [(5, Predecessor::Start), (9, Predecessor::Entry(id(5, 4)))];
        assert_eq!(EpochEnds::of(&epochs, Some(id(5, 2)))[..], [id(9, 0), id(5, 4)]);
    }
}
