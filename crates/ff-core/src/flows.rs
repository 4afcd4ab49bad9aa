//! The traits of programs that submit, describe and cancel flows.

use async_trait::async_trait;

use crate::{
    EngineError, ExecutionId, ExecutionSnapshot, ExecutionSubmission, FlowId, FlowSnapshot, FlowSubmission, Outcome,
    SubmittedExecution, SubmittedFlow, SubscribeBackend,
    backend::{MaintenanceBackend, WorkBackend},
};

/// Accepts flows and solo executions.
#[async_trait]
pub trait SubmitBackend: Send + Sync + 'static {
    /// Submits a whole flow.
    ///
    /// With an idempotency key the call can be repeated: it then returns the existing flow.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for what [`FlowSubmission::topology`] refuses; [`EngineError::Conflict`] when the
    /// idempotency key was used for other content; [`EngineError::ResourceExhausted`] when the server is out of memory.
    /// Nothing is written in any of these cases, except parts of a large flow, which expire.
    /// [`EngineError::Contention`] when such parts were repeatedly discarded before all of them were written.
    async fn submit_flow(&self, flow: &FlowSubmission) -> Result<SubmittedFlow, EngineError>;

    /// Submits one execution on its own.
    ///
    /// # Errors
    /// As [`SubmitBackend::submit_flow`].
    async fn submit_execution(&self, execution: &ExecutionSubmission) -> Result<SubmittedExecution, EngineError>;
}

/// Describes and cancels executions and flows.
#[async_trait]
pub trait ControlBackend: Send + Sync + 'static {
    /// # Errors
    /// [`EngineError::NotFound`].
    async fn describe_execution(&self, id: ExecutionId) -> Result<ExecutionSnapshot, EngineError>;

    /// # Errors
    /// [`EngineError::NotFound`].
    async fn describe_flow(&self, id: FlowId) -> Result<FlowSnapshot, EngineError>;

    /// Cancels one execution. Executions that need it are skipped. A worker that runs it loses its lease.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    async fn cancel_execution(&self, id: ExecutionId, reason: &str) -> Result<CancelOutcome, EngineError>;

    /// Cancels every member of a flow that has not ended. A large flow is cancelled in several atomic steps; from the
    /// first step on, no member can start.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    async fn cancel_flow(&self, id: FlowId, reason: &str) -> Result<FlowCancellation, EngineError>;
}

/// The outcome of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum CancelOutcome {
    /// The execution has ended as cancelled, by this or an earlier call.
    Cancelled,
    /// The execution had ended with another outcome before.
    AlreadyEnded(Outcome),
}

/// The outcome of cancelling a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowCancellation {
    /// Members that this call ended.
    pub cancelled: u32,
    /// Members that had ended before.
    pub already_ended: u32,
}

impl FlowCancellation {
    /// What a backend answers.
    #[must_use]
    pub const fn new(cancelled: u32, already_ended: u32) -> Self {
        Self { cancelled, already_ended }
    }
}

/// A backend that offers everything.
pub trait EngineBackend: SubscribeBackend + SubmitBackend + WorkBackend + ControlBackend + MaintenanceBackend {}

impl<B> EngineBackend for B
where
    B: SubscribeBackend + SubmitBackend,
    B: WorkBackend + ControlBackend + MaintenanceBackend,
{
}

const _: fn(&dyn EngineBackend) = |_| {};
