//! Recorded workflows in WfFormat (the JSON of the WfCommons collection), versions 1.4 to 1.6. The graph and the
//! measured run times are kept, and the work becomes a sleep.

use std::collections::{HashMap, HashSet};

use ff_core::{ExecutionSpec, limits};
use serde::Deserialize;

use crate::{failure::CliError, plan::Plan, work::Work};

/// Version 1.4 has one list of tasks; later versions have separate lists of specified and executed tasks.
const ONE_LIST: &str = "1.4";
const TWO_LISTS: [&str; 2] = ["1.5", "1.6"];

#[derive(Deserialize)]
struct Instance<W> {
    name: Option<String>,
    workflow: W,
}

#[derive(Deserialize)]
struct Workflow {
    specification: Section<SpecifiedTask>,
    execution: Section<ExecutedTask>,
}

#[derive(Deserialize)]
struct Section<T> {
    tasks: Vec<T>,
}

#[derive(Deserialize)]
struct SpecifiedTask {
    name: String,
    id: String,
    #[serde(default)]
    parents: Vec<String>,
    #[serde(default)]
    children: Vec<String>,
}

#[derive(Deserialize)]
struct ExecutedTask {
    id: String,
    #[serde(rename = "runtimeInSeconds")]
    runtime_in_seconds: f64,
    priority: Option<f64>,
}

/// A task of version 1.4. Its id may be missing, and other tasks refer to it by its name.
#[derive(Deserialize)]
struct Task {
    name: String,
    id: Option<String>,
    #[serde(default)]
    parents: Vec<String>,
    #[serde(default)]
    children: Vec<String>,
    #[serde(rename = "runtimeInSeconds", default)]
    runtime_in_seconds: f64,
    priority: Option<f64>,
}

impl Task {
    fn split(self) -> (SpecifiedTask, ExecutedTask) {
        let Self { name, id, parents, children, runtime_in_seconds, priority } = self;
        let id = id.unwrap_or_else(|| name.clone());
        let executed = ExecutedTask { id: id.clone(), runtime_in_seconds, priority };
        (SpecifiedTask { name, id, parents, children }, executed)
    }
}

/// Parsed first, so that an unsupported version is refused by its number and not for missing fields.
#[derive(Deserialize)]
struct Version {
    #[serde(rename = "schemaVersion")]
    schema_version: Option<String>,
}

/// Reads a recorded workflow; every run time is multiplied by `scale`.
///
/// # Errors
/// The mistake, with its task or its line and column.
pub(crate) fn parse(text: &str, scale: f64) -> Result<Plan, CliError> {
    let malformed = |error: serde_json::Error| CliError::usage("not a WfFormat workflow", in_words(&error.to_string()));
    let version: Version = serde_json::from_str(text).map_err(malformed)?;
    let version = version.schema_version.ok_or_else(|| {
        let missing = CliError::usage("not a WfFormat workflow", "schemaVersion is missing");
        let is_flow = text.contains("\"executions\"");
        if is_flow { missing.with_hint("a flow of commands is read from a file that ends in .yaml") } else { missing }
    })?;
    let (name, tasks, runs) = if version == ONE_LIST {
        let Instance { name, workflow } = serde_json::from_str::<Instance<Section<Task>>>(text).map_err(malformed)?;
        let (tasks, runs) = workflow.tasks.into_iter().map(Task::split).unzip();
        (name, tasks, runs)
    } else if TWO_LISTS.contains(&&*version) {
        let Instance { name, workflow } = serde_json::from_str::<Instance<Workflow>>(text).map_err(malformed)?;
        (name, workflow.specification.tasks, workflow.execution.tasks)
    } else {
        let why = format!(
            "{ONE_LIST}, {} are supported; convert the file with wfcommons-migrate-instance.py of WfCommons",
            TWO_LISTS.join(" and ")
        );
        return Err(CliError::usage(format!("WfFormat version `{}`", version.escape_debug()), why));
    };
    let runs = recorded_runs(runs)?;
    let needs = needs_of(&tasks)?;
    let mut executions = Vec::with_capacity(tasks.len());
    for (task, needs) in tasks.into_iter().zip(needs) {
        let run = runs.get(&task.id).ok_or_else(|| {
            CliError::usage(shown(&task.id), "workflow.execution.tasks has no record of it, so its run time is unknown")
        })?;
        let micros = run.runtime_in_seconds * scale * 1e6;
        // A float cast saturates; a longer sleep is endless in practice.
        let work = Work::Sleep { micros: micros.round() as u64 };
        executions.push(ExecutionSpec::new(task.id).needs(needs).priority(priority(run)).payload(work.to_payload()));
    }
    let name = name.map(|name| fitting(&name)).filter(|name| !name.is_empty());
    Ok(Plan { name, namespace: None, lane: None, simulated: true, executions, hints: Vec::new() })
}

/// The message of the JSON parser, without the type names of this program.
fn in_words(said: &str) -> String {
    const WORDS: [(&str, &str); 9] = [
        ("a sequence", "a list"),
        ("sequence,", "a list,"),
        ("a map", "an object"),
        ("map,", "an object,"),
        ("floating point", "the number"),
        ("integer", "the number"),
        ("f64", "a number"),
        ("invalid type: ", "found "),
        ("string \"", "the text \""),
    ];
    let mut words = said.to_owned();
    for (type_name, word) in WORDS {
        words = words.replace(type_name, word);
    }
    // `struct Section` is an object for the reader.
    match words.split_once("struct ") {
        Some((before, after)) => {
            let after = after.trim_start_matches(|c: char| c.is_alphanumeric());
            format!("{before}an object{after}")
        }
        None => words,
    }
}

/// As much of a workflow's name as a flow's may have.
fn fitting(name: &str) -> String {
    let mut fitting: String = name.chars().filter(|c| !c.is_control()).collect();
    fitting.truncate(fitting.floor_char_boundary(limits::NAME_BYTES));
    fitting
}

fn shown(id: &str) -> String {
    format!("task `{}`", id.escape_debug())
}

fn priority(run: &ExecutedTask) -> u16 {
    // Priorities of other schedulers may be anything; a saturating cast and the bound keep their order.
    (run.priority.unwrap_or(0.0) as u16).min(limits::PRIORITY)
}

fn recorded_runs(tasks: Vec<ExecutedTask>) -> Result<HashMap<String, ExecutedTask>, CliError> {
    let mut runs = HashMap::with_capacity(tasks.len());
    for task in tasks {
        if !(task.runtime_in_seconds.is_finite() && task.runtime_in_seconds >= 0.0) {
            let why = format!("its runtimeInSeconds {} is not a time", task.runtime_in_seconds);
            return Err(CliError::usage(shown(&task.id), why));
        }
        if let Some(first) = runs.insert(task.id.clone(), task) {
            return Err(CliError::usage(shown(&first.id), "workflow.execution.tasks records it twice"));
        }
    }
    Ok(runs)
}

/// The needs of each task: its parents, and the tasks that name it as a child. Files differ in which side they fill,
/// and in whether they refer to tasks by id or by name.
fn needs_of(tasks: &[SpecifiedTask]) -> Result<Vec<Vec<String>>, CliError> {
    let mut by_id = HashMap::with_capacity(tasks.len());
    let mut by_name = HashMap::with_capacity(tasks.len());
    for (index, task) in tasks.iter().enumerate() {
        if by_id.insert(task.id.as_str(), index).is_some() {
            return Err(CliError::usage(shown(&task.id), "the id occurs twice in workflow.specification.tasks"));
        }
        by_name.entry(task.name.as_str()).or_insert(index);
    }
    let find = |task: &SpecifiedTask, relation: &str, reference: &str| {
        by_id.get(reference).or_else(|| by_name.get(reference)).copied().ok_or_else(|| {
            let why = format!("its {relation} `{}` is not in workflow.specification.tasks", reference.escape_debug());
            CliError::usage(shown(&task.id), why)
        })
    };
    let mut edges: Vec<(usize, usize)> = Vec::new();
    for (index, task) in tasks.iter().enumerate() {
        for parent in &task.parents {
            edges.push((index, find(task, "parent", parent)?));
        }
        for child in &task.children {
            edges.push((find(task, "child", child)?, index));
        }
    }
    let mut seen = HashSet::with_capacity(edges.len());
    let mut needs = vec![Vec::new(); tasks.len()];
    for (child, parent) in edges {
        if seen.insert((child, parent)) {
            needs[child].push(tasks[parent].id.clone());
        }
    }
    Ok(needs)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document(specification: &str, execution: &str) -> String {
        format!(
            r#"{{"name": "t", "schemaVersion": "1.5", "workflow": {{
                "specification": {{"tasks": [{specification}], "files": []}},
                "execution": {{"tasks": [{execution}], "makespanInSeconds": 1}}}}}}"#
        )
    }

    fn refusal(text: &str) -> String {
        match parse(text, 1.0) {
            Ok(plan) => panic!("accepted: {plan:?}"),
            Err(error) => error.to_string(),
        }
    }

    const A: &str = r#"{"name": "a", "id": "a1", "parents": [], "children": ["b1"], "inputFiles": []}"#;
    const B: &str = r#"{"name": "b", "id": "b1", "parents": ["a1"], "children": []}"#;
    const RUN_A: &str = r#"{"id": "a1", "runtimeInSeconds": 2.5, "priority": 20, "avgCPU": 1.5}"#;
    const RUN_B: &str = r#"{"id": "b1", "runtimeInSeconds": 0}"#;

    fn both(task: &str, other: &str) -> String {
        format!("{task}, {other}")
    }

    #[test]
    fn a_task_becomes_a_sleep_of_its_scaled_run_time() {
        let plan = parse(&document(&both(A, B), &both(RUN_B, RUN_A)), 0.01).unwrap();
        assert!(plan.simulated && plan.name.as_deref() == Some("t"));
        assert_eq!(Work::from_payload(&plan.executions[0].payload).unwrap(), Work::Sleep { micros: 25_000 });
        assert_eq!((plan.executions[0].priority, plan.executions[1].priority), (20, 0));
        assert_eq!(plan.executions[1].needs, ["a1"], "named on both sides, needed once");
    }

    #[test]
    fn priorities_of_other_schedulers_are_limited_to_our_range() {
        for (recorded, expected) in [("1e9", limits::PRIORITY), ("-5", 0), ("7.9", 7)] {
            let run = RUN_A.replace("\"priority\": 20", &format!("\"priority\": {recorded}"));
            let plan = parse(&document(&both(A, B), &both(&run, RUN_B)), 1.0).unwrap();
            assert_eq!(plan.executions[0].priority, expected, "{recorded}");
        }
    }

    #[test]
    fn a_long_name_is_cut_to_the_limit() {
        let long = document(&both(A, B), &both(RUN_A, RUN_B)).replace("\"t\"", &format!("\"\\n{}\"", "ä€".repeat(99)));
        let name = parse(&long, 1.0).unwrap().name.unwrap();
        assert!(name.starts_with("ä€ä") && (253..=256).contains(&name.len()), "{} bytes: {name}", name.len());
    }

    #[test]
    fn one_side_of_a_dependency_is_enough_and_names_may_replace_ids() {
        let orphan = r#"{"name": "b", "id": "b1"}"#;
        let plan = parse(&document(&both(A, orphan), &both(RUN_A, RUN_B)), 1.0).unwrap();
        assert_eq!(plan.executions[1].needs, ["a1"]);
        let by_name = r#"{"name": "b", "id": "b1", "parents": ["a"]}"#;
        let plan = parse(&document(&both(A, by_name), &both(RUN_A, RUN_B)), 1.0).unwrap();
        assert_eq!(plan.executions[1].needs, ["a1"]);
    }

    #[test]
    fn a_missing_or_wrong_field_is_named() {
        assert!(refusal(&document(&both(A, B), RUN_A)).contains("task `b1`"));
        assert!(refusal(&document(A, RUN_A)).contains("child `b1`"));
        assert!(refusal(&document(B, RUN_B)).contains("parent `a1`"));
        assert!(refusal(&document(&both(A, A), RUN_A)).contains("occurs twice"));
        assert!(refusal(&document(&both(A, B), &both(RUN_A, RUN_A))).contains("records it twice"));
        let negative = r#"{"id": "b1", "runtimeInSeconds": -1}"#;
        assert!(refusal(&document(&both(A, B), &both(RUN_A, negative))).contains("-1"));
    }

    #[test]
    fn all_supported_versions_of_the_format_are_read() {
        let plan = |text: &str| {
            let plan = parse(text, 1.0).unwrap_or_else(|error| panic!("{error}"));
            let shown =
                |spec: &ExecutionSpec| (spec.name.clone(), spec.needs.clone(), spec.priority, spec.payload.clone());
            plan.executions.iter().map(shown).collect::<Vec<_>>()
        };
        let text = document(&both(A, B), &both(RUN_A, RUN_B));
        assert_eq!(plan(&text), plan(&text.replace("\"1.5\"", "\"1.6\"")));
        let together = r#"{"name": "t", "schemaVersion": "1.4", "workflow": {"executedAt": "now", "makespanInSeconds": 3, "machines": [],
            "tasks": [{"name": "a", "id": "a1", "type": "compute", "parents": [], "children": ["b"], "files": [],
                       "runtimeInSeconds": 2.5, "priority": 20},
                      {"name": "b", "id": "b1", "parents": ["a"], "runtimeInSeconds": 0}]}}"#;
        assert_eq!(plan(&text), plan(together));
        let without_ids = together.replace("\"id\": \"a1\", ", "").replace("\"id\": \"b1\", ", "");
        assert_eq!(plan(&without_ids)[1].1, ["a"]);
    }

    #[test]
    fn errors_do_not_contain_type_names_of_the_program() {
        for (wrong, said) in [
            (r#"{"schemaVersion": 1.5}"#, "found the number `1.5`, expected a string"),
            (r#"{"schemaVersion": "1.5", "workflow": []}"#, "an object"),
            (r#"{"schemaVersion": "1.5", "workflow": "x"}"#, "found the text \"x\", expected an object"),
            (r#"{"schemaVersion": "1.4", "workflow": {"tasks": {}}}"#, "expected a list"),
            (
                r#"{"schemaVersion": "1.4", "workflow": {"tasks": [{"name": "a", "runtimeInSeconds": "2"}]}}"#,
                "expected a number",
            ),
        ] {
            let error = refusal(wrong);
            assert!(error.contains(said) && error.contains("line 1"), "{wrong}: {error}");
            for word in ["f64", "struct", "sequence", "Workflow", "Section"] {
                assert!(!error.replace("WfFormat workflow", "").contains(word), "{wrong}: {error}");
            }
        }
    }

    #[test]
    fn another_version_and_other_json_are_refused() {
        let error = refusal(r#"{"schemaVersion": "1.3", "workflow": {"tasks": []}}"#);
        assert!(error.contains("`1.3`") && error.contains("1.5"), "{error}");
        assert!(refusal("{}").contains("schemaVersion"));
        let flow = refusal(r#"{"executions": {"a": {"run": "true"}}}"#);
        assert!(flow.contains("ends in .yaml"), "{flow}");
        assert!(refusal("[1").contains("line 1"));
        assert!(refusal(r#"{"schemaVersion": "1.5", "workflow": {"specification": {}}}"#).contains("tasks"));
    }
}
