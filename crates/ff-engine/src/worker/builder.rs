//! How a worker is put together.

use std::{fmt, future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use ff_core::{ClaimedExecution, EngineError, Failure, LaneId, MaintenanceBackend, WorkBackend, WorkerId, limits};
use futures::{FutureExt, future::BoxFuture};
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::{WorkContext, Worker, execute::HandlerResult};

/// A handler behind one type, so that a worker has no type parameter for it.
#[derive(Clone)]
pub(super) enum Handler {
    Async(Arc<dyn Fn(WorkContext) -> BoxFuture<'static, HandlerResult> + Send + Sync>),
    Blocking(Arc<dyn Fn(WorkContext) -> HandlerResult + Send + Sync>),
}

impl Handler {
    /// Starts it in a task of its own, so that neither a panic nor a computation without awaits reaches what watches
    /// over it.
    pub(super) fn start(&self, context: WorkContext) -> JoinHandle<HandlerResult> {
        match self {
            Self::Async(handler) => {
                let handler = Arc::clone(handler);
                tokio::spawn(async move { handler(context).await }.in_current_span())
            }
            Self::Blocking(handler) => {
                let (handler, span) = (Arc::clone(handler), tracing::Span::current());
                tokio::task::spawn_blocking(move || span.in_scope(|| handler(context)))
            }
        }
    }
}

/// Says which executions a worker takes.
#[derive(Clone)]
pub(super) struct Accept(Arc<dyn Fn(&ClaimedExecution) -> bool + Send + Sync>);

impl Accept {
    pub(super) fn takes(&self, execution: &ClaimedExecution) -> bool {
        (self.0)(execution)
    }
}

impl fmt::Debug for Accept {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Accept")
    }
}

/// A lease shorter than this would run out between two renewals on a busy machine.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// How a worker behaves.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) lane: LaneId,
    pub(super) worker_id: Option<WorkerId>,
    pub(super) concurrency: usize,
    pub(super) lease: Duration,
    pub(super) rescan_interval: Duration,
    pub(super) drain_grace: Duration,
    pub(super) cancel_grace: Duration,
    /// Absent where everything is taken.
    pub(super) accept: Option<Accept>,
}

impl Default for Config {
    fn default() -> Self {
        Self {
            lane: LaneId::default_lane(),
            worker_id: None,
            concurrency: 16,
            lease: Duration::from_secs(30),
            rescan_interval: Duration::from_secs(60),
            drain_grace: Duration::from_secs(30),
            cancel_grace: Duration::from_secs(5),
            accept: None,
        }
    }
}

impl Config {
    fn checked(self) -> Result<Self, EngineError> {
        limits::check_number("concurrency", self.concurrency as u64, 1..=1_000_000)?;
        limits::check_duration("lease", self.lease, SHORTEST_LEASE)?;
        limits::check_duration("rescan interval", self.rescan_interval, Duration::from_millis(1))?;
        limits::check_duration("drain grace", self.drain_grace, Duration::ZERO)?;
        limits::check_duration("cancel grace", self.cancel_grace, Duration::ZERO)?;
        Ok(self)
    }
}

/// Marks a [`WorkerBuilder`] that has no handler yet, and so cannot be built.
#[derive(Debug, Clone, Copy)]
pub struct NoHandler(());

/// Marks a [`WorkerBuilder`] that has its handler.
#[derive(Clone)]
pub struct WithHandler(Handler);

/// Puts a [`Worker`] together; begin with [`Worker::builder`].
#[derive(Clone)]
#[must_use]
pub struct WorkerBuilder<H = NoHandler> {
    config: Config,
    handler: H,
}

impl<H> fmt::Debug for WorkerBuilder<H> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkerBuilder").field("config", &self.config).finish_non_exhaustive()
    }
}

impl WorkerBuilder {
    pub(super) fn new() -> Self {
        Self { config: Config::default(), handler: NoHandler(()) }
    }
}

impl<H> WorkerBuilder<H> {
    /// The lane whose executions it claims. Default: `default`.
    pub fn lane(mut self, lane: LaneId) -> Self {
        self.config.lane = lane;
        self
    }

    /// How many executions it runs at the same time. Default 16.
    pub fn concurrency(mut self, slots: usize) -> Self {
        self.config.concurrency = slots;
        self
    }

    /// How long a lease runs; it is renewed after a tenth of that and then after each third. Default 30 s.
    ///
    /// Renewals do not use the runtime that the worker runs on, so handlers that keep its threads busy keep their leases.
    /// Nothing else goes on meanwhile, though: see [`WorkerBuilder::handler_blocking`].
    ///
    /// If renewals are not answered, the handler is asked to stop a sixth of the lease before its end (or the cancel
    /// grace, if that is shorter), and dropped at its end.
    ///
    /// After a crash of this process its executions return after this time. A longer lease costs fewer renewals and
    /// survives longer outages of the backend.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// The name under which it holds leases. Default: one drawn at random.
    pub fn worker_id(mut self, worker_id: WorkerId) -> Self {
        self.config.worker_id = Some(worker_id);
        self
    }

    /// How often it asks all partitions for work although nothing signalled any. Default 60 s.
    ///
    /// Where signals may have been missed they are asked at once; this is the net below that.
    pub fn rescan_interval(mut self, interval: Duration) -> Self {
        self.config.rescan_interval = interval;
        self
    }

    /// How long running handlers may take to finish once shutdown was asked for. Default 30 s.
    pub fn drain_grace(mut self, grace: Duration) -> Self {
        self.config.drain_grace = grace;
        self
    }

    /// How long a handler may take to return after its token was cancelled, before it is dropped; never longer than its
    /// lease runs. Default 5 s.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.config.cancel_grace = grace;
        self
    }

    /// Which executions it takes; what is refused never reaches the handler. Default: all of its lane.
    ///
    /// A lane is an address and no permission: whoever may submit can submit to any lane. A worker whose handler would do
    /// harm with the work of strangers says here whose work it takes, by flow, namespace or payload.
    ///
    /// What is refused goes back to the queue: no attempt is counted and no failure. The first time it goes back at
    /// once, so that another worker of the lane can take it. An execution that comes back again is kept for a while
    /// before it goes back, up to half a lease, so that a worker which refuses it does not claim it without end.
    ///
    /// ```
    /// use ff_core::Namespace;
    /// use ff_engine::Worker;
    ///
    /// # fn main() -> Result<(), ff_core::EngineError> {
    /// let ours = Namespace::new("team-a")?;
    /// let worker = Worker::builder().accept(move |execution| execution.namespace == ours);
    /// # drop(worker);
    /// # Ok(())
    /// # }
    /// ```
    pub fn accept(mut self, accept: impl Fn(&ClaimedExecution) -> bool + Send + Sync + 'static) -> Self {
        self.config.accept = Some(Accept(Arc::new(accept)));
        self
    }

    /// What it runs: `Ok` completes the execution with these bytes as its result, `Err` fails the attempt. A panic
    /// fails the attempt too, as one that a retry may heal.
    pub fn handler<F, Fut>(self, handler: F) -> WorkerBuilder<WithHandler>
    where
        F: Fn(WorkContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, Failure>> + Send + 'static,
    {
        let handler = Handler::Async(Arc::new(move |context| handler(context).boxed()));
        WorkerBuilder { config: self.config, handler: WithHandler(handler) }
    }

    /// As [`WorkerBuilder::handler`], for work that computes or waits without `.await`: it runs on a thread for such
    /// work, so that timeouts, cancellations and other executions go on beside it.
    ///
    /// Nothing can end it from outside. It should look at [`WorkContext::is_cancelled`] now and then; its slot is taken
    /// and nothing is reported until it has returned.
    ///
    /// ```
    /// use ff_engine::Worker;
    ///
    /// let worker = Worker::builder().handler_blocking(|context| {
    ///     let sum = context.payload().iter().map(|byte| u64::from(*byte)).sum::<u64>();
    ///     Ok(sum.to_string().into())
    /// });
    /// # drop(worker);
    /// ```
    pub fn handler_blocking<F>(self, handler: F) -> WorkerBuilder<WithHandler>
    where
        F: Fn(WorkContext) -> Result<Bytes, Failure> + Send + Sync + 'static,
    {
        WorkerBuilder { config: self.config, handler: WithHandler(Handler::Blocking(Arc::new(handler))) }
    }
}

impl WorkerBuilder<WithHandler> {
    /// The worker, over this backend.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for a setting beyond its range: a concurrency of 1 to a million, a lease of at least
    /// 100 ms, a rescan interval of at least 1 ms, and no duration above ten years.
    pub fn build<B>(self, backend: Arc<B>) -> Result<Worker<B>, EngineError>
    where
        B: WorkBackend + MaintenanceBackend + ?Sized,
    {
        let config = self.config.checked()?;
        let worker_id = match &config.worker_id {
            Some(worker_id) => worker_id.clone(),
            None => WorkerId::new(&format!("worker-{}-{:08x}", std::process::id(), fastrand::u32(..)))?,
        };
        Ok(Worker { backend, config, worker_id, handler: self.handler.0 })
    }
}
