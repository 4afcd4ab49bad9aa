//! Where the server is and how to reach it. Checked here, before the first connection; passwords never appear in a
//! message or in `Debug`.

use std::{
    fmt,
    path::{Path, PathBuf},
    time::Duration,
};

use ff_core::{EngineError, PartitionCount};
use ff_script::operations::LogPolicy;
use fred::types::config::{
    Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server, ServerConfig, TcpConfig, UnresponsiveConfig,
};
use url::Url;

use crate::tls;

const DEFAULT_PORT: u16 = 6379;
const SCHEMES: &str = "expected redis://, rediss://, valkey://, valkeys:// or unix:// \
                       (such as redis://user:password@host:6379 or unix:///run/valkey.sock)";
/// How long a command may wait on a connection before the connection is made anew: its other end may be gone without a
/// word.
const UNRESPONSIVE: Duration = Duration::from_secs(2);
/// Pause before the first attempt to reconnect, and the longest one, in milliseconds.
const RECONNECT_MS: (u32, u32) = (10, 100);
/// Spread of those pauses, so that many processes do not come back at once.
const RECONNECT_JITTER_MS: u32 = 10;

/// How to reach a server, and the limits of this process.
///
/// ```
/// # use ff_valkey::ValkeyConfig;
/// let config = ValkeyConfig::from_url("valkey://app:secret@db.example:6379")?.with_max_subscriptions(500);
/// assert!(!format!("{config:?}").contains("secret"));
/// # Ok::<(), ff_core::EngineError>(())
/// ```
#[derive(Clone)]
#[non_exhaustive]
pub struct ValkeyConfig {
    /// The server.
    pub endpoint: Endpoint,
    /// The user of the server's ACL; the default user if none.
    pub username: Option<String>,
    /// The password.
    pub password: Option<String>,
    /// The authority that signed the server's certificate (PEM); the system's roots if none.
    pub ca_file: Option<PathBuf>,
    /// The certificate that this process shows and its key (PEM).
    pub client_certificate: Option<(PathBuf, PathBuf)>,
    /// The partition count to use for a new deployment, and to expect of an existing one.
    pub partition_count: Option<PartitionCount>,
    /// How long an answer may take.
    pub command_timeout: Duration,
    /// How long a connection may take, TLS and password included.
    pub connect_timeout: Duration,
    /// How many completions one subscription queues before it turns to reading the log.
    pub subscription_capacity: usize,
    /// How many subscriptions this process may have at once.
    pub max_subscriptions: usize,
    /// How many completions the logs keep, and which results travel with them.
    pub log_policy: LogPolicy,
}

/// The address of a server.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum Endpoint {
    /// Host and port.
    Tcp {
        /// A name or an address.
        host: String,
        /// The port.
        port: u16,
        /// Whether the connection is encrypted.
        tls: bool,
    },
    /// A socket on this machine.
    Unix {
        /// Its path.
        path: PathBuf,
    },
}

impl fmt::Display for Endpoint {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp { host, port, .. } if host.contains(':') => write!(f, "[{host}]:{port}"),
            Self::Tcp { host, port, .. } => write!(f, "{host}:{port}"),
            Self::Unix { path } => write!(f, "{}", path.display()),
        }
    }
}

impl ValkeyConfig {
    /// The configuration behind a URL: `redis://` or `valkey://` (TCP), `rediss://` or `valkeys://` (TLS), `unix://`,
    /// `redis+unix://` or `valkey+unix://` (a socket; user and password as `?user=…&pass=…`).
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] that shows the URL without its password.
    pub fn from_url(url: &str) -> Result<Self, EngineError> {
        let refused = |reason: &str| EngineError::invalid(format!("URL `{}`", without_password(url)), reason);
        let parsed = Url::parse(url).map_err(|error| refused(&format!("{error}; {SCHEMES}")))?;
        let mut config = match parsed.scheme() {
            "redis" | "valkey" => Self::over(tcp(&parsed, false).ok_or_else(|| refused("it names no host"))?),
            "rediss" | "valkeys" => Self::over(tcp(&parsed, true).ok_or_else(|| refused("it names no host"))?),
            "unix" | "redis+unix" | "valkey+unix" => {
                let path = percent_decoded(parsed.path()).filter(|path| path.len() > 1);
                let path = path.ok_or_else(|| refused("it names no path; write unix:///path/to/socket"))?;
                Self::over(Endpoint::Unix { path: path.into() })
            }
            _ => return Err(refused(SCHEMES)),
        };
        if matches!(config.endpoint, Endpoint::Tcp { .. }) && !matches!(parsed.path(), "" | "/" | "/0") {
            return Err(refused("only database 0 can be used: channels do not tell databases apart"));
        }
        let decoded = |text: &str| percent_decoded(text).ok_or_else(|| refused("user or password is no UTF-8"));
        config.username = Some(parsed.username()).filter(|name| !name.is_empty()).map(decoded).transpose()?;
        config.password = parsed.password().map(decoded).transpose()?;
        for (name, value) in parsed.query_pairs() {
            match &*name {
                "user" | "username" => config.username = Some(value.into_owned()),
                "pass" | "password" => config.password = Some(value.into_owned()),
                "db" if value == "0" => {}
                _ => return Err(refused(&format!("parameter `{name}` is unknown or has a value that is not allowed"))),
            }
        }
        Ok(config)
    }

    fn over(endpoint: Endpoint) -> Self {
        Self {
            endpoint,
            username: None,
            password: None,
            ca_file: None,
            client_certificate: None,
            partition_count: None,
            command_timeout: Duration::from_secs(5),
            connect_timeout: Duration::from_secs(5),
            subscription_capacity: 1024,
            max_subscriptions: 100_000,
            log_policy: LogPolicy::default(),
        }
    }

    /// Sets user and password.
    #[must_use]
    pub fn with_credentials(mut self, username: Option<String>, password: impl Into<String>) -> Self {
        self.username = username;
        self.password = Some(password.into());
        self
    }

    /// Trusts certificates signed by the authority in this PEM file, in place of the system's.
    #[must_use]
    pub fn with_ca_file(mut self, path: impl AsRef<Path>) -> Self {
        self.ca_file = Some(path.as_ref().into());
        self
    }

    /// Shows this certificate to the server.
    #[must_use]
    pub fn with_client_certificate(mut self, certificate: impl AsRef<Path>, key: impl AsRef<Path>) -> Self {
        self.client_certificate = Some((certificate.as_ref().into(), key.as_ref().into()));
        self
    }

    /// Uses this partition count for a new deployment, and expects it of an existing one.
    #[must_use]
    pub const fn with_partition_count(mut self, count: PartitionCount) -> Self {
        self.partition_count = Some(count);
        self
    }

    /// Waits this long for an answer.
    #[must_use]
    pub const fn with_command_timeout(mut self, timeout: Duration) -> Self {
        self.command_timeout = timeout;
        self
    }

    /// Waits this long for a connection.
    #[must_use]
    pub const fn with_connect_timeout(mut self, timeout: Duration) -> Self {
        self.connect_timeout = timeout;
        self
    }

    /// Queues this many completions for each subscription (at least 1).
    #[must_use]
    pub const fn with_subscription_capacity(mut self, capacity: usize) -> Self {
        self.subscription_capacity = if capacity == 0 { 1 } else { capacity };
        self
    }

    /// Allows this many subscriptions at once.
    #[must_use]
    pub const fn with_max_subscriptions(mut self, count: usize) -> Self {
        self.max_subscriptions = count;
        self
    }

    /// Keeps this many completions in the logs, and lets results of this size travel with them.
    #[must_use]
    pub const fn with_log_policy(mut self, policy: LogPolicy) -> Self {
        self.log_policy = policy;
        self
    }

    /// The client's configuration, the same for every connection of this process.
    pub(crate) fn client_config(&self) -> Result<Config, EngineError> {
        let (server, encrypted) = match &self.endpoint {
            Endpoint::Tcp { host, port, tls } => {
                (ServerConfig::Centralized { server: Server::new(host.clone(), *port) }, *tls)
            }
            Endpoint::Unix { path } => (ServerConfig::Unix { path: path.clone() }, false),
        };
        if !encrypted && (self.ca_file.is_some() || self.client_certificate.is_some()) {
            return Err(EngineError::invalid(
                format!("certificates for {}", self.endpoint),
                "the connection is not encrypted; write rediss:// or valkeys://",
            ));
        }
        let tls = if encrypted { Some(tls::connector(self)?.into()) } else { None };
        Ok(Config {
            fail_fast: true,
            username: self.username.clone(),
            password: self.password.clone(),
            server,
            version: fred::types::RespVersion::RESP3,
            database: None,
            tls,
            ..Config::default()
        })
    }

    pub(crate) fn connection_config(&self) -> ConnectionConfig {
        ConnectionConfig {
            connection_timeout: self.connect_timeout,
            internal_command_timeout: self.connect_timeout,
            tcp: TcpConfig { nodelay: Some(true), ..TcpConfig::default() },
            unresponsive: UnresponsiveConfig { max_timeout: Some(UNRESPONSIVE), interval: UNRESPONSIVE / 4 },
            ..ConnectionConfig::default()
        }
    }

    pub(crate) fn performance_config(&self, broadcast_capacity: usize) -> PerformanceConfig {
        PerformanceConfig {
            default_command_timeout: self.command_timeout,
            broadcast_channel_capacity: broadcast_capacity,
            ..PerformanceConfig::default()
        }
    }

    /// For ever, from 10 to 100 ms.
    pub(crate) fn reconnect_policy() -> ReconnectPolicy {
        let mut policy = ReconnectPolicy::new_exponential(0, RECONNECT_MS.0, RECONNECT_MS.1, 2);
        policy.set_jitter(RECONNECT_JITTER_MS);
        policy
    }
}

impl fmt::Debug for ValkeyConfig {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("ValkeyConfig")
            .field("endpoint", &self.endpoint)
            .field("username", &self.username)
            .field("password", &self.password.as_ref().map(|_| "…"))
            .field("ca_file", &self.ca_file)
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

fn tcp(url: &Url, tls: bool) -> Option<Endpoint> {
    let host = url.host_str().filter(|host| !host.is_empty())?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    Some(Endpoint::Tcp { host, port: url.port().unwrap_or(DEFAULT_PORT), tls })
}

/// The URL as it may be shown. Works on text that is no URL too.
fn without_password(url: &str) -> String {
    let shown: String = url.chars().take(200).flat_map(char::escape_debug).collect();
    let shown = match shown.split_once('?') {
        Some((before, _)) => format!("{before}?…"),
        None => shown,
    };
    let (scheme, rest) = shown.split_once("://").map_or(("", &*shown), |(scheme, rest)| (scheme, rest));
    let hidden = match rest.rsplit_once('@') {
        Some((credentials, rest)) => {
            let user = credentials.split_once(':').map_or("", |(user, _)| user);
            format!("{user}:…@{rest}")
        }
        None => rest.to_owned(),
    };
    if scheme.is_empty() { hidden } else { format!("{scheme}://{hidden}") }
}

fn percent_decoded(text: &str) -> Option<String> {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((&first, after)) = rest.split_first() {
        let pair = after.get(..2).and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.filter(|_| first == b'%').and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn endpoint(url: &str) -> Endpoint {
        ValkeyConfig::from_url(url).unwrap().endpoint
    }

    #[test]
    fn every_scheme_leads_to_its_endpoint() {
        let tcp = |host: &str, port, tls| Endpoint::Tcp { host: host.into(), port, tls };
        assert_eq!(endpoint("redis://db"), tcp("db", 6379, false));
        assert_eq!(endpoint("valkey://db:7000/0"), tcp("db", 7000, false));
        assert_eq!(endpoint("rediss://db:7000/"), tcp("db", 7000, true));
        assert_eq!(endpoint("valkeys://[::1]:7000"), tcp("::1", 7000, true));
        for scheme in ["unix", "redis+unix", "valkey+unix"] {
            assert_eq!(
                endpoint(&format!("{scheme}:///run/a%20b.sock")),
                Endpoint::Unix { path: "/run/a b.sock".into() }
            );
        }
    }

    #[test]
    fn credentials_are_decoded_and_never_shown() {
        let config = ValkeyConfig::from_url("redis://ann%40x:s%3Acret%2F@db").unwrap();
        assert_eq!((config.username.as_deref(), config.password.as_deref()), (Some("ann@x"), Some("s:cret/")));
        assert!(!format!("{config:?}").contains("cret"));
        let socket = ValkeyConfig::from_url("unix:///run/v.sock?user=ann&pass=secret").unwrap();
        assert_eq!((socket.username.as_deref(), socket.password.as_deref()), (Some("ann"), Some("secret")));
    }

    #[test]
    fn a_bad_url_is_refused_with_the_url_and_without_the_password() {
        for bad in [
            "http://ann:secret@db",
            "db:6379:secret@",
            "redis://ann:secret@db/3",
            "redis://:secret@",
            "redis://ann:secret@db:99999",
            "redis://ann:secret@db?protocol=3",
            "unix://",
            "ann:secret@db",
            "",
        ] {
            let error = ValkeyConfig::from_url(bad).unwrap_err();
            assert!(matches!(error, EngineError::InvalidInput { .. }), "{bad}");
            assert!(!error.to_string().contains("secret") && error.to_string().contains("URL `"), "{error}");
        }
    }

    #[test]
    fn certificates_need_an_encrypted_connection() {
        let config = ValkeyConfig::from_url("redis://db").unwrap().with_ca_file("/ca.pem");
        assert!(config.client_config().unwrap_err().to_string().contains("rediss://"));
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_named() {
        let config = ValkeyConfig::from_url("rediss://db").unwrap().with_ca_file("/nowhere/ca.pem");
        let error = config.client_config().unwrap_err();
        assert!(matches!(error, EngineError::InvalidInput { .. }) && error.to_string().contains("/nowhere/ca.pem"));
    }
}
