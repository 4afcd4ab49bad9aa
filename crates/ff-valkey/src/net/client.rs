//! The configuration of the client library, built from a [`ValkeyConfig`].

use std::{sync::Arc, time::Duration};

use ff_core::EngineError;
use fred::types::{
    RespVersion,
    config::{Config, ConnectionConfig, PerformanceConfig, ReconnectPolicy, Server, ServerConfig, TcpConfig},
};

use crate::{
    ValkeyConfig,
    net::{
        address::{Address, Endpoint, SERVER_PORT},
        primary::ResolvedAddress,
        tls,
    },
};

/// The least time after which the system closes a connection whose peer does not accept what is written.
#[cfg(target_os = "linux")]
const TAKES_NOTHING: Duration = Duration::from_secs(2);
/// Pause before the first attempt to reconnect, and the longest one, in milliseconds.
const RECONNECT_MS: (u32, u32) = (10, 100);
/// Spread of those pauses, so that many processes do not reconnect at once.
const RECONNECT_JITTER_MS: u32 = 10;

impl ValkeyConfig {
    fn server(&self, host: &str, port: u16) -> ServerConfig {
        ServerConfig::Centralized { server: Server::new_with_tls(host, port, self.tls_server_name.clone()) }
    }

    /// The client's configuration for every connection that runs commands or receives messages. If sentinels name the
    /// server, its certificate must be for the host in `leads_to`.
    pub(crate) fn client_config(&self, leads_to: Option<&Arc<ResolvedAddress>>) -> Result<Config, EngineError> {
        let server = match &self.endpoint {
            Endpoint::Tcp { host, port, .. } => self.server(host, *port),
            Endpoint::Unix { path } => ServerConfig::Unix { path: path.clone() },
            // An address, so that the TLS handshake does not name a host.
            Endpoint::Sentinel { .. } => ServerConfig::Centralized { server: Server::new("0.0.0.0", SERVER_PORT) },
        };
        let (username, password) = credentials(&self.username, &self.password);
        Ok(Config { username, password, ..self.plain(server, leads_to)? })
    }

    /// For a check of one of the servers that sentinels name.
    pub(crate) fn config_at(&self, address: &Address) -> Result<Config, EngineError> {
        let (username, password) = credentials(&self.username, &self.password);
        Ok(Config { username, password, ..self.plain(self.server(&address.host, address.port), None)? })
    }

    /// For a sentinel.
    pub(crate) fn sentinel_config(&self, address: &Address) -> Result<Config, EngineError> {
        let (username, password) = credentials(&self.sentinel_username, &self.sentinel_password);
        Ok(Config { username, password, ..self.plain(self.server(&address.host, address.port), None)? })
    }

    /// Without credentials. RESP2: the client parses it faster than RESP3, and sends user and password with their
    /// lengths.
    fn plain(&self, server: ServerConfig, leads_to: Option<&Arc<ResolvedAddress>>) -> Result<Config, EngineError> {
        let encrypted = self.endpoint.is_encrypted();
        let for_tls = self.ca_file.is_some() || self.client_certificate.is_some() || self.tls_server_name.is_some();
        if !encrypted && for_tls {
            return Err(EngineError::invalid(
                format!("certificates for {}", self.endpoint),
                "the connection is not encrypted; write rediss://, valkeys:// or rediss-sentinel://",
            ));
        }
        let tls = if encrypted { Some(tls::connector(self, leads_to)?.into()) } else { None };
        Ok(Config { fail_fast: true, server, version: RespVersion::RESP2, database: None, tls, ..Config::default() })
    }

    pub(crate) fn connection_config(&self) -> ConnectionConfig {
        ConnectionConfig {
            connection_timeout: self.connect_timeout,
            internal_command_timeout: self.connect_timeout,
            tcp: TcpConfig {
                nodelay: Some(true),
                // The client blocks on a write and cannot detect a dead connection meanwhile. A server that does not
                // answer does not accept writes either.
                #[cfg(target_os = "linux")]
                user_timeout: Some(self.command_timeout.max(TAKES_NOTHING)),
                ..TcpConfig::default()
            },
            // `unresponsive` stays off: it counts from the last write, and so would close a connection while a large
            // answer is in transit. `connection.rs` monitors connections.
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

    /// Reconnects without limit, after 10 to 100 ms.
    pub(crate) fn reconnect_policy() -> ReconnectPolicy {
        let mut policy = ReconnectPolicy::new_exponential(0, RECONNECT_MS.0, RECONNECT_MS.1, 2);
        policy.set_jitter(RECONNECT_JITTER_MS);
        policy
    }
}

/// A user without a password gets an empty one: without any password the client library would not send the user.
fn credentials(username: &Option<String>, password: &Option<String>) -> (Option<String>, Option<String>) {
    let password = password.clone().or_else(|| username.as_ref().map(|_| String::new()));
    (username.clone(), password)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn certificates_need_an_encrypted_connection() {
        let config = ValkeyConfig::from_url("redis://db").unwrap().ca_file("/ca.pem");
        assert!(config.client_config(None).unwrap_err().to_string().contains("rediss://"));
    }

    #[test]
    fn a_certificate_that_cannot_be_read_is_named() {
        let config = ValkeyConfig::from_url("rediss://db").unwrap().ca_file("/nowhere/ca.pem");
        let error = config.client_config(None).unwrap_err();
        assert!(matches!(error, EngineError::InvalidInput { .. }) && error.to_string().contains("/nowhere/ca.pem"));
    }
}
