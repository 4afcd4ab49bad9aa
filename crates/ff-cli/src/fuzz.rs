//! What must hold for any bytes that are read as a flow: one function per format, for the fuzz targets under `fuzz/`
//! and for the property tests of `tests/fuzz.rs`.
//!
//! Each panics where a property does not hold, and returns whether the input was accepted.

use std::path::Path;

use uuid::Uuid;

use crate::{
    plan::{NAME_TAG, Plan},
    work::Work,
};

/// The longest message.
const MESSAGE_CHARS: usize = 1_000;

/// A flow in YAML. What is accepted is made of commands.
pub fn flow_yaml(bytes: &[u8]) -> bool {
    let Some(plan) = read("flow.yaml", bytes) else { return false };
    assert!(!plan.simulated && works(&plan).all(|work| matches!(work, Work::Shell { .. })));
    true
}

/// A recorded workflow in WfFormat. What is accepted only sleeps.
pub fn wfformat(bytes: &[u8]) -> bool {
    let Some(plan) = read("trace.json", bytes) else { return false };
    assert!(plan.simulated && works(&plan).all(|work| matches!(work, Work::Sleep { .. })));
    true
}

fn works(plan: &Plan) -> impl Iterator<Item = Work> {
    plan.executions.iter().map(|spec| Work::from_payload(&spec.payload).expect("a plan's payload is work for ff"))
}

/// What is accepted can be submitted, in every run. What is refused is told in one short line that begins with the
/// file and does not speak of what `ff` itself would have added.
fn read(file: &str, bytes: &[u8]) -> Option<Plan> {
    match Plan::parse(Path::new(file), bytes.to_vec(), None) {
        Ok(plan) => {
            let flow = plan.submission(Uuid::from_u128(u128::MAX), None).expect("it was checked");
            let topology = flow.topology().expect("it was checked");
            assert_eq!((topology.needs.len(), flow.executions.len()), (plan.executions.len(), plan.executions.len()));
            Some(plan)
        }
        Err(error) => {
            let line = error.to_string();
            assert!(line.starts_with(&format!("{file}: ")), "{line}");
            assert!(line.chars().count() <= MESSAGE_CHARS && !line.contains(char::is_control), "{line}");
            assert!(!line.contains(NAME_TAG) || String::from_utf8_lossy(bytes).contains(NAME_TAG), "{line}");
            None
        }
    }
}
