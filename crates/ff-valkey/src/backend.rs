//! [`ValkeyBackend`]: what users hold.

use std::sync::{
    Arc,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::{
    CompletionBackend, CompletionStream, EngineError, LaneId, PartitionCount, ScannerFilter, Scope, WorkSignals,
};
use ff_script::{keys, loader, operations::Operations};
use fred::types::Message;
use tokio::sync::OnceCell;
use uuid::Uuid;

use crate::{
    ValkeyConfig, ValkeyHost,
    bare::{self, ServerAttributes},
    connection::{Connection, LastError, Task},
    hub::Hub,
    source::ServerLogs,
    subscriber::{Listener, Subscriber},
    value,
    wake::WakeUps,
};

/// FlowFabric on a Valkey server. Cloning is cheap: all clones share their connections and subscriptions.
///
/// Connections: two for commands, and one subscriber's, opened with the first subscription. They are closed when the
/// last clone and the last stream are dropped.
///
/// ```no_run
/// use ff_core::CompletionBackend;
/// use ff_valkey::ValkeyBackend;
/// use futures::StreamExt;
///
/// # async fn example() -> Result<(), ff_core::EngineError> {
/// let backend = ValkeyBackend::connect("valkey://127.0.0.1:6379").await?;
/// let mut completions = backend.subscribe_completions().await?;
/// while let Some(completion) = completions.next().await {
///     println!("{}: {}", completion.execution_id, completion.outcome);
/// }
/// # Ok(()) }
/// ```
#[derive(Clone)]
pub struct ValkeyBackend {
    inner: Arc<Inner>,
}

struct Inner {
    host: Arc<ValkeyHost>,
    operations: Operations<ValkeyHost>,
    receiver: Arc<Receiver>,
    running: OnceCell<Arc<Running>>,
}

/// What takes the subscriber's messages.
struct Receiver {
    listener: Uuid,
    wake_channel: String,
    flows: Arc<Hub>,
    wake_ups: WakeUps,
}

/// The subscriber's connection and the tasks that live with it, until backend and streams are gone.
struct Running {
    subscribed: Arc<AtomicBool>,
    connection: Connection,
    _tasks: [Task; 4],
}

/// How a backend is.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Whether the connections for commands are up.
    pub connected: bool,
    /// Whether the subscriber's connection is up and subscribed. `false` too before the first subscription.
    pub subscribed: bool,
    /// What went wrong last, until the connection is well again.
    pub last_error: Option<String>,
    /// Open subscriptions.
    pub subscriptions: usize,
    /// How many of them read the log because their queue was full.
    pub lagging: usize,
    /// Events of other publishers that wait for what filters ask of the server.
    pub held: usize,
}

impl ValkeyBackend {
    /// Connects to the server at a URL, see [`ValkeyConfig::from_url`].
    ///
    /// # Errors
    /// As [`ValkeyBackend::connect_with`].
    pub async fn connect(url: &str) -> Result<Self, EngineError> {
        Self::connect_with(ValkeyConfig::from_url(url)?).await
    }

    /// Connects.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for what is wrong with the configuration, or for a server that is too old or evicts
    /// keys at will when its memory is full,
    /// [`EngineError::PermissionDenied`] for wrong credentials, [`EngineError::Transport`] or [`EngineError::Timeout`]
    /// when no server answers there, [`EngineError::Conflict`] when the deployment has another partition count or the
    /// server another text of this version of the library.
    pub async fn connect_with(config: ValkeyConfig) -> Result<Self, EngineError> {
        let host = Arc::new(ValkeyHost::connect(config).await?);
        loader::ensure_loaded(&*host).await?;
        host.refuse_eviction().await?;
        let wanted = host.config().partition_count;
        let partitions = Operations::join_deployment(&*host, wanted).await?;
        Ok(Self::over(host, partitions))
    }

    fn over(host: Arc<ValkeyHost>, partitions: PartitionCount) -> Self {
        let listener = Uuid::new_v4();
        let operations = Operations::new(host.clone(), partitions, host.config().log_policy, listener);
        let logs = Arc::new(ServerLogs(host.clone()));
        let receiver = Arc::new(Receiver {
            listener,
            wake_channel: keys::wake_channel(listener),
            flows: Arc::new(Hub::new(Scope::Flows, partitions, host.config(), logs)),
            wake_ups: WakeUps::default(),
        });
        Self { inner: Arc::new(Inner { host, operations, receiver, running: OnceCell::new() }) }
    }

    /// The server, as the typed calls use it.
    #[must_use]
    pub fn host(&self) -> &Arc<ValkeyHost> {
        &self.inner.host
    }

    /// The name under which partitions note this process, to wake it when work arrives.
    #[must_use]
    pub fn listener(&self) -> Uuid {
        self.inner.receiver.listener
    }

    /// How this backend is, without asking the server.
    #[must_use]
    pub fn health(&self) -> Health {
        let running = self.inner.running.get();
        let flows = &self.inner.receiver.flows;
        let (subscriptions, lagging) = flows.counts();
        let subscribed =
            |running: &Arc<Running>| running.subscribed.load(Ordering::Relaxed) && running.connection.is_connected();
        Health {
            connected: self.inner.host.is_connected(),
            subscribed: running.is_some_and(subscribed),
            last_error: self.inner.host.last_error().get(),
            subscriptions,
            lagging,
            held: flows.bare().len(),
        }
    }

    fn operations(&self) -> &Operations<ValkeyHost> {
        &self.inner.operations
    }

    async fn signals(&self, lane: &LaneId) -> Result<WorkSignals, EngineError> {
        let running = self.running().await?;
        Ok(self.inner.receiver.wake_ups.listen(lane, running))
    }

    /// The subscriber, started with the first one who needs it. A failed start is tried again by the next one.
    async fn running(&self) -> Result<Arc<Running>, EngineError> {
        self.inner.running.get_or_try_init(|| self.start()).await.cloned()
    }

    async fn start(&self) -> Result<Arc<Running>, EngineError> {
        let Inner { host, receiver, .. } = &*self.inner;
        let channels = vec![keys::FLOW_CHANNEL.to_owned(), receiver.wake_channel.clone()];
        let last_error: LastError = host.last_error();
        let subscriber = Subscriber::open(host.config(), channels, last_error).await?;
        let subscribed = subscriber.subscribed();
        let (connection, pump, keep) = subscriber.run(receiver.clone());
        // From here on messages are taken, so that what is published while the heads are read is not missed.
        let pump = Task::spawn(pump);
        receiver.flows.start().await?;
        let keep = Task::spawn(keep);
        let reader = Task::spawn(receiver.flows.clone().read_logs());
        let attributes = Arc::new(ServerAttributes(host.clone()));
        let bare = Task::spawn(bare::decide(receiver.flows.clone(), attributes));
        Ok(Arc::new(Running { subscribed, connection, _tasks: [pump, keep, reader, bare] }))
    }
}

ff_script::backend_by_script!(ValkeyBackend, operations, signals);

impl std::fmt::Debug for ValkeyBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValkeyBackend")
            .field("config", self.inner.host.config())
            .field("partitions", &self.inner.operations.partition_count())
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

impl Listener for Receiver {
    fn messages(&self, messages: &mut dyn Iterator<Item = Message>) {
        let completions = messages.filter_map(|message| {
            let payload: Bytes = value::string(message.value)?;
            if *message.channel == *self.wake_channel {
                self.wake_ups.woken(&payload);
                return None;
            }
            Some(payload)
        });
        self.flows.pushed(completions);
    }

    fn missed(&self) {
        self.flows.missed();
        self.wake_ups.rescan();
    }
}

#[async_trait]
impl CompletionBackend for ValkeyBackend {
    async fn subscribe_completions(&self) -> Result<CompletionStream, EngineError> {
        self.subscribe_completions_filtered(&ScannerFilter::NOOP).await
    }

    async fn subscribe_completions_filtered(&self, filter: &ScannerFilter) -> Result<CompletionStream, EngineError> {
        let running = self.running().await?;
        self.inner.receiver.flows.subscribe(filter, running)
    }
}
