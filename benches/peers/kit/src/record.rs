//! What a contender prints and the runner reads.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

/// One measured quantity. Their order is that of the rows.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub enum Figure {
    /// Executions that were submitted, claimed and completed a second of wall time.
    Executions,
    /// Flows that ended a second of wall time.
    Flows,
    /// Executions whose end reached every subscriber, a second of wall time.
    Ends,
    /// Median time, ms.
    P50,
    /// 99th percentile of the times, ms.
    P99,
    /// CPU time of the server for an execution, us.
    ServerCpu,
    /// CPU time of the client's process for an execution, us.
    ClientCpu,
    /// Commands of the server for an execution, those within functions included.
    Commands,
    /// Commands a second.
    CommandRate,
    /// Share of a core that the server uses, percent.
    ServerShare,
    /// Bytes of the server for a waiting execution.
    Waiting,
    /// Bytes of the server for an ended execution.
    Ended,
    /// Completions that did not reach a subscriber within the time limit.
    Lost,
}

impl Figure {
    /// The name in the table, with the unit.
    #[must_use]
    pub fn title(self) -> &'static str {
        match self {
            Self::Executions => "executions a second",
            Self::Flows => "flows a second",
            Self::Ends => "ends delivered to all a second",
            Self::P50 => "p50, ms",
            Self::P99 => "p99, ms",
            Self::ServerCpu => "server CPU per execution, us",
            Self::ClientCpu => "client CPU per execution, us",
            Self::Commands => "commands per execution",
            Self::CommandRate => "commands a second",
            Self::ServerShare => "server CPU, % of a core",
            Self::Waiting => "bytes, waiting",
            Self::Ended => "bytes, ended",
            Self::Lost => "completions not delivered",
        }
    }

    /// How many times `ours` is as good as `other`.
    #[must_use]
    pub fn ratio(self, ours: f64, other: f64) -> f64 {
        match self {
            Self::Executions | Self::Flows | Self::Ends => ours / other,
            _ => other / ours,
        }
    }
}

/// The result of one run of one contender.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Record {
    /// The name of the contender.
    pub contender: String,
    /// The name of the work.
    pub work: String,
    /// Why the contender cannot do it, if so.
    pub refused: Option<String>,
    /// What was measured.
    pub figures: BTreeMap<Figure, f64>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_above_one_means_that_ours_is_better() {
        assert!(Figure::Executions.ratio(200.0, 100.0) > 1.0);
        assert!(Figure::P99.ratio(1.0, 2.0) > 1.0);
    }
}
