//! Reads one log: judges what is pushed, reads pages, finds gaps, moves the cursor. Pure.
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
//!
//! The reader decides, and its driver schedules: it fetches what the reader asks for, hands out what the reader
//! returns, and only then moves the reader past it, because a subscription whose queue is full needs the cursor before
//! the item.
//!
//! ```text
//! page ──> read ──> items ──> handed out ──> advance, pass
//!            └──> the entry does not follow ──> epochs ──> resolve ──> gap ──> handed out ──> pass ──> read again
//! ```

use std::{array, iter};

use super::EpochEnds;
use crate::{
    EntryId, Gap, GapCause, LogId,
    reader::{LogCursor, Predecessor, Verdict},
};

/// How often the epochs are fetched for an entry that they do not contain.
const LOOKS: u32 = 2;

/// An entry of a log, pushed or read, with the event in the form that the driver delivers.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "complete by definition")]
pub struct LogEntry<E> {
    /// Its id.
    pub entry: EntryId,
    /// What an epoch's first entry records about the log before it.
    pub prev: Option<Predecessor>,
    /// Its event; `None` if the entry is not a completion.
    pub event: Option<E>,
}

/// What a reader receives next from a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_enums, reason = "complete by definition")]
pub enum LogItem<E> {
    /// The event of this entry. Hand it out, then call [`LogReader::advance`].
    Event(EntryId, E),
    /// Entries that are not delivered. Hand it out, then call [`LogReader::pass`].
    Gap(Gap),
}

/// What a reader receives with one entry, in order: nothing if it has the entry.
pub type LogItems<E> = iter::Flatten<array::IntoIter<Option<LogItem<E>>, 2>>;

/// The reader of one log.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogReader {
    log: LogId,
    cursor: LogCursor,
    /// The next page starts after this entry.
    after: Option<EntryId>,
    /// What is known of the log's epochs. Empty while entries follow the cursor.
    look_up: Option<Box<LookUp>>,
}

/// The look-up of a log's epochs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct LookUp {
    /// The entry for which the epochs are being, or were, fetched.
    asked: Option<EntryId>,
    /// The entry in the log that does not follow, and how often the epochs were fetched since.
    stray: Option<(EntryId, u32)>,
    /// The ends of the log's epochs, if they were fetched for it.
    ends: Option<EpochEnds>,
}

impl LogReader {
    /// A reader of `log` that continues after `cursor`.
    #[must_use]
    pub const fn new(log: LogId, cursor: LogCursor) -> Self {
        let after = cursor.last();
        Self { log, cursor, after, look_up: None }
    }

    /// The log.
    #[must_use]
    pub const fn log(&self) -> LogId {
        self.log
    }

    /// The position: everything up to it was handed out.
    #[must_use]
    pub const fn cursor(&self) -> &LogCursor {
        &self.cursor
    }

    /// The id after which the next page starts.
    #[must_use]
    pub const fn after(&self) -> Option<EntryId> {
        self.after
    }

    /// Reads on after the cursor, and forgets what was fetched of the log's epochs.
    pub fn restart(&mut self) {
        self.read_from(self.cursor.last());
    }

    /// Reads again the entries after `after`, an entry before the cursor. Forgets what was fetched of the log's epochs.
    pub fn read_from(&mut self, after: Option<EntryId>) {
        self.after = after;
        self.look_up = None;
    }

    /// What to do with a pushed entry. After [`Verdict::Deliver`], [`LogReader::read`] returns its item.
    #[must_use]
    pub fn judge<E>(&self, pushed: &LogEntry<E>) -> Verdict {
        self.cursor.judge(pushed.entry, pushed.prev)
    }

    /// Whether the epochs have been fetched since `entry` was first claimed to be in the log. If not, the caller must
    /// fetch them.
    pub fn is_resolved_for(&mut self, entry: EntryId) -> bool {
        let look_up = self.look_up.get_or_insert_default();
        if look_up.asked != Some(entry) {
            (look_up.asked, look_up.ends) = (Some(entry), None);
        }
        look_up.ends.is_some()
    }

    /// The ends of the log's epochs, as far as they were fetched.
    fn ends(&self) -> impl Iterator<Item = &EntryId> {
        self.look_up.iter().filter_map(|look_up| look_up.ends.as_ref()).flat_map(|ends| ends.iter())
    }

    /// Whether the fetched epochs belong to the history of `entry`. An epoch has one writer, so the history before any
    /// of its entries never changes.
    fn knows_history_of(&self, entry: EntryId) -> bool {
        self.ends().any(|end| end.epoch == entry.epoch)
    }

    /// Whether the epochs, fetched repeatedly for `entry`, do not contain it although the log does: they were lost or
    /// forgotten. After a single fetch, the log may also have been a different one at that moment.
    fn was_looked_up_in_vain(&mut self, entry: EntryId) -> bool {
        let look_up = self.look_up.get_or_insert_default();
        let (stray, looks) = *look_up.stray.get_or_insert((entry, 0));
        if stray != entry {
            look_up.stray = Some((entry, 0));
        }
        stray == entry && looks >= LOOKS
    }

    /// Whether the log had contained `entry` when its epochs were last fetched.
    #[must_use]
    pub fn log_had(&self, entry: EntryId) -> bool {
        self.ends().any(|end| end.epoch == entry.epoch && entry.seq <= end.seq)
    }

    /// Reads the next entry of a page, or a pushed entry that follows. Returns what the reader receives with it: hand
    /// out each item, and then move past it.
    ///
    /// # Errors
    /// The entry, if it does not follow: fetch the log's epochs, call [`LogReader::resolve`], and read it again.
    pub fn read<E>(&mut self, shown: LogEntry<E>) -> Result<LogItems<E>, LogEntry<E>> {
        let LogEntry { entry, prev, .. } = shown;
        if self.cursor.has(entry) {
            self.after = Some(entry);
            return Ok([None, None].into_iter().flatten());
        }
        let missing = if self.cursor.is_earliest() || self.cursor.is_followed_by(entry, prev) {
            None
        } else if self.knows_history_of(entry) || self.was_looked_up_in_vain(entry) {
            self.missing_before(entry, prev)
        } else {
            return Err(shown);
        };
        let item = match shown.event {
            Some(event) => LogItem::Event(entry, event),
            None => {
                let after = missing.map_or(self.cursor.last(), |gap| Some(gap.through));
                LogItem::Gap(Gap::new(self.log, after, entry, GapCause::Unreadable))
            }
        };
        Ok([missing.map(LogItem::Gap), Some(item)].into_iter().flatten())
    }

    /// The entries between the cursor and `entry`, which the log no longer holds.
    fn missing_before(&self, entry: EntryId, prev: Option<Predecessor>) -> Option<Gap> {
        let through = match (entry.seq.checked_sub(1), prev) {
            (Some(seq), _) => Some(EntryId { epoch: entry.epoch, seq }),
            (None, Some(Predecessor::Entry(prev))) => Some(prev),
            (None, Some(Predecessor::Start)) => None,
            // The entry does not show it; the ends of the epochs do.
            (None, None) => self.ends().skip_while(|end| end.epoch != entry.epoch).nth(1).copied(),
        };
        let through = through.filter(|through| !self.cursor.has(*through))?;
        Some(Gap::new(self.log, self.cursor.last(), through, GapCause::Trimmed))
    }

    /// Takes the fetched ends of the log's epochs. If the log's history differs from the reader's, returns the
    /// reader's entries after the newest common one as a gap: hand it out, and then pass it.
    #[must_use]
    pub fn resolve(&mut self, ends: &EpochEnds) -> Option<Gap> {
        let last = self.cursor.last();
        let common = self.cursor.common_with(ends);
        self.after = last;
        let look_up = self.look_up.get_or_insert_default();
        look_up.ends = Some(ends.clone());
        look_up.stray = look_up.stray.map(|(entry, looks)| (entry, looks + 1));
        let cause = if common.is_some() { GapCause::HistoryRewritten } else { GapCause::LogRecreated };
        last.filter(|_| common != last).map(|through| Gap::new(self.log, common, through, cause))
    }

    /// Moves past `entry`, whose event was handed out.
    pub fn advance(&mut self, entry: EntryId) {
        self.cursor.advance(entry);
        self.restart();
    }

    /// Moves past a gap that was handed out: beyond missing entries, or back to before rolled-back ones.
    pub fn pass(&mut self, gap: &Gap) {
        self.cursor.pass(gap);
        match gap.cause {
            // The epochs that showed it are those of the log's present history.
            GapCause::HistoryRewritten | GapCause::LogRecreated => self.after = self.cursor.last(),
            _ => self.restart(),
        }
    }
}

#[cfg(test)]
#[path = "log_reader_tests.rs"]
mod tests;
