//! Handles Ctrl-C, SIGTERM and the end of the terminal, for commands that must clean up before they end.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::CliError;

/// The request of a signal.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Request {
    /// Ctrl-C or SIGTERM.
    End,
    /// The terminal was closed.
    HangUp,
}

/// Makes the system refuse a write beyond the limit of a file's size (`ulimit -f`), which is reported like a full disk,
/// instead of ending the program.
pub(crate) fn outlive_file_size_limit() {
    // The signal itself is not needed. Its handler stays for the life of the program.
    if let Err(error) = signal(SignalKind::from_raw(rustix::process::Signal::XFSZ.as_raw())) {
        tracing::debug!(%error, "SIGXFSZ cannot be handled");
    }
}

/// Listens from its creation on, so that no request is lost between two waits.
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

    /// Runs a future that may be dropped at any time if a request arrives.
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

/// Whether this program was started to outlive its terminal, for example by `nohup`. If that is not known, the signal
/// keeps its default effect.
fn hangup_is_ignored() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let ignored = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    ignored.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_none_or(|mask| mask & 1 == 1)
}
