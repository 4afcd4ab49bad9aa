//! A worker that runs on a task of its own.

use ff_core::EngineError;
use tokio::task::JoinHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

/// A running worker; [`Worker::start`](super::Worker::start) returns it.
///
/// Dropping it asks the worker to stop and does not wait for it.
#[derive(Debug)]
#[must_use = "dropping the handle stops the worker"]
pub struct WorkerHandle {
    task: JoinHandle<Result<(), EngineError>>,
    shutdown: DropGuard,
}

impl WorkerHandle {
    pub(super) fn new(task: JoinHandle<Result<(), EngineError>>, shutdown: CancellationToken) -> Self {
        Self { task, shutdown: shutdown.drop_guard() }
    }

    /// Whether the worker has ended on its own; [`WorkerHandle::shutdown`] then returns the reason.
    #[must_use]
    pub fn has_ended(&self) -> bool {
        self.task.is_finished()
    }

    /// Stops the worker as [`Worker::run`](super::Worker::run) describes, and waits for its end: at most the drain
    /// grace and the cancel grace, and the time of the last reports.
    ///
    /// # Errors
    /// What the worker was refused at its start, or [`EngineError::Ended`] after a panic of the backend.
    ///
    /// # Cancel safety
    /// Dropping the future leaves the worker stopping.
    pub async fn shutdown(self) -> Result<(), EngineError> {
        drop(self.shutdown);
        match self.task.await {
            Ok(outcome) => outcome,
            Err(error) => Err(EngineError::ended(format!("the task of the worker ({error})"))),
        }
    }
}
