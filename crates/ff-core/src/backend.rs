//! The traits of a backend that runs flows, one per kind of user: submitters, workers, operators and engines.
//! [`EngineBackend`] combines them.
//!
//! Every implementation guarantees:
//!
//! - Each call is atomic, or consists of atomic steps. A step happens as a whole or not at all, also if the reply is
//!   lost.
//! - Each call returns within a bounded time. A missing reply is [`EngineError::Timeout`].
//! - Times come from the server's clock, never from a caller.
//! - After an error whose [`may_have_run`](EngineError::may_have_run) is true, the call may or may not have been
//!   executed.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;

use crate::{
    CancelOutcome, Claim, ClaimRequest, EngineError, EngineId, ExecutionId, ExecutionSnapshot, ExecutionSubmission,
    FailOutcome, Failure, FlowCancellation, FlowId, FlowSnapshot, FlowSubmission, LaneId, Lease, Partition,
    PartitionCount, ReconcileCursor, ReconcileReport, ReleaseOutcome, RenewOutcome, ResolveReport, SubmittedExecution,
    SubmittedFlow, SubscribeBackend, SweepPolicy, SweepReport, TimerSignals, WorkSignals,
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

/// Hands out work and accepts its results.
#[async_trait]
pub trait WorkBackend: Send + Sync + 'static {
    /// The work signals of a lane, and the lost leases of this process in all lanes. Every stream of this process for
    /// the lane receives each signal. The subscription is active when the call returns. It does not report work that
    /// exists already: call [`WorkBackend::await_work`] once for that.
    ///
    /// # Errors
    /// As for a subscription to completions.
    async fn work_signals(&self, lane: &LaneId) -> Result<WorkSignals, EngineError>;

    /// Checks the lane in each of `partitions`. Returns the partitions that have work now, and registers this process
    /// in the others, so that it is signalled when work arrives.
    ///
    /// # Errors
    /// Transport errors if no partition could be checked. If only some could not be checked, the process is not
    /// registered there, and the result covers the others.
    async fn await_work(&self, lane: &LaneId, partitions: &[Partition]) -> Result<Vec<Partition>, EngineError>;

    /// Claims executions of one lane in one partition, highest priority first, then oldest first.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for more than [`limits::CLAIM_BATCH`](crate::limits::CLAIM_BATCH) at once. After a
    /// transport error executions may have been claimed: repeat the claim with the same id. If the claim is not
    /// repeated, the executions return to the queue when their lease runs out, which does not count as an expiry.
    ///
    /// # Cancel safety
    /// Dropping the future may leave executions claimed, as after a transport error.
    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, EngineError>;

    /// Extends leases to `lease` from now; the outcomes are in the order of `leases`. The first renewal of a lease
    /// confirms that it has reached a worker. Only a confirmed lease counts as an expiry when it runs out. A lease
    /// whose attempt has exceeded its timeout is not extended.
    ///
    /// # Errors
    /// Transport errors if no lease could be checked; some may have been renewed. If only some could not be checked,
    /// their outcome is [`RenewOutcome::Unknown`].
    async fn renew(&self, leases: &[Lease], lease: Duration) -> Result<Vec<RenewOutcome>, EngineError>;

    /// Gives leases back for work that will not be done here. The executions return to the queue immediately, and a
    /// waiting process is signalled. This costs neither an attempt nor a lease expiry. The outcomes are in the order of
    /// `leases`; repeating the call gives the same outcomes, unless an execution was claimed meanwhile.
    ///
    /// # Errors
    /// Transport errors if no lease could be checked; some may have been given back. If only some could not be checked,
    /// their outcome is [`ReleaseOutcome::Unknown`].
    async fn release(&self, leases: &[Lease]) -> Result<Vec<ReleaseOutcome>, EngineError>;

    /// Ends an execution with success. `result` is stored with it, up to 1 MiB.
    ///
    /// Repeating the call with the same lease gives the same outcome.
    ///
    /// # Errors
    /// [`EngineError::State`] when the lease is lost or it ended otherwise, [`EngineError::InvalidInput`] for a result
    /// that is too large, [`EngineError::NotFound`].
    async fn complete(&self, lease: &Lease, result: Bytes) -> Result<(), EngineError>;

    /// Reports a failed attempt. The backend decides whether the execution is retried or ends.
    ///
    /// Repeating the call with the same lease gives the same outcome, unless the retry was claimed meanwhile.
    ///
    /// # Errors
    /// As [`WorkBackend::complete`].
    async fn fail(&self, lease: &Lease, failure: &Failure) -> Result<FailOutcome, EngineError>;
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

/// Keeps flows moving: timers, pending dependents, repair.
#[async_trait]
pub trait MaintenanceBackend: Send + Sync + 'static {
    /// The number of partitions of the deployment.
    fn partition_count(&self) -> PartitionCount;

    /// Does a bounded part of the due work in each partition: delays, leases, timeouts, deadlines, pending dependents,
    /// retention. Returns one result for each of `partitions`, in their order.
    ///
    /// # Errors
    /// Per partition, transport errors. A partition that cannot be swept does not affect the others.
    async fn sweep(&self, partitions: &[Partition], policy: &SweepPolicy) -> Vec<Result<SweepReport, EngineError>>;

    /// Promotes or skips a bounded number of dependents that terminal calls have left pending in the partition.
    ///
    /// # Errors
    /// Transport errors.
    async fn resolve_dependents(&self, partition: Partition) -> Result<ResolveReport, EngineError>;

    /// Examines up to `limit` executions that have not ended, in a fixed order after `cursor`, and completes the work
    /// that an interrupted call left unfinished.
    ///
    /// # Errors
    /// Transport errors.
    async fn reconcile(
        &self,
        partition: Partition,
        cursor: Option<ReconcileCursor>,
        limit: u32,
    ) -> Result<ReconcileReport, EngineError>;

    /// Checks the deployment record, and writes it again if it is missing.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] if it contains another partition count.
    async fn verify_deployment(&self) -> Result<(), EngineError>;

    /// The timer signals of all partitions. The subscription is active when the call returns. A timer that is created
    /// later and due within [`limits::TIMER_HORIZON`](crate::limits::TIMER_HORIZON) is announced, unless an earlier
    /// timer of its partition was already announced, or reported by a sweep as [`SweepReport::next_due`].
    ///
    /// # Errors
    /// As for a subscription to completions. [`EngineError::Unavailable`] from a backend that does not announce timers
    /// (the default): the engine must then sweep more often.
    async fn timer_signals(&self) -> Result<TimerSignals, EngineError> {
        Err(EngineError::Unavailable { op: "timer_signals" })
    }

    /// Registers an engine as active for `stays` from now (at most
    /// [`limits::ENGINE_STAY`](crate::limits::ENGINE_STAY)), or removes it with [`Duration::ZERO`]. Returns the active
    /// engines, which share the partitions. An engine that is not among them is on standby.
    ///
    /// # Errors
    /// Transport errors. [`EngineError::Unavailable`] from a backend that does not register engines (the default): each
    /// engine then serves all partitions.
    async fn note_engine(&self, _engine: &EngineId, _stays: Duration) -> Result<Vec<EngineId>, EngineError> {
        Err(EngineError::Unavailable { op: "note_engine" })
    }
}

/// A backend that offers everything.
pub trait EngineBackend: SubscribeBackend + SubmitBackend + WorkBackend + ControlBackend + MaintenanceBackend {}

impl<B> EngineBackend for B where B: SubscribeBackend + SubmitBackend + WorkBackend + ControlBackend + MaintenanceBackend
{}

const _: fn(&dyn EngineBackend) = |_| {};
