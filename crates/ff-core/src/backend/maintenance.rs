//! Keeping flows moving: timers, pending dependents, repair.

use std::{pin::Pin, time::Duration};

use async_trait::async_trait;
use futures::Stream;

use crate::{EngineError, EngineId, ExecutionId, Partition, PartitionCount, SweepPolicy};

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
#[non_exhaustive]
pub struct ResolveReport {
    /// Dependents that were promoted or skipped.
    pub resolved: u32,
    /// Whether more are pending.
    pub more: bool,
}

/// The position at which a reconciler's scan of a partition stopped.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "complete by definition")]
pub struct ReconcileCursor(pub ExecutionId);

/// The result of one step of a reconciler's scan.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
#[non_exhaustive]
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
