//! The dependencies between the executions of a flow.

use std::collections::HashMap;

use super::{ExecutionSpec, limits};
use crate::{EngineError, error::shown};

/// The dependencies of a flow, as indices into its executions. Free of cycles.
#[derive(Debug, Clone, PartialEq, Eq)]
#[allow(clippy::exhaustive_structs, reason = "complete by definition")]
pub struct FlowTopology {
    /// Per execution, those that it needs, ascending and without repetition.
    pub needs: Vec<Vec<usize>>,
    /// Per execution, those that need it, ascending.
    pub dependents: Vec<Vec<usize>>,
}

impl FlowTopology {
    pub(super) fn of(executions: &[ExecutionSpec]) -> Result<Self, EngineError> {
        let mut index_of = HashMap::with_capacity(executions.len());
        for (index, execution) in executions.iter().enumerate() {
            if index_of.insert(execution.name.as_str(), index).is_some() {
                let name = shown(&execution.name);
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
                        format!("execution `{}`", shown(&execution.name)),
                        format!("it needs `{}`, which is not in the flow", shown(need)),
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

    /// Kahn's algorithm: an execution whose needs are never all met is on a cycle or depends on one.
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
        let cycle: Vec<_> =
            self.cycle_before(stuck, &unmet).into_iter().map(|index| shown(&executions[index].name)).collect();
        Err(EngineError::invalid(
            format!("the cycle {}", cycle.join(" -> ")),
            "executions that need each other can never run; remove one of these dependencies",
        ))
    }

    /// Follows unmet needs backwards until one repeats. Returns the names in the order in which they would have to run.
    fn cycle_before(&self, stuck: usize, unmet: &[usize]) -> Vec<usize> {
        let mut path = vec![stuck];
        loop {
            let last = path[path.len() - 1];
            let need = self.needs[last].iter().copied().find(|need| unmet[*need] > 0);
            // Every stuck execution has a stuck need, so the search always finds one.
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
