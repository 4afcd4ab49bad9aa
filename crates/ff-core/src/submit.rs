//! What can be submitted: a flow of executions that need each other, or one execution on its own.
//!
//! Everything that can be refused without asking the server is refused here, with a message that names the input.

use std::{collections::HashMap, time::Duration};

use bytes::Bytes;

use crate::{EngineError, ExecutionId, FlowId, LaneId, Namespace, Tags};

/// The sizes beyond which a submission is refused.
pub mod limits {
    use std::time::Duration;

    /// Members of a flow that is submitted in one call.
    pub const MEMBERS: usize = 1_000;
    /// Dependencies within a flow, counted over all its members.
    pub const DEPENDENCIES: usize = 50_000;
    /// Bytes of one execution's payload, and of its result.
    pub const PAYLOAD_BYTES: usize = 1024 * 1024;
    /// Bytes of all payloads of one submission.
    pub const SUBMISSION_BYTES: usize = 16 * 1024 * 1024;
    /// Bytes of an execution's name within its flow, and of an idempotency key.
    pub const NAME_BYTES: usize = 256;
    /// The longest delay, timeout, deadline or backoff.
    pub const DURATION: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
    /// The highest priority; 0 is the lowest and the default.
    pub const PRIORITY: u16 = 999;
    /// Executions that one call claims.
    pub const CLAIM_BATCH: usize = 128;
    /// Bytes of a failure's or cancellation's reason; a longer one is cut at a character.
    pub const REASON_BYTES: usize = 1_024;
}

/// How long a failed attempt's retry waits: `initial`, doubled with every further failure, at most `max`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Backoff {
    /// The wait after the first failure.
    pub initial: Duration,
    /// The longest wait.
    pub max: Duration,
}

impl Default for Backoff {
    /// 1 s, doubling up to 5 min.
    fn default() -> Self {
        Self { initial: Duration::from_secs(1), max: Duration::from_secs(300) }
    }
}

/// One execution: what to run, where, when and how often.
///
/// Times are durations, since the clock that counts is the server's.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct ExecutionSpec {
    /// Its name, unique within its flow; 1 to 256 bytes without control characters.
    pub name: String,
    /// The names of the members that must succeed first.
    pub needs: Vec<String>,
    /// The lane whose workers may run it.
    pub lane: LaneId,
    /// 0 to 999; higher is claimed first within a lane and partition.
    pub priority: u16,
    /// What filters and dashboards see of it.
    pub tags: Tags,
    /// What the worker is given; up to 1 MiB.
    pub payload: Bytes,
    /// How many failed attempts end it, at least 1 (the default: no retry).
    pub max_attempts: u32,
    /// How long a retry waits.
    pub backoff: Backoff,
    /// How many leases may run out (a worker died or hung) before it fails, at least 1. Default 3.
    pub max_lease_expiries: u32,
    /// The earliest start, counted from the submission.
    pub delay: Duration,
    /// When it expires whatever it does, counted from the submission.
    pub deadline: Option<Duration>,
    /// How long one attempt may take before it counts as failed.
    pub timeout: Option<Duration>,
}

impl ExecutionSpec {
    /// An execution with this name on the default lane, without needs, retries or limits of time.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            needs: Vec::new(),
            lane: LaneId::default_lane(),
            priority: 0,
            tags: Tags::default(),
            payload: Bytes::new(),
            max_attempts: 1,
            backoff: Backoff::default(),
            max_lease_expiries: 3,
            delay: Duration::ZERO,
            deadline: None,
            timeout: None,
        }
    }

    /// Needs these members to succeed first.
    #[must_use]
    pub fn needs<S: Into<String>>(mut self, names: impl IntoIterator<Item = S>) -> Self {
        self.needs.extend(names.into_iter().map(Into::into));
        self
    }

    /// Runs on this lane.
    #[must_use]
    pub fn lane(mut self, lane: LaneId) -> Self {
        self.lane = lane;
        self
    }

    /// Is claimed before those of lower priority.
    #[must_use]
    pub fn priority(mut self, priority: u16) -> Self {
        self.priority = priority;
        self
    }

    /// Carries these tags.
    #[must_use]
    pub fn tags(mut self, tags: Tags) -> Self {
        self.tags = tags;
        self
    }

    /// Gives the worker these bytes.
    #[must_use]
    pub fn payload(mut self, payload: impl Into<Bytes>) -> Self {
        self.payload = payload.into();
        self
    }

    /// Runs up to `max_attempts` times, waiting in between.
    #[must_use]
    pub fn attempts(mut self, max_attempts: u32, backoff: Backoff) -> Self {
        self.max_attempts = max_attempts;
        self.backoff = backoff;
        self
    }

    /// Ends as failed when this many leases ran out.
    #[must_use]
    pub fn max_lease_expiries(mut self, expiries: u32) -> Self {
        self.max_lease_expiries = expiries;
        self
    }

    /// Starts no earlier than this after its submission.
    #[must_use]
    pub fn delay(mut self, delay: Duration) -> Self {
        self.delay = delay;
        self
    }

    /// Expires this long after its submission.
    #[must_use]
    pub fn deadline(mut self, deadline: Duration) -> Self {
        self.deadline = Some(deadline);
        self
    }

    /// Fails an attempt that takes longer than this.
    #[must_use]
    pub fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = Some(timeout);
        self
    }

    fn validate(&self) -> Result<(), EngineError> {
        check_text("execution name", &self.name)?;
        let refuse =
            |reason: String| Err(EngineError::invalid(format!("execution `{}`", self.name.escape_debug()), reason));
        if self.payload.len() > limits::PAYLOAD_BYTES {
            return refuse(format!(
                "its payload has {} bytes, at most {} are allowed; store it elsewhere and pass a reference",
                self.payload.len(),
                limits::PAYLOAD_BYTES
            ));
        }
        if self.priority > limits::PRIORITY {
            return refuse(format!("its priority {} is above {}", self.priority, limits::PRIORITY));
        }
        if self.max_attempts == 0 || self.max_lease_expiries == 0 {
            return refuse("it must be allowed at least one attempt and one lease".to_owned());
        }
        for (what, duration) in [
            ("delay", Some(self.delay)),
            ("deadline", self.deadline),
            ("timeout", self.timeout),
            ("backoff", Some(self.backoff.initial)),
            ("longest backoff", Some(self.backoff.max)),
        ] {
            if duration.is_some_and(|duration| duration > limits::DURATION) {
                return refuse(format!("its {what} is longer than ten years"));
            }
        }
        for (what, duration) in [("deadline", self.deadline), ("timeout", self.timeout)] {
            if duration.is_some_and(|duration| duration < Duration::from_millis(1)) {
                return refuse(format!("its {what} is shorter than a millisecond"));
            }
        }
        Ok(())
    }
}

/// A flow: executions that are accepted all at once or not at all.
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
#[derive(Debug, Clone)]
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
    /// [`EngineError::InvalidInput`] that names the member, dependency, cycle or size at fault.
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

/// One execution that belongs to no flow.
#[derive(Debug, Clone)]
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
    /// [`EngineError::InvalidInput`] that names what is at fault.
    pub fn validate(&self) -> Result<(), EngineError> {
        check_key(self.idempotency_key.as_deref())?;
        self.execution.validate()?;
        match self.execution.needs.first() {
            None => Ok(()),
            Some(need) => Err(EngineError::invalid(
                format!("execution `{}`", self.execution.name.escape_debug()),
                format!("it needs `{}`, but only members of a flow can need others", need.escape_debug()),
            )),
        }
    }
}

/// The dependencies of a flow, as indices into its executions. Free of cycles.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FlowTopology {
    /// Per execution, those that it needs, ascending and without repetition.
    pub needs: Vec<Vec<usize>>,
    /// Per execution, those that need it, ascending.
    pub dependents: Vec<Vec<usize>>,
}

impl FlowTopology {
    fn of(executions: &[ExecutionSpec]) -> Result<Self, EngineError> {
        let mut index_of = HashMap::with_capacity(executions.len());
        for (index, execution) in executions.iter().enumerate() {
            if index_of.insert(execution.name.as_str(), index).is_some() {
                let name = execution.name.escape_debug();
                return Err(EngineError::invalid(
                    format!("execution `{name}`"),
                    "the name occurs twice in the flow; names are unique within one",
                ));
            }
        }
        let mut needs = Vec::with_capacity(executions.len());
        let mut dependents = vec![Vec::new(); executions.len()];
        let mut dependencies = 0;
        for (index, execution) in executions.iter().enumerate() {
            let mut indices = Vec::with_capacity(execution.needs.len());
            for need in &execution.needs {
                indices.push(*index_of.get(need.as_str()).ok_or_else(|| {
                    EngineError::invalid(
                        format!("execution `{}`", execution.name.escape_debug()),
                        format!("it needs `{}`, which is not in the flow", need.escape_debug()),
                    )
                })?);
            }
            indices.sort_unstable();
            indices.dedup();
            dependencies += indices.len();
            for need in &indices {
                dependents[*need].push(index);
            }
            needs.push(indices);
        }
        if dependencies > limits::DEPENDENCIES {
            return Err(EngineError::invalid(
                format!("a flow with {dependencies} dependencies"),
                format!("at most {} are allowed", limits::DEPENDENCIES),
            ));
        }
        let topology = Self { needs, dependents };
        topology.refuse_cycles(executions)?;
        Ok(topology)
    }

    /// Kahn's algorithm: what is never freed of its needs lies on a cycle or behind one.
    fn refuse_cycles(&self, executions: &[ExecutionSpec]) -> Result<(), EngineError> {
        let mut unmet: Vec<usize> = self.needs.iter().map(Vec::len).collect();
        let mut free: Vec<usize> = (0..unmet.len()).filter(|index| unmet[*index] == 0).collect();
        while let Some(index) = free.pop() {
            for dependent in &self.dependents[index] {
                unmet[*dependent] -= 1;
                if unmet[*dependent] == 0 {
                    free.push(*dependent);
                }
            }
        }
        let Some(stuck) = unmet.iter().position(|unmet| *unmet > 0) else {
            return Ok(());
        };
        let cycle: Vec<_> = self
            .cycle_before(stuck, &unmet)
            .into_iter()
            .map(|index| executions[index].name.escape_debug().to_string())
            .collect();
        Err(EngineError::invalid(
            format!("the cycle {}", cycle.join(" -> ")),
            "executions that need each other can never run; remove one of these dependencies",
        ))
    }

    /// Follows unmet needs backwards until one repeats; the names in the order in which they would have to run.
    fn cycle_before(&self, stuck: usize, unmet: &[usize]) -> Vec<usize> {
        let mut path = vec![stuck];
        loop {
            let last = path[path.len() - 1];
            let need = self.needs[last].iter().copied().find(|need| unmet[*need] > 0);
            // Whatever is stuck has a stuck need, so the search cannot end without one.
            let Some(need) = need else { return path };
            if let Some(start) = path.iter().position(|index| *index == need) {
                path.drain(..start);
                path.push(need);
                path.reverse();
                return path;
            }
            path.push(need);
        }
    }
}

/// A flow that the backend has accepted.
#[derive(Debug, Clone)]
#[non_exhaustive]
pub struct SubmittedFlow {
    /// Its id.
    pub flow_id: FlowId,
    /// Its members, name and id, in the order of the submission.
    pub executions: Vec<(String, ExecutionId)>,
    /// Whether an earlier call had submitted it already (same idempotency key, same content).
    pub already_submitted: bool,
}

impl SubmittedFlow {
    /// What a backend answers.
    #[must_use]
    pub const fn new(flow_id: FlowId, executions: Vec<(String, ExecutionId)>, already_submitted: bool) -> Self {
        Self { flow_id, executions, already_submitted }
    }

    /// The id of the member with this name.
    #[must_use]
    pub fn execution(&self, name: &str) -> Option<ExecutionId> {
        self.executions.iter().find(|(member, _)| member == name).map(|(_, id)| *id)
    }
}

/// A solo execution that the backend has accepted.
#[derive(Debug, Clone, Copy)]
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
        let shown: String = text.chars().take(80).flat_map(char::escape_debug).collect();
        let expected = format!("expected 1 to {} bytes without control characters", limits::NAME_BYTES);
        return Err(EngineError::invalid(format!("{kind} `{shown}`"), expected));
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
