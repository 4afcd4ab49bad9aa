//! One connection of the client library: made within a time limit or refused with a reason, and closed when dropped.
//!
//! It leads to a primary. Its server is asked for its role when the connection was made, every [`CHECK_EVERY`], and when
//! somebody doubts it; the connection is made anew where the server is a replica, where the sentinels name another one,
//! and where no answer comes: then the other end is gone without a word.

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use ff_core::EngineError;
use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike, EventInterface},
    types::{
        RespVersion,
        config::{Config, Server},
    },
};
use tokio::{
    sync::{
        Notify,
        broadcast::{Receiver, error::RecvError},
    },
    task::AbortHandle,
    time::{Instant, timeout, timeout_at},
};

use crate::{
    ValkeyConfig,
    address::Address,
    backoff::Backoff,
    config::UNRESPONSIVE,
    error::Doing,
    primary::{Guide, LeadsTo, Primary, Role},
    telemetry,
};

/// How often a server is asked for its role, which shows too that it is there.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// Errors and reconnects that wait in this process for the tasks that look at them.
const EVENT_CAPACITY: usize = 32;

/// The last thing that went wrong on any connection, until one of them is well again.
#[derive(Debug, Clone, Default)]
pub(crate) struct LastError(Arc<Mutex<Option<String>>>);

impl LastError {
    pub(crate) fn set(&self, text: impl Into<String>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(text.into());
    }

    pub(crate) fn clear(&self) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = None;
    }

    pub(crate) fn get(&self) -> Option<String> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

/// A task that ends with this value.
#[derive(Debug)]
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future).abort_handle())
    }
}

impl From<AbortHandle> for Task {
    fn from(task: AbortHandle) -> Self {
        Self(task)
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A client that is not connected yet, so that its events can be listened to first.
pub(crate) struct Prepared {
    pub(crate) client: Client,
    primary: Arc<Primary>,
    leads_to: Option<Arc<LeadsTo>>,
}

impl Prepared {
    /// For commands.
    pub(crate) async fn to_ask(primary: &Arc<Primary>) -> Result<Self, EngineError> {
        Self::new(primary, RespVersion::RESP2, EVENT_CAPACITY).await
    }

    /// For messages, of which so many wait here. RESP3, with which the server also answers commands in between.
    pub(crate) async fn to_listen(primary: &Arc<Primary>, capacity: usize) -> Result<Self, EngineError> {
        Self::new(primary, RespVersion::RESP3, capacity).await
    }

    async fn new(primary: &Arc<Primary>, version: RespVersion, capacity: usize) -> Result<Self, EngineError> {
        let config = primary.config();
        let leads_to = primary.is_named().then(Arc::<LeadsTo>::default);
        let client = Client::new(
            Config { version, ..config.client_config(leads_to.as_ref())? },
            Some(config.performance_config(capacity)),
            Some(config.connection_config()),
            Some(ValkeyConfig::reconnect_policy()),
        );
        if let Some(leads_to) = &leads_to {
            let guide = Guide { primary: primary.clone(), leads_to: leads_to.clone() };
            client.set_resolver(Arc::new(guide)).await;
        }
        Ok(Self { client, primary: primary.clone(), leads_to })
    }
}

/// How long a connection may be silent, and what else than an answer shows that it is alive.
#[derive(Debug)]
pub(crate) struct Patience {
    pub(crate) limit: Duration,
    /// Counts what came unasked: in a flood of it answers are late.
    pub(crate) heard: Option<Arc<AtomicU64>>,
}

impl Default for Patience {
    fn default() -> Self {
        Self { limit: UNRESPONSIVE, heard: None }
    }
}

/// A client with its connection, which reconnects by itself until this value is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    state: Arc<State>,
    leads_to: Option<Arc<LeadsTo>>,
    /// What drives the client, and what watches over it.
    _tasks: [Task; 3],
}

#[derive(Debug, Default)]
struct State {
    /// The server was last seen to be a replica.
    on_replica: AtomicBool,
    doubted: Notify,
}

impl Connection {
    /// Connects to a primary; what goes wrong later is noted as the last error.
    pub(crate) async fn open(prepared: Prepared, patience: Patience) -> Result<Self, EngineError> {
        let Prepared { client, primary, leads_to } = prepared;
        let config = primary.config().clone();
        let op = format!("connecting to {}", config.endpoint);
        let until = Instant::now() + config.connect_timeout;
        // Before the first connection, so that no later one is missed.
        let (errors, reconnects) = (client.error_rx(), client.reconnect_rx());
        let router = connect(&client, &op, &config).await?;
        let state = Arc::<State>::default();
        let guard = Guard {
            client: client.clone(),
            primary: primary.clone(),
            state: state.clone(),
            leads_to: leads_to.clone(),
            patience,
        };
        guard.settle(&op, until).await?;
        let noted = Task::spawn(note(errors, primary.last_error().clone()));
        Ok(Self { client, state, leads_to, _tasks: [router, noted, Task::spawn(guard.keep(reconnects))] })
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.is_connected() && !self.state.on_replica.load(Ordering::Relaxed)
    }

    pub(crate) const fn get(&self) -> &Client {
        &self.client
    }

    /// The server's address, where sentinels name it.
    pub(crate) fn leads_to(&self) -> Option<Address> {
        self.leads_to.as_ref().and_then(|leads_to| leads_to.get())
    }

    /// The server is perhaps no primary any more: it is asked at once.
    pub(crate) fn doubt(&self) {
        self.state.doubted.notify_one();
    }
}

/// Connects a client, which lives as long as the task; `None` when that takes too long.
pub(crate) async fn drive(client: &Client, limit: Duration) -> Option<Result<Task, Error>> {
    let awaited = client.clone();
    let outcome = awaited.wait_for_connect();
    tokio::pin!(outcome);
    // The library tells the outcome to who is waiting, and the first poll begins to wait: an outcome that comes
    // before it is lost.
    let _ = futures::poll!(outcome.as_mut());
    let router = Task::from(client.connect().abort_handle());
    let outcome = timeout(limit, outcome).await.ok()?;
    Some(outcome.map(|()| router))
}

async fn connect(client: &Client, op: &str, config: &ValkeyConfig) -> Result<Task, EngineError> {
    let limit = config.connect_timeout;
    match drive(client, limit).await {
        Some(outcome) => outcome.map_err(|error| refused(op, config, error)),
        None => Err(EngineError::Timeout { op: op.to_owned(), after: limit }),
    }
}

fn refused(op: &str, config: &ValkeyConfig, error: Error) -> EngineError {
    match Doing::connecting(op, config).failed(error) {
        // The operation names the address already.
        EngineError::Transport { source, .. } => EngineError::Transport { op: op.to_owned(), source },
        other => other,
    }
}

async fn note(mut errors: Receiver<(Error, Option<Server>)>, last_error: LastError) {
    loop {
        match errors.recv().await {
            Ok((error, _)) => {
                tracing::warn!(%error, "a connection to the server failed; reconnecting");
                last_error.set(error.to_string());
            }
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return,
        }
    }
}

fn names_a_replica(of: &str) -> String {
    format!(
        "the server is a replica of {of}; give the address of the primary, or of the sentinels that know it \
         (redis-sentinel://host:26379,host:26379/service)"
    )
}

/// Sees to it that a connection leads to a primary that answers.
struct Guard {
    client: Client,
    primary: Arc<Primary>,
    state: Arc<State>,
    leads_to: Option<Arc<LeadsTo>>,
    patience: Patience,
}

/// What the other end of a connection was found to be.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Primary,
    Replica(String),
    /// The sentinels name another server.
    Replaced,
    Silent,
    /// It did not tell; a connection that is lost is made anew by the client library.
    Unknown,
}

impl Guard {
    /// Waits until a new connection leads to a primary.
    async fn settle(&self, op: &str, until: Instant) -> Result<(), EngineError> {
        let mut backoff = Backoff::reconnect();
        loop {
            let role = match timeout(self.patience.limit, Role::ask(&self.client)).await {
                Ok(role) => role.map_err(|error| refused(op, self.primary.config(), error))?,
                Err(_) => return Err(EngineError::Timeout { op: op.to_owned(), after: self.patience.limit }),
            };
            let Role::Replica { of } = role else { return Ok(()) };
            backoff.pause().await;
            let renewed = timeout_at(until, self.renew()).await;
            if renewed.is_err() || Instant::now() >= until {
                return Err(EngineError::Contention { op: op.to_owned(), reason: names_a_replica(&of) });
            }
        }
    }

    async fn keep(self, mut reconnects: Receiver<Server>) {
        let mut named = self.primary.named();
        let mut backoff = Backoff::reconnect();
        // Connections before this task began.
        while reconnects.try_recv().is_ok() {}
        loop {
            let mut is_new = false;
            tokio::select! {
                () = tokio::time::sleep(CHECK_EVERY) => {}
                () = self.state.doubted.notified() => {}
                Ok(()) = named.changed() => {}
                reconnected = reconnects.recv() => match reconnected {
                    Err(RecvError::Closed) => return,
                    _ => is_new = true,
                },
            }
            if !self.client.is_connected() {
                continue;
            }
            match self.look().await {
                Seen::Unknown => {}
                Seen::Primary => {
                    let was_on_replica = self.state.on_replica.swap(false, Ordering::Relaxed);
                    if is_new || was_on_replica {
                        self.primary.last_error().clear();
                    }
                    backoff = Backoff::reconnect();
                }
                Seen::Replica(of) => {
                    self.on_replica(&of);
                    backoff.pause().await;
                    self.renew().await;
                }
                Seen::Replaced => {
                    telemetry::count(telemetry::MOVED, 1);
                    self.renew().await;
                }
                Seen::Silent => {
                    telemetry::count(telemetry::DEAD, u64::from(self.patience.heard.is_some()));
                    tracing::warn!(limit = ?self.patience.limit, "a connection does not answer; making it anew");
                    self.renew().await;
                }
            }
        }
    }

    async fn look(&self) -> Seen {
        let (leads_to, named) = (self.leads_to.as_ref().and_then(|at| at.get()), self.primary.named().borrow().clone());
        if leads_to.is_some() && leads_to != named {
            return Seen::Replaced;
        }
        let heard = self.heard();
        match timeout(self.patience.limit, Role::ask(&self.client)).await {
            Ok(Ok(Role::Primary)) => Seen::Primary,
            Ok(Ok(Role::Replica { of })) => Seen::Replica(of),
            Ok(Err(_)) => Seen::Unknown,
            Err(_) if self.heard() == heard => Seen::Silent,
            Err(_) => Seen::Unknown,
        }
    }

    fn heard(&self) -> u64 {
        self.patience.heard.as_ref().map_or(0, |heard| heard.load(Ordering::Relaxed))
    }

    fn on_replica(&self, of: &str) {
        let text = format!("{} is a replica of {of}", self.primary.config().endpoint);
        if !self.state.on_replica.swap(true, Ordering::Relaxed) {
            telemetry::count(telemetry::MOVED, 1);
            tracing::warn!("{text}; connecting anew until a primary answers");
        }
        self.primary.last_error().set(text);
    }

    async fn renew(&self) {
        if let Err(error) = self.client.force_reconnection().await {
            tracing::debug!(%error, "dropping a connection failed");
        }
    }
}
