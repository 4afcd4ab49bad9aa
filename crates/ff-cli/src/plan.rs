//! A flow as read from a file, before it is submitted: whatever the file's format, the same checked executions.

use std::{fs, io::Read, path::Path};

use ff_core::{ExecutionSpec, FlowSubmission, LaneId, Namespace, Tags};
use uuid::Uuid;

use crate::{failure::CliError, flow_file, wfformat};

/// Put on every execution, so that a run can be told from all others.
pub(crate) const RUN_TAG: &str = "ff.run";
/// Put on every execution: its name, which a completion does not carry otherwise.
pub(crate) const NAME_TAG: &str = "ff.name";
/// Tag keys that begin so are `ff`'s own.
pub(crate) const RESERVED_TAGS: &str = "ff.";

/// Larger files are refused unread.
const FILE_BYTES: u64 = 64 * 1024 * 1024;

/// What a flow file says.
#[derive(Debug, Clone, Default)]
pub(crate) struct Plan {
    pub(crate) name: Option<String>,
    pub(crate) namespace: Option<Namespace>,
    pub(crate) lane: Option<LaneId>,
    /// Whether the executions only sleep.
    pub(crate) simulated: bool,
    /// With the work as their payload; on no particular lane yet.
    pub(crate) executions: Vec<ExecutionSpec>,
}

impl Plan {
    /// Reads and checks a flow file; `-` is stdin. `time_scale` is for recorded workflows, which take 1 without it.
    ///
    /// # Errors
    /// A line that names the file and what is wrong in it, with the place where the format tells it.
    pub(crate) fn load(path: &Path, time_scale: Option<f64>) -> Result<Self, CliError> {
        let text = read(path)?;
        let shown = path.display();
        let plan = if is_wfformat(path, &text) {
            let scale = time_scale.unwrap_or(1.0);
            if !(scale.is_finite() && scale >= 0.0) {
                return Err(CliError::usage(
                    format!("--time-scale {scale}"),
                    "expected a number from 0 up, such as 0.01",
                ));
            }
            wfformat::parse(&text, scale).map_err(|error| error.about(shown))?
        } else if time_scale.is_some() {
            return Err(CliError::usage(
                "--time-scale",
                format!("{shown} is not a recorded workflow (WfFormat); commands cannot be sped up, leave it out"),
            ));
        } else {
            flow_file::parse(&text).map_err(|error| error.about(shown))?
        };
        let checked = plan.submission(Uuid::nil(), None).and_then(|flow| Ok(flow.topology()?));
        checked.map_err(|error| error.about(path.display()))?;
        Ok(plan)
    }

    /// The flow to submit for this run: on a lane of its own, tagged with the run, and safe to submit again.
    pub(crate) fn submission(&self, run: Uuid, namespace: Option<Namespace>) -> Result<FlowSubmission, CliError> {
        let namespace = namespace.or_else(|| self.namespace.clone()).unwrap_or_else(Namespace::default_namespace);
        let mut flow = FlowSubmission::new(namespace).idempotency_key(format!("ff-run-{run}"));
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
        lane.map_err(CliError::from)
    }
}

fn read(path: &Path) -> Result<String, CliError> {
    let refuse = |why: String| CliError::usage(path.display(), why);
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
    String::from_utf8(bytes).map_err(|_| refuse("it is not UTF-8 text".to_owned()))
}

/// By extension where there is one that tells, otherwise by content: JSON that has a workflow in it.
fn is_wfformat(path: &Path, text: &str) -> bool {
    match path.extension().and_then(|extension| extension.to_str()) {
        Some("json") => true,
        Some("yaml" | "yml") => false,
        _ => text.trim_start().starts_with('{') && text.contains("\"workflow\""),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn example(name: &str) -> Plan {
        let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
        Plan::load(&path, None).unwrap_or_else(|error| panic!("{error}"))
    }

    #[test]
    fn every_example_is_a_valid_flow() {
        let directory = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        let mut names = Vec::new();
        for entry in fs::read_dir(directory).unwrap() {
            let name = entry.unwrap().file_name().into_string().unwrap();
            if name.ends_with(".yaml") || name.ends_with(".json") {
                assert!(!example(&name).executions.is_empty(), "{name}");
                names.push(name);
            }
        }
        for expected in
            ["hello.yaml", "build-and-test.yaml", "fan-out.yaml", "nightly-report.yaml", "wfformat-small.json"]
        {
            assert!(names.iter().any(|name| name == expected), "{expected} is missing");
        }
    }

    #[test]
    fn the_format_is_told_by_extension_and_else_by_content() {
        assert!(is_wfformat(Path::new("a.json"), ""));
        assert!(!is_wfformat(Path::new("a.yml"), "{\"workflow\": 1}"));
        assert!(is_wfformat(Path::new("-"), " {\"workflow\": {}}"));
        assert!(!is_wfformat(Path::new("-"), "{executions: {}}"));
    }

    #[test]
    fn a_run_gets_its_own_lane_and_tags_whatever_the_file_says() {
        let run = Uuid::from_u128(7);
        let mut plan = example("hello.yaml");
        plan.lane = Some(LaneId::new("batch").unwrap());
        let flow = plan.submission(run, None).unwrap();
        assert!(flow.executions.iter().all(|execution| execution.tags.get(RUN_TAG) == Some(&run.to_string())));
        assert!(flow.executions.iter().all(|execution| execution.lane.as_str() == format!("batch/run-{run}")));
        assert_eq!(flow.executions[0].tags.get(NAME_TAG), Some(flow.executions[0].name.as_str()));
    }

    #[test]
    fn a_time_scale_for_commands_and_a_senseless_one_are_refused() {
        let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
        let error = Plan::load(&examples.join("hello.yaml"), Some(0.1)).unwrap_err().to_string();
        assert!(error.contains("--time-scale"), "{error}");
        let error = Plan::load(&examples.join("wfformat-small.json"), Some(f64::NAN)).unwrap_err().to_string();
        assert!(error.contains("NaN"), "{error}");
    }

    #[test]
    fn a_file_that_is_not_there_is_named() {
        let error = Plan::load(Path::new("no/such/flow.yaml"), None).unwrap_err().to_string();
        assert!(error.starts_with("no/such/flow.yaml: cannot be read"), "{error}");
    }
}
