//! Finds the server that the connections of a process lead to, and checks that it is a primary.
//!
//! Logs are read from a primary only. A replica may have been a primary a moment ago. Entries that it has and the new
//! primary lacks are about to be rolled back. So a server is asked for its role before it is used, in every round trip
//! that reads a log, and twice a second on every connection.
//!
//! With a plain address, the client may find a replica there. It then connects again and asks again, until a primary
//! answers: the address may lead to another server by then. With sentinels, one address serves all connections. It is
//! found when the first connection needs it. The sentinels are asked again when a connection must be re-established,
//! and every [`ASK_EVERY`]: a primary that was replaced can keep its connections, and report the primary role, for many
//! seconds.

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use async_trait::async_trait;
use ff_core::EngineError;
use fred::{
    bytes_utils::Str,
    clients::Client,
    error::{Error, ErrorKind},
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, FromValue, Resolve, Value},
};
use tokio::{
    sync::{Mutex as AsyncMutex, watch},
    time::Instant,
};

use crate::{
    ValkeyConfig,
    net::{
        address::{Address, Endpoint, list},
        backoff::Backoff,
        error::OpContext,
        outage::Outage,
        sentinel::{OneShotClient, Sentinels},
        value,
    },
    tasks::Tasks,
    telemetry,
};

/// How often the sentinels are asked for the current primary.
const ASK_EVERY: Duration = Duration::from_secs(1);

/// The time limit for checking a server that sentinels name. It is short, because all connections wait for the check,
/// and the sentinels may have named another server meanwhile.
const LOOK_LIMIT: Duration = Duration::from_secs(2);

/// The role that a server reports.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Role {
    Primary,
    Replica {
        /// The server that it replicates.
        of: String,
    },
}

impl Role {
    /// Sends the role query over a connection or into a pipeline. It is INFO, which every role may run.
    pub(crate) async fn question<R: FromValue>(to: &impl ClientLike) -> Result<R, Error> {
        let command = CustomCommand::new_static("INFO", ClusterHash::Random, false);
        to.custom(command, vec![Value::from("replication")]).await
    }

    /// Parses the answer to the role query.
    pub(crate) fn answered(answer: Value) -> Result<Self, Error> {
        Self::read(answer).ok_or_else(|| Error::new(ErrorKind::Protocol, "the server does not report its role"))
    }

    /// `None` if the answer has another shape.
    fn read(answer: Value) -> Option<Self> {
        let text = value::string(answer)?;
        Some(Self::from_info(std::str::from_utf8(&text).ok()?))
    }

    /// Servers always report their role. A proxy in front of a server may omit it; then the server counts as a primary
    /// until it refuses a write.
    fn from_info(info: &str) -> Self {
        let field =
            |name: &str| info.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim);
        match field("role") {
            None | Some("master") => Self::Primary,
            Some(_) => {
                let of = |name| field(name).unwrap_or("?");
                Self::Replica { of: format!("{}:{}", of("master_host"), of("master_port")) }
            }
        }
    }

    /// Asks the server of a connection for its role.
    pub(crate) async fn ask(client: &Client) -> Result<Self, Error> {
        Self::question(client).await.and_then(Self::answered)
    }

    /// # Errors
    /// If the server is a replica.
    pub(crate) fn must_be_primary(&self, op: &str) -> Result<(), EngineError> {
        match self {
            Self::Primary => Ok(()),
            Self::Replica { of } => {
                let reason = format!("READONLY the server is a replica of {of}, and only a primary is accepted");
                Err(EngineError::Contention { op: op.to_owned(), reason })
            }
        }
    }
}

/// The host that a connection leads to. If sentinels name the server, its certificate must be for this host.
#[derive(Debug, Default)]
pub(crate) struct ResolvedAddress(Mutex<Option<Address>>);

impl ResolvedAddress {
    pub(crate) fn get(&self) -> Option<Address> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }

    pub(crate) fn set(&self, address: Address) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = Some(address);
    }
}

/// The primary that all connections of a process lead to.
pub(crate) struct Primary {
    config: Arc<ValkeyConfig>,
    outage: Outage,
    tasks: Tasks,
    /// `None` with a plain address.
    sentinels: Option<Sentinels>,
    /// The end and the result of the last search. The lock allows one search at a time, whose result all callers share.
    search: AsyncMutex<Option<(Instant, Address)>>,
    named: watch::Sender<Option<Address>>,
}

impl std::fmt::Debug for Primary {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Primary").field("named", &*self.named.borrow()).finish_non_exhaustive()
    }
}

impl Primary {
    pub(crate) fn new(config: ValkeyConfig) -> Self {
        let sentinels = match &config.endpoint {
            Endpoint::Sentinel { sentinels, service, .. } => Some(Sentinels::new(service, sentinels)),
            Endpoint::Tcp { .. } | Endpoint::Unix { .. } => None,
        };
        let (search, named) = (AsyncMutex::new(None), watch::Sender::new(None));
        let outage = Outage::of(config.endpoint.to_string());
        Self { config: Arc::new(config), outage, tasks: Tasks::default(), sentinels, search, named }
    }

    pub(crate) const fn config(&self) -> &Arc<ValkeyConfig> {
        &self.config
    }

    /// The state of the connections.
    pub(crate) const fn outage(&self) -> &Outage {
        &self.outage
    }

    pub(crate) const fn tasks(&self) -> &Tasks {
        &self.tasks
    }

    /// The address that the sentinels named last, and its changes.
    pub(crate) fn named(&self) -> watch::Receiver<Option<Address>> {
        self.named.subscribe()
    }

    /// Whether the server is found by sentinels.
    pub(crate) const fn is_named(&self) -> bool {
        self.sentinels.is_some()
    }

    /// Finds the primary for the first time. With a plain address there is nothing to find.
    ///
    /// # Errors
    /// As for [`Sentinels::candidates`]; also if no named server is a primary within the connect timeout.
    pub(crate) async fn first(&self) -> Result<(), EngineError> {
        let Some(sentinels) = &self.sentinels else { return Ok(()) };
        let until = Instant::now() + self.config.connect_timeout;
        let mut backoff = Backoff::reconnect();
        loop {
            match self.find(sentinels).await {
                // A failover may be in progress.
                Err(EngineError::Contention { .. }) if Instant::now() < until => backoff.pause().await,
                found => return found.map(drop),
            }
        }
    }

    async fn find(&self, sentinels: &Sentinels) -> Result<Address, EngineError> {
        let asked = Instant::now();
        let mut search = self.search.lock().await;
        if let Some((_, found)) = search.as_ref().filter(|(at, _)| *at > asked) {
            return Ok(found.clone());
        }
        let current = self.named.borrow().clone();
        let candidates = sentinels.candidates(&self.config, current.as_ref()).await?;
        let found = self.primary_of(&candidates).await?;
        *search = Some((Instant::now(), found.clone()));
        self.named.send_if_modified(|named| {
            let moved = named.as_ref() != Some(&found);
            if moved && named.is_some() {
                telemetry::count(telemetry::FAILOVERS, 1);
                tracing::warn!(primary = %found, "the sentinels name another primary; all connections move to it");
            }
            *named = Some(found.clone());
            moved
        });
        Ok(found)
    }

    /// The first candidate that reports the primary role itself.
    async fn primary_of(&self, candidates: &[Address]) -> Result<Address, EngineError> {
        let op = format!("finding {}", self.config.endpoint);
        let mut failure = None;
        for address in candidates {
            match self.role_at(address).await {
                Ok(Role::Primary) => return Ok(address.clone()),
                Ok(Role::Replica { of }) => {
                    let reason = format!("the sentinels name {address}, which is a replica of {of}");
                    failure.get_or_insert(EngineError::Contention { op: op.clone(), reason });
                }
                Err(error) => {
                    failure.get_or_insert(at(address, error));
                }
            }
        }
        let nobody = || EngineError::transport(op, format!("none of {} is a primary", list(candidates)));
        Err(failure.unwrap_or_else(nobody))
    }

    async fn role_at(&self, address: &Address) -> Result<Role, EngineError> {
        let op = format!("connecting to {address}");
        let doing = OpContext::connecting(&op, &self.config);
        let limit = self.config.connect_timeout.min(LOOK_LIMIT);
        let link = OneShotClient::open(self.config.config_at(address)?, &self.config, limit).await;
        let link = link.map_err(|error| doing.failed(error))?;
        Role::ask(&link.client).await.map_err(|error| doing.failed(error))
    }

    /// The task that notices when the sentinels name another primary.
    pub(crate) async fn follow(self: Arc<Self>) {
        let Some(sentinels) = &self.sentinels else { return };
        let mut warned = false;
        loop {
            tokio::time::sleep(ASK_EVERY).await;
            let current = self.named.borrow().clone();
            let asked = sentinels.candidates(&self.config, current.as_ref()).await;
            let followed = match asked {
                Ok(candidates) if candidates.first() == current.as_ref() => Ok(()),
                Ok(_) => self.find(sentinels).await.map(drop),
                Err(error) => Err(error),
            };
            match followed {
                Ok(()) => warned = false,
                Err(error) if !warned => {
                    warned = true;
                    tracing::warn!(%error, "a failover cannot be followed; connections keep their server");
                }
                Err(_) => {}
            }
        }
    }
}

/// Adds the address of the server to an error.
fn at(address: &Address, error: EngineError) -> EngineError {
    match error {
        EngineError::PermissionDenied { op, reason } => {
            EngineError::PermissionDenied { op, reason: format!("{reason} (for {address})") }
        }
        other => other,
    }
}

/// Resolves the address of one connection, each time that the connection is established.
pub(crate) struct SentinelResolver {
    pub(crate) primary: Arc<Primary>,
    pub(crate) leads_to: Arc<ResolvedAddress>,
}

impl SentinelResolver {
    async fn sockets(&self, sentinels: &Sentinels) -> Result<Vec<SocketAddr>, EngineError> {
        let address = self.primary.find(sentinels).await?;
        let looked_up = tokio::net::lookup_host((address.host.as_str(), address.port)).await;
        let sockets = looked_up.map_err(|error| EngineError::transport(format!("looking up {address}"), error))?;
        let sockets = sockets.collect();
        self.leads_to.set(address);
        Ok(sockets)
    }
}

#[async_trait]
impl Resolve for SentinelResolver {
    async fn resolve(&self, _: Str, _: u16) -> Result<Vec<SocketAddr>, Error> {
        let sentinels = self.primary.sentinels.as_ref();
        let sentinels = sentinels.ok_or_else(|| Error::new(ErrorKind::Config, "there are no sentinels to ask"))?;
        self.sockets(sentinels).await.map_err(|error| {
            self.primary.outage.note(error.to_string());
            Error::new(ErrorKind::IO, error.to_string())
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_role_is_parsed_from_the_servers_reply() {
        let primary = "# Replication\r\nrole:master\r\nconnected_slaves:1\r\n";
        assert_eq!(Role::from_info(primary), Role::Primary);
        let replica = "# Replication\r\nrole:slave\r\nmaster_host:10.0.0.1\r\nmaster_port:7000\r\n";
        assert_eq!(Role::from_info(replica), Role::Replica { of: "10.0.0.1:7000".into() });
        assert_eq!(Role::from_info("# Server\r\nredis_mode:standalone\r\n"), Role::Primary, "nothing says otherwise");
        assert_eq!(Role::read(Value::Null), None);
    }

    #[test]
    fn a_replica_is_rejected_with_a_retryable_error() {
        assert!(Role::Primary.must_be_primary("reading").is_ok());
        let error = Role::Replica { of: "10.0.0.1:7000".into() }.must_be_primary("reading").unwrap_err();
        assert!(error.is_retryable() && error.to_string().contains("10.0.0.1:7000"), "{error}");
    }
}
