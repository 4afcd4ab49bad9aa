//! [`ValkeyBackend`]: the handle for users of this crate.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, Ordering},
};

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::{
    CompletionBackend, CompletionStream, EngineError, LaneId, LogId, Partition, PartitionCount, ScannerFilter, Scope,
    Start, SubscribeBackend, SubscribeOptions, Subscription,
    backend::{TimerSignals, WorkSignals},
    reader::LogCursor,
};
use ff_script::{keys, loader, operations::Operations, timers::TimerFeed};
use fred::types::Message;
use tokio::sync::{OnceCell, mpsc};
use uuid::Uuid;

use crate::{
    ValkeyConfig, ValkeyHost,
    completions::{
        hub::{Hub, Joined},
        lag::ServerLag,
        queue::Accepts,
        source::ServerLogs,
        stream::{Completions, Frames},
        unpositioned::{self, ServerAttributes},
    },
    net::{
        connection::{Connection, Task},
        subscriber::{MessageSink, Subscriber, SubscriberHandle},
        value,
    },
    tasks::Tasks,
    wake::WakeUps,
};

/// FlowFabric on a Valkey server. Cloning is cheap: all clones share their connections and subscriptions.
///
/// Connections: two for commands, and one for the subscriber, opened with the first subscription. All lead to a primary
/// and follow a failover. They are closed when the last clone and the last stream are dropped.
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
    operations: Arc<Operations<ValkeyHost>>,
    router: Arc<MessageRouter>,
    /// The receiving end of [`MessageRouter::not_taken`], until a task takes it.
    to_pass_on: Mutex<Option<mpsc::Receiver<(LaneId, Partition)>>>,
    running: OnceCell<Arc<SubscriberSession>>,
}

/// Routes the subscriber's messages.
struct MessageRouter {
    listener: Uuid,
    wake_channel: String,
    flows: Arc<Hub>,
    solo: Arc<Hub>,
    wake_ups: WakeUps,
    /// Work signals without a listener in this process.
    not_taken: mpsc::Sender<(LaneId, Partition)>,
    timers: TimerFeed,
}

/// The maximum number of signals that wait to be passed on; the sweep repeats the rest.
const NOT_TAKEN: usize = 256;

impl MessageRouter {
    fn woken(&self, message: &[u8]) {
        if let Some(signal) = self.wake_ups.woken(message) {
            let _ = self.not_taken.try_send(signal);
        }
    }

    /// Ends all streams, because a task that all of them need has ended.
    fn fail(&self) {
        self.flows.fail();
        self.solo.fail();
        self.wake_ups.close();
        self.timers.close();
    }

    const fn hub(&self, scope: Scope) -> &Arc<Hub> {
        match scope {
            Scope::Flows => &self.flows,
            Scope::Solo => &self.solo,
        }
    }
}

/// The subscriber's connection and its tasks, kept until the backend and its streams are dropped.
struct SubscriberSession {
    subscribed: Arc<AtomicBool>,
    connection: Connection,
    subscriber: SubscriberHandle,
    /// The channel of solo executions is subscribed to with the first subscription that needs it.
    solo: OnceCell<[Task; 3]>,
    /// The channel of timers is subscribed to when the first engine asks for timers.
    timers: OnceCell<()>,
    _tasks: Vec<Task>,
}

/// The tasks that run a started hub. If one of them ended unnoticed, the hub's subscriptions would wait forever.
fn hub_tasks(tasks: &Tasks, hub: &Arc<Hub>, subscriber: &SubscriberHandle) -> [Task; 3] {
    let (listening, subscriber) = (hub.clone(), subscriber.clone());
    let renew = async move {
        loop {
            listening.silent_feed().await;
            subscriber.reconnect().await;
        }
    };
    let fail = || {
        let hub = hub.clone();
        move || hub.fail()
    };
    [
        tasks.spawn_or("log reader", hub.clone().read_logs(), fail()),
        tasks.spawn_or("checkpoints", hub.clone().send_checkpoints(), fail()),
        tasks.spawn_or("renewal of silent connections", renew, fail()),
    ]
}

/// Passes work signals without a listener here to other processes.
async fn pass_on(operations: Arc<Operations<ValkeyHost>>, mut signals: mpsc::Receiver<(LaneId, Partition)>) {
    while let Some((lane, partition)) = signals.recv().await {
        if let Err(error) = operations.decline(&lane, partition).await {
            tracing::debug!(%lane, %partition, %error, "a work signal was not passed on; the sweep repeats it");
        }
    }
}

/// The state of a backend.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Health {
    /// Whether the connections for commands are up and lead to a primary.
    pub connected: bool,
    /// Whether the subscriber's connection is up and subscribed. Also `false` before the first subscription.
    pub subscribed: bool,
    /// The last error of a connection, until the connection has recovered.
    pub last_error: Option<String>,
    /// Open subscriptions.
    pub subscriptions: usize,
    /// How many of them are catching up from the log because their queue was full.
    pub lagging: usize,
    /// The logs that cannot be read at present, with the reason: their key has another type, or a permission is
    /// missing. All other logs continue.
    pub unreadable_logs: Vec<(LogId, String)>,
    /// Events of other publishers that wait for attributes that filters need.
    pub held: usize,
    /// The server's time (ms since 1970-01-01 UTC) up to which every committed completion of flows has been put into
    /// the queue of every live subscription. Advances about every 2 s in normal operation; `None` before the first
    /// subscription.
    pub complete_as_of_ms: Option<u64>,
    /// Internal tasks that have ended, by a panic. Normally empty: if a task has ended, subscriptions and work signals
    /// have ended too, new ones are refused, and the program must connect again.
    pub ended_tasks: Vec<&'static str>,
}

impl ValkeyBackend {
    /// Connects to the server at a URL, see [`ValkeyConfig::from_url`].
    ///
    /// # Errors
    /// As [`ValkeyBackend::connect_with`].
    pub async fn connect(url: &str) -> Result<Self, EngineError> {
        Self::connect_with(ValkeyConfig::from_url(url)?).await
    }

    /// Connects with a configuration.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for an invalid configuration, or for a server that is too old or evicts keys when
    /// its memory is full; [`EngineError::PermissionDenied`] for wrong credentials, for a user that lacks a permission
    /// that every role has, or if the deployment is not prepared and the user may not prepare it;
    /// [`EngineError::Transport`] or [`EngineError::Timeout`] when no server answers; [`EngineError::Conflict`] when
    /// the deployment has another partition count, or the server's library has this version and another text.
    pub async fn connect_with(config: ValkeyConfig) -> Result<Self, EngineError> {
        let host = Arc::new(ValkeyHost::connect(config).await?);
        loader::ensure_loaded(&*host).await?;
        host.refuse_eviction().await?;
        let wanted = host.config().partition_count;
        // The record is read first, so that a user with read permission only can join a prepared deployment.
        let partitions = match host.deployment().await? {
            Some(recorded) => recorded.join(wanted)?,
            None => Operations::join_deployment(&*host, wanted).await?,
        };
        Ok(Self::over(host, partitions))
    }

    fn over(host: Arc<ValkeyHost>, partitions: PartitionCount) -> Self {
        let listener = Uuid::new_v4();
        let operations = Arc::new(Operations::new(host.clone(), partitions, host.config().log_policy, listener));
        let (not_taken, to_pass_on) = mpsc::channel(NOT_TAKEN);
        let logs = Arc::new(ServerLogs(host.clone()));
        let tasks = host.primary().tasks();
        let hub = |scope| Arc::new(Hub::new(scope, partitions, host.config(), logs.clone()).watched(tasks.clone()));
        let router = Arc::new(MessageRouter {
            listener,
            wake_channel: keys::wake_channel(listener),
            flows: hub(Scope::Flows),
            solo: hub(Scope::Solo),
            wake_ups: WakeUps::default(),
            not_taken,
            timers: TimerFeed::default(),
        });
        let to_pass_on = Mutex::new(Some(to_pass_on));
        Self { inner: Arc::new(Inner { host, operations, router, to_pass_on, running: OnceCell::new() }) }
    }

    /// The host that runs the library on the server.
    #[must_use]
    pub fn host(&self) -> &Arc<ValkeyHost> {
        &self.inner.host
    }

    /// The id under which partitions register this process, to wake it when work arrives.
    #[must_use]
    pub fn listener(&self) -> Uuid {
        self.inner.router.listener
    }

    /// The state of this backend, without a request to the server.
    #[must_use]
    pub fn health(&self) -> Health {
        let running = self.inner.running.get();
        let MessageRouter { flows, solo, .. } = &*self.inner.router;
        let (subscriptions, lagging) = flows.counts();
        let (_, lagging_solo) = solo.counts();
        let subscribed = |running: &Arc<SubscriberSession>| {
            running.subscribed.load(Ordering::Relaxed) && running.connection.is_connected()
        };
        Health {
            connected: self.inner.host.is_connected(),
            subscribed: running.is_some_and(subscribed),
            last_error: self.inner.host.last_error(),
            subscriptions,
            lagging: lagging + lagging_solo,
            unreadable_logs: [flows.unreadable(), solo.unreadable()].concat(),
            held: flows.unpositioned().len(),
            complete_as_of_ms: flows.complete_as_of(),
            ended_tasks: self.inner.host.ended_tasks(),
        }
    }

    fn operations(&self) -> &Operations<ValkeyHost> {
        &self.inner.operations
    }

    async fn signals(&self, lane: &LaneId) -> Result<WorkSignals, EngineError> {
        let running = self.running().await?;
        self.inner.host.primary().tasks().check("listening for work")?;
        Ok(self.inner.router.wake_ups.listen(lane, running))
    }

    async fn timers(&self) -> Result<TimerSignals, EngineError> {
        let running = self.running().await?;
        self.inner.host.primary().tasks().check("listening for timers")?;
        // Listening begins first, so that no signal is missed after the subscription.
        let signals = self.inner.router.timers.listen(running.clone());
        running.timers.get_or_try_init(|| running.subscriber.add_channel(keys::TIMERS_CHANNEL)).await?;
        Ok(signals)
    }

    /// The subscriber, started with the first subscription. After a failed start the next subscription tries again.
    async fn running(&self) -> Result<Arc<SubscriberSession>, EngineError> {
        self.inner.running.get_or_try_init(|| self.start()).await.cloned()
    }

    async fn start(&self) -> Result<Arc<SubscriberSession>, EngineError> {
        let Inner { host, router, .. } = &*self.inner;
        let channels = vec![keys::FLOW_CHANNEL.to_owned(), router.wake_channel.clone()];
        let subscriber = Subscriber::open(host.primary(), channels).await?;
        let subscribed = subscriber.subscribed();
        let handle = subscriber.handle();
        let (connection, run) = subscriber.run(router.clone());
        // From here on messages are taken, so that none is missed while the heads are read.
        let supervised = host.primary().tasks();
        let fail = || {
            let router = router.clone();
            move || router.fail()
        };
        let [pump, keep] = run;
        let mut tasks =
            vec![supervised.spawn_or("messages", pump, fail()), supervised.spawn_or("resubscription", keep, fail())];
        router.flows.start().await?;
        tasks.extend(hub_tasks(supervised, &router.flows, &handle));
        let attributes = Arc::new(ServerAttributes(host.clone()));
        let to_pass_on = self.inner.to_pass_on.lock().unwrap_or_else(PoisonError::into_inner).take();
        let pass_on = |signals| pass_on(self.inner.operations.clone(), signals);
        tasks.extend(to_pass_on.map(|signals| supervised.spawn_or("passing on of signals", pass_on(signals), fail())));
        let decide = unpositioned::decide(router.flows.clone(), attributes);
        tasks.push(supervised.spawn_or("unpositioned events", decide, fail()));
        Ok(Arc::new(SubscriberSession {
            subscribed,
            connection,
            subscriber: handle,
            solo: OnceCell::new(),
            timers: OnceCell::new(),
            _tasks: tasks,
        }))
    }

    /// Starts the tasks that subscriptions to this scope need, when the first of them is opened.
    async fn listening(&self, scope: Scope) -> Result<Arc<SubscriberSession>, EngineError> {
        let running = self.running().await?;
        if scope == Scope::Solo {
            let solo = &self.inner.router.solo;
            let start = async || {
                running.subscriber.add_channel(keys::SOLO_CHANNEL).await?;
                solo.start().await?;
                Ok::<_, EngineError>(hub_tasks(self.inner.host.primary().tasks(), solo, &running.subscriber))
            };
            running.solo.get_or_try_init(start).await?;
        }
        Ok(running)
    }

    async fn join(
        &self,
        scope: Scope,
        options: &Arc<SubscribeOptions>,
        accepts: Accepts,
        from: Option<Arc<[LogCursor]>>,
    ) -> Result<Joined, EngineError> {
        let running = self.listening(scope).await?;
        self.inner.router.hub(scope).subscribe(options, accepts, from, running)
    }
}

ff_script::backend_by_script!(ValkeyBackend, operations, signals, timers);

impl std::fmt::Debug for ValkeyBackend {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("ValkeyBackend")
            .field("config", self.inner.host.config())
            .field("partitions", &self.inner.operations.partition_count())
            .field("health", &self.health())
            .finish_non_exhaustive()
    }
}

impl MessageSink for MessageRouter {
    fn messages(&self, messages: &mut dyn Iterator<Item = Message>) {
        let mut solo = Vec::new();
        let flows = messages.filter_map(|message| {
            let payload: Bytes = value::string(message.value)?;
            if *message.channel == *keys::FLOW_CHANNEL {
                return Some(payload);
            }
            if *message.channel == *keys::SOLO_CHANNEL {
                solo.push(payload);
            } else if *message.channel == *keys::TIMERS_CHANNEL {
                self.timers.announced(&payload);
            } else {
                self.woken(&payload);
            }
            None
        });
        self.flows.pushed(flows);
        if !solo.is_empty() {
            self.solo.pushed(solo.into_iter());
        }
    }

    fn missed(&self) {
        self.flows.missed();
        self.solo.missed();
        self.wake_ups.rescan();
        self.timers.missed();
    }
}

#[async_trait]
impl CompletionBackend for ValkeyBackend {
    async fn subscribe_completions(&self) -> Result<CompletionStream, EngineError> {
        self.subscribe_completions_filtered(&ScannerFilter::NOOP).await
    }

    async fn subscribe_completions_filtered(&self, filter: &ScannerFilter) -> Result<CompletionStream, EngineError> {
        let options = Arc::new(SubscribeOptions::new().filter(filter.clone()));
        Ok(Box::pin(Completions::new(self.join(Scope::Flows, &options, Accepts::Completions, None).await?)))
    }
}

#[async_trait]
impl SubscribeBackend for ValkeyBackend {
    async fn subscribe(&self, options: &SubscribeOptions) -> Result<Subscription, EngineError> {
        options.check()?;
        let partitions = self.inner.operations.partition_count();
        if let Start::After(cursor) = &options.start {
            cursor.check(partitions, options.scope)?;
        }
        let options = Arc::new(options.clone());
        let mut joined = Vec::new();
        for scope in options.scope.logs() {
            let from = match &options.start {
                Start::After(cursor) => cursor.logs(*scope).cloned(),
                Start::Earliest => Some(vec![LogCursor::earliest(); usize::from(partitions.get())].into()),
                _ => None,
            };
            joined.push((*scope, self.join(*scope, &options, Accepts::Frames, from).await?));
        }
        Ok(Subscription::new(Frames::new(joined, Arc::new(ServerLag::new(self.inner.host.clone())))))
    }
}
