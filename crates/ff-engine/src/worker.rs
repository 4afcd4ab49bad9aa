//! The worker runtime: claims executions of one lane under leases, runs a handler on each, and reports how it went.
//!
//! # How it finds work
//!
//! ```text
//! signals subscribed ─► ask all partitions ─► hot: has work ──claim──► more? yes: stays hot
//!                           ▲      ▲                ▲                        no:  noted there, signalled later
//!                           │      │                │
//!                    rescan interval, Rescan      Ready(partition)
//! ```
//!
//! A partition is *hot* while the last answer said that it has work. Hot partitions are claimed from in turn while
//! there are free slots. A signal wakes one worker, so a worker that is full passes it on (a claim of nothing). The
//! rescan is only a safety net for signals that a worker received before it crashed.
//!
//! # How an execution ends
//!
//! | what happens | what is reported |
//! | --- | --- |
//! | the handler returns `Ok` | complete; a result beyond the limit becomes a permanent failure that names its size |
//! | it returns `Err` or panics | fail |
//! | the attempt's timeout passes | the token is cancelled; fail |
//! | the lease is lost: the backend says so, or somebody else ended the execution | the token is cancelled; nothing |
//! | renewals are not answered | the token is cancelled before the lease ends; complete if it still returns `Ok`, else
//! release |
//! | shutdown, and the grace is over | the same |
//! | [`WorkerBuilder::accept`] refuses it, or it has no handler | release; the handler never sees it |
//!
//! Every report is made after the handler has ended or was dropped. A release costs neither an attempt nor a lease
//! expiry.

mod builder;
mod completer;
mod context;
mod error;
mod execute;
mod handle;
mod handler;
mod lease;
mod plan;
mod refusals;
mod renew;
mod report;
mod run;
mod shared;
#[cfg(test)]
mod tests;

use std::{fmt, sync::Arc};

use ff_core::{
    EngineError, WorkerId,
    backend::{MaintenanceBackend, WorkBackend},
};
use tokio_util::sync::CancellationToken;

pub use builder::WorkerBuilder;
pub use context::WorkContext;
pub use error::{HandlerError, PermanentExt};
pub use handle::WorkerHandle;

/// Runs a handler on the executions of one lane.
///
/// ```
/// use std::sync::Arc;
///
/// use bytes::Bytes;
/// use ff_core::{EngineBackend, EngineError, Failure, LaneId};
/// use ff_engine::{WorkContext, Worker};
/// use tokio_util::sync::CancellationToken;
///
/// async fn resize(context: WorkContext) -> Result<Bytes, Failure> {
///     if context.payload().is_empty() {
///         return Err(Failure::permanent("there is no picture to resize"));
///     }
///     Ok(Bytes::from_static(b"resized"))
/// }
///
/// async fn work(backend: Arc<dyn EngineBackend>, shutdown: CancellationToken) -> Result<(), EngineError> {
///     let worker = Worker::builder().lane(LaneId::new("pictures")?).concurrency(8).handler(resize).build(backend)?;
///     worker.run(shutdown).await
/// }
/// ```
pub struct Worker<B: ?Sized> {
    backend: Arc<B>,
    config: builder::Config,
    worker_id: WorkerId,
    handlers: handler::Handlers,
}

impl Worker<()> {
    /// Begins a worker. It needs at least one handler.
    pub fn builder() -> WorkerBuilder {
        WorkerBuilder::default()
    }
}

impl<B: ?Sized> Worker<B> {
    /// The name under which it holds leases.
    #[must_use]
    pub const fn worker_id(&self) -> &WorkerId {
        &self.worker_id
    }
}

impl<B: WorkBackend + MaintenanceBackend + ?Sized> Worker<B> {
    /// Works until `shutdown` is cancelled, then claims nothing more, lets running handlers finish within the drain
    /// grace, gives back what has not ended, and returns. A backend that is away is waited for, also at the start.
    ///
    /// # Errors
    /// What [`WorkBackend::work_signals`] refuses at the start for good, such as wrong credentials. Later errors are
    /// logged, counted and retried.
    ///
    /// # Cancel safety
    /// Dropping the future aborts the running handlers and reports nothing: their executions return when their leases
    /// run out. Cancel `shutdown` instead and wait.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), EngineError> {
        run::Runner::new(self).run(shutdown).await
    }

    /// Starts [`Worker::run`] on a task of its own.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub fn start(self) -> WorkerHandle
    where
        B: 'static,
    {
        let shutdown = CancellationToken::new();
        WorkerHandle::new(tokio::spawn(self.run(shutdown.clone())), shutdown)
    }
}

impl<B: ?Sized> fmt::Debug for Worker<B> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Worker")
            .field("worker_id", &self.worker_id)
            .field("config", &self.config)
            .finish_non_exhaustive()
    }
}
