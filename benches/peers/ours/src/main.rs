//! FlowFabric of this repository, as its README sets it up: an engine and a worker in the process, one backend for all.
#![forbid(unsafe_code)]

mod count;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::Arc;
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bytes::Bytes;
use ff_core::backend::{ClaimRequest, MaintenanceBackend, WorkBackend};
use ff_core::{
    ClaimedExecution, CompletionBackend, CompletionStream, ExecutionId, ExecutionSpec, ExecutionSubmission, FlowId,
    FlowSubmission, LaneId, Namespace, Partition, ScannerFilter, SubmitBackend, Tags, WorkerId,
};
use ff_engine::{Engine, WorkContext, Worker, WorkerHandle};
use ff_valkey::ValkeyBackend;
use futures::StreamExt;
use peers_kit::{Contender, Filter, Job, Role, SLOTS, Shape};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::count::Completed;

/// Longer than any workload.
const LEASE: Duration = Duration::from_secs(3_600);

struct Ours {
    backend: Arc<ValkeyBackend>,
    completed: Completed,
    namespace: Namespace,
    lane: LaneId,
    _engine: Engine,
}

impl Ours {
    fn spec(&self, name: impl Into<String>) -> ExecutionSpec {
        ExecutionSpec::new(name).lane(self.lane.clone())
    }

    fn flow(&self, shape: Shape) -> FlowSubmission {
        let members = shape.needs().into_iter().enumerate();
        members.fold(FlowSubmission::new(self.namespace.clone()), |flow, (index, needs)| {
            flow.execution(self.spec(index.to_string()).needs(needs.iter().map(usize::to_string)))
        })
    }

    async fn claim_in(&self, partition: Partition) -> Result<Vec<ClaimedExecution>> {
        let worker = WorkerId::new("holder")?;
        let request = ClaimRequest::new(worker, self.lane.clone(), partition).lease(LEASE);
        let mut all = Vec::new();
        loop {
            let claim = self.backend.claim(&request).await?;
            all.extend(claim.executions);
            if !claim.more {
                return Ok(all);
            }
        }
    }
}

impl Contender for Ours {
    type Workers = WorkerHandle;
    type FlowId = FlowId;
    type Claimed = ClaimedExecution;
    type ExecutionId = ExecutionId;
    type Subscription = CompletionStream;

    const NAME: &'static str = "ours";

    async fn connect(url: &str, _role: Role) -> Result<Self> {
        let completed = Completed::count()?;
        let backend = Arc::new(ValkeyBackend::connect(url).await?);
        let engine = Engine::builder(backend.clone()).start().await?;
        let (namespace, lane) = (Namespace::new(Filter::NAMESPACE)?, LaneId::new("default")?);
        Ok(Self { backend, completed, namespace, lane, _engine: engine })
    }

    async fn submit(&self, payload: String) -> Result<()> {
        let spec = self.spec("job").payload(payload);
        self.backend.submit_execution(&ExecutionSubmission::new(self.namespace.clone(), spec)).await?;
        Ok(())
    }

    /// A flow of members that need nothing.
    async fn submit_bulk(&self, payloads: Vec<String>) -> Result<()> {
        let members = payloads.into_iter().enumerate();
        let flow = members.fold(FlowSubmission::new(self.namespace.clone()), |flow, (index, payload)| {
            flow.execution(self.spec(index.to_string()).payload(payload))
        });
        self.backend.submit_flow(&flow).await?;
        Ok(())
    }

    async fn start(&self, _job: Job) -> Result<WorkerHandle> {
        let worker = Worker::builder()
            .lane(self.lane.clone())
            .concurrency(SLOTS)
            .handler(|_: WorkContext| async { Ok(Bytes::new()) })
            .build(self.backend.clone())?;
        Ok(worker.start())
    }

    async fn stop(&self, workers: WorkerHandle) -> Result<()> {
        Ok(workers.shutdown().await?)
    }

    async fn until_ended(&self, count: usize) -> Result<()> {
        self.completed.until(count).await;
        Ok(())
    }

    async fn submit_flow(&self, shape: Shape) -> Result<FlowId> {
        Ok(self.backend.submit_flow(&self.flow(shape)).await?.flow_id)
    }

    async fn flow_ends(&self, shape: Shape) -> Result<UnboundedReceiver<(FlowId, Instant)>> {
        let mut completions = self.backend.subscribe_completions().await?;
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut seen: HashMap<FlowId, usize> = HashMap::new();
            while let Some(flow) = completions.next().await.and_then(|completion| completion.flow_id) {
                let members = seen.entry(flow).or_default();
                *members += 1;
                if *members == shape.members() && sender.send((flow, Instant::now())).is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn claim_many(&self, count: usize) -> Result<Vec<ClaimedExecution>> {
        const MEMBERS: usize = 100;
        let tags = Tags::new([Filter::TAG])?;
        for _ in 0..count.div_ceil(MEMBERS) {
            let flow = (0..MEMBERS).fold(FlowSubmission::new(self.namespace.clone()), |flow, index| {
                flow.execution(self.spec(index.to_string()).tags(tags.clone()))
            });
            self.backend.submit_flow(&flow).await?;
        }
        let mut all = Vec::new();
        for partition in 0..self.backend.partition_count().get() {
            all.extend(self.claim_in(Partition::new(partition)).await?);
        }
        all.truncate(count);
        Ok(all)
    }

    fn id(claimed: &ClaimedExecution) -> ExecutionId {
        claimed.lease.execution_id
    }

    async fn complete(&self, claimed: ClaimedExecution) -> Result<()> {
        Ok(self.backend.complete(&claimed.lease, Bytes::from_static(b"{\"ok\":true}")).await?)
    }

    async fn subscribe(&self, filter: Filter) -> Result<CompletionStream> {
        let filter = match filter {
            Filter::None => ScannerFilter::NOOP,
            Filter::Namespace => ScannerFilter::new().namespace(self.namespace.clone()),
            Filter::Tag => ScannerFilter::new().instance_tag(Filter::TAG.0, Filter::TAG.1),
        };
        Ok(self.backend.subscribe_completions_filtered(&filter).await?)
    }

    async fn next(subscription: &mut CompletionStream) -> Result<ExecutionId> {
        Ok(subscription.next().await.context("the stream ended")?.execution_id)
    }
}

fn main() -> ExitCode {
    peers_kit::run::<Ours>()
}
