//! Ctrl-C and the request to terminate, for commands that have something to finish first.

use tokio::signal::unix::{Signal, SignalKind, signal};

use crate::failure::CliError;

/// Listens from its creation on, so that no request falls between two waits.
pub(crate) struct Interrupts {
    interrupt: Signal,
    terminate: Signal,
}

impl Interrupts {
    pub(crate) fn listen() -> Result<Self, CliError> {
        let listen = |kind| signal(kind).map_err(|error| CliError::failed("signals cannot be listened for", error));
        Ok(Self { interrupt: listen(SignalKind::interrupt())?, terminate: listen(SignalKind::terminate())? })
    }

    /// Does something that a request to stop may drop at any moment.
    pub(crate) async fn or<T>(&mut self, doing: impl Future<Output = Result<T, CliError>>) -> Result<T, CliError> {
        tokio::select! {
            done = doing => done,
            () = self.next() => Err(CliError::cancelled("interrupted", "nothing was submitted")),
        }
    }

    /// Waits for the next request to stop.
    pub(crate) async fn next(&mut self) {
        tokio::select! {
            _ = self.interrupt.recv() => {}
            _ = self.terminate.recv() => {}
        }
    }
}
