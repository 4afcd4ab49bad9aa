//! Load on the servers: flows that are cancelled as a whole, and flows and solo executions that are executed.

use std::{
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use fastrand::Rng;
use ff_core::{
    EngineBackend, EngineError, ExecutionId, ExecutionSpec, ExecutionSubmission, FlowSubmission, LaneId, Namespace,
    Partition, Tags, WorkerId, backend::ClaimRequest,
};
use ff_test::history::Submitted;

use super::{Failure, ledger::Ledger};

pub(crate) const TENANTS: [&str; 3] = ["tenant-a", "tenant-b", "tenant-c"];
pub(crate) const REGION: &str = "region";
pub(crate) const REGIONS: [&str; 2] = ["eu", "us"];
/// Marks the completions by which recovery is measured.
pub(crate) const PROBE: &str = "probe";

/// How often a terminal call is sent if its reply is lost.
const TRIES: usize = 5;
const PAUSE: Duration = Duration::from_millis(30);

/// One of several load generators.
pub(crate) struct Loader {
    pub(crate) backend: Arc<dyn EngineBackend>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) rng: Rng,
    pub(crate) number: usize,
    pub(crate) pause: Duration,
}

impl Loader {
    /// Runs until `stop` is set.
    pub(crate) async fn run(mut self, stop: Arc<AtomicBool>) -> Result<(), Failure> {
        while !stop.load(Ordering::SeqCst) {
            let done = match self.rng.u8(0..10) {
                0..6 => self.cancelled().await,
                6..9 => self.worked_off().await,
                _ => self.solo().await,
            };
            match done {
                Ok(()) => tokio::time::sleep(self.pause).await,
                // The server is away, or has lost the submission.
                Err(error) if error.is_retryable() || is_forgotten(&error) => tokio::time::sleep(PAUSE).await,
                Err(error) => return Err(error.into()),
            }
        }
        Ok(())
    }

    fn kind(&mut self) -> Submitted {
        let namespace = Namespace::new(TENANTS[self.rng.usize(0..TENANTS.len())]).expect("a tenant has a name");
        Submitted { namespace, tags: region(REGIONS[self.rng.usize(0..REGIONS.len())]) }
    }

    fn key(&mut self) -> String {
        format!("{}-{:x}", self.number, self.rng.u64(..))
    }

    fn lane(&self) -> LaneId {
        LaneId::new(&format!("load-{}", self.number)).expect("a lane has a name")
    }

    async fn flow(&mut self, members: usize) -> Result<(FlowSubmission, Vec<ExecutionId>), EngineError> {
        let (what, lane) = (self.kind(), self.lane());
        let mut flow = FlowSubmission::new(what.namespace.clone()).idempotency_key(self.key());
        for member in 0..members {
            flow = flow.execution(
                ExecutionSpec::new(member.to_string()).lane(lane.clone()).tags(what.tags.clone()).max_lease_expiries(1),
            );
        }
        let count = self.backend.partition_count();
        let ids: Vec<_> =
            flow.executions.iter().map(|spec| ExecutionId::member(flow.flow_id(), &spec.name, count)).collect();
        self.ledger.submitted(ids.iter().copied(), &what);
        self.backend.submit_flow(&flow).await?;
        Ok((flow, ids))
    }

    async fn cancelled(&mut self) -> Result<(), EngineError> {
        let members = self.rng.usize(20..=110);
        let (flow, ids) = self.flow(members).await?;
        let (faults, id) = (self.ledger.faults_so_far(), flow.flow_id());
        again(|| self.backend.cancel_flow(id, "load")).await?;
        self.ledger.acknowledged(ids, faults);
        Ok(())
    }

    async fn worked_off(&mut self) -> Result<(), EngineError> {
        let members = self.rng.usize(2..=24);
        let (_, ids) = self.flow(members).await?;
        self.work(ids[0].partition()).await
    }

    async fn solo(&mut self) -> Result<(), EngineError> {
        let (what, count) = (self.kind(), self.backend.partition_count());
        let key = self.key();
        let id = ExecutionId::from_idempotency_key(&what.namespace, &key, count);
        let spec = ExecutionSpec::new("solo").lane(self.lane()).tags(what.tags.clone()).max_lease_expiries(1);
        self.ledger.submitted([id], &what);
        let submission = ExecutionSubmission::new(what.namespace, spec).idempotency_key(key);
        let submitted = self.backend.submit_execution(&submission).await?;
        assert_eq!(submitted.execution_id, id, "an idempotency key names its execution");
        self.work(id.partition()).await
    }

    /// Claims and completes the executions of the partition.
    async fn work(&self, partition: Partition) -> Result<(), EngineError> {
        let worker = WorkerId::new("load").expect("a worker has a name");
        let request = ClaimRequest::new(worker, self.lane(), partition).max(32).lease(Duration::from_secs(10));
        let claim = self.backend.claim(&request).await?;
        for claimed in claim.executions {
            let faults = self.ledger.faults_so_far();
            again(|| self.backend.complete(&claimed.lease, Bytes::from_static(b"{\"ok\":true}"))).await?;
            self.ledger.acknowledged([claimed.lease.execution_id], faults);
        }
        Ok(())
    }
}

pub(crate) fn region(name: &str) -> Tags {
    Tags::new([(REGION, name)]).expect("a region is a tag")
}

/// Repeats a call while the server is away.
async fn again<T, F>(call: impl Fn() -> F) -> Result<T, EngineError>
where
    F: Future<Output = Result<T, EngineError>>,
{
    let mut tries = 1;
    loop {
        match call().await {
            Err(error) if error.is_retryable() && tries < TRIES => {
                tries += 1;
                tokio::time::sleep(PAUSE).await;
            }
            outcome => return outcome,
        }
    }
}

/// Whether the server has rolled back the submission or the claim.
fn is_forgotten(error: &EngineError) -> bool {
    matches!(error, EngineError::NotFound { .. } | EngineError::State { .. } | EngineError::Conflict { .. })
}
