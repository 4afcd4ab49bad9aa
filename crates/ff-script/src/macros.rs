//! The macro that implements the traits of a backend over the typed calls.

// What the macro's expansion names, so that it needs no import where it is used.
pub use std::time::Duration;

pub use async_trait::async_trait;
pub use bytes::Bytes;
pub use ff_core::{backend::*, *};

/// Implements `SubmitBackend`, `WorkBackend`, `ControlBackend` and `MaintenanceBackend` for a backend by three of its
/// methods: the first returns its [`Operations`](crate::operations::Operations), the second work signals, the third
/// timer signals.
#[macro_export]
macro_rules! backend_by_script {
    ($backend:ty, $operations:ident, $signals:ident, $timers:ident) => {
        const _: () = {
            use $crate::macros::*;

            $crate::backend_by_script!(@impl $backend, $operations, SubmitBackend {
                submit_flow(flow: &FlowSubmission) -> SubmittedFlow;
                submit_execution(execution: &ExecutionSubmission) -> SubmittedExecution;
            });
            $crate::backend_by_script!(@impl $backend, $operations, ControlBackend {
                describe_execution(id: ExecutionId) -> ExecutionSnapshot;
                describe_flow(id: FlowId) -> FlowSnapshot;
                cancel_execution(id: ExecutionId, reason: &str) -> CancelOutcome;
                cancel_flow(id: FlowId, reason: &str) -> FlowCancellation;
            });
            $crate::backend_by_script!(@impl $backend, $operations, WorkBackend {
                await_work(lane: &LaneId, partitions: &[Partition]) -> Vec<Partition>;
                claim(request: &ClaimRequest) -> Claim;
                pass_on(lane: &LaneId, partition: Partition) -> bool;
                renew(leases: &[Lease], lease: Duration) -> Vec<RenewOutcome>;
                release(leases: &[Lease]) -> Vec<ReleaseOutcome>;
                complete(lease: &Lease, result: Bytes) -> ();
                fail(lease: &Lease, failure: &Failure) -> FailOutcome;
            } {
                async fn work_signals(&self, lane: &LaneId) -> Result<WorkSignals, EngineError> {
                    self.$signals(lane).await
                }

                async fn complete_many(&self, ended: &[(Lease, Bytes)]) -> Vec<Result<(), EngineError>> {
                    self.$operations().complete_many(ended).await
                }
            });
            $crate::backend_by_script!(@impl $backend, $operations, MaintenanceBackend {
                resolve_dependents(partition: Partition) -> ResolveReport;
                reconcile(
                    partition: Partition, cursor: Option<ReconcileCursor>, limit: u32
                ) -> ReconcileReport;
                verify_deployment() -> ();
                note_engine(engine: &EngineId, stays: Duration) -> Vec<EngineId>;
            } {
                async fn timer_signals(&self) -> Result<TimerSignals, EngineError> {
                    self.$timers().await
                }

                fn partition_count(&self) -> PartitionCount {
                    self.$operations().partition_count()
                }

                async fn sweep(
                    &self,
                    partitions: &[Partition],
                    policy: &SweepPolicy,
                ) -> Vec<Result<SweepReport, EngineError>> {
                    self.$operations().sweep(partitions, policy).await
                }
            });
        };
    };
    (@impl $backend:ty, $operations:ident, $trait:ident {
        $($method:ident($($name:ident: $type:ty),*) -> $answer:ty;)+
    } $({ $($own:item)* })?) => {
        #[async_trait]
        impl $trait for $backend {
            $(async fn $method(&self, $($name: $type),*) -> Result<$answer, EngineError> {
                self.$operations().$method($($name),*).await
            })+
            $($($own)*)?
        }
    };
}
