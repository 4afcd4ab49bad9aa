//! Snapshots of executions and flows, as a description returns them.

use std::sync::Arc;

use bytes::Bytes;
use serde::{Serialize, de::DeserializeOwned};

use crate::{ExecutionId, FlowId, FlowState, LaneId, LifecyclePhase, Namespace, Outcome, PublicState, Tags, WorkerId};

/// The state of an execution when it was read. Times are the server's, in milliseconds since 1970-01-01 UTC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// The error that its last failed attempt reported.
    pub last_error: Option<Arc<str>>,
    /// Attempts started.
    pub attempt: u32,
    /// Failed attempts.
    pub failures: u32,
    /// The number of failed attempts that ends it.
    pub max_attempts: u32,
    /// Executions it still waits for.
    pub unmet_needs: u32,
    /// 0 for the first run, one more for each replay.
    pub generation: u32,
    /// The worker that holds its lease.
    pub worker: Option<WorkerId>,
    /// When it was submitted.
    pub created_at_ms: u64,
    /// When its current or last attempt started.
    pub started_at_ms: Option<u64>,
    /// When it ended.
    pub completed_at_ms: Option<u64>,
    /// Its result.
    #[serde(skip)]
    pub result: Option<Bytes>,
}

impl ExecutionSnapshot {
    /// A snapshot with the fields that every execution has; set the public fields for the rest.
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

    /// The result as a value of JSON; an empty result is `null`.
    ///
    /// # Errors
    /// [`ResultError`] if the execution has not ended, did not succeed, or its result does not match the type.
    pub fn result_json<T: DeserializeOwned>(&self) -> Result<T, ResultError> {
        let id = self.execution_id;
        match self.outcome {
            Some(Outcome::Success) => {}
            Some(outcome) => {
                let cause = self.last_error.as_deref().or(self.reason.as_deref()).unwrap_or("no reason is recorded");
                return Err(ResultError::NotSuccessful { id, outcome, cause: cause.to_owned() });
            }
            None => return Err(ResultError::NotEnded { id }),
        }
        let bytes = self.result.as_deref().filter(|bytes| !bytes.is_empty()).unwrap_or(b"null");
        serde_json::from_slice(bytes).map_err(|error| ResultError::Unreadable { id, reason: error.to_string() })
    }
}

/// Why an execution has no result of the requested type.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum ResultError {
    /// It has not ended.
    #[error("execution {id} has not ended")]
    NotEnded {
        /// The execution.
        id: ExecutionId,
    },
    /// It did not succeed.
    #[error("execution {id} ended as {outcome}: {cause}")]
    NotSuccessful {
        /// The execution.
        id: ExecutionId,
        /// How it ended.
        outcome: Outcome,
        /// The error of its last attempt, or the rule that ended it.
        cause: String,
    },
    /// The result does not match the type.
    #[error("the result of execution {id} does not match the type: {reason}")]
    Unreadable {
        /// The execution.
        id: ExecutionId,
        /// The mismatch and its place.
        reason: String,
    },
}

/// One member within a [`FlowSnapshot`].
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct MemberSnapshot {
    /// Its name within the flow.
    pub name: String,
    /// Its id.
    pub execution_id: ExecutionId,
    /// Its state.
    pub state: PublicState,
}

impl MemberSnapshot {
    /// The member with this name and id.
    #[must_use]
    pub const fn new(name: String, execution_id: ExecutionId, state: PublicState) -> Self {
        Self { name, execution_id, state }
    }
}

/// The state of a flow when it was read.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
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
    /// Whether its cancellation was requested.
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

#[cfg(test)]
mod tests {
    use super::*;

    fn ended(outcome: Option<Outcome>, result: &'static [u8]) -> ExecutionSnapshot {
        let id = "{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b".parse().unwrap();
        let (namespace, lane) = (Namespace::default_namespace(), LaneId::default_lane());
        let mut snapshot =
            ExecutionSnapshot::new(id, "a".into(), namespace, lane, LifecyclePhase::Terminal, PublicState::Success);
        snapshot.outcome = outcome;
        snapshot.result = Some(Bytes::from_static(result));
        snapshot
    }

    #[test]
    fn a_result_is_read_as_the_requested_type() {
        assert_eq!(ended(Some(Outcome::Success), b"[1,2]").result_json(), Ok(vec![1, 2]));
        assert_eq!(ended(Some(Outcome::Success), b"").result_json(), Ok(()));
    }

    #[test]
    fn an_execution_without_a_result_names_the_cause() {
        let mut failed = ended(Some(Outcome::Failed), b"");
        failed.last_error = Some("the disk is full".into());
        assert!(failed.result_json::<u8>().unwrap_err().to_string().ends_with("ended as failed: the disk is full"));
        assert!(matches!(ended(None, b"").result_json::<u8>(), Err(ResultError::NotEnded { .. })));
        let unreadable = ended(Some(Outcome::Success), b"\"x\"").result_json::<u8>().unwrap_err();
        assert!(unreadable.to_string().contains("expected u8"), "{unreadable}");
    }
}
