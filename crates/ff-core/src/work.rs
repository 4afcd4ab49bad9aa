//! The values that workers and engines exchange with a backend.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use futures::Stream;

use crate::{ClaimId, EngineError, ExecutionId, FlowId, LaneId, Namespace, Outcome, Partition, Tags, WorkerId, limits};

/// A request for work of one lane in one partition.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// The worker.
    pub worker: WorkerId,
    /// The lane.
    pub lane: LaneId,
    /// The partition.
    pub partition: Partition,
    /// The most executions to claim, up to [`limits::CLAIM_BATCH`]. With 0 nothing is claimed; if there is work,
    /// another waiting process is signalled.
    pub max: u32,
    /// How long the lease runs before it must be renewed.
    pub lease: Duration,
    /// Makes the claim repeatable: a claim with the id of the worker's previous claim in this partition returns the
    /// executions that the previous claim took and still holds, and takes no others. Use a new id for each new claim.
    pub id: Option<ClaimId>,
}

/// The answer to a [`ClaimRequest`].
#[derive(Debug, Clone)]
pub struct Claim {
    /// The claimed executions.
    pub executions: Vec<ClaimedExecution>,
    /// Whether the lane has more work in this partition. If so, the next waiting process has been signalled. If not,
    /// the caller's process has been registered there and is signalled when work arrives.
    pub more: bool,
}

/// The right to end one attempt of one execution. Fenced: it becomes void when another attempt starts.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The execution.
    pub execution_id: ExecutionId,
    /// The flow it is a member of.
    pub flow_id: Option<FlowId>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Grows with every claim; a lease with an older epoch is void.
    pub epoch: u64,
}

/// An execution that a worker has claimed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClaimedExecution {
    /// The lease, which the worker needs to end the execution.
    pub lease: Lease,
    /// Its name within its flow.
    pub name: String,
    /// The tenant.
    pub namespace: Namespace,
    /// Its tags.
    pub tags: Tags,
    /// The payload that was submitted.
    pub payload: Bytes,
    /// The number of failed attempts that ends it.
    pub max_attempts: u32,
    /// The timeout of this attempt, from its claim.
    pub timeout: Option<Duration>,
    /// The number of leases of this execution that ran out without confirmation that they reached a worker. If it is
    /// not 0, the worker renews its lease once before it starts, so that an execution that crashes its worker is
    /// counted.
    pub unconfirmed_leases: u32,
}

impl ClaimedExecution {
    /// A claimed execution with the fields that every execution has. For backends.
    #[must_use]
    pub fn new(lease: Lease, name: String, namespace: Namespace) -> Self {
        Self {
            lease,
            name,
            namespace,
            tags: Tags::default(),
            payload: Bytes::new(),
            max_attempts: 1,
            timeout: None,
            unconfirmed_leases: 0,
        }
    }
}

/// The outcome of renewing one lease.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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
pub enum ReleaseOutcome {
    /// The execution is in the queue again, or has ended because its flow is being cancelled.
    Released,
    /// The lease was void already.
    LeaseLost,
    /// The lease could not be read, so it was not given back and continues until it expires. A later call may succeed.
    Unknown,
}

/// Why an attempt failed, and whether a further attempt can help.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// For people; cut at [`limits::REASON_BYTES`] when it is reported.
    pub reason: String,
    /// Whether a retry can help. If not, the execution ends as failed now.
    pub retryable: bool,
}

impl Failure {
    /// A failure for which a further attempt may succeed.
    #[must_use]
    pub fn retryable(reason: impl Into<String>) -> Self {
        Self { reason: cut(reason.into()), retryable: true }
    }

    /// A failure for which no further attempt can succeed.
    #[must_use]
    pub fn permanent(reason: impl Into<String>) -> Self {
        Self { reason: cut(reason.into()), retryable: false }
    }
}

fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(limits::REASON_BYTES));
    reason
}

/// The outcome of a reported failure.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailOutcome {
    /// Another attempt starts after this time.
    Retry {
        /// The backoff.
        after: Duration,
    },
    /// The execution has ended as failed.
    Ended,
}

/// The outcome of a cancellation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// The execution has ended as cancelled, by this or an earlier call.
    Cancelled,
    /// The execution had ended with another outcome before.
    AlreadyEnded(Outcome),
}

/// The outcome of cancelling a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowCancellation {
    /// Members that this call ended.
    pub cancelled: u32,
    /// Members that had ended before.
    pub already_ended: u32,
}

/// Notifies a process that there may be work, or that a lease was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
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

/// Notifies an engine of a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimerSignal {
    /// A timer of this partition is due earlier than all timers that were announced or reported before.
    Due {
        /// The partition.
        partition: Partition,
        /// The time until it is due.
        after: Duration,
    },
    /// The set of active engines has changed.
    Engines,
    /// Signals may have been missed: sweep the served partitions again, and ask for the active engines.
    Missed,
}

/// The timer signals of a deployment. Never ends on its own.
pub type TimerSignals = Pin<Box<dyn Stream<Item = TimerSignal> + Send>>;

/// How long ended executions and their completions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepPolicy {
    /// The age at which a completion is removed from its log. Its execution is deleted afterwards.
    pub retention: Duration,
    /// How long after that an idempotency key is still known. Until then, repeating the submission returns that it
    /// exists and runs nothing. With zero, a key is deleted with its flow or execution.
    pub idempotency: Duration,
}

impl SweepPolicy {
    /// Checks the ranges that the types do not enforce.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] with the setting and its range.
    pub fn check(&self) -> Result<(), EngineError> {
        limits::check_duration("retention", self.retention, Duration::ZERO)?;
        limits::check_duration("idempotency", self.idempotency, Duration::ZERO)
    }
}

impl Default for SweepPolicy {
    /// 24 h, and 7 days.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self { retention: DAY, idempotency: DAY.saturating_mul(7) }
    }
}

/// What one sweep of one partition did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepReport {
    /// Delayed executions that became runnable.
    pub released: u32,
    /// Executions reclaimed from workers whose lease ran out.
    pub reclaimed: u32,
    /// Executions that ended (deadline, attempts or leases exhausted), or whose interrupted end was completed.
    pub ended: u32,
    /// Dependents that were promoted or skipped.
    pub resolved: u32,
    /// Ended executions that were deleted.
    pub removed: u32,
    /// Executions that ended because their record was deleted or evicted.
    pub lost: u32,
    /// Whether the sweep stopped at its bound and more is due now.
    pub more: bool,
    /// The time until the next timer is due; `None` if nothing is scheduled.
    pub next_due: Option<Duration>,
}

/// The result of one round of resolving a partition's pending dependents.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResolveReport {
    /// Dependents that were promoted or skipped.
    pub resolved: u32,
    /// Whether more are pending.
    pub more: bool,
}

/// The position at which a reconciler's scan of a partition stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconcileCursor(pub ExecutionId);

/// The result of one step of a reconciler's scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Executions examined.
    pub examined: u32,
    /// Executions whose indexes, dependencies or completion were repaired.
    pub repaired: u32,
    /// Executions that ended because their record, or that of their flow, was deleted or evicted.
    pub lost: u32,
    /// Executions that could not be read: another program has overwritten a key.
    pub unreadable: u32,
    /// One of the unreadable executions.
    pub one_unreadable: Option<ExecutionId>,
    /// The position for the next step; `None` after the end of the partition.
    pub next: Option<ReconcileCursor>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlong_reason_is_cut_at_a_character() {
        let failure = Failure::permanent("ä".repeat(limits::REASON_BYTES));
        assert!(failure.reason.len() <= limits::REASON_BYTES && failure.reason.ends_with('ä'));
    }
}
