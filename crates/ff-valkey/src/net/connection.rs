//! One connection of the client library: connected within a time limit or refused with a reason, and closed when
//! dropped.
//!
//! It leads to a primary. Its server is asked for its role when the connection is made, every [`CHECK_EVERY`], and on
//! request. The connection is re-established if the server is a replica, if the sentinels name another server, and if
//! the connection is half-open.
//!
//! # When a silent connection is dead
//!
//! Silence alone proves nothing: the server may be stopped, or the network slow, and then a new connection does not
//! help and costs the calls in progress. So after [`SILENCE`] without an answer or a message, the same server is asked
//! over a separate connection. If it answers there and nothing has arrived here, this connection is dead. If it does
//! not answer, this connection is kept for the time limit of an answer, the command timeout. It is also kept that long
//! while an answer or a payload that may be large is in transit: the client library reports an answer only when it is
//! complete.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, AtomicUsize, Ordering},
    },
    time::Duration,
};

use ff_core::EngineError;
use fred::{
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::{ClientLike, EventInterface},
    types::{
        ConnectHandle,
        config::{Config, Server},
    },
};
use tokio::{
    sync::{
        Notify,
        broadcast::{Receiver, error::RecvError},
        watch,
    },
    task::AbortHandle,
    time::{Instant, timeout_at},
};

use crate::{
    ValkeyConfig,
    net::{
        address::Address,
        backoff::Backoff,
        error::OpContext,
        mismatch,
        outage::Part,
        primary::{Primary, ResolvedAddress, Role, SentinelResolver},
        sentinel::OneShotClient,
        wording::{is_lost, sentence},
    },
    telemetry,
};

/// How often a server is asked for its role, which also shows that it is alive.
const CHECK_EVERY: Duration = Duration::from_millis(500);

/// How long a connection may be silent before its server is asked over a separate connection.
const SILENCE: Duration = Duration::from_millis(1_500);

/// How often a silent connection is checked, and the pause before its server is asked again over a separate connection.
const LISTEN_EVERY: Duration = Duration::from_millis(50);
const ELSEWHERE_EVERY: Duration = Duration::from_millis(500);

/// The maximum number of errors and reconnects that wait in this process for the tasks that process them.
const EVENT_CAPACITY: usize = 32;

/// A task that ends with this value.
#[derive(Debug)]
pub(crate) struct Task(AbortHandle);

impl Task {
    pub(crate) fn spawn(future: impl Future<Output = ()> + Send + 'static) -> Self {
        Self(tokio::spawn(future).abort_handle())
    }
}

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Evidence that the peer of a connection is alive, besides its answers to the role query.
#[derive(Debug, Default)]
pub(crate) struct Life {
    /// The number of received answers and messages.
    heard: AtomicU64,
    /// The number of calls in progress whose request or answer may be large.
    large: AtomicUsize,
}

impl Life {
    /// Records that an answer or a message arrived.
    pub(crate) fn hear(&self) {
        self.heard.fetch_add(1, Ordering::Relaxed);
    }

    /// Records an answer; an error made by the client proves nothing.
    pub(crate) fn hear_of<T>(&self, answer: &Result<T, Error>) {
        if answer.as_ref().err().is_none_or(|error| !is_ours(error)) {
            self.hear();
        }
    }

    fn heard(&self) -> u64 {
        self.heard.load(Ordering::Relaxed)
    }

    /// Marks a large transfer as in progress until the returned value is dropped.
    pub(crate) fn large(&self) -> Large<'_> {
        self.large.fetch_add(1, Ordering::Relaxed);
        Large(self)
    }

    fn is_large(&self) -> bool {
        self.large.load(Ordering::Relaxed) > 0
    }
}

/// Whether the client made this error, and not a server.
fn is_ours(error: &Error) -> bool {
    matches!(error.kind(), ErrorKind::IO | ErrorKind::Timeout | ErrorKind::Canceled)
}

/// A large transfer in progress.
pub(crate) struct Large<'a>(&'a Life);

impl Drop for Large<'_> {
    fn drop(&mut self) {
        self.0.large.fetch_sub(1, Ordering::Relaxed);
    }
}

/// A client that is not connected yet, so that its events can be subscribed to first.
pub(crate) struct UnconnectedClient {
    pub(crate) client: Client,
    pub(crate) life: Arc<Life>,
    primary: Arc<Primary>,
    leads_to: Option<Arc<ResolvedAddress>>,
    listens: bool,
}

impl UnconnectedClient {
    /// For commands.
    pub(crate) async fn to_ask(primary: &Arc<Primary>) -> Result<Self, EngineError> {
        Self::new(primary, false, EVENT_CAPACITY).await
    }

    /// For messages, with this capacity for those that wait here.
    pub(crate) async fn to_listen(primary: &Arc<Primary>, capacity: usize) -> Result<Self, EngineError> {
        Self::new(primary, true, capacity).await
    }

    async fn new(primary: &Arc<Primary>, listens: bool, capacity: usize) -> Result<Self, EngineError> {
        let config = primary.config();
        let leads_to = primary.is_named().then(Arc::<ResolvedAddress>::default);
        let client = Client::new(
            config.client_config(leads_to.as_ref())?,
            Some(config.performance_config(capacity)),
            Some(config.connection_config()),
            Some(ValkeyConfig::reconnect_policy()),
        );
        if let Some(leads_to) = &leads_to {
            let guide = SentinelResolver { primary: primary.clone(), leads_to: leads_to.clone() };
            client.set_resolver(Arc::new(guide)).await;
        }
        Ok(Self { client, life: Arc::default(), primary: primary.clone(), leads_to, listens })
    }
}

/// A client with its connection, which reconnects on its own until this value is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    state: Arc<State>,
    life: Arc<Life>,
    leads_to: Option<Arc<ResolvedAddress>>,
    /// The tasks that drive and monitor the client.
    _tasks: [Task; 3],
}

#[derive(Debug, Default)]
struct State {
    /// The server was a replica at the last check.
    on_replica: AtomicBool,
    doubted: Notify,
}

impl Connection {
    /// Connects to a primary; later failures are recorded as the last error.
    pub(crate) async fn open(prepared: UnconnectedClient) -> Result<Self, EngineError> {
        let UnconnectedClient { client, life, primary, leads_to, listens } = prepared;
        let config = primary.config().clone();
        let op = format!("connecting to {}", config.endpoint);
        let until = Instant::now() + config.connect_timeout;
        // Before the first connection, so that none is missed.
        let (mut errors, reconnects) = (client.error_rx(), client.reconnect_rx());
        let router = connect(&client, &op, &config).await?;
        let state = Arc::<State>::default();
        let part = Arc::new(primary.outage().part());
        let guard = ConnectionMonitor {
            part: part.clone(),
            client: client.clone(),
            primary: primary.clone(),
            state: state.clone(),
            leads_to: leads_to.clone(),
            life: life.clone(),
            listens,
        };
        guard.settle(&op, until).await?;
        let tasks = primary.tasks().clone();
        let router = tasks.spawn("connection", router.run());
        // Errors from before the connection are over.
        while errors.try_recv().is_ok() {}
        let noted = tasks.spawn("connection errors", note(errors, part));
        Ok(Self {
            client,
            state,
            life,
            leads_to,
            _tasks: [router, noted, tasks.spawn("connection guard", guard.keep(reconnects))],
        })
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.is_connected() && !self.state.on_replica.load(Ordering::Relaxed)
    }

    pub(crate) const fn get(&self) -> &Client {
        &self.client
    }

    /// The evidence that the peer is alive; users of the client record it there.
    pub(crate) fn life(&self) -> &Life {
        &self.life
    }

    /// The server's address, if sentinels name it.
    pub(crate) fn leads_to(&self) -> Option<Address> {
        self.leads_to.as_ref().and_then(|leads_to| leads_to.get())
    }

    /// The server may no longer be a primary: it is asked now.
    pub(crate) fn doubt(&self) {
        self.state.doubted.notify_one();
    }
}

/// Drives a client until this value is dropped.
pub(crate) struct ConnectionDriver(ConnectHandle);

impl Drop for ConnectionDriver {
    fn drop(&mut self) {
        self.0.abort();
    }
}

impl ConnectionDriver {
    async fn run(mut self) {
        // Its failure is reported among the client's errors.
        let _ = (&mut self.0).await;
    }
}

/// Connects a client, which lives as long as the task; `None` when the time limit has passed.
pub(crate) async fn drive(client: &Client, limit: Duration) -> Option<Result<ConnectionDriver, Error>> {
    let awaited = client.clone();
    let outcome = awaited.wait_for_connect();
    let deadline = Instant::now() + limit;
    tokio::pin!(outcome);
    // The library sends the outcome only to a waiting receiver, and the first poll begins to wait: an earlier outcome
    // would be lost.
    let _ = futures::poll!(outcome.as_mut());
    let router = ConnectionDriver(client.connect());
    let config = client.client_config();
    let outcome = tokio::select! {
        outcome = timeout_at(deadline, outcome) => outcome.ok()?,
        otherwise = mismatch::soon(&config, deadline) => Err(otherwise),
    };
    match outcome {
        Ok(()) => Some(Ok(router)),
        Err(error) => Some(Err(explained(error, &config, deadline).await)),
    }
}

/// The error, or its reason: the server unexpectedly speaks TLS, or does not, or speaks another protocol.
async fn explained(error: Error, config: &Config, deadline: Instant) -> Error {
    let may_be_a_mismatch = match error.kind() {
        ErrorKind::Protocol | ErrorKind::Tls | ErrorKind::Parse | ErrorKind::Canceled => true,
        ErrorKind::IO => !error.details().contains("ConnectionRefused"),
        _ => is_lost(&error),
    };
    if !may_be_a_mismatch {
        return error;
    }
    match mismatch::found(config, deadline).await {
        Some(found) => found,
        // The client library's text for bytes that begin no reply.
        None if error.details().contains("frame_type") => Error::new(
            error.kind().clone(),
            "the server does not speak the protocol of Valkey and Redis; check the port",
        ),
        None => error,
    }
}

async fn connect(client: &Client, op: &str, config: &ValkeyConfig) -> Result<ConnectionDriver, EngineError> {
    let limit = config.connect_timeout;
    match drive(client, limit).await {
        Some(outcome) => outcome.map_err(|error| refused(op, config, error)),
        None => Err(EngineError::Timeout { op: op.to_owned(), after: limit }),
    }
}

fn refused(op: &str, config: &ValkeyConfig, error: Error) -> EngineError {
    match OpContext::connecting(op, config).failed(error) {
        // The operation already names the address.
        EngineError::Transport { cause, .. } => EngineError::Transport { op: op.to_owned(), cause },
        other => other,
    }
}

async fn note(mut errors: Receiver<(Error, Option<Server>)>, part: Arc<Part>) {
    loop {
        match errors.recv().await {
            Ok((error, _)) => part.failed(&sentence(&error)),
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

/// Ensures that a connection leads to a primary that answers.
struct ConnectionMonitor {
    client: Client,
    primary: Arc<Primary>,
    state: Arc<State>,
    leads_to: Option<Arc<ResolvedAddress>>,
    life: Arc<Life>,
    /// Its part of an outage.
    part: Arc<Part>,
    /// Whether it is the subscriber's connection.
    listens: bool,
}

/// The state of the peer of a connection.
#[derive(Debug, PartialEq, Eq)]
enum Seen {
    Primary,
    Replica(String),
    /// The sentinels name another server.
    Replaced,
    Silent,
    /// It gave no result; the client library re-establishes a lost connection.
    Unknown,
}

/// A time in which nothing arrived.
struct SilentSince {
    at: Instant,
    heard: u64,
}

impl SilentSince {
    fn now(life: &Life) -> Self {
        Self { at: Instant::now(), heard: life.heard() }
    }

    /// Whether nothing has arrived since.
    fn lasts(&self, life: &Life) -> bool {
        self.heard == life.heard()
    }
}

impl ConnectionMonitor {
    /// Waits until a new connection leads to a primary.
    async fn settle(&self, op: &str, until: Instant) -> Result<(), EngineError> {
        let mut backoff = Backoff::reconnect();
        loop {
            let config = self.primary.config();
            let role = match timeout_at(until, Role::ask(&self.client)).await {
                Ok(Ok(role)) => role,
                // The library takes a connection that the server closes at once for a good one.
                Ok(Err(error)) => {
                    let error = explained(error, &self.client.client_config(), until).await;
                    return Err(refused(op, config, error));
                }
                Err(_) => return Err(EngineError::Timeout { op: op.to_owned(), after: config.connect_timeout }),
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
        let mut quiet = None;
        // Reconnects from before this task began.
        while reconnects.try_recv().is_ok() {}
        loop {
            tokio::select! {
                () = tokio::time::sleep(CHECK_EVERY) => {}
                () = self.state.doubted.notified() => {}
                Ok(()) = named.changed() => {}
                reconnected = reconnects.recv() => match reconnected {
                    Err(RecvError::Closed) => return,
                    Ok(_) | Err(RecvError::Lagged(_)) => quiet = None,
                },
            }
            if !self.client.is_connected() {
                continue;
            }
            match self.look(&mut named, &mut quiet).await {
                Seen::Unknown => {}
                Seen::Primary => {
                    self.state.on_replica.store(false, Ordering::Relaxed);
                    self.part.is_well();
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
                    telemetry::count(telemetry::DEAD, u64::from(self.listens));
                    self.part.failed("it does not answer");
                    self.renew().await;
                }
            }
        }
    }

    /// One check. `quiet` is the silence that an earlier check found and that was not long enough.
    async fn look(&self, named: &mut watch::Receiver<Option<Address>>, quiet: &mut Option<SilentSince>) -> Seen {
        if self.is_replaced(named) {
            return Seen::Replaced;
        }
        let mut since =
            quiet.take().filter(|quiet| quiet.lasts(&self.life)).unwrap_or_else(|| SilentSince::now(&self.life));
        let role = tokio::select! {
            biased;
            role = Role::ask(&self.client) => role,
            seen = self.silence(named, &mut since) => return seen,
        };
        match role {
            Ok(Role::Primary) => Seen::Primary,
            Ok(Role::Replica { of }) => Seen::Replica(of),
            // The time limit of an answer ends with that of a silence, or before it. Other calls may be sent again and
            // again meanwhile, so a silence counts from its beginning and not from the next check.
            Err(error) if *error.kind() == ErrorKind::Timeout && since.lasts(&self.life) => {
                if since.at.elapsed() >= self.longest_silence() {
                    return Seen::Silent;
                }
                *quiet = Some(since);
                Seen::Unknown
            }
            // The connection was lost, or something has arrived.
            Err(_) => Seen::Unknown,
        }
    }

    /// How long a connection may be silent in any case.
    fn longest_silence(&self) -> Duration {
        self.primary.config().command_timeout.max(SILENCE)
    }

    /// Returns when the connection must be given up although it was not lost.
    async fn silence(&self, named: &mut watch::Receiver<Option<Address>>, quiet: &mut SilentSince) -> Seen {
        let elsewhere = self.answers_elsewhere(quiet.at + SILENCE);
        tokio::pin!(elsewhere);
        let mut answers_elsewhere = false;
        loop {
            tokio::select! {
                () = tokio::time::sleep(LISTEN_EVERY) => {}
                () = &mut elsewhere, if !answers_elsewhere => answers_elsewhere = true,
                Ok(()) = named.changed() => if self.is_replaced(named) { return Seen::Replaced },
            }
            if !quiet.lasts(&self.life) {
                *quiet = SilentSince::now(&self.life);
                answers_elsewhere = false;
                elsewhere.set(self.answers_elsewhere(quiet.at + SILENCE));
            }
            if answers_elsewhere && !self.life.is_large() || quiet.at.elapsed() >= self.longest_silence() {
                return Seen::Silent;
            }
        }
    }

    /// Returns when the server has answered over a separate connection, which is made at `at`.
    async fn answers_elsewhere(&self, at: Instant) {
        tokio::time::sleep_until(at).await;
        let config = self.primary.config();
        loop {
            let of = match self.leads_to.as_ref().and_then(|leads_to| leads_to.get()) {
                Some(address) => config.config_at(&address),
                None => config.client_config(None),
            };
            let Ok(of) = of else { return std::future::pending().await };
            let asked =
                async { Role::ask(&OneShotClient::open(of, config, config.connect_timeout).await?.client).await };
            match asked.await {
                Err(error) if is_ours(&error) => {
                    tokio::time::sleep(ELSEWHERE_EVERY).await;
                }
                // A refusal is also an answer.
                _ => return,
            }
        }
    }

    fn is_replaced(&self, named: &watch::Receiver<Option<Address>>) -> bool {
        let leads_to = self.leads_to.as_ref().and_then(|at| at.get());
        leads_to.is_some() && leads_to != *named.borrow()
    }

    fn on_replica(&self, of: &str) {
        let text = format!("{} is a replica of {of}", self.primary.config().endpoint);
        if !self.state.on_replica.swap(true, Ordering::Relaxed) {
            telemetry::count(telemetry::MOVED, 1);
        }
        self.part.failed(&text);
    }

    async fn renew(&self) {
        if let Err(error) = self.client.force_reconnection().await {
            tracing::debug!(%error, "dropping a connection failed");
        }
    }
}
