//! What workers and maintainers exchange with a backend.

use std::{pin::Pin, time::Duration};

use bytes::Bytes;
use futures::Stream;

use crate::{ClaimId, EngineError, ExecutionId, FlowId, LaneId, Namespace, Outcome, Partition, Tags, WorkerId, limits};

/// Asks for work of one lane in one partition.
#[derive(Debug, Clone)]
pub struct ClaimRequest {
    /// Who asks.
    pub worker: WorkerId,
    /// The kind of work.
    pub lane: LaneId,
    /// Where.
    pub partition: Partition,
    /// At most how many, up to [`limits::CLAIM_BATCH`]. With 0 nothing is claimed, and if there is work another
    /// waiting process is signalled.
    pub max: u32,
    /// How long the lease runs before it must be renewed.
    pub lease: Duration,
    /// Makes the claim repeatable: a claim with the id of the worker's last one in this partition is answered with what
    /// that one took and still holds, and takes nothing else. Draw a new one for each claim.
    pub id: Option<ClaimId>,
}

/// The answer to a [`ClaimRequest`].
#[derive(Debug, Clone)]
pub struct Claim {
    /// What is now the worker's.
    pub executions: Vec<ClaimedExecution>,
    /// Whether the lane has more work in this partition; then the next waiting process has been signalled. If not, the
    /// caller's process has been noted there and is signalled when work arrives.
    pub more: bool,
}

/// The right to end one attempt of one execution. Fenced: it is void once another attempt began.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct Lease {
    /// The execution.
    pub execution_id: ExecutionId,
    /// The flow it is a member of.
    pub flow_id: Option<FlowId>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Grows with every claim; an older epoch is void.
    pub epoch: u64,
}

/// An execution that a worker has claimed.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ClaimedExecution {
    /// What the worker must show to end it.
    pub lease: Lease,
    /// Its name within its flow.
    pub name: String,
    /// The tenant.
    pub namespace: Namespace,
    /// Its tags.
    pub tags: Tags,
    /// What was submitted for the worker.
    pub payload: Bytes,
    /// How many failed attempts end it.
    pub max_attempts: u32,
    /// How long this attempt may take, from its claim.
    pub timeout: Option<Duration>,
    /// How many leases of this execution ran out without being known to have reached a worker. If any did, the worker
    /// renews its lease once before it starts, so that work which ends its process does not go uncounted.
    pub unconfirmed_leases: u32,
}

impl ClaimedExecution {
    /// What a backend answers.
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

/// What became of one lease that was to be renewed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum RenewOutcome {
    /// It runs on.
    Renewed,
    /// It is held, but the attempt has used up its time: the lease ends when it would have ended. The worker must stop
    /// and report.
    TimedOut,
    /// It is void: the worker must stop.
    LeaseLost,
    /// It could not be read, so it runs on until it expires; a later renewal may succeed.
    Unknown,
}

/// What became of one lease that was given back.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum ReleaseOutcome {
    /// The execution is in the queue again, or has ended because its flow is being cancelled.
    Released,
    /// It was void already.
    LeaseLost,
    /// It could not be read, so nothing was given back: it runs on until it expires. A later call may succeed.
    Unknown,
}

/// Why an attempt failed, and whether another may be made.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// For people; cut at [`limits::REASON_BYTES`] when it is reported.
    pub reason: String,
    /// Whether a retry can help. If not, the execution ends as failed now.
    pub retryable: bool,
}

impl Failure {
    /// A failure that a further attempt may heal.
    #[must_use]
    pub fn retryable(reason: impl Into<String>) -> Self {
        Self { reason: cut(reason.into()), retryable: true }
    }

    /// A failure that no further attempt can heal.
    #[must_use]
    pub fn permanent(reason: impl Into<String>) -> Self {
        Self { reason: cut(reason.into()), retryable: false }
    }
}

fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(limits::REASON_BYTES));
    reason
}

/// What a reported failure led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FailOutcome {
    /// Another attempt starts after this time.
    Retry {
        /// The backoff.
        after: Duration,
    },
    /// It has ended as failed.
    Ended,
}

/// What a cancellation led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum CancelOutcome {
    /// It has ended as cancelled, now or by an earlier such call.
    Cancelled,
    /// It had ended otherwise before.
    AlreadyEnded(Outcome),
}

/// What the cancellation of a flow led to.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct FlowCancellation {
    /// Members that this call ended.
    pub cancelled: u32,
    /// Members that had ended before.
    pub already_ended: u32,
}

/// Tells a process that work may have come, or that a lease was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum WorkSignal {
    /// The lane has work in this partition.
    Ready(Partition),
    /// Signals may have been missed: ask all partitions again.
    Rescan,
    /// A lease of this process was ended by somebody else: its execution was cancelled, expired, or went back to the
    /// queue when the lease ran out.
    Lost {
        /// The execution.
        execution_id: ExecutionId,
        /// The lease's epoch.
        epoch: u64,
    },
}

/// The work signals of one lane. Never ends by itself.
pub type WorkSignals = Pin<Box<dyn Stream<Item = WorkSignal> + Send>>;

/// Tells whoever sweeps that something has changed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum TimerSignal {
    /// Something is due in this partition sooner than anything that was announced or reported before.
    Due {
        /// Where.
        partition: Partition,
        /// How long until then.
        after: Duration,
    },
    /// The engines at work are others than before.
    Engines,
    /// Signals may have been missed: sweep again what is served, and ask which engines are at work.
    Missed,
}

/// The timer signals of a deployment. Never ends by itself.
pub type TimerSignals = Pin<Box<dyn Stream<Item = TimerSignal> + Send>>;

/// For how long ended executions and their completions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct SweepPolicy {
    /// The age beyond which a completion leaves its log, and its execution is deleted after it.
    pub retention: Duration,
    /// For how long after that a submission is still known by its idempotency key: repeating it then answers that it is
    /// there, and runs nothing. With zero a key is forgotten with its flow or execution.
    pub idempotency: Duration,
}

impl SweepPolicy {
    /// Checks what the types leave open.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] that names the setting and its range.
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
    /// Executions taken back from workers whose lease ran out.
    pub reclaimed: u32,
    /// Executions that ended (deadline, attempts or leases exhausted) or whose ending was completed.
    pub ended: u32,
    /// Dependents that were promoted or skipped.
    pub resolved: u32,
    /// Ended executions that were deleted.
    pub removed: u32,
    /// Executions that ended because their record was deleted or evicted.
    pub lost: u32,
    /// Whether the sweep stopped at its bound and more is due now.
    pub more: bool,
    /// How long until something is due next; `None` if nothing is scheduled.
    pub next_due: Option<Duration>,
}

/// What one round of resolving a partition's pending dependents did.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct ResolveReport {
    /// Dependents that were promoted or skipped.
    pub resolved: u32,
    /// Whether more are pending.
    pub more: bool,
}

/// Where a reconciler's scan of a partition stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ReconcileCursor(pub ExecutionId);

/// What one step of a reconciler's scan did.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct ReconcileReport {
    /// Executions looked at.
    pub examined: u32,
    /// Executions whose indexes, dependencies or completion were put right.
    pub repaired: u32,
    /// Executions that ended because their record, or that of their flow, was deleted or evicted.
    pub lost: u32,
    /// Executions that could not be read: another program has overwritten a key.
    pub unreadable: u32,
    /// One of these.
    pub one_unreadable: Option<ExecutionId>,
    /// Where to go on; `None` when the partition has been seen to its end.
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
