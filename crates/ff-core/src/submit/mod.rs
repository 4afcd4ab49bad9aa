//! Submissions: a flow of executions with dependencies, or one execution on its own.
//!
//! All checks that do not need the server are made here, with a message that names the input.

pub mod limits;
mod spec;
mod topology;

pub use spec::{Backoff, ExecutionSpec, KIND_TAG};
pub use topology::FlowTopology;

use crate::{EngineError, ExecutionId, FlowId, Namespace, error::shown};

/// A flow: executions that are accepted all together or not at all.
///
/// ```
/// use ff_core::{ExecutionSpec, FlowSubmission, Namespace};
///
/// let flow = FlowSubmission::new(Namespace::new("tenant-a")?)
///     .execution(ExecutionSpec::new("fetch"))
///     .execution(ExecutionSpec::new("parse").needs(["fetch"]))
///     .execution(ExecutionSpec::new("report").needs(["parse"]));
/// assert_eq!(flow.topology()?.needs[2], [1]);
/// # Ok::<(), ff_core::EngineError>(())
/// ```
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct FlowSubmission {
    /// The tenant.
    pub namespace: Namespace,
    /// A name for people; need not be unique.
    pub name: Option<String>,
    /// Makes the submission repeatable: the same namespace and key always mean the same flow.
    pub idempotency_key: Option<String>,
    /// The members, 1 to 1,000.
    pub executions: Vec<ExecutionSpec>,
}

impl FlowSubmission {
    /// A flow without members.
    #[must_use]
    pub const fn new(namespace: Namespace) -> Self {
        Self { namespace, name: None, idempotency_key: None, executions: Vec::new() }
    }

    /// Gives the flow a name for people.
    #[must_use]
    pub fn name(mut self, name: impl Into<String>) -> Self {
        self.name = Some(name.into());
        self
    }

    /// Makes the submission repeatable under this key.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Adds a member.
    #[must_use]
    pub fn execution(mut self, execution: ExecutionSpec) -> Self {
        self.executions.push(execution);
        self
    }

    /// The id that this submission gets: derived from the idempotency key if there is one, new otherwise.
    #[must_use]
    pub fn flow_id(&self) -> FlowId {
        match &self.idempotency_key {
            Some(key) => FlowId::from_idempotency_key(&self.namespace, key),
            None => FlowId::generate(),
        }
    }

    /// Checks the whole flow and resolves names to indices into `executions`.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] with the member, dependency, cycle or size at fault.
    pub fn topology(&self) -> Result<FlowTopology, EngineError> {
        if let Some(name) = &self.name {
            check_text("flow name", name)?;
        }
        check_key(self.idempotency_key.as_deref())?;
        let members = self.executions.len();
        if members == 0 || members > limits::MEMBERS {
            return Err(EngineError::invalid(
                format!("a flow of {members} executions"),
                format!("expected 1 to {}", limits::MEMBERS),
            ));
        }
        let mut payload_bytes = 0;
        for execution in &self.executions {
            execution.validate()?;
            payload_bytes += execution.payload.len();
        }
        if payload_bytes > limits::SUBMISSION_BYTES {
            return Err(EngineError::invalid(
                format!("a flow with {payload_bytes} bytes of payload"),
                format!("at most {} are allowed in one submission", limits::SUBMISSION_BYTES),
            ));
        }
        FlowTopology::of(&self.executions)
    }
}

/// One execution that does not belong to a flow.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ExecutionSubmission {
    /// The tenant.
    pub namespace: Namespace,
    /// Makes the submission repeatable: the same namespace and key always mean the same execution.
    pub idempotency_key: Option<String>,
    /// The execution; `needs` must be empty.
    pub execution: ExecutionSpec,
}

impl ExecutionSubmission {
    /// Submits `execution` on its own.
    #[must_use]
    pub const fn new(namespace: Namespace, execution: ExecutionSpec) -> Self {
        Self { namespace, idempotency_key: None, execution }
    }

    /// Makes the submission repeatable under this key.
    #[must_use]
    pub fn idempotency_key(mut self, key: impl Into<String>) -> Self {
        self.idempotency_key = Some(key.into());
        self
    }

    /// Checks the submission.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] with the value at fault.
    pub fn validate(&self) -> Result<(), EngineError> {
        check_key(self.idempotency_key.as_deref())?;
        self.execution.validate()?;
        match self.execution.needs.first() {
            None => Ok(()),
            Some(need) => Err(EngineError::invalid(
                format!("execution `{}`", shown(&self.execution.name)),
                format!("it needs `{}`, but only members of a flow can need others", shown(need)),
            )),
        }
    }
}

/// A flow that the backend has accepted.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubmittedFlow {
    /// Its id.
    pub flow_id: FlowId,
    /// Its members, in the order of the submission.
    pub executions: Vec<SubmittedMember>,
    /// Whether an earlier call had submitted it already (same idempotency key, same content).
    pub already_submitted: bool,
}

impl SubmittedFlow {
    /// What a backend answers.
    #[must_use]
    pub const fn new(flow_id: FlowId, executions: Vec<SubmittedMember>, already_submitted: bool) -> Self {
        Self { flow_id, executions, already_submitted }
    }

    /// The ids of its members, in the order of the submission.
    pub fn ids(&self) -> impl Iterator<Item = ExecutionId> + '_ {
        self.executions.iter().map(|member| member.execution_id)
    }

    /// The id of the member with this name.
    #[must_use]
    pub fn execution(&self, name: &str) -> Option<ExecutionId> {
        self.executions.iter().find(|member| member.name == name).map(|member| member.execution_id)
    }
}

/// A member of a [`SubmittedFlow`].
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubmittedMember {
    /// Its name within the flow.
    pub name: String,
    /// Its id.
    pub execution_id: ExecutionId,
}

impl SubmittedMember {
    /// What a backend answers.
    #[must_use]
    pub const fn new(name: String, execution_id: ExecutionId) -> Self {
        Self { name, execution_id }
    }
}

/// A solo execution that the backend has accepted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SubmittedExecution {
    /// Its id.
    pub execution_id: ExecutionId,
    /// Whether an earlier call had submitted it already.
    pub already_submitted: bool,
}

impl SubmittedExecution {
    /// What a backend answers.
    #[must_use]
    pub const fn new(execution_id: ExecutionId, already_submitted: bool) -> Self {
        Self { execution_id, already_submitted }
    }
}

fn check_text(kind: &str, text: &str) -> Result<(), EngineError> {
    if text.is_empty() || text.len() > limits::NAME_BYTES || text.chars().any(char::is_control) {
        let expected = format!("expected 1 to {} bytes without control characters", limits::NAME_BYTES);
        return Err(EngineError::invalid(format!("{kind} `{}`", shown(text)), expected));
    }
    Ok(())
}

fn check_key(key: Option<&str>) -> Result<(), EngineError> {
    key.map_or(Ok(()), |key| check_text("idempotency key", key))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn flow(members: &[(&str, &[&str])]) -> FlowSubmission {
        members.iter().fold(FlowSubmission::new(Namespace::default_namespace()), |flow, (name, needs)| {
            flow.execution(ExecutionSpec::new(*name).needs(needs.iter().copied()))
        })
    }

    fn refusal(flow: &FlowSubmission) -> String {
        flow.topology().unwrap_err().to_string()
    }

    #[test]
    fn names_become_indices_in_both_directions() {
        let topology = flow(&[("a", &[]), ("b", &["a"]), ("c", &["b", "a", "b"])]).topology().unwrap();
        assert_eq!(topology.needs, [vec![], vec![0], vec![0, 1]]);
        assert_eq!(topology.dependents, [vec![1, 2], vec![2], vec![]]);
    }

    #[test]
    fn a_cycle_is_refused_with_its_members_in_order() {
        let message = refusal(&flow(&[("x", &["c"]), ("a", &["c"]), ("b", &["a"]), ("c", &["b"])]));
        assert!(
            ["a -> b -> c -> a", "b -> c -> a -> b", "c -> a -> b -> c"].iter().any(|cycle| message.contains(cycle)),
            "{message}"
        );
        assert!(refusal(&flow(&[("a", &["a"])])).contains("a -> a"));
    }

    #[test]
    fn an_unknown_dependency_is_refused_with_both_names() {
        let message = refusal(&flow(&[("a", &["ghost"])]));
        assert!(message.contains("`a`") && message.contains("`ghost`"), "{message}");
    }

    #[test]
    fn a_double_name_is_refused() {
        assert!(refusal(&flow(&[("a", &[]), ("a", &[])])).contains("`a`"));
    }

    #[test]
    fn an_oversized_payload_is_refused_with_its_size() {
        let spec = ExecutionSpec::new("a").payload(vec![0; limits::PAYLOAD_BYTES + 1]);
        let submission = FlowSubmission::new(Namespace::default_namespace()).execution(spec);
        assert!(refusal(&submission).contains("1048577"));
    }

    #[test]
    fn an_empty_and_an_overlong_flow_are_refused_with_their_size() {
        assert!(refusal(&flow(&[])).contains("a flow of 0"));
        let many =
            (0..=limits::MEMBERS).fold(flow(&[]), |flow, index| flow.execution(ExecutionSpec::new(index.to_string())));
        assert!(refusal(&many).contains("a flow of 1001"));
    }

    #[test]
    fn a_solo_execution_cannot_need_others() {
        let spec = ExecutionSpec::new("a").needs(["b"]);
        let error = ExecutionSubmission::new(Namespace::default_namespace(), spec).validate().unwrap_err();
        assert!(error.to_string().contains("`b`"));
    }

    proptest! {
        /// Edges that only point backwards can have no cycle; one edge that points forwards along a path makes one.
        #[test]
        fn a_flow_is_refused_exactly_when_it_has_a_cycle(
            size in 2usize..30,
            edges in prop::collection::vec((0usize..30, 0usize..30), 0..60),
            close in any::<bool>(),
        ) {
            let name = |index: usize| format!("n{index}");
            let mut specs: Vec<_> = (0..size).map(|index| ExecutionSpec::new(name(index))).collect();
            for (from, to) in edges {
                let (from, to) = (from % size, to % size);
                if from < to {
                    specs[to].needs.push(name(from));
                }
            }
            if close {
                specs[size - 1].needs.push(name(0));
                specs[0].needs.push(name(size - 1));
            }
            let mut submission = FlowSubmission::new(Namespace::default_namespace());
            submission.executions = specs;
            prop_assert_eq!(submission.topology().is_err(), close);
        }
    }
}
