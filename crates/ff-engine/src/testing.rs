//! A backend for unit tests that answers by script and writes down what it was asked.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::{Arc, Mutex, MutexGuard},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::{
    CancelOutcome, ClaimId, ClaimedExecution, CompletionBackend, CompletionPayload, CompletionStream, ControlBackend,
    EngineError, EngineId, ExecutionId, ExecutionSnapshot, ExecutionSubmission, Failure, FlowCancellation, FlowId,
    FlowSnapshot, FlowSubmission, LaneId, Lease, Namespace, Partition, PartitionCount, StateConflict, SubmitBackend,
    SubmittedExecution, SubmittedFlow, SubscribeBackend, SweepPolicy,
    backend::{
        Claim, ClaimRequest, FailOutcome, MaintenanceBackend, ReconcileCursor, ReconcileReport, ReleaseOutcome,
        RenewOutcome, ResolveReport, SweepReport, TimerSignal, TimerSignals, WorkBackend, WorkSignal, WorkSignals,
    },
};
use futures::{StreamExt, channel::mpsc};
use tokio::{sync::Notify, time::sleep};
use uuid::Uuid;

/// What was asked, in the words of the traits.
#[derive(Debug, Clone, PartialEq)]
pub(crate) enum Call {
    Subscribe,
    Signals,
    AwaitWork,
    Claim(u16, u32),
    PassOn(u16),
    Renew(Vec<Lease>),
    Release(Vec<Lease>),
    Complete(Lease, Bytes),
    CompleteMany(Vec<Lease>),
    Fail(Lease, String, bool),
    Sweep(Vec<u16>),
    Resolve(u16),
    Reconcile(u16, Option<ReconcileCursor>),
    Verify,
    Timers,
    Note(EngineId, Duration),
}

/// What is answered.
#[derive(Default)]
pub(crate) struct Script {
    /// Errors for the next calls, by operation (`claim`) or operation and partition (`claim 3`).
    pub(crate) errors: VecDeque<(&'static str, EngineError)>,
    /// Operations that panic.
    pub(crate) panics: HashSet<&'static str>,
    pub(crate) work: HashMap<u16, VecDeque<ClaimedExecution>>,
    pub(crate) lost: HashSet<Lease>,
    pub(crate) timed_out: HashSet<Lease>,
    pub(crate) unreadable: HashSet<Lease>,
    /// Comes with the next claim, beyond what that asks for.
    pub(crate) surplus: Vec<ClaimedExecution>,
    pub(crate) resolve_takes: Duration,
    pub(crate) claim_takes: Duration,
    pub(crate) renew_takes: Duration,
    pub(crate) await_takes: Duration,
    pub(crate) complete_takes: Duration,
    /// Whether timers are announced.
    pub(crate) announces: bool,
    /// The engines at work, if account is kept of them.
    pub(crate) engines: Option<Vec<EngineId>>,
    resolve: HashMap<u16, VecDeque<ResolveReport>>,
    sweep: HashMap<u16, VecDeque<SweepReport>>,
    reconcile: HashMap<u16, VecDeque<Option<ReconcileCursor>>>,
}

impl Script {
    pub(crate) fn resolve(&mut self, partition: u16, reports: impl IntoIterator<Item = ResolveReport>) {
        self.resolve.entry(partition).or_default().extend(reports);
    }

    pub(crate) fn sweep(&mut self, partition: u16, reports: impl IntoIterator<Item = SweepReport>) {
        self.sweep.entry(partition).or_default().extend(reports);
    }

    pub(crate) fn reconcile(&mut self, partition: u16, next: impl IntoIterator<Item = Option<ReconcileCursor>>) {
        self.reconcile.entry(partition).or_default().extend(next);
    }

    pub(crate) fn work(&mut self, executions: impl IntoIterator<Item = ClaimedExecution>) {
        for execution in executions {
            let partition = execution.lease.execution_id.partition().number();
            self.work.entry(partition).or_default().push_back(execution);
        }
    }

    fn error(&mut self, op: &str, partition: Option<Partition>) -> Result<(), EngineError> {
        let with_partition = partition.map(|partition| format!("{op} {}", partition.number()));
        let at = self.errors.iter().position(|(on, _)| *on == op || Some(*on) == with_partition.as_deref());
        at.and_then(|at| self.errors.remove(at)).map_or(Ok(()), |(_, error)| Err(error))
    }
}

#[derive(Default)]
struct State {
    calls: Vec<Call>,
    claim_ids: Vec<Option<ClaimId>>,
    script: Script,
    completions: Option<mpsc::UnboundedSender<CompletionPayload>>,
    signals: Option<mpsc::UnboundedSender<WorkSignal>>,
    timers: Option<mpsc::UnboundedSender<TimerSignal>>,
}

pub(crate) struct Scripted {
    count: PartitionCount,
    state: Mutex<State>,
    called: Notify,
}

impl Scripted {
    pub(crate) fn new(partitions: u16) -> Arc<Self> {
        let count = PartitionCount::new(partitions).unwrap();
        Arc::new(Self { count, state: Mutex::default(), called: Notify::new() })
    }

    pub(crate) fn script(&self, change: impl FnOnce(&mut Script)) {
        change(&mut self.state().script);
    }

    pub(crate) fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    pub(crate) fn claim_ids(&self) -> Vec<Option<ClaimId>> {
        self.state().claim_ids.clone()
    }

    pub(crate) fn resolved(&self) -> Vec<u16> {
        let partition = |call: &Call| if let Call::Resolve(partition) = call { Some(*partition) } else { None };
        self.calls().iter().filter_map(partition).collect()
    }

    /// Waits for the calls made so far to be as wanted.
    pub(crate) async fn until(&self, wanted: impl Fn(&[Call]) -> bool) {
        let reached = async {
            loop {
                let called = self.called.notified();
                if wanted(&self.state().calls) {
                    return;
                }
                called.await;
            }
        };
        let in_time = tokio::time::timeout(Duration::from_secs(600), reached).await;
        assert!(in_time.is_ok(), "it never came to that: {:#?}", self.calls());
    }

    /// Lets everything happen that happens without much time passing.
    pub(crate) async fn settle(&self) {
        sleep(Duration::from_secs(5)).await;
    }

    pub(crate) fn push(&self, completion: CompletionPayload) {
        self.state().completions.as_ref().unwrap().unbounded_send(completion).unwrap();
    }

    pub(crate) fn end_completions(&self) {
        self.state().completions = None;
    }

    pub(crate) fn signal(&self, signal: WorkSignal) {
        self.state().signals.as_ref().unwrap().unbounded_send(signal).unwrap();
    }

    pub(crate) fn timer(&self, signal: TimerSignal) {
        self.state().timers.as_ref().unwrap().unbounded_send(signal).unwrap();
    }

    pub(crate) fn ready(&self, partition: u16) {
        self.signal(WorkSignal::Ready(Partition::new(partition)));
    }

    pub(crate) fn end_signals(&self) {
        self.state().signals = None;
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap()
    }

    /// Writes the call down and answers with the error that the script has for it.
    fn called(&self, call: Call, op: &str, partition: Option<Partition>) -> Result<MutexGuard<'_, State>, EngineError> {
        let mut state = self.state();
        state.calls.push(call);
        self.called.notify_waiters();
        if state.script.panics.contains(op) {
            drop(state);
            panic!("scripted");
        }
        state.script.error(op, partition).map(|()| state)
    }
}

pub(crate) fn transport() -> EngineError {
    EngineError::transport("scripted", "connection reset")
}

pub(crate) fn protocol() -> EngineError {
    EngineError::protocol("scripted", "the reply is too short")
}

/// An error of each variant, and whether a retry can help.
pub(crate) fn errors() -> Vec<(EngineError, bool)> {
    let text = || "text".to_owned();
    let conflict = StateConflict::AlreadyTerminal;
    let errors = vec![
        EngineError::Unavailable { op: "scripted" },
        EngineError::NotFound { what: text() },
        EngineError::invalid("id `x`", "malformed"),
        EngineError::PermissionDenied { op: text(), reason: text() },
        EngineError::Conflict { what: text(), reason: text() },
        EngineError::State { what: text(), conflict },
        EngineError::ResourceExhausted { resource: "memory", reason: text() },
        EngineError::ended("the subscription"),
        protocol(),
    ];
    let passing = [
        EngineError::Contention { op: text(), reason: text() },
        EngineError::Timeout { op: text(), after: Duration::from_secs(1) },
        transport(),
    ];
    errors.into_iter().map(|error| (error, false)).chain(passing.map(|error| (error, true))).collect()
}

pub(crate) fn cursor(number: u128) -> ReconcileCursor {
    ReconcileCursor(ExecutionId::from_parts(Partition::new(0), Uuid::from_u128(number)))
}

/// The first attempt of execution `number`, in partition 0.
pub(crate) fn lease(number: u128) -> Lease {
    lease_in(0, number)
}

pub(crate) fn lease_in(partition: u16, number: u128) -> Lease {
    let execution_id = ExecutionId::from_parts(Partition::new(partition), Uuid::from_u128(number));
    Lease { execution_id, flow_id: None, attempt: 1, epoch: 1 }
}

pub(crate) fn execution(lease: Lease, name: &str) -> ClaimedExecution {
    ClaimedExecution::new(lease, name.to_owned(), Namespace::default_namespace())
}

#[async_trait]
impl CompletionBackend for Scripted {
    async fn subscribe_completions(&self) -> Result<CompletionStream, EngineError> {
        let mut state = self.called(Call::Subscribe, "subscribe_completions", None)?;
        let (sender, receiver) = mpsc::unbounded();
        state.completions = Some(sender);
        Ok(receiver.boxed())
    }
}

impl SubscribeBackend for Scripted {}

#[async_trait]
impl WorkBackend for Scripted {
    async fn work_signals(&self, _lane: &LaneId) -> Result<WorkSignals, EngineError> {
        let mut state = self.called(Call::Signals, "work_signals", None)?;
        let (sender, receiver) = mpsc::unbounded();
        state.signals = Some(sender);
        Ok(receiver.boxed())
    }

    async fn await_work(&self, _lane: &LaneId, partitions: &[Partition]) -> Result<Vec<Partition>, EngineError> {
        let takes = self.called(Call::AwaitWork, "await_work", None)?.script.await_takes;
        sleep(takes).await;
        let state = self.state();
        let has_work =
            |partition: &Partition| state.script.work.get(&partition.number()).is_some_and(|work| !work.is_empty());
        Ok(partitions.iter().copied().filter(has_work).collect())
    }

    async fn claim(&self, request: &ClaimRequest) -> Result<Claim, EngineError> {
        let takes = self.state().script.claim_takes;
        sleep(takes).await;
        let partition = request.partition;
        self.state().claim_ids.push(request.id);
        let mut state = self.called(Call::Claim(partition.number(), request.max), "claim", Some(partition))?;
        let surplus = std::mem::take(&mut state.script.surplus);
        let work = state.script.work.entry(partition.number()).or_default();
        let executions: Vec<_> = work.drain(..work.len().min(request.max as usize)).chain(surplus).collect();
        Ok(Claim::new(executions, !work.is_empty()))
    }

    async fn pass_on(&self, _lane: &LaneId, partition: Partition) -> Result<bool, EngineError> {
        let takes = self.state().script.claim_takes;
        sleep(takes).await;
        let state = self.called(Call::PassOn(partition.number()), "pass_on", Some(partition))?;
        Ok(state.script.work.get(&partition.number()).is_some_and(|work| !work.is_empty()))
    }

    async fn renew(&self, leases: &[Lease], _lease: Duration) -> Result<Vec<RenewOutcome>, EngineError> {
        let takes = self.state().script.renew_takes;
        sleep(takes).await;
        let state = self.called(Call::Renew(leases.to_vec()), "renew", None)?;
        let outcome = |lease: &Lease| match lease {
            lease if state.script.lost.contains(lease) => RenewOutcome::LeaseLost,
            lease if state.script.timed_out.contains(lease) => RenewOutcome::TimedOut,
            _ => RenewOutcome::Renewed,
        };
        Ok(leases.iter().map(outcome).collect())
    }

    async fn release(&self, leases: &[Lease]) -> Result<Vec<ReleaseOutcome>, EngineError> {
        let called = self.called(Call::Release(leases.to_vec()), "release", None);
        let state = called?;
        let outcome = |lease: &Lease| match lease {
            lease if state.script.lost.contains(lease) => ReleaseOutcome::LeaseLost,
            lease if state.script.unreadable.contains(lease) => ReleaseOutcome::Unknown,
            _ => ReleaseOutcome::Released,
        };
        Ok(leases.iter().map(outcome).collect())
    }

    async fn complete(&self, lease: &Lease, result: Bytes) -> Result<(), EngineError> {
        let takes = self.state().script.complete_takes;
        let answer = self.called(Call::Complete(*lease, result), "complete", None).map(drop);
        sleep(takes).await;
        answer
    }

    async fn complete_many(&self, ended: &[(Lease, Bytes)]) -> Vec<Result<(), EngineError>> {
        let takes = self.state().script.complete_takes;
        let leases: Vec<_> = ended.iter().map(|(lease, _)| *lease).collect();
        let answer = self.called(Call::CompleteMany(leases), "complete", None).map(drop);
        sleep(takes).await;
        let lost = &self.state().script.lost;
        let outcome = |(lease, _): &(Lease, Bytes)| {
            let what = format!("execution {}", lease.execution_id);
            let lost = lost.contains(lease).then_some(EngineError::State { what, conflict: StateConflict::LeaseLost });
            lost.map_or_else(|| answer.clone(), Err)
        };
        ended.iter().map(outcome).collect()
    }

    async fn fail(&self, lease: &Lease, failure: &Failure) -> Result<FailOutcome, EngineError> {
        let call = Call::Fail(*lease, failure.reason.clone(), failure.retryable);
        self.called(call, "fail", None).map(|_| FailOutcome::Ended)
    }
}

#[async_trait]
impl MaintenanceBackend for Scripted {
    fn partition_count(&self) -> PartitionCount {
        self.count
    }

    async fn sweep(&self, partitions: &[Partition], _policy: &SweepPolicy) -> Vec<Result<SweepReport, EngineError>> {
        let numbers: Vec<_> = partitions.iter().map(|partition| partition.number()).collect();
        let mut state = match self.called(Call::Sweep(numbers), "sweep", None) {
            Ok(state) => state,
            Err(error) => {
                let others = partitions.iter().skip(1).map(|_| Err(transport()));
                return std::iter::once(Err(error)).chain(others).collect();
            }
        };
        let mut report = |partition: &Partition| {
            state.script.error("sweep", Some(*partition))?;
            let scripted = state.script.sweep.get_mut(&partition.number());
            Ok(scripted.and_then(VecDeque::pop_front).unwrap_or_default())
        };
        partitions.iter().map(&mut report).collect()
    }

    async fn resolve_dependents(&self, partition: Partition) -> Result<ResolveReport, EngineError> {
        let takes = self.state().script.resolve_takes;
        sleep(takes).await;
        let mut state = self.called(Call::Resolve(partition.number()), "resolve_dependents", Some(partition))?;
        let scripted = state.script.resolve.get_mut(&partition.number());
        Ok(scripted.and_then(VecDeque::pop_front).unwrap_or_default())
    }

    async fn reconcile(
        &self,
        partition: Partition,
        cursor: Option<ReconcileCursor>,
        _limit: u32,
    ) -> Result<ReconcileReport, EngineError> {
        let call = Call::Reconcile(partition.number(), cursor);
        let mut state = self.called(call, "reconcile", Some(partition))?;
        let scripted = state.script.reconcile.get_mut(&partition.number());
        let next = scripted.and_then(VecDeque::pop_front).flatten();
        let mut report = ReconcileReport::default();
        (report.examined, report.next) = (1, next);
        Ok(report)
    }

    async fn verify_deployment(&self) -> Result<(), EngineError> {
        self.called(Call::Verify, "verify_deployment", None).map(drop)
    }

    async fn timer_signals(&self) -> Result<TimerSignals, EngineError> {
        let mut state = self.called(Call::Timers, "timer_signals", None)?;
        if !state.script.announces {
            return Err(EngineError::Unavailable { op: "timer_signals" });
        }
        let (sender, receiver) = mpsc::unbounded();
        state.timers = Some(sender);
        Ok(receiver.boxed())
    }

    async fn note_engine(&self, engine: &EngineId, stays: Duration) -> Result<Vec<EngineId>, EngineError> {
        let state = self.called(Call::Note(engine.clone(), stays), "note_engine", None)?;
        state.script.engines.clone().ok_or(EngineError::Unavailable { op: "note_engine" })
    }
}

const NOT_SCRIPTED: EngineError = EngineError::Unavailable { op: "not scripted" };

#[async_trait]
impl SubmitBackend for Scripted {
    async fn submit_flow(&self, _flow: &FlowSubmission) -> Result<SubmittedFlow, EngineError> {
        Err(NOT_SCRIPTED)
    }

    async fn submit_execution(&self, _execution: &ExecutionSubmission) -> Result<SubmittedExecution, EngineError> {
        Err(NOT_SCRIPTED)
    }
}

#[async_trait]
impl ControlBackend for Scripted {
    async fn describe_execution(&self, _id: ExecutionId) -> Result<ExecutionSnapshot, EngineError> {
        Err(NOT_SCRIPTED)
    }

    async fn describe_flow(&self, _id: FlowId) -> Result<FlowSnapshot, EngineError> {
        Err(NOT_SCRIPTED)
    }

    async fn cancel_execution(&self, _id: ExecutionId, _reason: &str) -> Result<CancelOutcome, EngineError> {
        Err(NOT_SCRIPTED)
    }

    async fn cancel_flow(&self, _id: FlowId, _reason: &str) -> Result<FlowCancellation, EngineError> {
        Err(NOT_SCRIPTED)
    }
}
