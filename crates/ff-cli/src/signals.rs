//! Ctrl-C, the request to terminate and the end of the terminal, for commands that have something to finish first.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::CliError;

/// What is asked of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Ctrl-C, or the request to terminate.
    End,
    /// The terminal has gone.
    HangUp,
}

/// Listens from its creation on, so that no request falls between two waits.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
    hangup: Option<Signal>,
}

impl Interrupts {
    pub(crate) fn listen() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(|error| CliError::failed("signals cannot be listened for", error));
        Ok(Self {
            interrupt: listen(SignalKind::interrupt())?,
            terminate: listen(SignalKind::terminate())?,
            hangup: (!hangup_is_ignored()).then(|| listen(SignalKind::hangup())).transpose()?,
        })
    }

    /// Does something that a request to stop may drop at any moment.
    pub(crate) async fn or<T>(&mut self, doing: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
        tokio::select! {
            done = doing => done,
            _ = self.next() => Err(CliError::cancelled("interrupted", "nothing was submitted")),
        }
    }

    /// Waits for the next request to stop.
    pub(crate) async fn next(&mut self) -> Request {
        tokio::select! {
            _ = self.interrupt.recv() => Request::End,
            _ = self.terminate.recv() => Request::End,
            () = received(&mut self.hangup) => Request::HangUp,
        }
    }
}

async fn received(signal: &mut Option<Signal>) {
    match signal {
        Some(signal) => drop(signal.recv().await),
        None => std::future::pending().await,
    }
}

/// Whether this program was started to outlive its terminal, as by `nohup`. Where that is not known it is left to the
/// system what the end of the terminal does.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask & 1 == 1)
}
