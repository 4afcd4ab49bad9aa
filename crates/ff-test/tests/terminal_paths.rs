//! Every way in which an execution can end, for members of flows and for solo executions: one entry in the right log,
//! one announcement on the right channel and none on the other, and nothing more when the call is repeated.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::time::Duration;

use bytes::Bytes;
use ff_conformance::Fixture;
use ff_core::{
    Backoff, ExecutionId, ExecutionSpec, ExecutionSubmission, Failure, FlowSubmission, Lease, Namespace, PublicState,
    Scope, SubmittedFlow,
};
use ff_script::keys;
use support::Stand;

const SHORT: Duration = Duration::from_millis(5);
const LONG: Duration = Duration::from_secs(600);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Path {
    Complete,
    FailFinal,
    CancelExecution,
    CancelFlow,
    Deadline,
    AttemptsExhausted,
    LeasesExhausted,
    Skip,
}

impl Path {
    const ALL: [Self; 8] = [
        Self::Complete,
        Self::FailFinal,
        Self::CancelExecution,
        Self::CancelFlow,
        Self::Deadline,
        Self::AttemptsExhausted,
        Self::LeasesExhausted,
        Self::Skip,
    ];

    /// Every path of members of flows, and of solo executions.
    fn of_every_scope() -> impl Iterator<Item = (Self, Scope)> {
        let both = |path| [(path, Scope::Flows), (path, Scope::Solo)];
        Self::ALL.into_iter().flat_map(both).filter(|(path, scope)| path.exists_for(*scope))
    }

    /// A solo execution has no flow and no needs.
    fn exists_for(self, scope: Scope) -> bool {
        scope == Scope::Flows || !matches!(self, Self::CancelFlow | Self::Skip)
    }

    fn outcome(self) -> (&'static str, Option<&'static str>) {
        match self {
            Self::Complete => ("success", None),
            Self::FailFinal => ("failed", Some("broken")),
            Self::CancelExecution | Self::CancelFlow => ("cancelled", Some("enough")),
            Self::Deadline => ("expired", Some("deadline_exceeded")),
            Self::AttemptsExhausted => ("failed", Some("attempts_exhausted")),
            Self::LeasesExhausted => ("failed", Some("lease_expired")),
            Self::Skip => ("skipped", Some("dependency_failed")),
        }
    }

    fn spec(self, fixture: &Fixture) -> ExecutionSpec {
        let spec = fixture.spec("subject");
        match self {
            Self::Deadline => spec.deadline(SHORT),
            Self::LeasesExhausted => spec.max_lease_expiries(1),
            Self::AttemptsExhausted => spec.attempts(1, Backoff::default()),
            Self::Skip => spec.needs(["need"]),
            _ => spec,
        }
    }
}

/// One execution that is about to end, and the data to repeat its terminal call.
struct Subject<'a> {
    fixture: &'a Fixture,
    flow: Option<SubmittedFlow>,
    id: ExecutionId,
    lease: Option<Lease>,
}

impl<'a> Subject<'a> {
    async fn submit(fixture: &'a Fixture, path: Path, scope: Scope) -> Self {
        let spec = path.spec(fixture);
        if scope == Scope::Solo {
            let solo = ExecutionSubmission::new(fixture.namespace.clone(), spec);
            let id = fixture.backend.submit_execution(&solo).await.unwrap().execution_id;
            return Self { fixture, flow: None, id, lease: None };
        }
        let mut flow = FlowSubmission::new(fixture.namespace.clone());
        if path == Path::Skip {
            flow = flow.execution(fixture.spec("need"));
        }
        let flow = fixture.submit(&flow.execution(spec)).await;
        let id = flow.execution("subject").unwrap();
        Self { fixture, flow: Some(flow), id, lease: None }
    }

    async fn lease(&mut self, length: Duration) -> Lease {
        if self.lease.is_none() {
            self.lease = Some(self.fixture.claim_for(self.id, length).await.lease);
        }
        self.lease.unwrap()
    }

    /// Ends the subject on this path. A second call repeats the same calls.
    async fn end(&mut self, path: Path) {
        let backend = &self.fixture.backend;
        match path {
            Path::Complete => {
                let lease = self.lease(LONG).await;
                backend.complete(&lease, Bytes::from_static(b"done")).await.unwrap();
            }
            Path::FailFinal | Path::AttemptsExhausted => {
                let lease = self.lease(LONG).await;
                let mut failure = Failure::permanent("broken");
                failure.retryable = path == Path::AttemptsExhausted;
                backend.fail(&lease, &failure).await.unwrap();
            }
            Path::CancelExecution => drop(backend.cancel_execution(self.id, "enough").await.unwrap()),
            Path::CancelFlow => {
                let flow = self.flow.as_ref().unwrap().flow_id;
                backend.cancel_flow(flow, "enough").await.unwrap();
            }
            Path::Deadline => self.fixture.sweep_until(self.id, PublicState::Expired).await,
            Path::LeasesExhausted => {
                let lease = self.lease(LONG).await;
                // Only a lease that a worker has confirmed counts.
                backend.renew(&[lease], SHORT).await.unwrap();
                self.fixture.sweep_until(self.id, PublicState::Failed).await;
            }
            Path::Skip => {
                let need = self.flow.as_ref().unwrap().execution("need").unwrap();
                if self.lease.is_none() {
                    self.lease = Some(self.fixture.claim_for(need, LONG).await.lease);
                }
                backend.fail(&self.lease.unwrap(), &Failure::permanent("broken")).await.unwrap();
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_end_is_recorded_once_and_announced_once_on_its_channel() {
    let stand = Stand::start().await;
    let mut of_flows = stand.listen(keys::FLOW_CHANNEL).await;
    let mut of_solo = stand.listen(keys::SOLO_CHANNEL).await;
    for (path, scope) in Path::of_every_scope() {
        stand.command(&["FLUSHALL"]).await;
        let fixture = Fixture::new(stand.backend.clone());
        let mut subject = Subject::submit(&fixture, path, scope).await;
        let other = if scope == Scope::Flows { Scope::Solo } else { Scope::Flows };
        for round in ["first", "repeated"] {
            subject.end(path).await;
            // The failed need has its own completion.
            let entries = if path == Path::Skip { 2 } else { 1 };
            let case = format!("{path:?}, {scope:?}, {round} call");
            assert_eq!(stand.log_length(subject.id, scope).await, entries, "{case}: log entries");
            assert_eq!(stand.log_length(subject.id, other).await, 0, "{case}: entries in the other log");
            let mut pushes = of_flows.drain(&stand, keys::FLOW_CHANNEL).await;
            let mut other_pushes = of_solo.drain(&stand, keys::SOLO_CHANNEL).await;
            if scope == Scope::Solo {
                std::mem::swap(&mut pushes, &mut other_pushes);
            }
            assert_eq!(other_pushes.len(), 0, "{case}: announced on the other channel");
            let own: Vec<_> = pushes.iter().filter(|push| push["execution_id"] == subject.id.to_string()).collect();
            if round == "repeated" {
                assert_eq!(pushes.len(), 0, "{case}: announced again");
                continue;
            }
            assert_eq!((pushes.len(), own.len()), (usize::try_from(entries).unwrap(), 1), "{case}: pushes");
            let (outcome, reason) = path.outcome();
            assert_eq!(own[0]["outcome"], outcome, "{case}");
            assert_eq!(own[0]["reason"].as_str(), reason, "{case}");
            assert_eq!(own[0]["pos"], stand.field(subject.id, "log_pos").await, "{case}");
            assert_eq!(own[0].get("flow_id").is_some(), scope == Scope::Flows, "{case}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_ended_execution_has_no_entry_in_any_index() {
    let stand = Stand::start().await;
    for (path, scope) in Path::of_every_scope() {
        stand.command(&["FLUSHALL"]).await;
        let fixture = Fixture::new(stand.backend.clone());
        let mut subject = Subject::submit(&fixture, path, scope).await;
        subject.end(path).await;
        let tag = subject.id.partition();
        for index in ["ready", "delayed", "leases", "deadlines", "open", "pending"] {
            let left = stand.command(&["ZCARD", &format!("ff:part:{tag}:{index}")]).await.int();
            assert_eq!(left, Some(0), "{path:?}, {scope:?}: entries left in {index}");
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retention_removes_every_key_of_ended_executions() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let flow = fixture.submit_members(&[("a", &[]), ("b", &["a"])]).await;
    fixture.complete(flow.executions[0].execution_id).await;
    fixture.complete(flow.executions[1].execution_id).await;
    let running = fixture.submit_members(&[("c", &[]), ("d", &["c"])]).await;
    fixture.complete(running.executions[0].execution_id).await;
    let solo = ExecutionSubmission::new(Namespace::default_namespace(), fixture.spec("solo"));
    let solo = fixture.backend.submit_execution(&solo).await.unwrap().execution_id;
    fixture.complete(solo).await;
    // Zero retention does not include entries of the current millisecond.
    tokio::time::sleep(Duration::from_millis(5)).await;
    let policy = ff_core::SweepPolicy::retention(Duration::ZERO);
    let all: Vec<_> = stand.backend.partition_count().partitions().collect();
    let removed: u32 = stand.backend.sweep(&all, &policy).await.into_iter().map(|report| report.unwrap().removed).sum();
    assert_eq!(removed, 3, "the ended flow's two members and the solo execution");
    let keys: Vec<_> = stand.command(&["KEYS", "ff:*"]).await.items().iter().map(|key| key.text()).collect();
    for id in [flow.executions[0].execution_id, flow.executions[1].execution_id, solo] {
        assert!(!keys.iter().any(|key| key.contains(&id.to_string())), "keys of {id} are left: {keys:?}");
    }
    assert!(!keys.iter().any(|key| key.contains(&flow.flow_id.to_string())));
    assert_eq!(stand.backend.describe_flow(running.flow_id).await.unwrap().members.len(), 2);
    assert_eq!(stand.log_length(solo, Scope::Solo).await, 0);
}
