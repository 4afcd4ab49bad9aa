//! The reader's rule: what a reader of one log does with an entry that is shown to it.
//!
//! The hard part is that neither order nor number tells a duplicate from news. A failover to a replica that lagged can
//! take back entries that were delivered, and the new primary numbers its own from a new epoch, whose value may be
//! smaller than the old one (clocks differ). So an entry is delivered only if it *proves* that it follows what the
//! reader has, and is dropped only if the reader *knows* that it has passed it; for anything else the reader asks the
//! log, which alone knows.
//!
//! ```text
//! shown: same epoch, seq = last + 1      -> deliver
//! shown: prev = last                     -> deliver (an epoch begins)
//! shown: an epoch passed, seq <= passed  -> duplicate
//! anything else                          -> read the log after `last`
//! ```

use std::collections::VecDeque;

use crate::{EntryId, Predecessor};

/// How many epochs a cursor remembers beyond its own. An older duplicate costs one read of the log, nothing else.
const REMEMBERED_EPOCHS: usize = 8;

/// What a reader does with an entry that it is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// It is the next one.
    Deliver,
    /// It was passed before.
    Duplicate,
    /// Whether something lies between is not known: read the log after [`LogCursor::last`].
    ReadLog,
}

/// How far a reader has come in one log.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LogCursor {
    last: Option<EntryId>,
    /// The last entries of the epochs passed before the current one, newest last.
    passed: VecDeque<EntryId>,
}

impl LogCursor {
    /// A reader that has everything up to and including `last`, or nothing of an empty log.
    #[must_use]
    pub const fn after(last: Option<EntryId>) -> Self {
        Self { last, passed: VecDeque::new() }
    }

    /// The newest entry that the reader has.
    #[must_use]
    pub const fn last(&self) -> Option<EntryId> {
        self.last
    }

    /// What to do with the entry `shown`; `prev` is what an epoch's first entry says of the log before it.
    #[must_use]
    pub fn judge(&self, shown: EntryId, prev: Option<Predecessor>) -> Verdict {
        if self.has_passed(shown) {
            return Verdict::Duplicate;
        }
        let follows = match (self.last, prev) {
            (Some(last), _) if shown.epoch == last.epoch => last.seq.checked_add(1) == Some(shown.seq),
            (Some(last), Some(prev)) => prev == Predecessor::Entry(last),
            (None, Some(prev)) => prev == Predecessor::Start,
            (_, None) => false,
        };
        if follows { Verdict::Deliver } else { Verdict::ReadLog }
    }

    /// Moves the reader to `entry`, which it now has.
    pub fn advance(&mut self, entry: EntryId) {
        if let Some(last) = self.last.filter(|last| last.epoch != entry.epoch) {
            if self.passed.len() == REMEMBERED_EPOCHS {
                self.passed.pop_front();
            }
            self.passed.push_back(last);
        }
        self.last = Some(entry);
    }

    fn has_passed(&self, shown: EntryId) -> bool {
        self.last.iter().chain(&self.passed).any(|last| last.epoch == shown.epoch && shown.seq <= last.seq)
    }
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
    fn a_hole_in_the_numbers_sends_the_reader_to_the_log() {
        assert_eq!(at(5, 3).judge(id(5, 5), None), Verdict::ReadLog);
    }

    #[test]
    fn a_number_already_passed_is_a_duplicate() {
        assert_eq!(at(5, 3).judge(id(5, 3), None), Verdict::Duplicate);
        assert_eq!(at(5, 3).judge(id(5, 0), Some(Predecessor::Start)), Verdict::Duplicate);
    }

    #[test]
    fn an_epoch_that_begins_right_after_the_cursor_is_delivered_whatever_its_value() {
        for epoch in [1, 9] {
            let follows = Some(Predecessor::Entry(id(5, 3)));
            assert_eq!(at(5, 3).judge(id(epoch, 0), follows), Verdict::Deliver);
        }
    }

    #[test]
    fn an_epoch_that_begins_elsewhere_sends_the_reader_to_the_log() {
        // A promoted replica had only 5-1: 5-2 and 5-3 were undone.
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
        fn whatever_is_shown_the_reader_ends_with_every_entry_once_and_in_order(
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
                        let from = cursor.last().map_or(0, |last| log.iter().position(|(e, _)| *e == last).unwrap() + 1);
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
