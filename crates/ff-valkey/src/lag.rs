//! How far a cursor is behind the logs, and how long until they forget what is unread.

use std::sync::Arc;

use ff_core::{Cursor, EngineError, Lag, SweepPolicy};
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
            let heads = self.logs.heads(&logs).await?;
            let behind: Vec<usize> =
                (0..logs.len()).filter(|at| heads.heads[*at].is_some_and(|head| !cursors[*at].has(head))).collect();
            let asked: Vec<_> = behind.iter().map(|at| (logs[*at], cursors[*at].last())).collect();
            for (at, facts) in behind.into_iter().zip(self.logs.facts(&asked).await?) {
                lag.include(&cursors[at], &facts, heads.at_ms, self.policy.entries(*scope), retention);
            }
        }
        Ok(lag)
    }
}
