//! The five traits of a backend. Four of them are delegated as they are.

use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::{
    CancelOutcome, CompletionBackend, CompletionStream, ControlBackend, EngineError, EngineId, ExecutionId,
    ExecutionSnapshot, ExecutionSubmission, Failure, FlowCancellation, FlowId, FlowSnapshot, FlowSubmission, LaneId,
    Lease, Partition, PartitionCount, ScannerFilter, SubmitBackend, SubmittedExecution, SubmittedFlow,
    SubscribeBackend, SubscribeOptions, Subscription, SweepPolicy,
    backend::{
        Claim, ClaimRequest, FailOutcome, MaintenanceBackend, ReconcileCursor, ReconcileReport, ReleaseOutcome,
        RenewOutcome, ResolveReport, SweepReport, TimerSignals, WorkBackend, WorkSignals,
    },
};
use ff_embedded::EmbeddedBackend;

/// Delivers completions by `C`, and does everything else by the engine.
#[derive(Debug, Clone)]
pub struct OwnBackend<C> {
    completions: C,
    engine: EmbeddedBackend,
}

impl<C> OwnBackend<C> {
    /// `completions` must tell of what ends in `engine`.
    #[must_use]
    pub const fn new(completions: C, engine: EmbeddedBackend) -> Self {
        Self { completions, engine }
    }
}

#[async_trait]
impl<C: CompletionBackend> CompletionBackend for OwnBackend<C> {
    async fn subscribe_completions(&self) -> Result<CompletionStream, EngineError> {
        self.completions.subscribe_completions().await
    }

    async fn subscribe_completions_filtered(&self, filter: &ScannerFilter) -> Result<CompletionStream, EngineError> {
        self.completions.subscribe_completions_filtered(filter).await
    }
}

#[async_trait]
impl<C: SubscribeBackend> SubscribeBackend for OwnBackend<C> {
    async fn subscribe(&self, options: &SubscribeOptions) -> Result<Subscription, EngineError> {
        self.completions.subscribe(options).await
    }
}

#[async_trait]
impl<C: CompletionBackend> SubmitBackend for OwnBackend<C> {
    async fn submit_flow(&self, flow: &FlowSubmission) -> Result<SubmittedFlow, EngineError> {
        self.engine.submit_flow(flow).await
    }

    async fn submit_execution(&self, execution: &ExecutionSubmission) -> Result<SubmittedExecution, EngineError> {
        self.engine.submit_execution(execution).await
    }
}

#[async_trait]
impl<C: CompletionBackend> WorkBackend for OwnBackend<C> {
    async fn work_signals(&self, lane: &LaneId) -> Result<WorkSignals, EngineError> {
        self.engine.work_signals(lane).await
    }

    async fn await_work(&self, lane: &LaneId, partitions: &[Partition]) -> Result<Vec<Partition>, EngineError> {
        self.engine.await_work(lane, partitions).await
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, EngineError> {
        self.engine.claim(request).await
    }

    async fn pass_on(&self, lane: &LaneId, partition: Partition) -> Result<bool, EngineError> {
        self.engine.pass_on(lane, partition).await
    }

    async fn renew(&self, leases: &[Lease], lease: Duration) -> Result<Vec<RenewOutcome>, EngineError> {
        self.engine.renew(leases, lease).await
    }

    async fn release(&self, leases: &[Lease]) -> Result<Vec<ReleaseOutcome>, EngineError> {
        self.engine.release(leases).await
    }

    async fn complete(&self, lease: &Lease, result: Bytes) -> Result<(), EngineError> {
        self.engine.complete(lease, result).await
    }

    async fn fail(&self, lease: &Lease, failure: &Failure) -> Result<FailOutcome, EngineError> {
        self.engine.fail(lease, failure).await
    }
}

#[async_trait]
impl<C: CompletionBackend> ControlBackend for OwnBackend<C> {
    async fn describe_execution(&self, id: ExecutionId) -> Result<ExecutionSnapshot, EngineError> {
        self.engine.describe_execution(id).await
    }

    async fn describe_flow(&self, id: FlowId) -> Result<FlowSnapshot, EngineError> {
        self.engine.describe_flow(id).await
    }

    async fn cancel_execution(&self, id: ExecutionId, reason: &str) -> Result<CancelOutcome, EngineError> {
        self.engine.cancel_execution(id, reason).await
    }

    async fn cancel_flow(&self, id: FlowId, reason: &str) -> Result<FlowCancellation, EngineError> {
        self.engine.cancel_flow(id, reason).await
    }
}

#[async_trait]
impl<C: CompletionBackend> MaintenanceBackend for OwnBackend<C> {
    fn partition_count(&self) -> PartitionCount {
        self.engine.partition_count()
    }

    async fn sweep(&self, partitions: &[Partition], policy: &SweepPolicy) -> Vec<Result<SweepReport, EngineError>> {
        self.engine.sweep(partitions, policy).await
    }

    async fn resolve_dependents(&self, partition: Partition) -> Result<ResolveReport, EngineError> {
        self.engine.resolve_dependents(partition).await
    }

    async fn reconcile(
        &self,
        partition: Partition,
        cursor: Option<ReconcileCursor>,
        limit: u32,
    ) -> Result<ReconcileReport, EngineError> {
        self.engine.reconcile(partition, cursor, limit).await
    }

    async fn verify_deployment(&self) -> Result<(), EngineError> {
        self.engine.verify_deployment().await
    }

    async fn timer_signals(&self) -> Result<TimerSignals, EngineError> {
        self.engine.timer_signals().await
    }

    async fn note_engine(&self, engine: &EngineId, stays: Duration) -> Result<Vec<EngineId>, EngineError> {
        self.engine.note_engine(engine, stays).await
    }
}
