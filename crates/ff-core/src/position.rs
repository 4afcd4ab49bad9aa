//! Positions in the completion logs. There is one log per partition and scope; a position names one entry of one log.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{EngineError, Partition, error::shown};

/// An entry of a completion log: the epoch of its writer and the number within it, counted from 0 without holes.
///
/// A server process begins a new epoch when it starts to write to the log. Compare epochs for equality only: the clocks
/// of two servers differ, so a greater epoch is not necessarily later. (`Ord` is the order within one log at one time.)
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "complete by definition")]
pub struct EntryId {
    /// The writer's epoch.
    pub epoch: u64,
    /// The number within the epoch.
    pub seq: u64,
}

impl fmt::Display for EntryId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}-{}", self.epoch, self.seq)
    }
}

impl FromStr for EntryId {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let parts = text.split_once('-').and_then(|(epoch, seq)| Some((epoch.parse().ok()?, seq.parse().ok()?)));
        let (epoch, seq) = parts.ok_or_else(|| {
            EngineError::invalid(format!("log entry id `{}`", shown(text)), "expected `<epoch>-<seq>`")
        })?;
        Ok(Self { epoch, seq })
    }
}

/// The kind of executions whose completions a log holds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[allow(clippy::exhaustive_enums, reason = "complete by definition")]
pub enum Scope {
    /// Members of flows.
    Flows,
    /// Solo executions.
    Solo,
}

/// One completion log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "complete by definition")]
pub struct LogId {
    /// The partition it belongs to.
    pub partition: Partition,
    /// The kind of executions.
    pub scope: Scope,
}

impl fmt::Display for LogId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.scope {
            Scope::Flows => write!(f, "{}", self.partition),
            Scope::Solo => write!(f, "{}:solo", self.partition),
        }
    }
}

/// One entry of one completion log.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[allow(clippy::exhaustive_structs, reason = "complete by definition")]
pub struct Position {
    /// The log.
    pub log: LogId,
    /// The entry.
    pub entry: EntryId,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}@{}", self.log, self.entry)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_entry_id_survives_print_and_parse() {
        let id = EntryId { epoch: 1_764_000_000_000, seq: 41 };
        assert_eq!(id.to_string().parse::<EntryId>().unwrap(), id);
    }

    #[test]
    fn a_malformed_entry_id_is_refused_with_the_text() {
        for bad in ["", "7", "7-", "-7", "a-b", "7-8-9", "-1-2"] {
            assert!(bad.parse::<EntryId>().unwrap_err().to_string().contains(&format!("`{bad}`")));
        }
    }
}
