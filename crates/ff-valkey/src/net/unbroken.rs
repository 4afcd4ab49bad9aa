//! Whether replies came over one connection.

use fred::{
    clients::Client,
    interfaces::EventInterface,
    types::config::{Options, Server},
};
use tokio::sync::broadcast::Receiver;

/// Tells whether a client is still on the connection that it had.
pub(crate) struct Unbroken(Receiver<Server>);

impl Unbroken {
    /// From now on.
    pub(crate) fn of(client: &Client) -> Self {
        Self(client.reconnect_rx())
    }

    /// The client announces a new connection before it sends anything over it, so this is exact for what was answered
    /// before it is asked.
    pub(crate) fn holds(&self) -> bool {
        self.0.is_empty()
    }
}

/// What is not answered fails; the client does not send it again.
pub(crate) fn once() -> Options {
    Options { max_attempts: Some(1), ..Options::default() }
}
