//! Runs what keeps a deployment moving, as tasks of one handle.

use std::{sync::Arc, time::Duration};

use ff_core::{CompletionBackend, EngineError, MaintenanceBackend, SweepPolicy};
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{DependencyReconciler, Dispatcher, Sweeper};

/// Chooses how an [`Engine`] runs; begin with [`Engine::builder`].
#[must_use]
pub struct EngineBuilder<B: ?Sized> {
    backend: Arc<B>,
    dispatcher: Dispatcher<B>,
    reconciler: DependencyReconciler<B>,
    sweeper: Sweeper<B>,
}

impl<B: ?Sized> std::fmt::Debug for EngineBuilder<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EngineBuilder")
            .field("dispatcher", &self.dispatcher)
            .field("reconciler", &self.reconciler)
            .field("sweeper", &self.sweeper)
            .finish_non_exhaustive()
    }
}

impl<B: CompletionBackend + MaintenanceBackend + ?Sized> EngineBuilder<B> {
    /// How long it is from one pass of the sweeper to the next. Default 1 s.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.sweeper = self.sweeper.interval(interval);
        self
    }

    /// For how long ended executions are kept. Default 24 h.
    pub fn sweep_policy(mut self, policy: SweepPolicy) -> Self {
        self.sweeper = self.sweeper.policy(policy);
        self
    }

    /// How long the reconciler rests between two rounds. Default 15 s.
    pub fn reconcile_interval(mut self, interval: Duration) -> Self {
        self.reconciler = self.reconciler.interval(interval);
        self
    }

    /// How many calls a round of the reconciler makes at most. Default 1,024.
    pub fn reconcile_budget(mut self, calls: usize) -> Self {
        self.reconciler = self.reconciler.budget(calls);
        self
    }

    /// In how many partitions the dispatcher resolves dependents at the same time. Default 8.
    pub fn dispatch_concurrency(mut self, partitions: usize) -> Self {
        self.dispatcher = self.dispatcher.concurrency(partitions);
        self
    }

    /// Starts the tasks. When it returns, every completion committed from then on is dispatched.
    ///
    /// # Errors
    /// What verifying the deployment or subscribing to completions answers; nothing runs then.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(self) -> Result<Engine, EngineError> {
        self.backend.verify_deployment().await?;
        let completions = self.backend.subscribe_completions().await?;
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        tasks.spawn(self.dispatcher.run_with(completions, stop.clone()));
        tasks.spawn(self.reconciler.run(stop.clone()));
        tasks.spawn(self.sweeper.run(stop.clone()));
        tasks.close();
        tracing::info!("the engine is running");
        Ok(Engine { tasks, stop: stop.drop_guard() })
    }
}

/// A dispatcher, a reconciler and a sweeper at work. Dropping it stops them.
///
/// Any number may run over one deployment; one per process is plenty, and one in all is enough.
///
/// ```
/// use std::{sync::Arc, time::Duration};
///
/// use ff_core::{EngineBackend, EngineError};
/// use ff_engine::Engine;
///
/// async fn serve(backend: Arc<dyn EngineBackend>) -> Result<(), EngineError> {
///     let engine = Engine::builder(backend).sweep_interval(Duration::from_millis(500)).start().await?;
///     // … until the program is to end:
///     engine.shutdown().await;
///     Ok(())
/// }
/// ```
#[derive(Debug)]
#[must_use = "dropping the engine stops it"]
pub struct Engine {
    tasks: TaskTracker,
    stop: DropGuard,
}

impl Engine {
    /// An engine over this backend, with the default intervals.
    pub fn builder<B: CompletionBackend + MaintenanceBackend + ?Sized>(backend: Arc<B>) -> EngineBuilder<B> {
        EngineBuilder {
            dispatcher: Dispatcher::new(Arc::clone(&backend)),
            reconciler: DependencyReconciler::new(Arc::clone(&backend)),
            sweeper: Sweeper::new(Arc::clone(&backend)),
            backend,
        }
    }

    /// Stops the tasks and waits until they have ended. What they were at is left to whoever runs next.
    ///
    /// # Cancel safety
    /// Dropping the future stops the tasks all the same, without waiting for them.
    pub async fn shutdown(self) {
        drop(self.stop);
        self.tasks.wait().await;
        tracing::info!("the engine has stopped");
    }
}

#[cfg(test)]
mod tests {
    use ff_core::EngineBackend;

    use super::*;
    use crate::testing::{Call, Scripted, transport};

    #[tokio::test(start_paused = true)]
    async fn all_parts_run_over_a_trait_object_until_shutdown() {
        let scripted = Scripted::new(2);
        let backend: Arc<dyn EngineBackend> = Arc::clone(&scripted) as _;
        let engine = Engine::builder(backend).start().await.unwrap();
        assert_eq!(scripted.calls(), [Call::Verify, Call::Subscribe], "ready means subscribed");
        let all = |calls: &[Call]| {
            calls.contains(&Call::Reconcile(1, None)) && calls.iter().any(|call| matches!(call, Call::Sweep(_)))
        };
        scripted.until(all).await;
        engine.shutdown().await;
        assert_nothing_happens(&scripted).await;
    }

    #[tokio::test(start_paused = true)]
    async fn dropping_the_engine_stops_its_tasks() {
        let backend = Scripted::new(2);
        let engine = Engine::builder(Arc::clone(&backend)).start().await.unwrap();
        backend.until(|calls| calls.len() > 5).await;
        drop(engine);
        tokio::task::yield_now().await;
        assert_nothing_happens(&backend).await;
        assert_eq!(Arc::strong_count(&backend), 1, "no task holds the backend");
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_cannot_be_set_up_runs_nothing() {
        let backend = Scripted::new(2);
        backend.script(|script| script.errors.push_back(("subscribe_completions", transport())));
        assert!(Engine::builder(Arc::clone(&backend)).start().await.is_err());
        assert_nothing_happens(&backend).await;
    }

    async fn assert_nothing_happens(backend: &Scripted) {
        let before = backend.calls().len();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(backend.calls().len(), before);
    }
}
