//! Checks that replies came over one connection.

use fred::{
    clients::Client,
    interfaces::EventInterface,
    types::config::{Options, Server},
};
use tokio::sync::broadcast::Receiver;

/// Checks that a client is still on the connection that it had.
pub(crate) struct Unbroken(Receiver<Server>);

impl Unbroken {
    /// Starts now.
    pub(crate) fn of(client: &Client) -> Self {
        Self(client.reconnect_rx())
    }

    /// The client announces a new connection before it sends anything over it, so this is exact for answers that were
    /// received before the call.
    pub(crate) fn holds(&self) -> bool {
        self.0.is_empty()
    }
}

/// A call without an answer fails; the client does not send it again.
pub(crate) fn once() -> Options {
    Options { max_attempts: Some(1), ..Options::default() }
}
