//! Shared helpers of the cases: submitting, working and waiting, with a time limit on every wait.

use std::{
    sync::{Arc, Mutex},
    time::Duration,
};

use bytes::Bytes;
use ff_core::{
    ClaimId, ClaimedExecution, CompletionPayload, CompletionStream, EngineBackend, ExecutionId, ExecutionSnapshot,
    ExecutionSpec, Failure, FlowSubmission, LaneId, Namespace, Partition, PublicState, SubmittedFlow, SweepPolicy,
    WorkerId,
    backend::{ClaimRequest, RenewOutcome, SweepReport},
};
use futures::{FutureExt, StreamExt};
use uuid::Uuid;

/// The time limit of a wait. Far longer than any case takes.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A backend with its own lane and namespace.
pub struct Fixture {
    /// The backend under test.
    pub backend: Arc<dyn EngineBackend>,
    /// A lane that no other case uses.
    pub lane: LaneId,
    /// A namespace that no other case uses.
    pub namespace: Namespace,
    claimed: Mutex<Vec<ClaimedExecution>>,
}

impl Fixture {
    /// Wraps a backend.
    #[must_use]
    pub fn new(backend: Arc<dyn EngineBackend>) -> Self {
        let unique = Uuid::new_v4();
        Self {
            backend,
            lane: name(&format!("lane-{unique}")),
            namespace: name(&format!("tenant-{unique}")),
            claimed: Mutex::default(),
        }
    }

    /// An execution on this fixture's lane.
    #[must_use]
    pub fn spec(&self, name: &str) -> ExecutionSpec {
        ExecutionSpec::new(name).lane(self.lane.clone())
    }

    /// A flow in this fixture's namespace: the members' names, each with its needs.
    #[must_use]
    pub fn flow(&self, members: &[(&str, &[&str])]) -> FlowSubmission {
        members.iter().fold(FlowSubmission::new(self.namespace.clone()), |flow, (name, needs)| {
            flow.execution(self.spec(name).needs(needs.iter().copied()))
        })
    }

    /// Submits a flow and expects it to be accepted.
    pub async fn submit(&self, flow: &FlowSubmission) -> SubmittedFlow {
        self.backend.submit_flow(flow).await.expect("a valid flow is accepted")
    }

    /// Submits a flow given as for [`Fixture::flow`].
    pub async fn submit_members(&self, members: &[(&str, &[&str])]) -> SubmittedFlow {
        self.submit(&self.flow(members)).await
    }

    /// Claims up to `max` executions of this fixture's lane in a partition.
    pub async fn claim_some(&self, partition: Partition, max: u32, lease: Duration) -> Vec<ClaimedExecution> {
        self.claim_as(None, partition, max, lease).await
    }

    /// Like [`Fixture::claim_some`], with this claim id.
    pub async fn claim_as(
        &self,
        id: Option<ClaimId>,
        partition: Partition,
        max: u32,
        lease: Duration,
    ) -> Vec<ClaimedExecution> {
        let request =
            ClaimRequest::new(name::<WorkerId>("worker"), self.lane.clone(), partition).max(max).lease(lease).id(id);
        self.backend.claim(&request).await.expect("a claim is answered").executions
    }

    /// Claims this execution. Other executions that the claim returns are kept for later calls.
    pub async fn claim(&self, id: ExecutionId) -> ClaimedExecution {
        self.claim_for(id, Duration::from_secs(600)).await
    }

    /// Like [`Fixture::claim`], with this lease.
    pub async fn claim_for(&self, id: ExecutionId, lease: Duration) -> ClaimedExecution {
        let wait = async {
            loop {
                if let Some(claimed) = self.take(id) {
                    return claimed;
                }
                let more = self.claim_some(id.partition(), 128, lease).await;
                let found = !more.is_empty();
                self.claimed.lock().expect("no case panics while it holds the lock").extend(more);
                if !found {
                    tokio::task::yield_now().await;
                }
            }
        };
        within(&format!("claim {id}"), wait).await
    }

    /// Like [`Fixture::claim_for`], and confirms the lease, so that its expiry counts.
    pub async fn claim_confirmed(&self, id: ExecutionId, lease: Duration) -> ClaimedExecution {
        let claimed = self.claim_for(id, lease).await;
        let renewed = self.backend.renew(&[claimed.lease], lease).await.expect("a renewal is answered");
        // There is no sweep meanwhile, so the lease is held although it may have expired.
        assert_ne!(renewed, [RenewOutcome::LeaseLost]);
        claimed
    }

    fn take(&self, id: ExecutionId) -> Option<ClaimedExecution> {
        let mut claimed = self.claimed.lock().expect("no case panics while it holds the lock");
        let index = claimed.iter().position(|claimed| claimed.lease.execution_id == id)?;
        Some(claimed.swap_remove(index))
    }

    /// Claims an execution and ends it with success.
    pub async fn complete(&self, id: ExecutionId) {
        let claimed = self.claim(id).await;
        self.backend.complete(&claimed.lease, Bytes::new()).await.expect("the owner may complete");
    }

    /// Claims an execution and ends it as failed.
    pub async fn fail(&self, id: ExecutionId) {
        let claimed = self.claim(id).await;
        self.backend.fail(&claimed.lease, &Failure::permanent("broken")).await.expect("the owner may fail");
    }

    /// Describes an execution that exists.
    pub async fn describe(&self, id: ExecutionId) -> ExecutionSnapshot {
        self.backend.describe_execution(id).await.expect("it exists")
    }

    /// The state of an execution.
    pub async fn state(&self, id: ExecutionId) -> PublicState {
        self.describe(id).await.state
    }

    /// Sweeps one partition once.
    pub async fn sweep(&self, partition: Partition) -> SweepReport {
        let mut reports = self.backend.sweep(&[partition], &SweepPolicy::default()).await;
        reports.remove(0).expect("a sweep is answered")
    }

    /// Sweeps whenever something is due, until an execution is in this state.
    pub async fn sweep_until(&self, id: ExecutionId, wanted: PublicState) {
        let wait = async {
            loop {
                let report = self.sweep(id.partition()).await;
                if self.state(id).await == wanted {
                    return;
                }
                tokio::time::sleep(report.next_due.unwrap_or_default().max(Duration::from_millis(1))).await;
            }
        };
        within(&format!("{id} becomes {wanted}"), wait).await;
    }

    /// Resolves pending dependents until none is left.
    pub async fn resolve_all(&self, partition: Partition) {
        while self.backend.resolve_dependents(partition).await.expect("resolving is answered").more {}
    }

    /// Ends one fresh execution of a flow: a marker that is committed after everything before it in its partition.
    pub async fn end_one(&self) -> ExecutionId {
        let flow = self.submit_members(&[("marker", &[])]).await;
        let id = flow.executions[0].execution_id;
        self.complete(id).await;
        id
    }
}

/// The next completion of a stream; panics if none arrives.
pub(crate) async fn next(stream: &mut CompletionStream) -> CompletionPayload {
    within("the next completion", stream.next()).await.expect("a stream never ends on its own")
}

/// The next `count` completions of a stream.
pub(crate) async fn take(stream: &mut CompletionStream, count: usize) -> Vec<CompletionPayload> {
    let mut completions = Vec::with_capacity(count);
    while completions.len() < count {
        completions.push(next(stream).await);
    }
    completions
}

/// Whether a stream has no completion ready.
pub(crate) fn is_silent(stream: &mut CompletionStream) -> bool {
    stream.next().now_or_never().is_none()
}

/// Waits for `future`, and fails the case if it takes too long.
pub(crate) async fn within<F: Future>(what: &str, future: F) -> F::Output {
    match tokio::time::timeout(TIME_LIMIT, future).await {
        Ok(output) => output,
        Err(_) => panic!("not within {TIME_LIMIT:?}: {what}"),
    }
}

/// Parses a name of the suite.
pub(crate) fn name<T: std::str::FromStr<Err = ff_core::EngineError>>(text: &str) -> T {
    text.parse().expect("the suite's own names are valid")
}
