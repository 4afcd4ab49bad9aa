//! The settings and the builder of a worker.

use std::{future::Future, sync::Arc, time::Duration};

use bytes::Bytes;
use ff_core::{
    ClaimedExecution, EngineError, Failure, LaneId, WorkerId,
    backend::{MaintenanceBackend, WorkBackend},
    limits,
};
use serde::{Serialize, de::DeserializeOwned};

use super::{
    WorkContext, Worker,
    error::HandlerError,
    handler::{Handler, Handlers},
};

/// A lease shorter than this would run out between two renewals on a busy machine.
const SHORTEST_LEASE: Duration = Duration::from_millis(100);

/// The settings of a worker.
#[derive(Debug, Clone)]
pub(super) struct Config {
    pub(super) lane: LaneId,
    pub(super) worker_id: Option<WorkerId>,
    pub(super) concurrency: usize,
    pub(super) lease: Duration,
    pub(super) rescan_interval: Duration,
    pub(super) drain_grace: Duration,
    pub(super) cancel_grace: Duration,
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

/// Builds a [`Worker`]; see [`Worker::builder`].
#[derive(Debug, Clone, Default)]
#[must_use]
pub struct WorkerBuilder {
    config: Config,
    handlers: Handlers,
}

impl WorkerBuilder {
    /// The lane whose executions it claims. Default: `default`.
    pub fn lane(mut self, lane: LaneId) -> Self {
        self.config.lane = lane;
        self
    }

    /// How many executions it runs concurrently. Default 16.
    pub fn concurrency(mut self, slots: usize) -> Self {
        self.config.concurrency = slots;
        self
    }

    /// How long a lease runs. It is renewed after a tenth of that time and then after each third. Default 30 s.
    ///
    /// Renewals do not use the runtime of the worker, so handlers that block its threads keep their leases. Everything
    /// else stops meanwhile: see [`WorkerBuilder::handler_blocking`].
    ///
    /// If renewals are not answered, the handler's token is cancelled a sixth of the lease before its end (or the
    /// cancel grace before, if that is shorter), and the handler is dropped at the end of the lease.
    ///
    /// After a crash of this process its executions return to the queue after this time. A longer lease costs fewer
    /// renewals and survives longer outages of the backend.
    pub fn lease(mut self, lease: Duration) -> Self {
        self.config.lease = lease;
        self
    }

    /// The name under which it holds leases. Default: a random name.
    pub fn worker_id(mut self, worker_id: WorkerId) -> Self {
        self.config.worker_id = Some(worker_id);
        self
    }

    /// How often it checks all partitions for work without a signal. Default 60 s.
    ///
    /// If signals may have been missed, it checks immediately; this interval is an additional safety net.
    pub fn rescan_interval(mut self, interval: Duration) -> Self {
        self.config.rescan_interval = interval;
        self
    }

    /// How long running handlers may take to finish after shutdown was requested. Default 30 s.
    pub fn drain_grace(mut self, grace: Duration) -> Self {
        self.config.drain_grace = grace;
        self
    }

    /// How long a handler may take to return after its token was cancelled, before it is dropped; at most until the end
    /// of its lease. Default 5 s.
    pub fn cancel_grace(mut self, grace: Duration) -> Self {
        self.config.cancel_grace = grace;
        self
    }

    /// Which executions it accepts; a refused execution never reaches the handler. Default: all of its lane.
    ///
    /// A lane is an address, not a permission: every submitter can submit to any lane. If work from other submitters
    /// could do harm in the handler, select the accepted work here by flow, namespace or payload.
    ///
    /// A refused execution returns to the queue without counting an attempt or a failure. The first time it returns
    /// immediately, so that another worker of the lane can take it. An execution that was refused before is kept for a
    /// while before it returns, up to half a lease, so that a worker which refuses it does not claim it continuously.
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
        self.handlers.accept = Some(Arc::new(accept));
        self
    }

    /// A handler for the executions of one kind, with JSON values: the input is the payload, and the returned value
    /// becomes the result. The kind of an execution is its tag [`KIND_TAG`](ff_core::KIND_TAG), or its name if it has
    /// no such tag. A second handler for a kind replaces the first.
    ///
    /// A payload that does not parse fails the execution without a retry, and the reason names the field. An empty
    /// payload is `null`. A worker that has no handler for an execution, and no fallback, gives it back as
    /// [`WorkerBuilder::accept`] does, so that another worker of the lane can take it.
    ///
    /// ```
    /// use ff_engine::{HandlerError, WorkContext, Worker};
    ///
    /// #[derive(serde::Deserialize)]
    /// struct Order {
    ///     cents: u64,
    /// }
    ///
    /// async fn charge(_: WorkContext, order: Order) -> Result<String, HandlerError> {
    ///     Ok(format!("charged {} cents", order.cents))
    /// }
    ///
    /// let worker = Worker::builder().on("charge", charge).on("ship", |_, address: String| async move {
    ///     Ok(format!("sent to {address}"))
    /// });
    /// # drop(worker);
    /// ```
    pub fn on<T, R, F, Fut>(mut self, kind: impl Into<String>, handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Fn(WorkContext, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    {
        self.handlers.routes.insert(kind.into(), Handler::typed(handler));
        self
    }

    /// A value that all handlers share; [`WorkContext::state`] returns it. A second value replaces the first.
    pub fn state<S: Send + Sync + 'static>(mut self, state: S) -> Self {
        self.handlers.state = Some(Arc::new(state));
        self
    }

    /// The handler of every execution without a handler from [`WorkerBuilder::on`]: `Ok` completes the execution with
    /// these bytes as its result, `Err` fails the attempt. A panic fails the attempt as a retryable failure.
    pub fn handler<F, Fut>(mut self, handler: F) -> Self
    where
        F: Fn(WorkContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<Bytes, Failure>> + Send + 'static,
    {
        self.handlers.fallback = Some(Handler::bytes(handler));
        self
    }

    /// As [`WorkerBuilder::handler`], for work that computes or waits without `.await`: it runs on a thread for
    /// blocking work, so that it does not delay timeouts, cancellations and other executions.
    ///
    /// The worker cannot stop it from outside. It should check [`WorkContext::is_cancelled`] regularly; its slot is
    /// taken and nothing is reported until it has returned.
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
    pub fn handler_blocking<F>(mut self, handler: F) -> Self
    where
        F: Fn(WorkContext) -> Result<Bytes, Failure> + Send + Sync + 'static,
    {
        self.handlers.fallback = Some(Handler::Blocking(Arc::new(handler)));
        self
    }

    /// The worker, over this backend.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] if there is no handler, or for a setting beyond its range: a concurrency of 1 to a
    /// million, a lease of at least 100 ms, a rescan interval of at least 1 ms, and no duration above ten years.
    pub fn build<B>(self, backend: Arc<B>) -> Result<Worker<B>, EngineError>
    where
        B: WorkBackend + MaintenanceBackend + ?Sized,
    {
        if self.handlers.is_empty() {
            return Err(EngineError::invalid("a worker without a handler", "give it one with `on` or `handler`"));
        }
        let config = self.config.checked()?;
        let worker_id = match &config.worker_id {
            Some(worker_id) => worker_id.clone(),
            None => WorkerId::new(&format!("worker-{}-{:08x}", std::process::id(), fastrand::u32(..)))?,
        };
        Ok(Worker { backend, config, worker_id, handlers: self.handlers })
    }
}
