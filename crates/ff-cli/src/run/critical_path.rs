//! The critical path: the chain of executions that determines a flow's duration.

use std::time::Duration;

use ff_core::FlowTopology;

/// The longest chain by the time its members took.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct CriticalPath {
    /// Indices of the members, first to last.
    pub(crate) members: Vec<usize>,
    /// The sum of their times.
    pub(crate) total: Duration,
}

/// Finds the longest chain. `took` has the time of each member, zero if it never ran.
pub(crate) fn critical_path(topology: &FlowTopology, took: &[Duration]) -> CriticalPath {
    let members = topology.needs.len();
    let mut unmet: Vec<usize> = topology.needs.iter().map(Vec::len).collect();
    let mut free: Vec<usize> = (0..members).filter(|member| unmet[*member] == 0).collect();
    let mut until = vec![Duration::ZERO; members];
    let mut before: Vec<Option<usize>> = vec![None; members];
    while let Some(member) = free.pop() {
        let slowest = topology.needs[member].iter().copied().max_by_key(|need| until[*need]);
        before[member] = slowest;
        until[member] = slowest.map_or(Duration::ZERO, |need| until[need]) + took[member];
        for dependent in &topology.dependents[member] {
            unmet[*dependent] -= 1;
            if unmet[*dependent] == 0 {
                free.push(*dependent);
            }
        }
    }
    let Some(last) = (0..members).max_by_key(|member| until[*member]) else {
        return CriticalPath { members: Vec::new(), total: Duration::ZERO };
    };
    let mut path: Vec<usize> = std::iter::successors(Some(last), |member| before[*member]).collect();
    path.reverse();
    // Members at the end that took no time (skipped, never run) do not belong to the path.
    while path.len() > 1 && path.last().is_some_and(|member| took[*member].is_zero()) {
        path.pop();
    }
    CriticalPath { total: until[last], members: path }
}

#[cfg(test)]
mod tests {
    use ff_core::{ExecutionSpec, FlowSubmission, Namespace};

    use super::*;

    fn path(members: &[(&str, &[&str], u64)]) -> (Vec<String>, u64) {
        let flow =
            members.iter().fold(FlowSubmission::new(Namespace::default_namespace()), |flow, (name, needs, _)| {
                flow.execution(ExecutionSpec::new(*name).needs(needs.iter().copied()))
            });
        let took: Vec<_> = members.iter().map(|(.., ms)| Duration::from_millis(*ms)).collect();
        let path = critical_path(&flow.topology().unwrap(), &took);
        let names = path.members.iter().map(|member| flow.executions[*member].name.clone()).collect();
        (names, u64::try_from(path.total.as_millis()).unwrap())
    }

    #[test]
    fn the_slower_branch_of_a_diamond_counts() {
        let found = path(&[("a", &[], 10), ("b", &["a"], 50), ("c", &["a"], 90), ("d", &["b", "c"], 5)]);
        assert_eq!(found, (vec!["a".into(), "c".into(), "d".into()], 105));
    }

    #[test]
    fn many_short_steps_can_outweigh_a_long_one() {
        let found = path(&[("long", &[], 100), ("x", &[], 60), ("y", &["x"], 60), ("end", &["long", "y"], 1)]);
        assert_eq!(found, (vec!["x".into(), "y".into(), "end".into()], 121));
    }

    #[test]
    fn members_that_never_ran_are_left_out() {
        assert_eq!(path(&[("a", &[], 10), ("skipped", &["a"], 0)]), (vec!["a".into()], 10));
        assert_eq!(path(&[("cancelled", &[], 0)]), (vec!["cancelled".into()], 0));
    }

    #[test]
    fn the_order_of_the_file_does_not_matter() {
        let found = path(&[("d", &["c"], 1), ("c", &["b"], 2), ("b", &["a"], 3), ("a", &[], 4)]);
        assert_eq!(found, (vec!["a".into(), "b".into(), "c".into(), "d".into()], 10));
    }
}
