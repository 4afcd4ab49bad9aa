//! One connection of the client library: made within a time limit or refused with a reason, and closed when dropped.

use std::sync::{Arc, Mutex, PoisonError};

use ff_core::EngineError;
use fred::{
    clients::Client,
    error::Error,
    interfaces::{ClientLike, EventInterface},
};
use tokio::task::AbortHandle;

use crate::{ValkeyConfig, error::Doing};

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

impl Drop for Task {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// A client with its connection, which reconnects by itself until this value is dropped.
#[derive(Debug)]
pub(crate) struct Connection {
    client: Client,
    router: AbortHandle,
    _watch: Task,
}

impl Connection {
    /// A client that is not connected yet, so that its events can be listened to first.
    pub(crate) fn client(config: &ValkeyConfig, broadcast_capacity: usize) -> Result<Client, EngineError> {
        Ok(Client::new(
            config.client_config()?,
            Some(config.performance_config(broadcast_capacity)),
            Some(config.connection_config()),
            Some(ValkeyConfig::reconnect_policy()),
        ))
    }

    /// Connects `client`; what goes wrong later is noted in `last_error`.
    pub(crate) async fn open(
        client: Client,
        config: &ValkeyConfig,
        last_error: LastError,
    ) -> Result<Self, EngineError> {
        let op = format!("connecting to {}", config.endpoint);
        let limit = config.connect_timeout;
        let awaited = client.clone();
        let outcome = awaited.wait_for_connect();
        tokio::pin!(outcome);
        // The library tells the outcome to who is waiting, and the first poll begins to wait: an outcome that comes
        // before it is lost.
        let _ = futures::poll!(outcome.as_mut());
        let router = client.connect();
        let opened = tokio::time::timeout(limit, outcome).await;
        let failure = match opened {
            Ok(Ok(())) => {
                let watch = Task::spawn(watch(client.clone(), last_error));
                return Ok(Self { client, router: router.abort_handle(), _watch: watch });
            }
            Ok(Err(error)) => refused(&op, config, error),
            Err(_) => EngineError::Timeout { op, after: limit },
        };
        router.abort();
        Err(failure)
    }

    pub(crate) fn is_connected(&self) -> bool {
        self.client.is_connected()
    }

    pub(crate) const fn get(&self) -> &Client {
        &self.client
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.router.abort();
    }
}

fn refused(op: &str, config: &ValkeyConfig, error: Error) -> EngineError {
    match Doing::connecting(op, config).failed(error) {
        // The operation names the address already.
        EngineError::Transport { source, .. } => EngineError::Transport { op: op.to_owned(), source },
        other => other,
    }
}

async fn watch(client: Client, last_error: LastError) {
    let mut errors = client.error_rx();
    let mut reconnects = client.reconnect_rx();
    loop {
        tokio::select! {
            error = errors.recv() => match error {
                Ok((error, _)) => {
                    tracing::warn!(%error, "a connection to the server failed; reconnecting");
                    last_error.set(error.to_string());
                }
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            },
            reconnected = reconnects.recv() => match reconnected {
                Ok(_) => last_error.clear(),
                Err(tokio::sync::broadcast::error::RecvError::Lagged(_)) => {}
                Err(tokio::sync::broadcast::error::RecvError::Closed) => return,
            },
        }
    }
}
