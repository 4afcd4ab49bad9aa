//! Detects a server that speaks TLS where the configuration does not, or the reverse. Neither side notices on its own:
//! a server without TLS waits for the end of what it takes for a command.

use std::time::Duration;

use fred::{
    error::{Error, ErrorKind},
    types::config::{Config, ServerConfig},
};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpStream,
    time::{Instant, timeout_at},
};

use crate::net::tls;

/// The first byte of a TLS handshake record.
const HANDSHAKE: u8 = 0x16;
const ALERT: u8 = 0x15;
/// How long a connection may take before the server is probed.
const PATIENCE: Duration = Duration::from_millis(300);
/// How long the probe of the server may take at least. A busy server takes longer to answer a TLS handshake.
const SHORTEST_PROBE: Duration = Duration::from_millis(700);

/// Returns only if the connection takes long and the server is found to speak the other protocol.
pub(crate) async fn soon(config: &Config, deadline: Instant) -> Error {
    tokio::time::sleep(PATIENCE).await;
    match found(config, deadline).await {
        Some(error) => error,
        None => std::future::pending().await,
    }
}

/// Asks the server over a separate connection, without credentials, which protocol it speaks. The answer is awaited
/// until `deadline`, and for [`SHORTEST_PROBE`] in any case.
pub(crate) async fn found(config: &Config, deadline: Instant) -> Option<Error> {
    let ServerConfig::Centralized { server } = &config.server else { return None };
    // No server has this address; it stands for the address that sentinels name.
    if &*server.host == "0.0.0.0" {
        return None;
    }
    let question = if config.tls.is_some() { b"PING\r\n".to_vec() } else { tls::hello()? };
    let deadline = deadline.max(Instant::now() + SHORTEST_PROBE);
    let answer = timeout_at(deadline, first_byte(&server.host, server.port, &question)).await.ok()?.ok()?;
    let text = match (config.tls.is_some(), answer) {
        (true, b'+' | b'-') => "the server does not speak TLS on this port; write redis:// instead of rediss://",
        (false, HANDSHAKE | ALERT) => "the server speaks TLS on this port; write rediss:// instead of redis://",
        _ => return None,
    };
    Some(Error::new(ErrorKind::Config, text))
}

async fn first_byte(host: &str, port: u16, question: &[u8]) -> std::io::Result<u8> {
    let mut stream = TcpStream::connect((host, port)).await?;
    stream.write_all(question).await?;
    stream.read_u8().await
}
