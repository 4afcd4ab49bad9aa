//! The context that a handler receives.

use std::{any::type_name, fmt, sync::Arc};

use bytes::Bytes;
use ff_core::{ClaimedExecution, ExecutionId, FlowId, Namespace, Tags};
use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

use super::{error::HandlerError, handler::State};

/// One attempt of one execution, for its handler.
#[derive(Clone)]
pub struct WorkContext {
    execution: ClaimedExecution,
    cancellation: CancellationToken,
    state: Option<State>,
}

impl fmt::Debug for WorkContext {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("WorkContext").field("execution", &self.execution).finish_non_exhaustive()
    }
}

impl WorkContext {
    /// The context that a worker passes to a handler; public so that a handler can be tested without a worker.
    #[must_use]
    pub const fn new(execution: ClaimedExecution, cancellation: CancellationToken) -> Self {
        Self { execution, cancellation, state: None }
    }

    /// The same attempt with a value for [`WorkContext::state`].
    #[must_use]
    pub fn with_state<S: Send + Sync + 'static>(self, state: S) -> Self {
        Self { state: Some(Arc::new(state)), ..self }
    }

    pub(super) fn sharing(self, state: Option<State>) -> Self {
        Self { state, ..self }
    }

    /// The claimed execution with all its data.
    #[must_use]
    pub const fn execution(&self) -> &ClaimedExecution {
        &self.execution
    }

    /// The execution.
    #[must_use]
    pub const fn id(&self) -> ExecutionId {
        self.execution.lease.execution_id
    }

    /// The flow it is a member of.
    #[must_use]
    pub const fn flow_id(&self) -> Option<FlowId> {
        self.execution.lease.flow_id
    }

    /// Its name within its flow.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.execution.name
    }

    /// The tenant.
    #[must_use]
    pub const fn namespace(&self) -> &Namespace {
        &self.execution.namespace
    }

    /// Its tags.
    #[must_use]
    pub const fn tags(&self) -> &Tags {
        &self.execution.tags
    }

    /// The payload that was submitted.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.execution.payload
    }

    /// The payload as a value of JSON; an empty payload is `null`.
    ///
    /// # Errors
    /// A permanent failure that names the field that does not match the type.
    pub fn payload_json<T: DeserializeOwned>(&self) -> Result<T, HandlerError> {
        let bytes: &[u8] = if self.payload().is_empty() { b"null" } else { self.payload() };
        let mut reader = serde_json::Deserializer::from_slice(bytes);
        let value = serde_path_to_error::deserialize(&mut reader).map_err(|error| {
            let field = match error.path().to_string() {
                path if path == "." => String::new(),
                path => format!(" at `{path}`"),
            };
            HandlerError::permanent(format!("the payload does not fit{field}: {}", error.inner()))
        })?;
        reader.end().map_err(|error| HandlerError::permanent(format!("the payload is not one JSON value: {error}")))?;
        Ok(value)
    }

    /// The value that was passed to [`WorkerBuilder::state`](super::WorkerBuilder::state).
    ///
    /// # Errors
    /// A permanent failure that names the type, if the worker has no state of this type.
    pub fn state<S: Send + Sync + 'static>(&self) -> Result<&S, HandlerError> {
        let state = self.state.as_deref().and_then(|state| state.downcast_ref());
        state.ok_or_else(|| HandlerError::permanent(format!("the worker has no state of type {}", type_name::<S>())))
    }

    /// The number of this attempt, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.execution.lease.attempt
    }

    /// Cancelled when the attempt must stop: the lease is lost (the execution or its flow was cancelled, its deadline
    /// passed, another worker took over), the attempt's timeout passed, or the worker shuts down and its grace is over.
    /// A handler that continues nevertheless is dropped at an `.await` shortly after.
    #[must_use]
    pub const fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }

    /// Waits until [`WorkContext::cancellation`] is cancelled.
    pub async fn cancelled(&self) {
        self.cancellation.cancelled().await;
    }

    /// Whether [`WorkContext::cancellation`] is cancelled, for handlers with long computations between two `.await`s.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }
}
