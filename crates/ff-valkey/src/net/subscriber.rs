//! The one connection that receives messages: subscribes, hands on messages, and subscribes again after a reconnect.
//!
//! The client library reports a subscription as successful before the server has seen it, and also when the server
//! refuses it. So SUBSCRIBE is followed immediately by a PING with a unique text on the same connection: once that text
//! comes back the server has processed the SUBSCRIBE. A refusal arrives instead of that text if the PING was written
//! before the refusal was read; otherwise the library drops the refusal. So the server is also asked whether it has a
//! subscriber of the one channel that is private to this process: all channels are granted or refused together.
//!
//! After a reconnect nothing is subscribed. The task here subscribes again, with the same barrier, and notifies the
//! hub, which compares the logs' heads with the cursors: messages published meanwhile are in the logs. It never gives
//! up; obstacles appear in warnings, in metrics and in the backend's health.
//!
//! The connection begins in RESP2 like all others, because the client library puts the user and password of RESP3 into
//! an inline command, where a space ends them and a line break begins another command. RESP3, which allows commands
//! beside a subscription, is requested before each SUBSCRIBE, after authentication.
//!
//! A half-open connection can stay open for minutes. `connection.rs` re-establishes it when neither an answer nor a
//! message has arrived: in a flood of messages an answer may be late, and the messages prove as much.

use std::{
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
};

use ff_core::EngineError;
use fred::{
    clients::Client,
    error::Error,
    interfaces::{AuthInterface, ClientLike, EventInterface, PubsubInterface},
    types::{ClusterHash, CustomCommand, Message, RespVersion, Value, config::Server},
};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    ValkeyConfig,
    net::{
        backoff::Backoff,
        connection::{Connection, Life, UnconnectedClient},
        error::OpContext,
        outage::Part,
        primary::{Primary, Role},
        unbroken::{Unbroken, once},
        value,
    },
    telemetry,
};

/// Messages that wait in this process for the pump; messages beyond that are read from the logs.
const MESSAGE_CAPACITY: usize = 8192;

/// The consumer of the connection's messages.
pub(crate) trait MessageSink: Send + Sync + 'static {
    /// Takes messages in the order of their arrival, as many as are available.
    fn messages(&self, messages: &mut dyn Iterator<Item = Message>);
    /// Messages may have been missed.
    fn missed(&self);
}

/// The connection, subscribed.
#[derive(Debug)]
pub(crate) struct Subscriber {
    shared: Shared,
    connection: Connection,
    messages: Receiver<Message>,
    reconnects: Receiver<Server>,
}

#[derive(Debug, Clone)]
struct Shared {
    client: Client,
    config: Arc<ValkeyConfig>,
    /// All subscribed channels, subscribed again after every reconnect.
    channels: Arc<Mutex<Vec<String>>>,
    /// The channel that is private to this process.
    own: Arc<str>,
    life: Arc<Life>,
    barriers: Arc<AtomicU64>,
    subscribed: Arc<AtomicBool>,
    /// Its part of an outage.
    part: Arc<Part>,
}

impl Subscriber {
    /// Connects and subscribes to `channels`. The last one must be private to this process. Returns once the server has
    /// acknowledged the subscription.
    ///
    /// # Errors
    /// As for a connection; [`EngineError::PermissionDenied`] if the user may not subscribe.
    pub(crate) async fn open(primary: &Arc<Primary>, channels: Vec<String>) -> Result<Self, EngineError> {
        let prepared = UnconnectedClient::to_listen(primary, MESSAGE_CAPACITY).await?;
        // Before the first connection, so that neither a message nor a reconnect is missed.
        let messages = prepared.client.message_rx();
        let mut reconnects = prepared.client.reconnect_rx();
        let life = prepared.life.clone();
        let connection = Connection::open(prepared).await?;
        let shared = Shared {
            client: connection.get().clone(),
            config: primary.config().clone(),
            own: channels.last().map_or("", String::as_str).into(),
            channels: Arc::new(Mutex::new(channels)),
            life,
            barriers: Arc::default(),
            subscribed: Arc::default(),
            part: Arc::new(primary.outage().part()),
        };
        shared.subscribe_now(&mut reconnects, &shared.own).await?;
        shared.subscribed.store(true, Ordering::Relaxed);
        Ok(Self { shared, connection, messages, reconnects })
    }

    /// Whether the server has acknowledged the subscription on the present connection.
    pub(crate) fn subscribed(&self) -> Arc<AtomicBool> {
        self.shared.subscribed.clone()
    }

    /// A handle for later operations on the connection.
    pub(crate) fn handle(&self) -> SubscriberHandle {
        SubscriberHandle(self.shared.clone())
    }

    /// The connection to keep, and the tasks to run: one hands on messages, one subscribes again after reconnects.
    pub(crate) fn run<L: MessageSink>(self, listener: Arc<L>) -> (Connection, [BoxedTask; 2]) {
        let Self { shared, connection, messages, reconnects } = self;
        let pump = pump(messages, listener.clone(), shared.life.clone());
        let keep = shared.keep(reconnects, listener);
        (connection, [Box::pin(pump), Box::pin(keep)])
    }
}

type BoxedTask = Pin<Box<dyn Future<Output = ()> + Send>>;

/// Controls the subscriber's connection.
#[derive(Debug, Clone)]
pub(crate) struct SubscriberHandle(Shared);

impl SubscriberHandle {
    /// Subscribes to one more channel. Returns once the server has acknowledged the subscription.
    ///
    /// # Errors
    /// As for [`Subscriber::open`].
    pub(crate) async fn add_channel(&self, channel: &str) -> Result<(), EngineError> {
        let Self(shared) = self;
        let mut reconnects = shared.client.reconnect_rx();
        // Other processes may subscribe to the channel, so a channel private to this process is added as the witness.
        let witness = format!("{}:{channel}", shared.own);
        let mut added = Added::to(shared, [channel.to_owned(), witness.clone()]);
        shared.subscribe_now(&mut reconnects, &witness).await?;
        added.channels = None;
        Ok(())
    }

    /// Re-establishes the connection.
    pub(crate) async fn reconnect(&self) {
        self.0.reconnect().await;
    }
}

/// Channels that are removed from the list unless they were granted, even if the caller no longer waits: the server
/// refuses all channels of a command together.
struct Added<'a> {
    shared: &'a Shared,
    channels: Option<[String; 2]>,
}

impl<'a> Added<'a> {
    fn to(shared: &'a Shared, channels: [String; 2]) -> Self {
        shared.channels().extend(channels.clone());
        Self { shared, channels: Some(channels) }
    }
}

impl Drop for Added<'_> {
    fn drop(&mut self) {
        if let Some(added) = self.channels.take() {
            self.shared.channels().retain(|channel| !added.contains(channel));
        }
    }
}

async fn pump<L: MessageSink>(mut messages: Receiver<Message>, listener: Arc<L>, life: Arc<Life>) {
    /// One lock for many messages, but not for so many that other tasks wait long for it.
    const AT_ONCE: usize = 64;
    loop {
        let received = messages.recv().await;
        life.hear();
        match received {
            Ok(first) => {
                let mut overrun = 0;
                let mut more = std::iter::from_fn(|| match messages.try_recv() {
                    Ok(message) => Some(message),
                    Err(tokio::sync::broadcast::error::TryRecvError::Lagged(missed)) => {
                        overrun += missed;
                        None
                    }
                    Err(_) => None,
                })
                .take(AT_ONCE - 1);
                listener.messages(&mut std::iter::once(first).chain(&mut more));
                drop(more);
                overran(overrun, &*listener);
            }
            Err(RecvError::Lagged(missed)) => overran(missed, &*listener),
            Err(RecvError::Closed) => return,
        }
    }
}

fn overran(missed: u64, listener: &impl MessageSink) {
    if missed > 0 {
        telemetry::count(telemetry::OVERRUN, missed);
        tracing::debug!(missed, "messages arrived faster than they were processed; reading the logs");
        listener.missed();
    }
}

impl Shared {
    async fn keep<L: MessageSink>(self, mut reconnects: Receiver<Server>, listener: Arc<L>) {
        loop {
            match reconnects.recv().await {
                Ok(_) | Err(RecvError::Lagged(_)) => {}
                Err(RecvError::Closed) => return,
            }
            self.subscribed.store(false, Ordering::Relaxed);
            telemetry::count(telemetry::RECONNECTS, 1);
            let mut backoff = Backoff::reconnect();
            loop {
                while reconnects.try_recv().is_ok() {}
                match self.establish(&self.own).await {
                    Ok(()) if reconnects.is_empty() => break,
                    Ok(()) => {}
                    Err(error) => {
                        self.part.failed(&error.to_string());
                        backoff.pause().await;
                    }
                }
            }
            self.subscribed.store(true, Ordering::Relaxed);
            self.part.is_well();
            listener.missed();
        }
    }

    fn channels(&self) -> MutexGuard<'_, Vec<String>> {
        self.channels.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Subscribes on a connection that must still be the same when the server has acknowledged the subscription.
    async fn subscribe_now(&self, reconnects: &mut Receiver<Server>, witness: &str) -> Result<(), EngineError> {
        loop {
            while reconnects.try_recv().is_ok() {}
            self.establish(witness).await?;
            // The barrier may have been answered on a newer connection than the subscribed one.
            if reconnects.is_empty() {
                return Ok(());
            }
        }
    }

    async fn reconnect(&self) {
        if let Err(error) = self.client.force_reconnection().await {
            tracing::debug!(%error, "dropping the subscriber's connection failed");
        }
    }

    /// Subscribes and waits for the server's acknowledgement. All channels are granted or refused together; `witness`
    /// is the channel that the server is asked about.
    async fn establish(&self, witness: &str) -> Result<(), EngineError> {
        let channels = self.channels().clone();
        let op = format!("subscribing to {}", channels.join(" and "));
        let doing = OpContext::command(&op, &self.config);
        self.client.hello(RespVersion::RESP3, None, None).await.map_err(|error| doing.failed(error))?;
        let unbroken = Unbroken::of(&self.client);
        // If the library repeated the SUBSCRIBE on its own, it would come after the barrier. This join polls in order.
        let client = self.client.with_options(&once());
        let barrier = format!("ff-barrier-{}", self.barriers.fetch_add(1, Ordering::Relaxed));
        let ping = CustomCommand::new_static("PING", ClusterHash::Random, false);
        let (subscribed, answer): (Result<(), Error>, Result<Value, Error>) =
            futures::join!(client.subscribe(channels), client.custom(ping, vec![Value::from(barrier.as_str())]));
        subscribed.map_err(|error| doing.failed(error))?;
        let answer = answer.map_err(|error| doing.failed(error))?;
        if value::string(answer).is_some_and(|answer| answer == barrier.as_bytes()) {
            let is_refused = self.is_refused(witness).await;
            // A replica forwards the messages of a primary, but the positions of the logs must come from a primary.
            let role = Role::ask(&self.client).await.map_err(|error| doing.failed(error))?;
            // A connection that was made meanwhile does not have subscriptions yet.
            if is_refused && unbroken.holds() {
                return Err(doing.denied("NOPERM for a channel"));
            }
            return role.must_be_primary(&op);
        }
        // Answers and commands are out of step on this connection.
        self.reconnect().await;
        Err(EngineError::transport(op, "the connection returned an unexpected answer"))
    }

    /// Whether the server has no subscriber of a channel. Without permission for this query only the barrier counts.
    async fn is_refused(&self, channel: &str) -> bool {
        let command = CustomCommand::new_static("PUBSUB", ClusterHash::Random, false);
        let answer: Result<Value, Error> =
            self.client.custom(command, vec![Value::from("NUMSUB"), Value::from(channel)]).await;
        let subscribers = answer.ok().and_then(value::pairs).and_then(|pairs| Some(pairs.first()?.1.clone()));
        subscribers.is_some_and(|count| count == "0".as_bytes())
    }
}
