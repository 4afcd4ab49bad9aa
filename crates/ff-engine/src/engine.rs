//! Runs the dispatcher, the reconciler and the sweeper as tasks of one handle.

use std::{sync::Arc, time::Duration};

use ff_core::{CompletionBackend, EngineError, EngineId, Partition, SweepPolicy, backend::MaintenanceBackend, limits};
use tokio::sync::watch;
use tokio_util::{
    sync::{CancellationToken, DropGuard},
    task::TaskTracker,
};

use crate::{
    DependencyReconciler, Dispatcher, Sweeper,
    membership::{Condition, Membership},
    share::Share,
    supervision::Supervision,
};

/// Configures and starts an [`Engine`]; see [`Engine::builder`].
#[must_use]
pub struct EngineBuilder<B: ?Sized> {
    backend: Arc<B>,
    dispatcher: Dispatcher<B>,
    reconciler: DependencyReconciler<B>,
    sweeper: Sweeper<B>,
    id: Option<EngineId>,
    /// As requested; the parts limit it to their maximum.
    sweep_interval: Duration,
    reconcile_interval: Duration,
    policy: SweepPolicy,
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
    /// The name that other engines and `ff doctor` see, unique among the engines of the deployment. Default: a random
    /// name.
    pub fn id(mut self, id: EngineId) -> Self {
        self.id = Some(id);
        self
    }

    /// The time between two sweeps of a partition if no timer is due earlier. Timers do not wait for it, because they
    /// are announced. Default 5 s, at most 9 s.
    pub fn sweep_interval(mut self, interval: Duration) -> Self {
        self.sweep_interval = interval;
        self.sweeper = self.sweeper.interval(interval);
        self
    }

    /// How long ended executions are kept. Default 24 h.
    pub fn sweep_policy(mut self, policy: SweepPolicy) -> Self {
        self.policy = policy;
        self.sweeper = self.sweeper.policy(policy);
        self
    }

    /// The pause between two rounds of the reconciler. Default 15 s.
    pub fn reconcile_interval(mut self, interval: Duration) -> Self {
        self.reconcile_interval = interval;
        self.reconciler = self.reconciler.interval(interval);
        self
    }

    /// The most calls in one round of the reconciler. Default 1,024.
    pub fn reconcile_budget(mut self, calls: usize) -> Self {
        self.reconciler = self.reconciler.budget(calls);
        self
    }

    /// The number of partitions in which the dispatcher resolves dependents concurrently. Default 8.
    pub fn dispatch_concurrency(mut self, partitions: usize) -> Self {
        self.dispatcher = self.dispatcher.concurrency(partitions);
        self
    }

    fn check(&self) -> Result<(), EngineError> {
        let instant = Duration::from_millis(1);
        limits::check_duration("sweep interval", self.sweep_interval, instant)?;
        limits::check_duration("reconcile interval", self.reconcile_interval, instant)?;
        self.policy.check()
    }

    /// Starts the tasks. Every completion committed after this returns is dispatched.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for a duration beyond its range; the errors of verifying the deployment and of
    /// subscribing to completions. After an error nothing runs.
    ///
    /// # Panics
    /// Outside a tokio runtime.
    pub async fn start(self) -> Result<Engine, EngineError> {
        self.check()?;
        self.backend.verify_deployment().await?;
        let completions = self.backend.subscribe_completions().await?;
        let engine = match self.id {
            Some(id) => id,
            None => EngineId::new(&format!("engine-{}-{:08x}", std::process::id(), fastrand::u32(..)))?,
        };
        tracing::info!(%engine, "the engine is running");
        let (tasks, stop) = (TaskTracker::new(), CancellationToken::new());
        let (sender, share) = watch::channel(Share::Unknown);
        let condition = Arc::<Condition>::default();
        let membership = Membership { backend: self.backend, engine, share: sender, condition: Arc::clone(&condition) };
        let sweeper = self.sweeper.within(share.clone(), Arc::clone(&condition));
        let supervision = Supervision::default();
        let watched = || supervision.clone();
        let dispatching = self.dispatcher.within(share.clone()).run_with(completions, stop.clone());
        tasks.spawn(watched().run("dispatcher", dispatching, stop.clone()));
        let reconciling = self.reconciler.within(share.clone()).run(stop.clone());
        tasks.spawn(watched().run("reconciler", reconciling, stop.clone()));
        // Both on one task, so that an engine that no longer sweeps is no longer registered as active.
        let (swept, noted) = (stop.clone(), stop.clone());
        let sweeping = async move {
            tokio::join!(sweeper.run(swept), membership.run(noted));
        };
        tasks.spawn(watched().run("sweeper", sweeping, stop.clone()));
        tasks.close();
        Ok(Engine { tasks, supervision, stop: stop.drop_guard(), share, condition })
    }
}

/// The health of an [`Engine`].
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct EngineHealth {
    /// The parts (`dispatcher`, `reconciler`, `sweeper`) that have ended although they were not stopped: by a panic,
    /// most likely of the backend. The engine must be restarted.
    pub ended_parts: Vec<&'static str>,
}

/// A running dispatcher, reconciler and sweeper. Dropping it stops them.
///
/// Any number of engines may run over one deployment; one per process is more than enough, and one in total is
/// sufficient. They share the partitions: the others take over the partitions of an engine that stops immediately, and
/// those of one that crashes within 10 s.
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
    supervision: Supervision,
    stop: DropGuard,
    share: watch::Receiver<Share>,
    condition: Arc<Condition>,
}

impl Engine {
    /// An engine over this backend, with the default intervals.
    pub fn builder<B: CompletionBackend + MaintenanceBackend + ?Sized>(backend: Arc<B>) -> EngineBuilder<B> {
        EngineBuilder {
            dispatcher: Dispatcher::new(Arc::clone(&backend)),
            reconciler: DependencyReconciler::new(Arc::clone(&backend)),
            sweeper: Sweeper::new(Arc::clone(&backend)),
            id: None,
            backend,
            sweep_interval: Duration::from_secs(1),
            reconcile_interval: Duration::from_secs(15),
            policy: SweepPolicy::default(),
        }
    }

    /// Whether this engine serves the partition now. Until it knows the active engines, it serves none.
    #[must_use]
    pub fn serves(&self, partition: Partition) -> bool {
        self.share.borrow().serves(partition)
    }

    /// The number of active engines, including this one; 0 while it is not known. An engine that cannot determine it
    /// serves all partitions.
    #[must_use]
    pub fn engines(&self) -> usize {
        self.condition.engines()
    }

    /// The health of the engine, without a call to the backend.
    #[must_use]
    pub fn health(&self) -> EngineHealth {
        EngineHealth { ended_parts: self.supervision.ended() }
    }

    /// Stops the tasks and waits until they have ended. The next engine continues their unfinished work.
    ///
    /// # Cancel safety
    /// Dropping the future also stops the tasks, without waiting for them.
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

    #[tokio::test(start_paused = true)]
    async fn a_part_that_panics_is_named_by_health_and_the_others_go_on() {
        let backend = Scripted::new(2);
        backend.script(|script| script.panics.extend(["sweep"]));
        let engine = Engine::builder(Arc::clone(&backend)).start().await.unwrap();
        while engine.health().ended_parts.is_empty() {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        assert_eq!(engine.health().ended_parts, ["sweeper"]);
        let before = backend.calls().len();
        backend.until(|calls| calls.len() > before).await;
        engine.shutdown().await;
    }

    #[tokio::test(start_paused = true)]
    async fn a_duration_beyond_its_range_is_refused_by_name() {
        let backend = Scripted::new(2);
        let builder = || Engine::builder(Arc::clone(&backend));
        let policy = SweepPolicy::retention(Duration::MAX);
        for (refused, what) in [
            (builder().sweep_interval(Duration::MAX), "sweep interval"),
            (builder().reconcile_interval(Duration::ZERO), "reconcile interval"),
            (builder().reconcile_interval(Duration::MAX), "reconcile interval"),
            (builder().sweep_policy(policy), "retention"),
        ] {
            let error = refused.start().await.unwrap_err().to_string();
            assert!(error.contains(what) && error.contains("expected") && error.contains("ten years"), "{error}");
        }
        assert_nothing_happens(&backend).await;
    }

    async fn assert_nothing_happens(backend: &Scripted) {
        let before = backend.calls().len();
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(backend.calls().len(), before);
    }
}
