//! The one connection that receives: from a socket to "subscribed", messages and "connected again".
//!
//! The client library says that a subscription succeeded before the server has seen it, and says so also when the
//! server refuses. So SUBSCRIBE is followed at once by a PING with a text of its own on the same connection: when that
//! text comes back the server has seen the SUBSCRIBE. A refusal comes back in its place, if the PING was written before
//! the refusal was read; otherwise the library drops it. So the server is asked, too, whether it has a subscriber of
//! the one channel that is this process's own: all channels are granted or refused together.
//!
//! After a reconnect nothing is subscribed. The task here subscribes again, with the same barrier, and tells the hub,
//! which compares the logs' heads with what it has: what was published meanwhile is in the logs. It never gives up; what
//! is in the way shows in warnings, in metrics and in the backend's health.

use std::sync::{
    Arc,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use ff_core::EngineError;
use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike, EventInterface, PubsubInterface},
    types::{
        ClusterHash, CustomCommand, Message, Value,
        config::{Options, Server},
    },
};
use tokio::sync::broadcast::{Receiver, error::RecvError};

use crate::{
    ValkeyConfig,
    backoff::Backoff,
    connection::{Connection, LastError},
    error::Doing,
    telemetry, value,
};

/// Messages that wait in this process for the pump; what exceeds it is read from the logs.
const MESSAGE_CAPACITY: usize = 8192;

/// What the rest of the process does with what the connection tells.
pub(crate) trait Listener: Send + Sync + 'static {
    /// Messages in the order of their arrival, as many as are at hand.
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
    channels: Arc<[String]>,
    barriers: Arc<AtomicU64>,
    subscribed: Arc<AtomicBool>,
    last_error: LastError,
}

impl Subscriber {
    /// Connects and subscribes to all of `channels`, of which the last is nobody else's; the server has acknowledged it when this returns.
    ///
    /// # Errors
    /// As for a connection; [`EngineError::PermissionDenied`] when the user may not subscribe.
    pub(crate) async fn open(
        config: &ValkeyConfig,
        channels: Vec<String>,
        last_error: LastError,
    ) -> Result<Self, EngineError> {
        let client = Connection::client(config, MESSAGE_CAPACITY)?;
        // Before the first connection, so that neither a message nor a reconnect can slip through.
        let messages = client.message_rx();
        let mut reconnects = client.reconnect_rx();
        let connection = Connection::open(client, config, last_error.clone()).await?;
        let shared = Shared {
            client: connection.get().clone(),
            config: Arc::new(config.clone()),
            channels: channels.into(),
            barriers: Arc::default(),
            subscribed: Arc::default(),
            last_error,
        };
        loop {
            while reconnects.try_recv().is_ok() {}
            shared.establish().await?;
            // The barrier may have been answered by a newer connection than the one that was subscribed.
            if reconnects.is_empty() {
                break;
            }
        }
        shared.subscribed.store(true, Ordering::Relaxed);
        Ok(Self { shared, connection, messages, reconnects })
    }

    /// Whether the server has acknowledged the subscription on the present connection.
    pub(crate) fn subscribed(&self) -> Arc<AtomicBool> {
        self.shared.subscribed.clone()
    }

    /// The connection to keep, and two tasks to run: one hands on messages, one subscribes again after reconnects.
    pub(crate) fn run<L: Listener>(
        self,
        listener: Arc<L>,
    ) -> (Connection, impl Future<Output = ()> + Send, impl Future<Output = ()> + Send) {
        let pump = pump(self.messages, listener.clone());
        let keep = self.shared.keep(self.reconnects, listener);
        (self.connection, pump, keep)
    }
}

async fn pump<L: Listener>(mut messages: Receiver<Message>, listener: Arc<L>) {
    /// One lock for many messages, but not so many that others wait for it.
    const AT_ONCE: usize = 64;
    loop {
        match messages.recv().await {
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

fn overran(missed: u64, listener: &impl Listener) {
    if missed > 0 {
        telemetry::count(telemetry::OVERRUN, missed);
        tracing::debug!(missed, "messages came faster than they were taken; reading the logs");
        listener.missed();
    }
}

impl Shared {
    async fn keep<L: Listener>(self, mut reconnects: Receiver<Server>, listener: Arc<L>) {
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
                match self.establish().await {
                    Ok(()) if reconnects.is_empty() => break,
                    Ok(()) => {}
                    Err(error) => {
                        tracing::warn!(%error, "subscribing again failed; completions come from the log later");
                        self.last_error.set(error.to_string());
                        backoff.pause().await;
                    }
                }
            }
            self.subscribed.store(true, Ordering::Relaxed);
            self.last_error.clear();
            listener.missed();
        }
    }

    /// Subscribes and waits for the server's acknowledgement.
    async fn establish(&self) -> Result<(), EngineError> {
        let op = format!("subscribing to {}", self.channels.join(" and "));
        let doing = Doing::command(&op, &self.config);
        // A SUBSCRIBE that the library repeats by itself would come after the barrier. This join polls in order.
        let client = self.client.with_options(&Options { max_attempts: Some(1), ..Options::default() });
        let barrier = format!("ff-barrier-{}", self.barriers.fetch_add(1, Ordering::Relaxed));
        let ping = CustomCommand::new_static("PING", ClusterHash::Random, false);
        let (subscribed, answer): (Result<(), Error>, Result<Value, Error>) = futures::join!(
            client.subscribe(self.channels.to_vec()),
            client.custom(ping, vec![Value::from(barrier.as_str())])
        );
        subscribed.map_err(|error| doing.failed(error))?;
        let answer = answer.map_err(|error| doing.failed(error))?;
        if value::string(answer).is_some_and(|answer| answer == barrier.as_bytes()) {
            return if self.is_refused().await { Err(doing.denied("NOPERM for a channel")) } else { Ok(()) };
        }
        // Answers and commands are out of step on this connection.
        if let Err(error) = self.client.force_reconnection().await {
            tracing::debug!(%error, "dropping the subscriber's connection failed");
        }
        Err(EngineError::transport(op, "the connection answered something else than was asked"))
    }

    /// Whether the server has no subscriber of this process's own channel. Who may not ask has to rely on the barrier.
    async fn is_refused(&self) -> bool {
        let Some(own) = self.channels.last() else { return false };
        let command = CustomCommand::new_static("PUBSUB", ClusterHash::Random, false);
        let answer: Result<Value, Error> =
            self.client.custom(command, vec![Value::from("NUMSUB"), Value::from(own.as_str())]).await;
        let subscribers = answer.ok().and_then(value::pairs).and_then(|pairs| Some(pairs.first()?.1.clone()));
        subscribers.is_some_and(|count| count == "0".as_bytes())
    }
}
