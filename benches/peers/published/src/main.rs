//! FlowFabric 0.15 as published. Its server part runs in this process, and submissions go to the backend without the
//! HTTP hop of its server, which favours it. The workers are those of its own benches: one `FlowFabricWorker` a slot,
//! which claims, and sleeps when it finds nothing.
#![forbid(unsafe_code)]

mod flows;

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ff_backend_valkey::ValkeyBackend;
use ff_core::backend::{BackendConfig, ScannerFilter, ValkeyConnection};
use ff_core::completion_backend::{CompletionBackend, CompletionStream};
use ff_core::contracts::CreateExecutionArgs;
use ff_core::engine_backend::EngineBackend;
use ff_core::partition::PartitionConfig;
use ff_core::types::{ExecutionId, FlowId, LaneId, Namespace, TimestampMs, WorkerId, WorkerInstanceId};
use ff_sdk::{ClaimedTask, FlowFabricWorker, WorkerConfig};
use futures::StreamExt;
use peers_kit::{Contender, Filter, How, Job, Role, SLOTS, Shape, Work};
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

/// The pause of a worker that finds nothing, as in its own benches. Its default is a second.
const POLL: Duration = Duration::from_millis(50);
/// How long a lease lasts, ms.
const LEASE: u64 = 30_000;
/// Longer than any workload.
const LONG_LEASE: u64 = 3_600_000;
const LANE: &str = "default";

struct Published {
    port: u16,
    backend: Arc<ValkeyBackend>,
    ended: Arc<AtomicUsize>,
    held: Arc<AtomicBool>,
    _server: Option<ff_server::server::Server>,
}

async fn server(port: u16) -> Result<ff_server::server::Server> {
    let mut config = ff_server::config::ServerConfig::default();
    config.valkey.host = "127.0.0.1".to_owned();
    config.valkey.port = port;
    config.lanes = vec![LaneId::new(LANE)];
    config.engine_config.lanes = vec![LaneId::new(LANE)];
    config.waitpoint_hmac_secret = "0123456789abcdef".repeat(4);
    ff_server::server::Server::start(config).await.map_err(|error| anyhow::anyhow!("{error}"))
}

fn execution(flow: &FlowId, payload: Vec<u8>, tags: HashMap<String, String>) -> CreateExecutionArgs {
    let execution_id = ExecutionId::for_flow(flow, &PartitionConfig::default());
    CreateExecutionArgs {
        partition_id: execution_id.partition(),
        execution_id,
        namespace: Namespace::new(Filter::NAMESPACE),
        lane_id: LaneId::new(LANE),
        execution_kind: "job".to_owned(),
        input_payload: payload,
        payload_encoding: Some("binary".to_owned()),
        priority: 100,
        creator_identity: "peers".to_owned(),
        idempotency_key: None,
        tags,
        policy: None,
        delay_until: None,
        execution_deadline_at: None,
        now: TimestampMs::now(),
    }
}

impl Published {
    async fn worker(&self, name: &str, slots: usize, lease: u64) -> Result<FlowFabricWorker> {
        let config = WorkerConfig {
            backend: Some(BackendConfig::valkey("127.0.0.1", self.port)),
            worker_id: WorkerId::new(name.to_owned()),
            worker_instance_id: WorkerInstanceId::new(format!("{name}-{}", uuid::Uuid::new_v4())),
            namespace: Namespace::new(Filter::NAMESPACE),
            lanes: vec![LaneId::new(LANE)],
            capabilities: Vec::new(),
            lease_ttl_ms: lease,
            claim_poll_interval_ms: POLL.as_millis() as u64,
            max_concurrent_tasks: slots,
            partition_config: None,
        };
        Ok(FlowFabricWorker::connect(config).await?)
    }

    fn run_worker(&self, worker: FlowFabricWorker, stop: Arc<AtomicBool>) -> JoinHandle<()> {
        let (ended, held) = (self.ended.clone(), self.held.clone());
        tokio::spawn(async move {
            while !stop.load(Ordering::Relaxed) {
                if held.load(Ordering::Relaxed) {
                    tokio::time::sleep(Duration::from_millis(1)).await;
                    continue;
                }
                match worker.claim_next().await {
                    Ok(Some(task)) => {
                        task.complete(None).await.expect("a claimed execution can end");
                        ended.fetch_add(1, Ordering::Relaxed);
                    }
                    Ok(None) => tokio::time::sleep(POLL).await,
                    Err(error) => {
                        eprintln!("claim: {error}");
                        tokio::time::sleep(POLL).await;
                    }
                }
            }
        })
    }
}

impl Contender for Published {
    type Workers = (Arc<AtomicBool>, Vec<JoinHandle<()>>);
    type FlowId = FlowId;
    type Claimed = ClaimedTask;
    type ExecutionId = ExecutionId;
    type Subscription = CompletionStream;

    const NAME: &'static str = "published";
    const FEWER: bool = true;
    const HOLDS_WORKERS: bool = true;

    fn refusal(work: &Work) -> Option<&'static str> {
        matches!(work, Work::Cycle(_, How::Bulk)).then_some("it has no submission in bulk")
    }

    async fn connect(url: &str, role: Role) -> Result<Self> {
        let port = url.trim_end_matches('/').rsplit_once(':').context("the URL has no port")?.1.parse()?;
        let server = if role == Role::Whole { Some(server(port).await?) } else { None };
        let client = ff_backend_valkey::build_client(&BackendConfig::valkey("127.0.0.1", port)).await?;
        let partitions = PartitionConfig::default();
        let connection = ValkeyConnection::new("127.0.0.1", port);
        let backend = ValkeyBackend::from_client_partitions_and_connection(client, partitions, connection);
        Ok(Self { port, backend, ended: Arc::default(), held: Arc::default(), _server: server })
    }

    /// A flow id of its own for each, so that executions spread over all partitions, as in its own benches.
    async fn submit(&self, payload: String) -> Result<()> {
        let args = execution(&FlowId::new(), payload.into_bytes(), HashMap::new());
        self.backend.create_execution(args).await?;
        Ok(())
    }

    async fn start(&self, _job: Job) -> Result<Self::Workers> {
        let stop = Arc::new(AtomicBool::new(false));
        let mut running = Vec::new();
        for slot in 0..SLOTS {
            let worker = self.worker(&format!("worker-{slot}"), 1, LEASE).await?;
            running.push(self.run_worker(worker, stop.clone()));
        }
        Ok((stop, running))
    }

    async fn stop(&self, (stop, running): Self::Workers) -> Result<()> {
        stop.store(true, Ordering::Relaxed);
        for worker in running {
            worker.await?;
        }
        Ok(())
    }

    async fn until_ended(&self, count: usize) -> Result<()> {
        while self.ended.load(Ordering::Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    fn hold(&self, hold: bool) {
        self.held.store(hold, Ordering::Relaxed);
    }

    async fn submit_flow(&self, shape: Shape) -> Result<FlowId> {
        flows::submit(&self.backend, &shape.needs()).await
    }

    async fn flow_ends(&self, shape: Shape) -> Result<UnboundedReceiver<(FlowId, Instant)>> {
        let mut completions = self.backend.subscribe_completions().await?;
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            let mut seen: HashMap<FlowId, usize> = HashMap::new();
            while let Some(flow) = completions.next().await.and_then(|completion| completion.flow_id) {
                let members = seen.entry(flow.clone()).or_default();
                *members += 1;
                if *members == shape.members() && sender.send((flow, Instant::now())).is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn claim_many(&self, count: usize) -> Result<Vec<ClaimedTask>> {
        flows::submit_members(&self.backend, count).await?;
        let claimed = Arc::new(Mutex::new(Vec::with_capacity(count)));
        let mut running = Vec::new();
        for slot in 0..SLOTS {
            let worker = self.worker(&format!("holder-{slot}"), count, LONG_LEASE).await?;
            running.push(tokio::spawn(hold_all(worker, claimed.clone(), count)));
        }
        for worker in running {
            // A worker that ends gives its claims back.
            std::mem::forget(worker.await?);
        }
        Ok(std::mem::take(&mut *claimed.lock().unwrap_or_else(PoisonError::into_inner)))
    }

    fn id(claimed: &ClaimedTask) -> ExecutionId {
        claimed.execution_id().clone()
    }

    async fn complete(&self, claimed: ClaimedTask) -> Result<()> {
        claimed.complete(Some(b"{\"ok\":true}".to_vec())).await?;
        Ok(())
    }

    async fn subscribe(&self, filter: Filter) -> Result<CompletionStream> {
        let filter = match filter {
            Filter::None => ScannerFilter::NOOP,
            Filter::Namespace => ScannerFilter::new().with_namespace(Filter::NAMESPACE),
            Filter::Tag => ScannerFilter::new().with_instance_tag(Filter::TAG.0, Filter::TAG.1),
        };
        Ok(self.backend.subscribe_completions_filtered(&filter).await?)
    }

    async fn next(subscription: &mut CompletionStream) -> Result<ExecutionId> {
        Ok(subscription.next().await.context("the stream ended")?.execution_id)
    }
}

/// Claims until all workers together hold `count`; returns the worker.
async fn hold_all(worker: FlowFabricWorker, all: Arc<Mutex<Vec<ClaimedTask>>>, count: usize) -> FlowFabricWorker {
    let held = || all.lock().unwrap_or_else(PoisonError::into_inner).len();
    while held() < count {
        match worker.claim_next().await {
            Ok(Some(task)) => all.lock().unwrap_or_else(PoisonError::into_inner).push(task),
            _ => tokio::time::sleep(Duration::from_millis(2)).await,
        }
    }
    worker
}

fn main() -> ExitCode {
    peers_kit::run::<Published>()
}
