//! The traits of a backend that runs flows, one per kind of user: who submits, who works, who watches over, and who
//! keeps the machinery going. [`EngineBackend`] is all of them.
//!
//! All of them hold for every implementation:
//!
//! - Each call is atomic, or made of steps of which each is: it happens as a whole or not at all, also when the answer
//!   is lost.
//! - Each call is answered within a bounded time: no answer is [`EngineError::Timeout`], never an endless wait.
//! - Times come from the server's clock, never from a caller.
//! - An error whose [`is_retryable`](EngineError::is_retryable) is true leaves open whether the call was executed.

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
    /// With an idempotency key the call can be repeated: it answers with the flow that is there.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for what [`FlowSubmission::topology`] refuses; [`EngineError::Conflict`] when the
    /// idempotency key was used for other content; [`EngineError::ResourceExhausted`] when the server is out of memory.
    /// Nothing is written in any of these cases, but for parts of a large flow that expire. [`EngineError::Contention`]
    /// when such parts were discarded again and again before all of them were written.
    async fn submit_flow(&self, flow: &FlowSubmission) -> Result<SubmittedFlow, EngineError>;

    /// Submits one execution on its own.
    ///
    /// # Errors
    /// As [`SubmitBackend::submit_flow`].
    async fn submit_execution(&self, execution: &ExecutionSubmission) -> Result<SubmittedExecution, EngineError>;
}

/// Hands out work and takes back its end.
#[async_trait]
pub trait WorkBackend: Send + Sync + 'static {
    /// The work signals of a lane, and the lost leases of this process, of whatever lane. Every stream of this process
    /// for the lane gets each signal. Subscribed when the call returns; begins with nothing, so ask
    /// [`WorkBackend::await_work`] once for what is there already.
    ///
    /// # Errors
    /// As for a subscription to completions.
    async fn work_signals(&self, lane: &LaneId) -> Result<WorkSignals, EngineError>;

    /// Looks at the lane in each of `partitions`: returns those that have work now, and notes this process in the
    /// others, to be signalled when work arrives.
    ///
    /// # Errors
    /// Transport errors, where no partition could be asked. A partition that could not be asked is not noted, and the
    /// others are answered for.
    async fn await_work(&self, lane: &LaneId, partitions: &[Partition]) -> Result<Vec<Partition>, EngineError>;

    /// Claims executions of one lane in one partition, highest priority first, then oldest first.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] for more than [`limits::CLAIM_BATCH`](crate::limits::CLAIM_BATCH) at once. After a transport error executions may have been
    /// claimed: repeat the claim with the same id. Those that nobody asks for again return when their lease runs out,
    /// which does not count as an expiry.
    ///
    /// # Cancel safety
    /// Dropping the future may leave executions claimed, in the same way.
    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, EngineError>;

    /// Extends leases to `lease` from now; the answers are in the order of `leases`. A lease's first renewal confirms
    /// that a worker has it: only then does it count when it runs out. A lease whose attempt has used up its time is not
    /// extended.
    ///
    /// # Errors
    /// Transport errors, where no lease could be looked at; some may have been renewed. Those that could not be looked at
    /// beside others are [`RenewOutcome::Unknown`].
    async fn renew(&self, leases: &[Lease], lease: Duration) -> Result<Vec<RenewOutcome>, EngineError>;

    /// Gives leases back, for work that is not to be done here after all: the executions go back to the queue at once,
    /// and a waiting process is signalled. That costs neither an attempt nor a lease expiry. The answers are in the
    /// order of `leases`; repeating the call gives the same, unless the execution was claimed meanwhile.
    ///
    /// # Errors
    /// Transport errors, where no lease could be looked at; some may have been given back. Those that could not be looked
    /// at beside others are [`ReleaseOutcome::Unknown`].
    async fn release(&self, leases: &[Lease]) -> Result<Vec<ReleaseOutcome>, EngineError>;

    /// Ends an execution with success. `result` is kept with it, up to 1 MiB.
    ///
    /// Repeating the call with the same lease gives the same answer.
    ///
    /// # Errors
    /// [`EngineError::State`] when the lease is lost or it ended otherwise, [`EngineError::InvalidInput`] for a result
    /// that is too large, [`EngineError::NotFound`].
    async fn complete(&self, lease: &Lease, result: Bytes) -> Result<(), EngineError>;

    /// Reports a failed attempt; the backend decides between a retry and the end.
    ///
    /// Repeating the call with the same lease gives the same answer, unless the retry was claimed meanwhile.
    ///
    /// # Errors
    /// As [`WorkBackend::complete`].
    async fn fail(&self, lease: &Lease, failure: &Failure) -> Result<FailOutcome, EngineError>;
}

/// Looks at executions and flows and cancels them.
#[async_trait]
pub trait ControlBackend: Send + Sync + 'static {
    /// # Errors
    /// [`EngineError::NotFound`].
    async fn describe_execution(&self, id: ExecutionId) -> Result<ExecutionSnapshot, EngineError>;

    /// # Errors
    /// [`EngineError::NotFound`].
    async fn describe_flow(&self, id: FlowId) -> Result<FlowSnapshot, EngineError>;

    /// Cancels one execution; what needs it is skipped. A worker that runs it loses its lease.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    async fn cancel_execution(&self, id: ExecutionId, reason: &str) -> Result<CancelOutcome, EngineError>;

    /// Cancels every member of a flow that has not ended. A large flow is cancelled in several atomic steps; from the
    /// first on, none of its members can start.
    ///
    /// # Errors
    /// [`EngineError::NotFound`].
    async fn cancel_flow(&self, id: FlowId, reason: &str) -> Result<FlowCancellation, EngineError>;
}

/// Keeps flows moving: timers, pending dependents, repair.
#[async_trait]
pub trait MaintenanceBackend: Send + Sync + 'static {
    /// How many partitions there are to look after.
    fn partition_count(&self) -> PartitionCount;

    /// Does what is due in each partition (delays, leases, timeouts, deadlines, pending dependents, retention), a
    /// bounded piece of it. There is one answer for each of `partitions`, in their order.
    ///
    /// # Errors
    /// Per partition, transport errors; one partition that cannot be swept leaves the others alone.
    async fn sweep(&self, partitions: &[Partition], policy: &SweepPolicy) -> Vec<Result<SweepReport, EngineError>>;

    /// Promotes or skips a bounded number of dependents that terminal calls have left pending in the partition.
    ///
    /// # Errors
    /// Transport errors.
    async fn resolve_dependents(&self, partition: Partition) -> Result<ResolveReport, EngineError>;

    /// Looks at up to `limit` executions that have not ended, in a fixed order after `cursor`, and puts right what an
    /// interrupted call left undone.
    ///
    /// # Errors
    /// Transport errors.
    async fn reconcile(
        &self,
        partition: Partition,
        cursor: Option<ReconcileCursor>,
        limit: u32,
    ) -> Result<ReconcileReport, EngineError>;

    /// Checks the deployment's record, and writes it again if it is missing.
    ///
    /// # Errors
    /// [`EngineError::Conflict`] when it names another partition count.
    async fn verify_deployment(&self) -> Result<(), EngineError>;

    /// The timer signals of all partitions, subscribed when the call returns. A timer that is created later and due
    /// within [`limits::TIMER_HORIZON`](crate::limits::TIMER_HORIZON) is announced, unless a timer of its partition
    /// that is due before it was announced, or reported by a sweep as
    /// [`SweepReport::next_due`].
    ///
    /// # Errors
    /// As for a subscription to completions. [`EngineError::Unavailable`] from a backend that announces no timers
    /// (the default): whoever sweeps has to do it more often then.
    async fn timer_signals(&self) -> Result<TimerSignals, EngineError> {
        Err(EngineError::Unavailable { op: "timer_signals" })
    }

    /// Notes that an engine is at work for `stays` from now (at most
    /// [`limits::ENGINE_STAY`](crate::limits::ENGINE_STAY)), or with [`Duration::ZERO`] that it stops. Returns the
    /// engines at work, which share the partitions between them; an engine that is not among them stands by.
    ///
    /// # Errors
    /// Transport errors. [`EngineError::Unavailable`] from a backend that keeps no account of engines (the default):
    /// each engine serves all partitions then.
    async fn note_engine(&self, _engine: &EngineId, _stays: Duration) -> Result<Vec<EngineId>, EngineError> {
        Err(EngineError::Unavailable { op: "note_engine" })
    }
}

/// A backend that offers everything.
pub trait EngineBackend: SubscribeBackend + SubmitBackend + WorkBackend + ControlBackend + MaintenanceBackend {}

impl<B> EngineBackend for B where B: SubscribeBackend + SubmitBackend + WorkBackend + ControlBackend + MaintenanceBackend
{}

const _: fn(&dyn EngineBackend) = |_| {};
