//! What a handler is given.

use bytes::Bytes;
use ff_core::{ClaimedExecution, ExecutionId, FlowId, Namespace, Tags};
use tokio_util::sync::CancellationToken;

/// One attempt of one execution, as its handler sees it.
#[derive(Debug, Clone)]
pub struct WorkContext {
    execution: ClaimedExecution,
    cancellation: CancellationToken,
}

impl WorkContext {
    /// What the worker passes to a handler; public so that a handler can be tested without a worker.
    #[must_use]
    pub const fn new(execution: ClaimedExecution, cancellation: CancellationToken) -> Self {
        Self { execution, cancellation }
    }

    /// Everything that came with the claim.
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

    /// What was submitted for the worker.
    #[must_use]
    pub const fn payload(&self) -> &Bytes {
        &self.execution.payload
    }

    /// The number of this attempt, from 1.
    #[must_use]
    pub const fn attempt(&self) -> u32 {
        self.execution.lease.attempt
    }

    /// Cancelled when there is no point in going on: the lease is lost (the execution or its flow was cancelled, its
    /// deadline passed, another worker took over), the attempt's timeout passed, or the worker shuts down and its
    /// grace is over. A handler that goes on all the same is dropped at an `.await` shortly after.
    #[must_use]
    pub const fn cancellation(&self) -> &CancellationToken {
        &self.cancellation
    }

    /// Waits until [`WorkContext::cancellation`] is cancelled.
    pub async fn cancelled(&self) {
        self.cancellation.cancelled().await;
    }

    /// Whether it is cancelled, for handlers that compute between two `.await`s for long.
    #[must_use]
    pub fn is_cancelled(&self) -> bool {
        self.cancellation.is_cancelled()
    }
}
