//! A worker and an engine in this process, for commands that run what they submit.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use ff_core::{EngineBackend, EngineError, Failure, LaneId};
use ff_engine::{Engine, WorkContext, Worker};
use tokio::{task::JoinHandle, time::timeout};
use tokio_util::sync::CancellationToken;

use crate::failure::CliError;

/// Commands end after this, whatever a handler or the server is at.
const PATIENCE: Duration = Duration::from_secs(8);
/// Short, since a program that dies takes its commands with it: what it ran should be seen as lost soon.
const LEASE: Duration = Duration::from_secs(10);

/// One worker on one lane, with what keeps flows moving.
pub(crate) struct Crew {
    shutdown: CancellationToken,
    /// Taken when it has been seen to end.
    worker: Option<JoinHandle<Result<(), EngineError>>>,
    engine: Engine,
}

impl Crew {
    /// Starts both.
    pub(crate) async fn start<F, Fut>(
        backend: &Arc<dyn EngineBackend>,
        lane: LaneId,
        concurrency: usize,
        handler: F,
    ) -> Result<Self, CliError>
    where
        F: Fn(WorkContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, Failure>> + Send + 'static,
    {
        let worker = Worker::builder()
            .lane(lane)
            .concurrency(concurrency)
            .lease(LEASE)
            .drain_grace(Duration::from_secs(1))
            .handler(handler)
            .build(Arc::clone(backend))?;
        let engine = Engine::builder(Arc::clone(backend)).start().await?;
        let shutdown = CancellationToken::new();
        let worker = Some(tokio::spawn(worker.run(shutdown.clone())));
        Ok(Self { shutdown, worker, engine })
    }

    /// Why the worker has ended by itself. Waits for ever while it works.
    ///
    /// # Cancel safety
    /// Loses nothing.
    pub(crate) async fn worker_ended(&mut self) -> CliError {
        let Some(worker) = &mut self.worker else { return std::future::pending().await };
        let ended = worker.await;
        self.worker = None;
        let why = match ended {
            Ok(Err(error)) => return CliError::from(error).about("the worker stopped"),
            Ok(Ok(())) => "it was told to".to_owned(),
            Err(error) => error.to_string(),
        };
        CliError::failed("the worker stopped", why)
    }

    /// Stops both and waits for them, but not for ever.
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
        if timeout(PATIENCE, ending).await.is_err() {
            tracing::warn!("the worker did not stop in time; what it still runs returns when its leases run out");
        }
    }
}
