//! A worker and an engine in this process, for commands that run what they submit.

use std::{sync::Arc, time::Duration};

use ff_core::{EngineBackend, EngineError, LaneId};
use ff_engine::{Engine, Worker, WorkerBuilder};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::failure::CliError;

/// How long the shutdown may take beyond the grace of handlers, even if the server does not respond.
const SHUTDOWN_LIMIT: Duration = Duration::from_secs(8);
/// Short, because the commands of a program that dies end with it: their executions should be reclaimed soon.
const LEASE: Duration = Duration::from_secs(10);

/// An engine and one worker.
pub(crate) struct LocalRuntime {
    backend: Arc<dyn EngineBackend>,
    shutdown: CancellationToken,
    /// Taken when its end was observed.
    worker: Option<JoinHandle<Result<(), EngineError>>>,
    engine: Engine,
    /// How long handlers may take to end.
    grace: Duration,
}

impl LocalRuntime {
    /// Starts the engine; there is no worker yet.
    pub(crate) async fn start(backend: &Arc<dyn EngineBackend>) -> Result<Self, CliError> {
        Ok(Self {
            backend: Arc::clone(backend),
            shutdown: CancellationToken::new(),
            worker: None,
            engine: Engine::builder(Arc::clone(backend)).start().await?,
            grace: Duration::ZERO,
        })
    }

    /// A worker of this lane whose handlers end within `grace` after they are cancelled. Their executions return to the
    /// queue when the program ends.
    pub(crate) fn worker(lane: LaneId, concurrency: usize, grace: Duration) -> WorkerBuilder {
        // After its timeout, an attempt may run until the end of its lease: at least two thirds of it.
        let lease = LEASE.max(2 * grace + LEASE / 2);
        let builder = Worker::builder().lane(lane).concurrency(concurrency).lease(lease);
        builder.drain_grace(Duration::ZERO).cancel_grace(grace + LEASE / 5)
    }

    /// Starts the worker.
    pub(crate) fn work(&mut self, worker: WorkerBuilder, grace: Duration) -> Result<(), CliError> {
        let worker = worker.build(Arc::clone(&self.backend))?;
        self.grace = grace;
        self.worker = Some(tokio::spawn(worker.run(self.shutdown.clone())));
        Ok(())
    }

    /// Why the worker has ended on its own. Pending while it works.
    ///
    /// # Cancel safety
    /// The end of the worker is not lost if the future is dropped.
    pub(crate) async fn worker_ended(&mut self) -> CliError {
        let Some(worker) = &mut self.worker else { return std::future::pending().await };
        let ended = worker.await;
        self.worker = None;
        let why = match ended {
            Ok(Err(error)) => return CliError::from(error).about("the worker stopped"),
            Ok(Ok(())) => "it was stopped".to_owned(),
            Err(error) => error.to_string(),
        };
        CliError::failed("the worker stopped", why)
    }

    /// Stops both and waits for them for a bounded time.
    pub(crate) async fn stop(self) {
        self.shutdown.cancel();
        let ending = async {
            if let Some(worker) = self.worker
                && let Ok(Err(error)) = worker.await
            {
                tracing::warn!(%error, "the worker ended with an error");
            }
            self.engine.shutdown().await;
        };
        if timeout(SHUTDOWN_LIMIT + self.grace, ending).await.is_err() {
            tracing::warn!(
                "the worker did not stop in time; its executions return to the queue when their leases expire"
            );
        }
    }
}
