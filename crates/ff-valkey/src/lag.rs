//! How far a cursor is behind the logs, and how long until they forget what is unread.

use std::{sync::Arc, time::Duration};

use ff_core::{Cursor, EngineError, EntryId, Lag, LogCursor, Scope, SweepPolicy};
use ff_script::operations::LogPolicy;

use crate::{
    ValkeyHost,
    source::{LogSource, ServerLogs},
};

/// Asks the server.
#[derive(Debug)]
pub(crate) struct ServerLag {
    logs: ServerLogs,
    policy: LogPolicy,
}

/// What a log tells about itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct LogFacts {
    /// The ends of its epochs, newest first.
    pub(crate) ends: Vec<EntryId>,
    pub(crate) len: u64,
    /// When its first and its last entry were committed, and the first after the cursor (server, ms).
    pub(crate) first_at: Option<u64>,
    pub(crate) last_at: Option<u64>,
    pub(crate) unread_at: Option<u64>,
}

impl ServerLag {
    pub(crate) fn new(host: Arc<ValkeyHost>) -> Self {
        let policy = host.config().log_policy;
        Self { logs: ServerLogs(host), policy }
    }

    pub(crate) async fn measure(&self, cursor: &Cursor) -> Result<Lag, EngineError> {
        let mut lag = Lag::default();
        for scope in cursor.scope().logs() {
            let Some(cursors) = cursor.logs(*scope) else { continue };
            let logs = ServerLogs::all(*scope, cursors.len());
            let heads = self.logs.heads(&logs).await?;
            let behind: Vec<usize> =
                (0..logs.len()).filter(|at| heads.heads[*at].is_some_and(|head| !cursors[*at].has(head))).collect();
            let asked: Vec<_> = behind.iter().map(|at| (logs[*at], cursors[*at].last())).collect();
            let limit = match scope {
                Scope::Flows => self.policy.flow_entries,
                Scope::Solo => self.policy.solo_entries,
            };
            for (at, facts) in behind.into_iter().zip(self.logs.facts(&asked).await?) {
                add(&mut lag, &cursors[at], &facts, heads.at_ms, limit, SweepPolicy::default().retention);
            }
        }
        Ok(lag)
    }
}

/// Adds what is unread of one log, which keeps `limit` entries and none older than `retention`.
fn add(lag: &mut Lag, cursor: &LogCursor, facts: &LogFacts, now: u64, limit: u64, retention: Duration) {
    let unread = cursor.unread(&facts.ends).min(facts.len);
    if unread == 0 {
        return;
    }
    lag.events += unread;
    let age = facts.unread_at.map(|at| Duration::from_millis(now.saturating_sub(at)));
    lag.oldest_unread = lag.oldest_unread.max(age);
    let by_age = age.map(|age| retention.saturating_sub(age));
    let until = [by_age, by_count(facts, unread, limit)].into_iter().flatten().min();
    lag.until_forgotten = [lag.until_forgotten, until].into_iter().flatten().min();
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

    fn id(seq: u64) -> EntryId {
        EntryId { epoch: 5, seq }
    }

    fn measured(cursor: &LogCursor, facts: &LogFacts) -> Lag {
        let mut lag = Lag::default();
        add(&mut lag, cursor, facts, 10_000, 1_000, Duration::from_secs(3600));
        lag
    }

    #[test]
    fn nothing_unread_is_no_lag() {
        let facts = LogFacts { ends: vec![id(9)], len: 10, ..LogFacts::default() };
        assert_eq!(measured(&LogCursor::after(Some(id(9))), &facts), Lag::default());
    }

    #[test]
    fn what_is_unread_is_forgotten_when_the_log_has_grown_past_it() {
        let (first_at, last_at) = (Some(5_000), Some(10_000));
        let facts = LogFacts { ends: vec![id(499)], len: 500, first_at, last_at, unread_at: Some(9_000) };
        let lag = measured(&LogCursor::after(Some(id(399))), &facts);
        // 100 a second come; 900 more until the oldest of 100 unread is the 1,001st.
        assert_eq!((lag.events, lag.oldest_unread), (100, Some(Duration::from_secs(1))));
        assert_eq!(lag.until_forgotten, Some(Duration::from_secs(9)));
    }

    #[test]
    fn a_quiet_log_forgets_by_age() {
        let facts =
            LogFacts { ends: vec![id(0)], len: 1, first_at: Some(4_000), last_at: Some(4_000), unread_at: Some(4_000) };
        let lag = measured(&LogCursor::default(), &facts);
        assert_eq!(lag.until_forgotten, Some(Duration::from_secs(3600 - 6)));
    }

    #[test]
    fn what_was_trimmed_is_no_longer_counted() {
        let facts = LogFacts { ends: vec![id(5_000)], len: 1_000, ..LogFacts::default() };
        assert_eq!(measured(&LogCursor::default(), &facts).events, 1_000);
    }
}
