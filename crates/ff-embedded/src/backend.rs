//! [`EmbeddedBackend`]: the handle for users of this crate.

use std::{fmt, sync::Arc};

use async_trait::async_trait;
use ff_core::{
    CompletionBackend, CompletionStream, EngineError, Frame, LaneId, PartitionCount, ScannerFilter, Start,
    SubscribeBackend, SubscribeOptions, Subscription,
    backend::{TimerSignals, WorkSignals},
};
use ff_script::{
    SOURCE, keys,
    operations::{LogPolicy, Operations},
};
use futures::{FutureExt, StreamExt};
use uuid::Uuid;

use crate::{
    Clock, EmbeddedHost,
    completions::{self, Frames, Logs},
    listeners::WakeUps,
};

/// FlowFabric in this process, without a server. Everything is in memory and is dropped with the last clone.
///
/// The state machine is the library that runs on a server, and the traits and their guarantees are the same.
///
/// ```
/// use ff_core::{CompletionBackend, ExecutionSpec, FlowSubmission, Namespace, SubmitBackend};
/// use ff_embedded::EmbeddedBackend;
///
/// # futures::executor::block_on(async {
/// let backend = EmbeddedBackend::new();
/// let completions = backend.subscribe_completions().await?;
/// let flow = FlowSubmission::new(Namespace::new("shop")?).execution(ExecutionSpec::new("ship"));
/// let submitted = backend.submit_flow(&flow).await?;
/// # drop((completions, submitted));
/// # Ok::<(), ff_core::EngineError>(()) }).unwrap();
/// ```
#[derive(Clone)]
pub struct EmbeddedBackend {
    inner: Arc<Inner>,
}

struct Inner {
    host: Arc<EmbeddedHost>,
    operations: Operations<EmbeddedHost>,
    logs: Arc<Logs>,
    wake_ups: Arc<WakeUps>,
    max_subscriptions: usize,
}

/// Options of an [`EmbeddedBackend`].
#[derive(Debug, Clone)]
#[must_use]
pub struct EmbeddedBuilder {
    host: Option<Arc<EmbeddedHost>>,
    partitions: Option<PartitionCount>,
    clock: Clock,
    seed: u64,
    log_policy: LogPolicy,
    max_subscriptions: usize,
    listener: Option<Uuid>,
}

impl Default for EmbeddedBuilder {
    fn default() -> Self {
        Self {
            host: None,
            partitions: None,
            clock: Clock::Real,
            seed: fastrand::u64(..),
            log_policy: LogPolicy::default(),
            max_subscriptions: 10_000,
            listener: None,
        }
    }
}

impl EmbeddedBuilder {
    /// Shares the keys of an existing host, as a second process shares a server. Clock and seed are then those of the
    /// host.
    pub fn host(self, host: Arc<EmbeddedHost>) -> Self {
        Self { host: Some(host), ..self }
    }

    /// Sets the partition count; default 256.
    pub fn partition_count(self, partitions: PartitionCount) -> Self {
        Self { partitions: Some(partitions), ..self }
    }

    /// Sets the clock; default: the machine's clock.
    pub fn clock(self, clock: Clock) -> Self {
        Self { clock, ..self }
    }

    /// Sets the seed of the order in which hashes are iterated; default: a random one.
    pub fn seed(self, seed: u64) -> Self {
        Self { seed, ..self }
    }

    /// Sets how many entries and bytes the logs keep, and the size of results that completions carry.
    pub fn log_policy(self, log_policy: LogPolicy) -> Self {
        Self { log_policy, ..self }
    }

    /// Sets the maximum number of subscriptions of a host; default 10,000.
    pub fn max_subscriptions(self, max_subscriptions: usize) -> Self {
        Self { max_subscriptions, ..self }
    }

    /// Sets the id under which partitions register this process as waiting for work; default: a random one.
    pub fn listener(self, listener: Uuid) -> Self {
        Self { listener: Some(listener), ..self }
    }

    /// Creates the backend.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] when a shared host has another partition count,
    /// [`EngineError::InvalidInput`] for a log policy beyond its range.
    pub fn build(self) -> Result<EmbeddedBackend, EngineError> {
        self.log_policy.check()?;
        let host = self.host.unwrap_or_else(|| Arc::new(EmbeddedHost::new(self.clock, self.seed)));
        host.load_once(SOURCE).map_err(|error| EngineError::protocol("loading the library", error.to_string()))?;
        // On this host every call completes immediately.
        let joined = Operations::join_deployment(&*host, self.partitions).now_or_never();
        let partitions = joined.unwrap_or_else(|| Err(EngineError::transport("joining", "the host did not answer")))?;
        let listener = self.listener.unwrap_or_else(Uuid::new_v4);
        let wake_ups = Arc::new(WakeUps::default());
        host.switchboard().connect(keys::wake_channel(listener), &wake_ups);
        let operations = Operations::new(host.clone(), partitions, self.log_policy, listener);
        let logs = Arc::new(Logs::new(partitions, self.log_policy));
        let inner = Inner { host, operations, logs, wake_ups, max_subscriptions: self.max_subscriptions };
        Ok(EmbeddedBackend { inner: Arc::new(inner) })
    }
}

impl EmbeddedBackend {
    /// A separate, empty backend on the machine's clock.
    #[must_use]
    pub fn new() -> Self {
        Self::builder().build().expect("a fresh host has no other partition count and takes the library as it is")
    }

    /// A backend with options.
    pub fn builder() -> EmbeddedBuilder {
        EmbeddedBuilder::default()
    }

    /// The host that runs the library, with the tools for tests.
    #[must_use]
    pub fn host(&self) -> &Arc<EmbeddedHost> {
        &self.inner.host
    }

    fn operations(&self) -> &Operations<EmbeddedHost> {
        &self.inner.operations
    }

    fn frames(&self, options: &SubscribeOptions) -> Result<Frames, EngineError> {
        let Inner { host, logs, max_subscriptions, .. } = &*self.inner;
        completions::subscribe(host, logs, options, *max_subscriptions)
    }

    async fn signals(&self, lane: &LaneId) -> Result<WorkSignals, EngineError> {
        Ok(self.inner.wake_ups.listen(lane))
    }

    async fn timers(&self) -> Result<TimerSignals, EngineError> {
        Ok(self.inner.host.switchboard().timers().listen(self.inner.clone()))
    }
}

impl Default for EmbeddedBackend {
    fn default() -> Self {
        Self::new()
    }
}

impl fmt::Debug for EmbeddedBackend {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EmbeddedBackend")
            .field("host", &self.inner.host)
            .field("partitions", &self.inner.operations.partition_count())
            .finish_non_exhaustive()
    }
}

ff_script::backend_by_script!(EmbeddedBackend, operations, signals, timers);

#[async_trait]
impl CompletionBackend for EmbeddedBackend {
    async fn subscribe_completions(&self) -> Result<CompletionStream, EngineError> {
        self.subscribe_completions_filtered(&ScannerFilter::NOOP).await
    }

    async fn subscribe_completions_filtered(&self, filter: &ScannerFilter) -> Result<CompletionStream, EngineError> {
        let frames = self.frames(&SubscribeOptions::new().filter(filter.clone()))?;
        Ok(Box::pin(frames.filter_map(|frame| async {
            match frame {
                Frame::Completion(completion) => Some(completion),
                _ => None,
            }
        })))
    }
}

#[async_trait]
impl SubscribeBackend for EmbeddedBackend {
    async fn subscribe(&self, options: &SubscribeOptions) -> Result<Subscription, EngineError> {
        options.check()?;
        if let Start::After(cursor) = &options.start {
            cursor.check(self.operations().partition_count(), options.scope)?;
        }
        self.frames(options).map(Subscription::new)
    }
}
