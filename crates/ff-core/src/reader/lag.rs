//! How far a reader is behind, from what the logs tell. Pure.

use std::time::Duration;

use super::EpochEnds;
use crate::{Lag, LogCursor};

/// What a log tells about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogFacts {
    /// The ends of its epochs.
    pub ends: EpochEnds,
    /// How many entries it holds.
    pub len: u64,
    /// When its first entry was committed (server, ms).
    pub first_at: Option<u64>,
    /// When its last entry was committed.
    pub last_at: Option<u64>,
    /// When the first entry after the reader's cursor was committed.
    pub unread_at: Option<u64>,
}

impl Lag {
    /// Adds what `cursor` has not read of one log, which keeps `limit` entries and none older than `retention`; `now` is
    /// the server's time (ms).
    pub fn include(&mut self, cursor: &LogCursor, facts: &LogFacts, now: u64, limit: u64, retention: Duration) {
        let unread = cursor.unread(&facts.ends).min(facts.len);
        if unread == 0 {
            return;
        }
        self.events += unread;
        let age = facts.unread_at.map(|at| Duration::from_millis(now.saturating_sub(at)));
        self.oldest_unread = self.oldest_unread.max(age);
        let by_age = age.map(|age| retention.saturating_sub(age));
        let until = [by_age, by_count(facts, unread, limit)].into_iter().flatten().min();
        self.until_forgotten = [self.until_forgotten, until].into_iter().flatten().min();
    }
}

/// When so much has been appended that the oldest unread entry is beyond the limit, at the rate from the log's first entry
/// to its last.
fn by_count(facts: &LogFacts, unread: u64, limit: u64) -> Option<Duration> {
    let span = facts.last_at?.checked_sub(facts.first_at?).filter(|span| *span > 0)?;
    let until = u128::from(limit.saturating_sub(unread)) * u128::from(span) / u128::from(facts.len.max(1));
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
        lag.include(cursor, facts, 10_000, 1_000, Duration::from_secs(3600));
        lag
    }

    #[test]
    fn nothing_unread_is_no_lag() {
        let facts = LogFacts { ends: ends(9), len: 10, ..LogFacts::default() };
        assert_eq!(measured(&LogCursor::after(Some(id(9))), &facts), Lag::default());
    }

    #[test]
    fn what_is_unread_is_forgotten_when_the_log_has_grown_past_it() {
        let (first_at, last_at) = (Some(5_000), Some(10_000));
        let facts = LogFacts { ends: ends(499), len: 500, first_at, last_at, unread_at: Some(9_000) };
        let lag = measured(&LogCursor::after(Some(id(399))), &facts);
        // 100 a second come; 900 more until the oldest of 100 unread is the 1,001st.
        assert_eq!((lag.events, lag.oldest_unread), (100, Some(Duration::from_secs(1))));
        assert_eq!(lag.until_forgotten, Some(Duration::from_secs(9)));
    }

    #[test]
    fn a_quiet_log_forgets_by_age() {
        let facts =
            LogFacts { ends: ends(0), len: 1, first_at: Some(4_000), last_at: Some(4_000), unread_at: Some(4_000) };
        let lag = measured(&LogCursor::default(), &facts);
        assert_eq!(lag.until_forgotten, Some(Duration::from_secs(3600 - 6)));
    }

    #[test]
    fn what_was_trimmed_is_no_longer_counted() {
        let facts = LogFacts { ends: ends(5_000), len: 1_000, ..LogFacts::default() };
        assert_eq!(measured(&LogCursor::default(), &facts).events, 1_000);
    }
}
