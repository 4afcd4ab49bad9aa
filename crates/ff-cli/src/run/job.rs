//! The flow of a run: a new one, or one that an earlier run has left.
//!
//! A lane is an address and no permission, and every completion shows it. So a run accepts the executions of its own
//! flow only: of one that it submitted, those whose work it knows; of one that is resumed, those of the flow that its
//! user named.

use std::{
    collections::{HashMap, HashSet},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ff_core::{
    ClaimedExecution, EngineBackend, EngineError, ExecutionId, FlowId, FlowSnapshot, FlowState, FlowSubmission, LaneId,
    Namespace, PartitionCount, SubmittedFlow, SubmittedMember,
};
use futures::{StreamExt, TryStreamExt, stream};
use uuid::Uuid;

use super::tracker::Tracker;
use crate::{
    cli::RunArgs,
    connect::ConnectArgs,
    failure::CliError,
    plan::{Plan, RUN_TAG, load, run_key},
    work::{Work, stop},
};

/// How often a submission is sent if its reply is lost; the idempotency key makes that safe.
const SUBMIT_TRIES: u32 = 5;
/// The most members of a flow that are described at once.
const DESCRIBED_AT_ONCE: usize = 32;

/// Whether an execution belongs to this run.
pub(super) type Accept = Box<dyn Fn(&ClaimedExecution) -> bool + Send + Sync>;

/// A run that is ready to start.
pub(super) struct Job {
    pub(super) run: Uuid,
    pub(super) flow_id: FlowId,
    pub(super) namespace: Namespace,
    pub(super) name: Option<String>,
    pub(super) lane: LaneId,
    pub(super) simulated: bool,
    /// The longest time that one of its commands may take to end.
    pub(super) longest_grace: Duration,
    pub(super) accept: Accept,
    pub(super) tracker: Tracker,
    /// The flow to submit, unless the run is resumed.
    submission: Option<FlowSubmission>,
}

impl Job {
    /// Submits a new flow. Its id is known and printed before, so that no flow is left with an unknown id.
    pub(super) async fn submit(&self, backend: &dyn EngineBackend) -> Result<(), CliError> {
        let Some(flow) = &self.submission else { return Ok(()) };
        let submitted = submit(backend, flow).await?;
        if submitted.flow_id != self.flow_id {
            let why = format!("the server gave it another id, {}", submitted.flow_id);
            return Err(CliError::failed(format!("flow {}", self.flow_id), why));
        }
        Ok(())
    }
}

/// The flow to run, before the server is connected.
pub(super) enum RunRequest {
    New { plan: Plan, run: Uuid, flow: FlowSubmission },
    Resume(FlowId),
}

/// The facts of the flow that are needed before completions are subscribed.
pub(super) struct FlowFacts {
    pub(super) run: Uuid,
    pub(super) namespace: Namespace,
    /// The executions of the flow.
    pub(super) members: Vec<ExecutionId>,
    /// The lane of a resumed flow.
    lane: Option<LaneId>,
}

pub(super) fn request_of(args: &RunArgs) -> Result<RunRequest, CliError> {
    match (&args.flow, args.resume) {
        (_, Some(flow_id)) => Ok(RunRequest::Resume(flow_id)),
        (Some(path), None) => {
            let run = Uuid::now_v7();
            let plan = load::from_path(path, args.time_scale)?;
            let flow = plan.submission(run, args.namespace.clone())?;
            Ok(RunRequest::New { plan, run, flow })
        }
        (None, None) => Err(CliError::usage("no flow is named", "give a flow file, or --resume and a flow's id")),
    }
}

impl RunRequest {
    pub(super) async fn open(&self, connect: &ConnectArgs) -> Result<Arc<dyn EngineBackend>, CliError> {
        match self {
            Self::New { .. } => connect.open().await,
            Self::Resume(_) => connect.open_server().await,
        }
    }

    pub(super) async fn facts(&self, backend: &dyn EngineBackend) -> Result<FlowFacts, CliError> {
        match self {
            Self::New { run, flow, .. } => {
                let members = named(flow, *run, backend.partition_count()).executions;
                let members = members.into_iter().map(|member| member.execution_id).collect();
                Ok(FlowFacts { run: *run, namespace: flow.namespace.clone(), members, lane: None })
            }
            Self::Resume(flow_id) => facts_of(backend, *flow_id).await,
        }
    }

    /// Prepares the new flow, or reads the progress of the resumed one.
    pub(super) async fn begin(self, backend: &dyn EngineBackend, facts: FlowFacts) -> Result<Job, CliError> {
        match self {
            Self::New { plan, run, flow } => {
                let lane = plan.run_lane(run)?;
                let topology = flow.topology()?;
                let named = named(&flow, run, backend.partition_count());
                let limits: Vec<_> = flow.executions.iter().map(|execution| execution.max_attempts).collect();
                let works = flow.executions.iter().filter_map(|spec| Work::from_payload(&spec.payload).ok());
                Ok(Job {
                    run,
                    flow_id: named.flow_id,
                    namespace: flow.namespace.clone(),
                    name: plan.name,
                    lane,
                    simulated: plan.simulated,
                    longest_grace: works.map(|work| work.grace()).max().unwrap_or_default(),
                    accept: submitted_work_of(&named, &flow),
                    tracker: Tracker::new(&named, topology, &limits),
                    submission: Some(flow),
                })
            }
            Self::Resume(flow_id) => {
                let flow = backend.describe_flow(flow_id).await?;
                if flow.cancel_requested {
                    backend.cancel_flow(flow_id, "its cancellation was requested before").await?;
                }
                let lane = facts.lane.unwrap_or_else(LaneId::default_lane);
                Ok(Job {
                    run: facts.run,
                    flow_id,
                    namespace: facts.namespace,
                    name: flow.name.clone(),
                    lane,
                    simulated: false,
                    // The commands, which have it, are known only once they are claimed.
                    longest_grace: stop::GRACE,
                    accept: members_of(&flow),
                    tracker: Tracker::resumed(&flow),
                    submission: None,
                })
            }
        }
    }
}

/// The flow with its ids, which are derived from its key.
fn named(flow: &FlowSubmission, run: Uuid, partitions: PartitionCount) -> SubmittedFlow {
    let flow_id = FlowId::from_idempotency_key(&flow.namespace, &run_key(run));
    let id = |name: &str| ExecutionId::member(flow_id, name, partitions);
    let members = flow.executions.iter().map(|spec| SubmittedMember::new(spec.name.clone(), id(&spec.name)));
    SubmittedFlow::new(flow_id, members.collect(), false)
}

/// Accepts the members of a new flow, with exactly the work that was submitted for each.
fn submitted_work_of(submitted: &SubmittedFlow, flow: &FlowSubmission) -> Accept {
    let payloads: HashMap<&str, &Bytes> =
        flow.executions.iter().map(|execution| (execution.name.as_str(), &execution.payload)).collect();
    let known: HashMap<ExecutionId, Bytes> = submitted
        .executions
        .iter()
        .filter_map(|member| Some((member.execution_id, (*payloads.get(member.name.as_str())?).clone())))
        .collect();
    let flow_id = submitted.flow_id;
    Box::new(move |execution| {
        let expected = known.get(&execution.lease.execution_id);
        execution.lease.flow_id == Some(flow_id) && expected == Some(&execution.payload)
    })
}

fn members_of(flow: &FlowSnapshot) -> Accept {
    let known: HashSet<ExecutionId> = flow.members.iter().map(|member| member.execution_id).collect();
    let flow_id = flow.flow_id;
    Box::new(move |execution| execution.lease.flow_id == Some(flow_id) && known.contains(&execution.lease.execution_id))
}

async fn submit(backend: &dyn EngineBackend, flow: &FlowSubmission) -> Result<SubmittedFlow, EngineError> {
    for pause in 1..SUBMIT_TRIES {
        match backend.submit_flow(flow).await {
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, "the submission failed and is sent again");
                tokio::time::sleep(Duration::from_millis(200) * pause).await;
            }
            answered => return answered,
        }
    }
    backend.submit_flow(flow).await
}

/// Finds the run of a flow and the lane of its executions.
async fn facts_of(backend: &dyn EngineBackend, flow_id: FlowId) -> Result<FlowFacts, CliError> {
    let refuse = |why: &str| CliError::failed(format!("flow {flow_id}"), why);
    let flow = backend.describe_flow(flow_id).await?;
    if flow.state != FlowState::Running {
        let why = format!("it has ended already: {}; there is nothing to resume", flow.state);
        return Err(refuse(&why).with_code(ended_code(flow.state)));
    }
    let open = flow.members.iter().filter(|member| member.state.outcome().is_none());
    let described: Vec<_> = stream::iter(open)
        .map(|member| backend.describe_execution(member.execution_id))
        .buffer_unordered(DESCRIBED_AT_ONCE)
        .try_collect()
        .await?;
    let mut found: HashSet<(LaneId, Option<Uuid>)> = HashSet::new();
    for execution in described {
        let run = execution.tags.get(RUN_TAG).and_then(|run| run.parse().ok());
        found.insert((execution.lane, run));
    }
    let mut found = found.into_iter();
    match (found.next(), found.next()) {
        (Some((lane, Some(run))), None) => {
            let members = flow.members.iter().map(|member| member.execution_id).collect();
            Ok(FlowFacts { run, namespace: flow.namespace, members, lane: Some(lane) })
        }
        (None, _) => Err(refuse("it is just ending; check again with `ff describe`")),
        _ => Err(refuse("it was not submitted by `ff run`; the workers of its lanes run it")),
    }
}

/// The exit code of a run whose flow has already ended.
fn ended_code(state: FlowState) -> u8 {
    use crate::failure::code;
    match state {
        FlowState::Success => 0,
        FlowState::Cancelled => code::CANCELLED,
        _ => code::FAILED,
    }
}

#[cfg(test)]
mod tests {
    use ff_core::{ExecutionSpec, Lease};

    use super::*;

    fn claimed(flow_id: Option<FlowId>, name: &str, payload: &'static [u8]) -> ClaimedExecution {
        let of = flow_id.unwrap_or_else(FlowId::generate);
        let execution_id = ExecutionId::member(of, name, PartitionCount::DEFAULT);
        let lease = Lease { execution_id, flow_id, attempt: 1, epoch: 1 };
        let mut execution = ClaimedExecution::new(lease, name.to_owned(), Namespace::default_namespace());
        execution.payload = Bytes::from_static(payload);
        execution
    }

    #[test]
    fn a_run_accepts_only_the_executions_and_the_work_that_it_submitted() {
        let flow_id = FlowId::generate();
        let flow = FlowSubmission::new(Namespace::default_namespace())
            .execution(ExecutionSpec::new("a").payload(Bytes::from_static(b"work")));
        let id = ExecutionId::member(flow_id, "a", PartitionCount::DEFAULT);
        let accept = submitted_work_of(
            &SubmittedFlow::new(flow_id, vec![SubmittedMember::new("a".to_owned(), id)], false),
            &flow,
        );
        assert!(accept(&claimed(Some(flow_id), "a", b"work")));
        assert!(!accept(&claimed(Some(flow_id), "a", b"other work")));
        assert!(!accept(&claimed(Some(flow_id), "b", b"work")));
        assert!(!accept(&claimed(Some(FlowId::generate()), "a", b"work")));
        let mut without_flow = claimed(Some(flow_id), "a", b"work");
        without_flow.lease.flow_id = None;
        assert!(!accept(&without_flow));
    }
}
