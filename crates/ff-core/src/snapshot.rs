//! What a description of an execution or a flow shows.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::{ExecutionId, FlowId, FlowState, LaneId, LifecyclePhase, Namespace, Outcome, PublicState, Tags, WorkerId};

/// An execution as it stood when it was read. Times are the server's, in milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct ExecutionSnapshot {
    /// Its id.
    pub execution_id: ExecutionId,
    /// The flow it is a member of.
    pub flow_id: Option<FlowId>,
    /// Its name within its flow.
    pub name: String,
    /// The tenant.
    pub namespace: Namespace,
    /// The lane.
    pub lane: LaneId,
    /// The priority.
    pub priority: u16,
    /// Its tags.
    pub tags: Tags,
    /// The coarse phase.
    pub phase: LifecyclePhase,
    /// The state as users read it.
    pub state: PublicState,
    /// How it ended.
    pub outcome: Option<Outcome>,
    /// Why it did not succeed.
    pub reason: Option<Arc<str>>,
    /// What its last failed attempt reported.
    pub last_error: Option<Arc<str>>,
    /// Attempts begun.
    pub attempt: u32,
    /// Failed attempts.
    pub failures: u32,
    /// How many failed attempts end it.
    pub max_attempts: u32,
    /// Executions it still waits for.
    pub unmet_needs: u32,
    /// 0 for its first life.
    pub generation: u32,
    /// Who holds its lease.
    pub worker: Option<WorkerId>,
    /// When it was submitted.
    pub created_at_ms: u64,
    /// When its current or last attempt began.
    pub started_at_ms: Option<u64>,
    /// When it ended.
    pub completed_at_ms: Option<u64>,
    /// Its result.
    #[serde(skip)]
    pub result: Option<Bytes>,
}

impl ExecutionSnapshot {
    /// What every execution has; set the public fields for the rest.
    #[must_use]
    pub fn new(
        execution_id: ExecutionId,
        name: String,
        namespace: Namespace,
        lane: LaneId,
        phase: LifecyclePhase,
        state: PublicState,
    ) -> Self {
        Self {
            execution_id,
            flow_id: None,
            name,
            namespace,
            lane,
            priority: 0,
            tags: Tags::default(),
            phase,
            state,
            outcome: None,
            reason: None,
            last_error: None,
            attempt: 0,
            failures: 0,
            max_attempts: 1,
            unmet_needs: 0,
            generation: 0,
            worker: None,
            created_at_ms: 0,
            started_at_ms: None,
            completed_at_ms: None,
            result: None,
        }
    }
}

/// One member within a [`FlowSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct MemberSnapshot {
    /// Its name within the flow.
    pub name: String,
    /// Its id.
    pub execution_id: ExecutionId,
    /// Its state.
    pub state: PublicState,
}

/// A flow as it stood when it was read.
#[derive(Debug, Clone, Serialize)]
#[non_exhaustive]
pub struct FlowSnapshot {
    /// Its id.
    pub flow_id: FlowId,
    /// Its name for people.
    pub name: Option<String>,
    /// The tenant.
    pub namespace: Namespace,
    /// Its state.
    pub state: FlowState,
    /// Whether its cancellation was asked for.
    pub cancel_requested: bool,
    /// When it was submitted, by the server's clock, in milliseconds since 1970-01-01 UTC.
    pub created_at_ms: u64,
    /// When its last member ended.
    pub completed_at_ms: Option<u64>,
    /// Its members, in the order of the submission.
    pub members: Vec<MemberSnapshot>,
}

impl FlowSnapshot {
    /// A running flow without members; set the public fields for the rest.
    #[must_use]
    pub const fn new(flow_id: FlowId, namespace: Namespace, state: FlowState) -> Self {
        Self {
            flow_id,
            name: None,
            namespace,
            state,
            cancel_requested: false,
            created_at_ms: 0,
            completed_at_ms: None,
            members: Vec::new(),
        }
    }
}
