//! Handing out work and accepting its results.

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use bytes::Bytes;
use futures::Stream;

use crate::{ClaimId, ClaimedExecution, EngineError, ExecutionId, Failure, LaneId, Lease, Partition, WorkerId, limits};

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
    /// [`EngineError::InvalidInput`] for 0 executions or more than [`limits::CLAIM_BATCH`] at once. After a
    /// transport error executions may have been claimed: repeat the claim with the same id. If the claim is not
    /// repeated, the executions return to the queue when their lease runs out, which does not count as an expiry.
    ///
    /// # Cancel safety
    /// Dropping the future may leave executions claimed, as after a transport error.
    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, EngineError>;

    /// Passes a work signal on that this process cannot use now: if the lane has work in the partition, the next
    /// waiting process is signalled, and the result is `true`. If not, this process is registered there again.
    /// Repeating the call is harmless.
    ///
    /// # Errors
    /// Transport errors.
    async fn pass_on(&self, lane: &LaneId, partition: Partition) -> Result<bool, EngineError>;

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

    /// Ends several executions with success, each as [`WorkBackend::complete`] does; the outcomes are in the order of
    /// `ended`. A backend may end those of one partition in one step, which costs less than a call for each. Some may
    /// end although others cannot.
    async fn complete_many(&self, ended: &[(Lease, Bytes)]) -> Vec<Result<(), EngineError>> {
        let mut outcomes = Vec::with_capacity(ended.len());
        for (lease, result) in ended {
            outcomes.push(self.complete(lease, result.clone()).await);
        }
        outcomes
    }

    /// Reports a failed attempt. The backend decides whether the execution is retried or ends.
    ///
    /// Repeating the call with the same lease gives the same outcome, unless the retry was claimed meanwhile.
    ///
    /// # Errors
    /// As [`WorkBackend::complete`].
    async fn fail(&self, lease: &Lease, failure: &Failure) -> Result<FailOutcome, EngineError>;
}

/// A request for work of one lane in one partition.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimRequest {
    /// The worker.
    pub worker: WorkerId,
    /// The lane.
    pub lane: LaneId,
    /// The partition.
    pub partition: Partition,
    /// The most executions to claim, 1 to [`limits::CLAIM_BATCH`].
    pub max: u32,
    /// How long the lease runs before it must be renewed.
    pub lease: Duration,
    /// Makes the claim repeatable: a claim with the id of the worker's previous claim in this partition returns the
    /// executions that the previous claim took and still holds, and takes no others. Use a new id for each new claim.
    pub id: Option<ClaimId>,
}

impl ClaimRequest {
    /// A request for up to [`limits::CLAIM_BATCH`] executions under leases of 30 s, which cannot be repeated.
    #[must_use]
    pub const fn new(worker: WorkerId, lane: LaneId, partition: Partition) -> Self {
        Self { worker, lane, partition, max: limits::CLAIM_BATCH as u32, lease: Duration::from_secs(30), id: None }
    }

    /// Sets the most executions to claim.
    #[must_use]
    pub fn max(self, max: u32) -> Self {
        Self { max, ..self }
    }

    /// Sets how long the lease runs before it must be renewed.
    #[must_use]
    pub fn lease(self, lease: Duration) -> Self {
        Self { lease, ..self }
    }

    /// Makes the claim repeatable under this id.
    #[must_use]
    pub fn id(self, id: impl Into<Option<ClaimId>>) -> Self {
        Self { id: id.into(), ..self }
    }
}

/// The answer to a [`ClaimRequest`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Claim {
    /// The claimed executions.
    pub executions: Vec<ClaimedExecution>,
    /// Whether the lane has more work in this partition. If so, the next waiting process has been signalled. If not,
    /// the caller's process has been registered there and is signalled when work arrives.
    pub more: bool,
}

impl Claim {
    /// What a backend answers.
    #[must_use]
    pub const fn new(executions: Vec<ClaimedExecution>, more: bool) -> Self {
        Self { executions, more }
    }
}

/// The outcome of renewing one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum RenewOutcome {
    /// The lease was extended.
    Renewed,
    /// The lease is held, but the attempt has exceeded its timeout, so the lease was not extended. The worker must stop
    /// and report.
    TimedOut,
    /// The lease is void: the worker must stop.
    LeaseLost,
    /// The lease could not be read and continues until it expires. A later renewal may succeed.
    Unknown,
}

/// The outcome of giving back one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum ReleaseOutcome {
    /// The execution is in the queue again, or has ended because its flow is being cancelled.
    Released,
    /// The lease was void already.
    LeaseLost,
    /// The lease could not be read, so it was not given back and continues until it expires. A later call may succeed.
    Unknown,
}

/// The outcome of a reported failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum FailOutcome {
    /// Another attempt starts after this time.
    Retry {
        /// The backoff.
        after: Duration,
    },
    /// The execution has ended as failed.
    Ended,
}

/// Notifies a process that there may be work, or that a lease was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum WorkSignal {
    /// The lane has work in this partition.
    Ready(Partition),
    /// Signals may have been missed: check all partitions again.
    Rescan,
    /// A lease of this process has ended: its execution was cancelled, expired, or returned to the queue when the lease
    /// ran out.
    Lost {
        /// The execution.
        execution_id: ExecutionId,
        /// The lease's epoch.
        epoch: u64,
    },
}

/// The work signals of one lane. Never ends on its own.
pub type WorkSignals = Pin<Box<dyn Stream<Item = WorkSignal> + Send>>;
