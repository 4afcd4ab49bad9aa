//! A flow as read from a file, before it is submitted: whatever the file's format, the same checked executions.

pub(crate) mod load;

use ff_core::{ExecutionSpec, FlowSubmission, LaneId, Namespace, Tags};
use uuid::Uuid;

use crate::failure::CliError;

/// The tag of every execution that identifies its run.
pub(crate) const RUN_TAG: &str = "ff.run";
/// The tag of every execution with its name, which a completion does not contain otherwise.
pub(crate) const NAME_TAG: &str = "ff.name";
/// The prefix of tag keys that are reserved for `ff`.
pub(crate) const RESERVED_TAGS: &str = "ff.";
/// How many tags a file may set on an execution. The rest of the limit is for `ff`'s own tags.
pub(crate) const FILE_TAGS: usize = 30;

/// The content of a flow file.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) lane: Option<LaneId>,
    /// Whether the executions only sleep.
    pub(crate) simulated: bool,
    /// The executions with their work as payload; the lane is not set yet.
    pub(crate) executions: Vec<ExecutionSpec>,
    /// Hints about content that is valid but may be a mistake.
    pub(crate) hints: Vec<String>,
}

impl Plan {
    /// Refuses a flow that no server would accept: first the content of the file, then together with `ff`'s additions.
    fn check(&self) -> Result<(), CliError> {
        let mut flow = FlowSubmission::new(Namespace::default_namespace());
        flow.name.clone_from(&self.name);
        flow.executions.clone_from(&self.executions);
        flow.topology()?;
        self.submission(Uuid::nil(), None)?.topology()?;
        Ok(())
    }

    /// The flow to submit for this run: on its own lane, tagged with the run, and safe to submit again.
    pub(crate) fn submission(&self, run: Uuid, namespace: Option<Namespace>) -> Result<FlowSubmission, CliError> {
        let namespace = namespace.or_else(|| self.namespace.clone()).unwrap_or_else(Namespace::default_namespace);
        let mut flow = FlowSubmission::new(namespace).idempotency_key(run_key(run));
        flow.name.clone_from(&self.name);
        let lane = self.run_lane(run)?;
        for execution in &self.executions {
            let own = [(RUN_TAG.to_owned(), run.to_string()), (NAME_TAG.to_owned(), execution.name.clone())];
            let given = execution.tags.iter().map(|(key, value)| (key.to_owned(), value.to_owned()));
            let tags = Tags::new(given.chain(own))
                .map_err(|error| CliError::from(error).about(format!("execution `{}`", execution.name)))?;
            flow = flow.execution(execution.clone().lane(lane.clone()).tags(tags));
        }
        Ok(flow)
    }

    /// The lane that only this run's worker serves.
    pub(crate) fn run_lane(&self, run: Uuid) -> Result<LaneId, CliError> {
        let lane = match &self.lane {
            Some(lane) => LaneId::new(&format!("{lane}/run-{run}")),
            None => LaneId::new(&format!("run-{run}")),
        };
        lane.map_err(|error| CliError::from(error).about("the run's lane, which begins with the lane of the file"))
    }
}

/// The idempotency key of a run's flow.
pub(crate) fn run_key(run: Uuid) -> String {
    format!("ff-run-{run}")
}
