//! Flow files, and random flows in both formats: each is read as it was written, or refused for its mistake.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use ff_core::{LaneId, limits};
use proptest::prelude::*;
use serde_json::{Value, json};
use uuid::Uuid;

use super::*;
use crate::{
    plan::{NAME_TAG, RUN_TAG},
    work::Work,
};

fn example(name: &str) -> Plan {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples").join(name);
    from_path(&path, None).unwrap_or_else(|error| panic!("{error}"))
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
    for expected in ["hello.yaml", "build-and-test.yaml", "fan-out.yaml", "nightly-report.yaml", "wfformat-small.json"]
    {
        assert!(names.iter().any(|name| name == expected), "{expected} is missing");
    }
}

#[test]
fn a_byte_order_mark_is_not_part_of_a_flow_file() {
    for (file, text) in [("a.yaml", "executions: {a: {run: echo x}}"), ("-", "{executions: {a: {run: echo x}}}")] {
        let plan = from_bytes(Path::new(file), format!("\u{feff}{text}").into_bytes(), None).unwrap();
        assert_eq!(plan.executions.len(), 1, "{file}");
    }
}

#[test]
fn the_format_is_determined_by_extension_and_otherwise_by_content() {
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
fn a_time_scale_for_commands_and_an_invalid_one_are_refused() {
    let examples = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../examples");
    let error = from_path(&examples.join("hello.yaml"), Some(0.1)).unwrap_err().to_string();
    assert!(error.contains("--time-scale"), "{error}");
    let error = from_path(&examples.join("wfformat-small.json"), Some(f64::NAN)).unwrap_err().to_string();
    assert!(error.contains("NaN"), "{error}");
}

#[test]
fn a_file_that_is_not_there_is_named() {
    let error = from_path(Path::new("no/such/flow.yaml"), None).unwrap_err().to_string();
    assert!(error.starts_with("no/such/flow.yaml: cannot be read"), "{error}");
}

/// The dependencies, by index.
#[derive(Debug, Clone)]
struct Graph {
    names: Vec<String>,
    needs: Vec<BTreeSet<usize>>,
}

impl Graph {
    fn has_cycle(&self) -> bool {
        (0..self.needs.len()).any(|index| {
            let mut reached = BTreeSet::new();
            let mut next: Vec<_> = self.needs[index].iter().copied().collect();
            while let Some(need) = next.pop() {
                if reached.insert(need) {
                    next.extend(&self.needs[need]);
                }
            }
            reached.contains(&index)
        })
    }

    fn names_of(&self, index: usize) -> Vec<String> {
        self.needs[index].iter().map(|need| self.names[*need].clone()).collect()
    }

    /// Checks the flow that was read, whose members are called `name(index)`.
    fn check(&self, read: Result<Plan, CliError>, name: impl Fn(usize) -> String) -> Result<(), TestCaseError> {
        let plan = match read {
            Ok(plan) => plan,
            Err(error) => {
                prop_assert!(self.has_cycle() && error.to_string().contains(" cycle "), "{error}");
                return Ok(());
            }
        };
        prop_assert!(!self.has_cycle());
        let read = plan.executions.iter().map(|spec| (spec.name.clone(), spec.needs.iter().cloned().collect()));
        let written =
            (0..self.needs.len()).map(|index| (name(index), self.needs[index].iter().copied().map(&name).collect()));
        prop_assert_eq!(read.collect::<BTreeMap<_, BTreeSet<_>>>(), written.collect());
        Ok(())
    }
}

fn name() -> impl Strategy<Value = String> {
    let odd =
        vec!["~", "null", "yes", "1.0", "0x10", "- a", "a: b", "#", "*a", "&a", "!t", "\"", "'", " ", "é", "[", "%"];
    prop_oneof!["[a-z]{1,3}", "\\PC{1,12}", prop::sample::select(odd).prop_map(str::to_owned)]
}

prop_compose! {
    fn graph()(
        names in prop::collection::btree_set(name(), 1..12),
        edges in prop::collection::vec(any::<(prop::sample::Index, prop::sample::Index)>(), 0..30),
        backwards: bool,
    ) -> Graph {
        let names: Vec<_> = names.into_iter().collect();
        let mut needs = vec![BTreeSet::new(); names.len()];
        for (one, other) in edges {
            let (one, other) = (one.index(names.len()), other.index(names.len()));
            // Edges that all point backwards form no cycle.
            let (one, other) = if backwards { (one.max(other), one.min(other)) } else { (one, other) };
            if !(backwards && one == other) {
                needs[one].insert(other);
            }
        }
        Graph { names, needs }
    }
}

fn yaml(graph: &Graph, as_list: bool) -> String {
    let entry = |index: usize| json!({"run": "true", "needs": graph.names_of(index)});
    let indices = 0..graph.names.len();
    let executions: Value = if as_list {
        let named = |index: usize| {
            let mut entry = entry(index);
            entry["name"] = json!(graph.names[index]);
            entry
        };
        indices.map(named).collect()
    } else {
        Value::Object(indices.map(|index| (graph.names[index].clone(), entry(index))).collect())
    };
    // JSON is YAML.
    json!({"executions": executions}).to_string()
}

/// Which side of a dependency names the other, and how.
#[derive(Debug, Clone, Copy)]
struct Reference {
    by_child: bool,
    by_parent: bool,
    by_name: bool,
}

/// An id that differs from all names.
fn id(index: usize) -> String {
    format!("task number {index} of the workflow")
}

fn wfformat(graph: &Graph, runtimes: &[f64], references: &[Reference]) -> String {
    let mut specified: Vec<_> = graph.names.iter().map(|name| (name, Vec::new(), Vec::new())).collect();
    let edges =
        graph.needs.iter().enumerate().flat_map(|(child, needs)| needs.iter().map(move |parent| (child, *parent)));
    for ((child, parent), by) in edges.zip(references.iter().cycle()) {
        let reference = |index: usize| if by.by_name { graph.names[index].clone() } else { id(index) };
        if by.by_child || !by.by_parent {
            specified[child].1.push(reference(parent));
        }
        if by.by_parent {
            specified[parent].2.push(reference(child));
        }
    }
    let task = |(index, (name, parents, children))| json!({"id": id(index), "name": name, "parents": parents, "children": children});
    let tasks: Value = specified.into_iter().enumerate().map(task).collect();
    let runs: Value = (0..graph.names.len())
        .map(|index| json!({"id": id(index), "runtimeInSeconds": runtimes[index % runtimes.len()]}))
        .collect();
    json!({"schemaVersion": "1.5", "workflow": {"specification": {"tasks": tasks}, "execution": {"tasks": runs}}})
        .to_string()
}

fn parse(file: &str, text: String) -> Result<Plan, CliError> {
    from_bytes(Path::new(file), text.into_bytes(), None)
}

/// Numbers of all sizes.
fn number() -> impl Strategy<Value = u64> {
    (any::<u64>(), 0..64).prop_map(|(number, shift)| number >> shift)
}

proptest! {
    #[test]
    fn a_flow_in_yaml_is_read_as_it_was_written_or_refused_for_its_cycle(graph in graph(), as_list: bool) {
        let text = yaml(&graph, as_list);
        graph.check(parse("flow.yaml", text), |index| graph.names[index].clone())?;
    }

    #[test]
    fn a_recorded_workflow_is_read_as_it_was_written_or_refused_for_its_cycle(
        graph in graph(),
        runtimes in prop::collection::vec(0.0..1e6, 12),
        references in prop::collection::vec(any::<(bool, bool, bool)>(), 1..9),
    ) {
        let references =
            references.into_iter().map(|(by_child, by_parent, by_name)| Reference { by_child, by_parent, by_name });
        let references: Vec<_> = references.collect();
        let read = parse("trace.json", wfformat(&graph, &runtimes, &references));
        if let Ok(plan) = &read {
            for (spec, seconds) in plan.executions.iter().zip(&runtimes) {
                let micros = (seconds * 1e6).round() as u64;
                prop_assert_eq!(Work::from_payload(&spec.payload).unwrap(), Work::Sleep { micros });
            }
        }
        graph.check(read, id)?;
    }

    #[test]
    fn numbers_are_accepted_within_their_bounds_only(
        retries in number(),
        priority in number(),
        length in number(),
        unit in prop::sample::select(&[("ns", 1_u128), ("us", 1_000), ("ms", 1_000_000), ("s", 1_000_000_000), ("h", 3_600_000_000_000)]),
    ) {
        let (unit, nanos) = unit;
        let execution = |fields: String| parse("flow.yaml", format!("executions: {{a: {{run: x, {fields}}}}}"));
        let read = execution(format!("retries: {retries}"));
        prop_assert_eq!(read.is_ok(), retries < u64::from(u32::MAX));
        prop_assert!(read.is_err() || u64::from(read.unwrap().executions[0].max_attempts) == retries + 1);
        prop_assert_eq!(execution(format!("priority: {priority}")).is_ok(), priority <= u64::from(limits::PRIORITY));
        let nanos = u128::from(length) * nanos;
        let expected = Duration::from_millis(1).as_nanos() <= nanos && nanos <= limits::DURATION.as_nanos();
        let read = execution(format!("timeout: {length}{unit}"));
        prop_assert_eq!(read.is_ok(), expected);
        prop_assert!(read.is_err() || read.unwrap().executions[0].timeout.unwrap().as_nanos() == nanos);
    }
}
