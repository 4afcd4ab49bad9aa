//! Reports problems with reading logs to operators.

use ff_core::{EngineError, LogId, Scope};

use crate::{net::quiet::Quiet, telemetry};

/// The problems with reading. Unreadable logs cause one line when the first appears and one when all can be read again;
/// a failed read causes one line until a read succeeds.
#[derive(Debug, Default)]
pub(super) struct Trouble {
    has_failed: bool,
    unreadable: usize,
}

impl Trouble {
    pub(super) fn unreadable<'a>(&mut self, scope: Scope, unreadable: impl Iterator<Item = (LogId, &'a str)>) {
        let mut unreadable = unreadable.peekable();
        let first = unreadable.peek().copied();
        let before = std::mem::replace(&mut self.unreadable, unreadable.count());
        if before == self.unreadable {
            return;
        }
        telemetry::unreadable(scope, self.unreadable);
        match first {
            Some((log, why)) if before == 0 => {
                tracing::warn!(%log, why, logs = self.unreadable, "completion logs cannot be read");
            }
            None => tracing::info!(?scope, "all completion logs can be read again"),
            Some(_) => {}
        }
    }

    pub(super) fn failed(&mut self, error: &EngineError) {
        // While a server restarts repeatedly, some reads succeed in between. Each would permit another line.
        static LINES: Quiet = Quiet::new();
        if std::mem::replace(&mut self.has_failed, true) {
            return;
        }
        if let Some(left_out) = LINES.turn() {
            tracing::warn!(%error, left_out, "reading completion logs failed; it will be retried");
        }
    }

    pub(super) fn over(&mut self) {
        self.has_failed = false;
    }
}
