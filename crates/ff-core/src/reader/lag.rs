//! Computes how far a reader is behind, from the figures of the logs. Pure.

use std::time::Duration;

use super::EpochEnds;
use crate::{Lag, reader::LogCursor};

/// The figures of a log.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "complete by definition")]
pub struct LogFacts {
    /// The ends of its epochs.
    pub ends: EpochEnds,
    /// How many entries it holds.
    pub len: u64,
    /// Their size in bytes, as far as it was counted.
    pub bytes: u64,
    /// How many of them are behind the reader's cursor.
    pub unread_bytes: u64,
    /// When its first entry was committed (server, ms).
    pub first_at: Option<u64>,
    /// When its last entry was committed.
    pub last_at: Option<u64>,
    /// When the first entry after the reader's cursor was committed.
    pub unread_at: Option<u64>,
}

/// The limits of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "complete by definition")]
pub struct LogLimits {
    /// The number of newest entries that it keeps.
    pub entries: u64,
    /// The bytes of newest entries that it keeps.
    pub bytes: u64,
}

impl LogFacts {
    /// Adds to `lag` the entries of the log that `cursor` has not read. The log keeps entries within `limits` and not
    /// older than `retention`; `now` is the server's time (ms).
    pub fn add_to(&self, lag: &mut Lag, cursor: &LogCursor, now: u64, limits: LogLimits, retention: Duration) {
        let unread = cursor.unread(&self.ends).min(self.len);
        if unread == 0 {
            return;
        }
        lag.events += unread;
        let age = self.unread_at.map(|at| Duration::from_millis(now.saturating_sub(at)));
        lag.oldest_unread = lag.oldest_unread.max(age);
        let by_age = age.map(|age| retention.saturating_sub(age));
        let by_count = growth(self, self.len, limits.entries.saturating_sub(unread));
        let by_bytes = growth(self, self.bytes, limits.bytes.saturating_sub(self.unread_bytes));
        let until = [by_age, by_count, by_bytes].into_iter().flatten().min();
        lag.until_forgotten = [lag.until_forgotten, until].into_iter().flatten().min();
    }
}

/// The time until `left` more is appended, at the rate at which `held` was appended between the log's first and last
/// entry.
fn growth(facts: &LogFacts, held: u64, left: u64) -> Option<Duration> {
    let span = facts.last_at?.checked_sub(facts.first_at?).filter(|span| *span > 0)?;
    let until = (u128::from(left) * u128::from(span)).checked_div(u128::from(held))?;
    Some(Duration::from_millis(u64::try_from(until).unwrap_or(u64::MAX)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::EntryId;

    fn ends(seq: u64) -> EpochEnds {
        EpochEnds::whole(vec![id(seq)])
    }

    fn id(seq: u64) -> EntryId {
        EntryId { epoch: 5, seq }
    }

    fn measured(cursor: &LogCursor, facts: &LogFacts) -> Lag {
        let mut lag = Lag::default();
        facts.add_to(
            &mut lag,
            cursor,
            10_000,
            LogLimits { entries: 1_000, bytes: 1_000_000 },
            Duration::from_secs(3600),
        );
        lag
    }

    #[test]
    fn without_unread_entries_there_is_no_lag() {
        let facts = LogFacts { ends: ends(9), len: 10, ..LogFacts::default() };
        assert_eq!(measured(&LogCursor::after(Some(id(9))), &facts), Lag::default());
    }

    #[test]
    fn unread_entries_are_trimmed_once_the_log_has_outgrown_its_entries() {
        let (first_at, last_at) = (Some(5_000), Some(10_000));
        let unread_at = Some(9_000);
        let facts = LogFacts { ends: ends(499), len: 500, first_at, last_at, unread_at, ..LogFacts::default() };
        let lag = measured(&LogCursor::after(Some(id(399))), &facts);
        // 100 per second are appended; after 900 more, the oldest of 100 unread is the 1,001st.
        assert_eq!((lag.events, lag.oldest_unread), (100, Some(Duration::from_secs(1))));
        assert_eq!(lag.until_forgotten, Some(Duration::from_secs(9)));
    }

    #[test]
    fn unread_entries_are_trimmed_once_the_bytes_after_them_reach_the_limit() {
        let (first_at, last_at) = (Some(5_000), Some(10_000));
        let unread_at = Some(9_000);
        let (bytes, unread_bytes) = (500_000, 200_000);
        let facts = LogFacts { ends: ends(49), len: 50, bytes, unread_bytes, first_at, last_at, unread_at };
        let lag = measured(&LogCursor::after(Some(id(39))), &facts);
        // 100,000 per second are appended; after 800,000 more, a million follow the oldest unread.
        assert_eq!(lag.until_forgotten, Some(Duration::from_secs(8)));
    }

    #[test]
    fn a_quiet_log_is_trimmed_by_age() {
        let at = Some(4_000);
        let facts = LogFacts { ends: ends(0), len: 1, first_at: at, last_at: at, unread_at: at, ..LogFacts::default() };
        let lag = measured(&LogCursor::default(), &facts);
        assert_eq!(lag.until_forgotten, Some(Duration::from_secs(3600 - 6)));
    }

    #[test]
    fn trimmed_entries_are_not_counted() {
        let facts = LogFacts { ends: ends(5_000), len: 1_000, ..LogFacts::default() };
        assert_eq!(measured(&LogCursor::default(), &facts).events, 1_000);
    }
}
