//! A flow as read from a file, before it is submitted: whatever the file's format, the same checked executions.

use std::{fs, io::Read, path::Path};

use ff_core::{ExecutionSpec, FlowSubmission, LaneId, Namespace, Tags};
use uuid::Uuid;

use crate::{
    failure::{CliError, one_line},
    flow_file, out, text, wfformat,
};

/// The tag of every execution that identifies its run.
pub(crate) const RUN_TAG: &str = "ff.run";
/// The tag of every execution with its name, which a completion does not contain otherwise.
pub(crate) const NAME_TAG: &str = "ff.name";
/// The prefix of tag keys that are reserved for `ff`.
pub(crate) const RESERVED_TAGS: &str = "ff.";
/// How many tags a file may set on an execution. The rest of the limit is for `ff`'s own tags.
pub(crate) const FILE_TAGS: usize = 30;

/// Larger files are refused.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

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
    /// Reads and checks a flow file; `-` is stdin. `time_scale` is for recorded workflows, which take 1 without it.
    ///
    /// # Errors
    /// One line with the file, the mistake and, if the format provides it, the place.
    pub(crate) fn load(path: &Path, time_scale: Option<f64>) -> Result<Self, CliError> {
        let plan = Self::parse(path, read(path)?, time_scale)?;
        for hint in &plan.hints {
            out::note(&format!("ff: {}: {}", path.display(), one_line(hint)));
        }
        Ok(plan)
    }

    /// Like [`Plan::load`], for content that was already read.
    ///
    /// # Errors
    /// As [`Plan::load`].
    pub(crate) fn parse(path: &Path, bytes: Vec<u8>, time_scale: Option<f64>) -> Result<Self, CliError> {
        let about_it = |error: CliError| error.about(path.display());
        let text = text::decoded(bytes).map_err(|why| CliError::usage(path.display(), why))?;
        let plan = if is_wfformat(path, &text) {
            let scale = time_scale.unwrap_or(1.0);
            if !(scale.is_finite() && scale >= 0.0) {
                return Err(CliError::usage(
                    format!("--time-scale {scale}"),
                    "expected a number from 0 up, such as 0.01",
                ));
            }
            wfformat::parse(&text, scale).map_err(about_it)?
        } else if time_scale.is_some() {
            return Err(CliError::usage(
                "--time-scale",
                format!(
                    "{} is not a recorded workflow (WfFormat); commands cannot be sped up, leave it out",
                    path.display()
                ),
            ));
        } else {
            flow_file::parse(&text).map_err(about_it)?
        };
        plan.check().map_err(about_it)?;
        Ok(plan)
    }

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

fn read(path: &Path) -> Result<Vec<u8>, CliError> {
    let shown = path.display().to_string();
    let shown = if shown.contains("://") { text::argument(&shown) } else { shown };
    let refuse = |why: String| CliError::usage(&shown, why);
    let mut bytes = Vec::new();
    let source: Box<dyn Read> = if path == Path::new("-") {
        Box::new(std::io::stdin())
    } else {
        Box::new(fs::File::open(path).map_err(|error| refuse(format!("cannot be read: {error}")))?)
    };
    let read = source.take(FILE_BYTES + 1).read_to_end(&mut bytes);
    read.map_err(|error| refuse(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > FILE_BYTES {
        return Err(refuse(format!("it is larger than {} MiB; a flow has at most 1000 executions", FILE_BYTES >> 20)));
    }
    Ok(bytes)
}

/// Decides by a known extension, otherwise by content: JSON that contains a workflow.
fn is_wfformat(path: &Path, text: &str) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => true,
        Some("yaml" | "yml") => false,
        _ => text.trim_start().starts_with('{') && text.contains("\"workflow\""),
    }
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
