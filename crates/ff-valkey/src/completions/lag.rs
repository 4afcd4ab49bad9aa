//! How far a cursor is behind the logs, and how long until the logs trim what is unread.

use std::sync::Arc;

use ff_core::{Cursor, EngineError, Lag, SweepPolicy, reader::LogCursor};
use ff_script::operations::{Head, LogPolicy, Newest};

use crate::{
    ValkeyHost,
    completions::source::{LogSource, ServerLogs},
};

/// Reads the lag from the server.
#[derive(Debug)]
pub(crate) struct ServerLag {
    logs: ServerLogs,
    policy: LogPolicy,
}

impl ServerLag {
    pub(crate) fn new(host: Arc<ValkeyHost>) -> Self {
        let policy = host.config().log_policy;
        Self { logs: ServerLogs(host), policy }
    }

    pub(crate) async fn measure(&self, cursor: &Cursor) -> Result<Lag, EngineError> {
        let mut lag = Lag::default();
        let retention = SweepPolicy::default().retention;
        for scope in cursor.scope().logs() {
            let Some(cursors) = cursor.logs(*scope) else { continue };
            let logs = ServerLogs::all(*scope, cursors.len());
            let now = self.logs.appended(*scope, "").await?.at_ms;
            let has = |cursor: &LogCursor| cursor.last().map(|entry| Newest { entry, execution: None });
            let known: Vec<_> = logs.iter().zip(&**cursors).map(|(log, cursor)| (*log, has(cursor))).collect();
            let mut behind = Vec::new();
            for (at, head) in self.logs.heads(&known).await?.into_iter().enumerate() {
                match head {
                    Ok(Head::At(newest)) if !cursors[at].has(newest.entry) => behind.push(at),
                    Ok(_) => {}
                    Err(error) => lag.unreadable.push((logs[at], error.to_string())),
                }
            }
            let asked: Vec<_> = behind.iter().map(|at| (logs[*at], cursors[*at].last())).collect();
            for (at, facts) in behind.into_iter().zip(self.logs.facts(&asked).await?) {
                match facts {
                    Ok(facts) => facts.add_to(&mut lag, &cursors[at], now, self.policy.limits(*scope), retention),
                    Err(error) => lag.unreadable.push((logs[at], error.to_string())),
                }
            }
        }
        Ok(lag)
    }
}
