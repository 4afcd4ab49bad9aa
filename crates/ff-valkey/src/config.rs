//! The address of the server and the settings of a connection. Checked before the first connection; passwords never
//! appear in a message or in `Debug`.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use ff_core::{EngineError, PartitionCount, limits};
use ff_script::operations::LogPolicy;

use crate::net::address::{self, Endpoint, Parsed};

/// A server does not accept a longer argument from an unauthenticated client.
const PASSWORD_BYTES: usize = 16_384;
/// The address of a server, and the limits of this process.
///
/// ```
/// # use ff_valkey::ValkeyConfig;
/// let config = ValkeyConfig::from_url("valkey://app:secret@db.example:6379")?.max_subscriptions(500);
/// assert!(!format!("{config:?}").contains("secret"));
/// # Ok::<(), ff_core::EngineError>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ValkeyConfig {
    /// The server.
    pub endpoint: Endpoint,
    /// The ACL user on the server; the default user if none.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The ACL user on the sentinels; their default user if none.
    pub sentinel_username: Option<String>,
    /// The password for the sentinels.
    pub sentinel_password: Option<String>,
    /// The authority that signed the server's certificate (PEM); the system's roots if none.
    pub ca_file: Option<PathBuf>,
    /// The name that the server's certificate must be for; the host of the address if none.
    pub tls_server_name: Option<String>,
    /// The certificate and key (PEM) that this process presents.
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// The partition count for a new deployment, and the expected count of an existing one.
    pub partition_count: Option<PartitionCount>,
    /// The time limit for an answer.
    pub command_timeout: Duration,
    /// The time limit for a connection, including TLS and authentication.
    pub connect_timeout: Duration,
    /// How many completions one subscription queues before it catches up from the log.
    pub subscription_capacity: usize,
    /// The maximum number of subscriptions of this process.
    pub max_subscriptions: usize,
    /// How many entries and bytes the logs keep, and the size of results that completions carry.
    pub log_policy: LogPolicy,
}

impl ValkeyConfig {
    /// Parses a URL: `redis://` or `valkey://` (TCP), `rediss://` or `valkeys://` (TLS), `unix://`, `redis+unix://` or
    /// `valkey+unix://` (a socket; user and password as `?user=…&pass=…`).
    ///
    /// `redis-sentinel://user:password@host:26379,host:26379/service` (or `valkey-sentinel://`, and
    /// `rediss-sentinel://` or `valkeys-sentinel://` for TLS) leads to the server that the sentinels name as the
    /// service's primary, and follows a failover. User and password are for the servers; those for the sentinels are
    /// `?sentinelUser=…&sentinelPass=…`.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`]; the message does not contain the password.
    pub fn from_url(url: &str) -> Result<Self, EngineError> {
        let Parsed { endpoint, server, sentinel } = address::parse(url)?;
        Ok(Self {
            username: server.username,
            password: server.password,
            sentinel_username: sentinel.username,
            sentinel_password: sentinel.password,
            ..Self::over(endpoint)
        })
    }

    fn over(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            username: None,
            password: None,
            sentinel_username: None,
            sentinel_password: None,
            ca_file: None,
            tls_server_name: None,
            client_certificate: None,
            partition_count: None,
            command_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            subscription_capacity: 1024,
            max_subscriptions: 100_000,
            log_policy: LogPolicy::default(),
        }
    }

    /// Sets the user and the password.
    #[must_use]
    pub fn credentials(mut self, username: Option<String>, password: impl Into<String>) -> Self {
        self.username = username;
        self.password = Some(password.into());
        self
    }

    /// Sets the user and the password for the sentinels.
    #[must_use]
    pub fn sentinel_credentials(mut self, username: Option<String>, password: impl Into<String>) -> Self {
        self.sentinel_username = username;
        self.sentinel_password = Some(password.into());
        self
    }

    /// Trusts certificates signed by the authority in this PEM file, instead of the system's.
    #[must_use]
    pub fn ca_file(mut self, path: impl AsRef<Path>) -> Self {
        self.ca_file = Some(path.as_ref().into());
        self
    }

    /// Expects this name in the server's certificate, instead of the host of the address.
    #[must_use]
    pub fn tls_server_name(mut self, name: impl Into<String>) -> Self {
        self.tls_server_name = Some(name.into());
        self
    }

    /// Presents this certificate to the server.
    #[must_use]
    pub fn client_certificate(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.client_certificate = Some((certificate.as_ref().into(), key.as_ref().into()));
        self
    }

    /// Uses this partition count for a new deployment, and expects it of an existing one.
    #[must_use]
    pub const fn partition_count(mut self, count: PartitionCount) -> Self {
        self.partition_count = Some(count);
        self
    }

    /// Sets the time limit for an answer.
    #[must_use]
    pub const fn command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// Sets the time limit for a connection.
    #[must_use]
    pub const fn connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Sets the queue length of each subscription (at least 1).
    #[must_use]
    pub const fn subscription_capacity(mut self, capacity: usize) -> Self {
        self.subscription_capacity = if capacity == 0 { 1 } else { capacity };
        self
    }

    /// Sets the maximum number of subscriptions.
    #[must_use]
    pub const fn max_subscriptions(mut self, count: usize) -> Self {
        self.max_subscriptions = count;
        self
    }

    /// Sets how many entries and bytes the logs keep, and the size of results that completions carry.
    #[must_use]
    pub const fn log_policy(mut self, policy: LogPolicy) -> Self {
        self.log_policy = policy;
        self
    }

    /// Checks the ranges of the settings. [`ValkeyHost::connect`](crate::ValkeyHost::connect) does so too.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] with the setting and its range.
    pub fn check(&self) -> Result<(), EngineError> {
        limits::check_duration("command timeout", self.command_timeout, Duration::from_millis(1))?;
        limits::check_duration("connect timeout", self.connect_timeout, Duration::from_millis(1))?;
        limits::check_number("subscription capacity", self.subscription_capacity as u64, 1..=limits::QUEUE as u64)?;
        for secret in [&self.password, &self.sentinel_password].into_iter().flatten() {
            if secret.len() > PASSWORD_BYTES {
                let reason = format!("it is longer than the {PASSWORD_BYTES} bytes that a server takes");
                return Err(EngineError::invalid("password", reason));
            }
        }
        self.log_policy.check()
    }
}

impl fmt::Debug for ValkeyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValkeyConfig")
            .field("endpoint", &self.endpoint)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("sentinel_username", &self.sentinel_username)
            .field("sentinel_password", &self.sentinel_password.as_ref().map(|_| "…"))
            .field("ca_file", &self.ca_file)
            .field("tls_server_name", &self.tls_server_name)
            .field("client_certificate", &self.client_certificate)
            .field("partition_count", &self.partition_count)
            .field("command_timeout", &self.command_timeout)
            .field("connect_timeout", &self.connect_timeout)
            .field("subscription_capacity", &self.subscription_capacity)
            .field("max_subscriptions", &self.max_subscriptions)
            .field("log_policy", &self.log_policy)
            .finish()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let config = ValkeyConfig::from_url("redis://ann%40x:s%3Acret%2F@db").unwrap();
        assert_eq!((config.username.as_deref(), config.password.as_deref()), (Some("ann@x"), Some("s:cret/")));
        assert!(!format!("{config:?}").contains("cret"));
        let sentinels = ValkeyConfig::from_url("redis-sentinel://:secret@a,b/orders?sentinelPass=secret").unwrap();
        assert!(!format!("{sentinels:?}").contains("secret") && sentinels.sentinel_password.is_some());
        let socket = ValkeyConfig::from_url("unix:///run/v.sock?user=ann&pass=secret").unwrap();
        assert_eq!((socket.username.as_deref(), socket.password.as_deref()), (Some("ann"), Some("secret")));
    }

    #[test]
    fn a_setting_beyond_its_range_is_refused_by_name() {
        let config = || ValkeyConfig::from_url("redis://db").unwrap();
        let policy = LogPolicy { flow_entries: 0, ..LogPolicy::default() };
        let bytes = LogPolicy { solo_bytes: 1_000, ..LogPolicy::default() };
        for (refused, what, range) in [
            (config().command_timeout(Duration::MAX), "command timeout", "expected 1ms to ten years"),
            (config().connect_timeout(Duration::ZERO), "connect timeout 0ns", "expected 1ms to ten years"),
            (config().subscription_capacity(usize::MAX), "subscription capacity", "expected 1 to 1000000"),
            (config().log_policy(policy), "log entries of flows 0", "expected 1 to 10000000"),
            (config().log_policy(bytes), "log bytes of solo executions 1000", "expected 1024 to 268435456"),
        ] {
            let error = refused.check().unwrap_err().to_string();
            assert!(error.contains(what) && error.contains(range), "{error}");
        }
        config().check().unwrap();
    }
}
