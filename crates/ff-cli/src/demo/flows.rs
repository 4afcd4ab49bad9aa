//! The flows of the demo, and the simulated work of their executions.

use std::time::Duration;

use bytes::Bytes;
use ff_core::{Backoff, EngineError, ExecutionSpec, Failure, FlowSubmission, LaneId, Namespace, Tags};
use ff_engine::WorkContext;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::plan::NAME_TAG;

/// The tag that one of the watchers filters by.
pub(super) const COLOUR: (&str, &str) = ("colour", "blue");

/// The work of an execution of the demo, as its payload.
#[derive(Debug, Clone, Copy, Serialize, Deserialize)]
enum Simulated {
    /// Takes this many milliseconds and succeeds.
    Takes(u64),
    /// Like `Takes`, but the first attempt fails.
    FailsOnce(u64),
    /// Fails permanently.
    IsBroken,
}

/// Performs one attempt, until `stop`.
pub(super) async fn perform(context: WorkContext, stop: CancellationToken) -> Result<Bytes, Failure> {
    let work = serde_json::from_slice(context.payload()).map_err(|error| Failure::permanent(error.to_string()))?;
    let millis = match work {
        Simulated::Takes(millis) => millis,
        Simulated::FailsOnce(_) if context.attempt() == 1 => {
            return Err(Failure::retryable("the storage did not respond"));
        }
        Simulated::FailsOnce(millis) => millis,
        Simulated::IsBroken => return Err(Failure::permanent("the figures do not add up")),
    };
    tokio::select! {
        () = stop.cancelled() => Err(Failure::retryable("the demo is over")),
        () = context.cancelled() => Err(Failure::retryable("stopped")),
        () = tokio::time::sleep(Duration::from_millis(millis)) => Ok(Bytes::from(format!("took {millis} ms"))),
    }
}

/// The flows of one demo, with its two tenants and its lane. These contain the demo's id, so that several demos can run
/// on one server.
pub(super) struct DemoFlows {
    pub(super) tenant_a: Namespace,
    pub(super) tenant_b: Namespace,
    pub(super) lane: LaneId,
}

impl DemoFlows {
    pub(super) fn new(id: &str) -> Result<Self, EngineError> {
        Ok(Self {
            tenant_a: Namespace::new(&format!("tenant-a.{id}"))?,
            tenant_b: Namespace::new(&format!("tenant-b.{id}"))?,
            lane: LaneId::new(&format!("demo-{id}"))?,
        })
    }

    fn execution(&self, name: &str, needs: &[&str], work: Simulated, blue: bool) -> Result<ExecutionSpec, EngineError> {
        let colour = blue.then(|| (COLOUR.0.to_owned(), COLOUR.1.to_owned()));
        let tags = Tags::new([(NAME_TAG.to_owned(), name.to_owned())].into_iter().chain(colour))?;
        let payload = serde_json::to_vec(&work).map_err(|error| EngineError::invalid("payload", error.to_string()))?;
        let backoff = Backoff { initial: Duration::from_millis(300), max: Duration::from_secs(1) };
        Ok(ExecutionSpec::new(name)
            .needs(needs.iter().copied())
            .lane(self.lane.clone())
            .tags(tags)
            .payload(payload)
            .attempts(3, backoff))
    }

    /// A diamond with six branches, one of which needs a second attempt.
    pub(super) fn orders(&self) -> Result<FlowSubmission, EngineError> {
        use Simulated::{FailsOnce, Takes};
        let parts = ["transform-1", "transform-2", "transform-3", "transform-4", "transform-5", "transform-6"];
        let mut flow = FlowSubmission::new(self.tenant_a.clone()).name("orders");
        flow = flow.execution(self.execution("extract", &[], Takes(200), false)?);
        for (part, millis) in parts.into_iter().zip([120, 180, 90, 150, 60, 210]) {
            let work = if part == "transform-4" { FailsOnce(millis) } else { Takes(millis) };
            flow = flow.execution(self.execution(part, &["extract"], work, true)?);
        }
        flow = flow.execution(self.execution("load", &parts, Takes(100), false)?);
        Ok(flow.execution(self.execution("publish", &["load"], Takes(50), false)?))
    }

    /// A failure in the middle: its dependents are skipped, the other members run.
    pub(super) fn nightly(&self) -> Result<FlowSubmission, EngineError> {
        use Simulated::{IsBroken, Takes};
        Ok(FlowSubmission::new(self.tenant_b.clone())
            .name("nightly")
            .execution(self.execution("fetch", &[], Takes(150), false)?)
            .execution(self.execution("check", &["fetch"], IsBroken, true)?)
            .execution(self.execution("report", &["check"], Takes(100), true)?)
            .execution(self.execution("mail", &["report"], Takes(100), false)?)
            .execution(self.execution("archive", &["fetch"], Takes(250), false)?))
    }

    /// Takes a minute, unless it is cancelled.
    pub(super) fn crawl(&self) -> Result<FlowSubmission, EngineError> {
        use Simulated::Takes;
        Ok(FlowSubmission::new(self.tenant_a.clone())
            .name("crawl")
            .execution(self.execution("crawl", &[], Takes(60_000), false)?)
            .execution(self.execution("index", &["crawl"], Takes(100), true)?))
    }

    /// A fan-out and a fan-in.
    pub(super) fn wide(&self, width: u16) -> Result<FlowSubmission, EngineError> {
        use Simulated::Takes;
        let cells: Vec<String> = (1..=width).map(|cell| format!("cell-{cell}")).collect();
        let mut flow = FlowSubmission::new(self.tenant_b.clone()).name("wide");
        flow = flow.execution(self.execution("seed", &[], Takes(100), false)?);
        for (index, cell) in cells.iter().enumerate() {
            flow = flow.execution(self.execution(cell, &["seed"], Takes(20), index % 10 == 0)?);
        }
        let all: Vec<&str> = cells.iter().map(String::as_str).collect();
        Ok(flow.execution(self.execution("total", &all, Takes(50), false)?))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_flows_are_valid_at_any_width() {
        let demo = DemoFlows::new("0011aabb").unwrap();
        for flow in [demo.orders(), demo.nightly(), demo.crawl(), demo.wide(1), demo.wide(900)] {
            flow.unwrap().topology().unwrap();
        }
    }
}
