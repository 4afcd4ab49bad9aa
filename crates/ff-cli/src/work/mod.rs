//! What one execution of `ff run` does, as its payload says: a command, or a sleep in place of recorded work.

pub(crate) mod interpreter;
mod output;
mod processes;
mod shell;
pub(crate) mod stop;
mod strays;
pub(crate) mod supervisor;
mod tail;

use std::{
    path::{Path, PathBuf},
    time::Duration,
};

use bytes::Bytes;
use ff_core::{ExecutionId, Failure, FlowId};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use self::output::Output;
pub(crate) use self::{
    output::{Lines, Printed},
    shell::Command,
    strays::adopt_orphans,
};

/// How much of the output becomes the execution's result.
const RESULT_BYTES: usize = 64 * 1024;
/// The beginning of the reason where an attempt was stopped from outside.
pub(crate) const STOPPED: &str = "stopped";

/// The work of one execution, as it travels in the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Work {
    /// Run a command in a shell.
    Shell(Command),
    /// Sleep.
    Sleep {
        #[serde(rename = "microseconds")]
        micros: u64,
    },
}

/// One attempt: what the work may know and must obey.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) execution_id: ExecutionId,
    pub(crate) flow_id: Option<FlowId>,
    pub(crate) number: u32,
    /// Fires when the attempt must stop: cancelled, timed out, lease lost.
    pub(crate) stop: CancellationToken,
    /// Where the whole output is kept, if it is.
    pub(crate) output_file: Option<PathBuf>,
    /// Where the output is sent as it comes, if it is.
    pub(crate) printed: Option<Printed>,
}

/// How a command's process ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Exit {
    /// It exited with this status.
    ExitStatus(i32),
    /// This signal ended it.
    Signal(i32),
}

/// What came of an attempt.
#[derive(Debug)]
pub(crate) struct Ended {
    /// What is reported: the last part of the output, or why it failed and whether a further attempt may help.
    pub(crate) result: Result<Bytes, Failure>,
    /// Absent where no process ended by itself: stopped, not started, no command.
    pub(crate) exit: Option<Exit>,
    /// The last lines that were printed.
    pub(crate) last_lines: Vec<String>,
}

impl Ended {
    pub(crate) fn without_process(result: Result<Bytes, Failure>) -> Self {
        Self { result, exit: None, last_lines: Vec::new() }
    }
}

impl Work {
    pub(crate) fn to_payload(&self) -> Bytes {
        serde_json::to_vec(self).expect("strings and numbers can always be written as JSON").into()
    }

    /// # Errors
    /// A permanent failure: the payload is not of this program's making.
    pub(crate) fn from_payload(payload: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(payload)
            .map_err(|error| Failure::permanent(format!("the payload is not work for ff: {error}")))
    }

    /// How long it may take to end after it was asked to.
    pub(crate) fn grace(&self) -> Duration {
        match self {
            Self::Shell(command) => command.grace(),
            Self::Sleep { .. } => Duration::ZERO,
        }
    }

    /// Does the work. When it returns, no process of the attempt is left.
    ///
    /// # Cancel safety
    /// Dropping the future ends what was started, without waiting for it.
    pub(crate) async fn perform(&self, attempt: &Attempt) -> Ended {
        match self {
            Self::Shell(command) => shell::run(command, attempt).await,
            Self::Sleep { micros } => Ended::without_process(tokio::select! {
                () = attempt.stop.cancelled() => Err(Failure::retryable(STOPPED)),
                () = tokio::time::sleep(Duration::from_micros(*micros)) => Ok(Bytes::new()),
            }),
        }
    }
}

/// This program, as it was started: also where its file was replaced since.
pub(crate) fn program() -> PathBuf {
    let own = Path::new("/proc/self/exe");
    if own.exists() {
        return own.to_owned();
    }
    let started_as = || std::env::args_os().next().map_or_else(|| PathBuf::from("ff"), PathBuf::from);
    std::env::current_exe().unwrap_or_else(|_| started_as())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_survives_the_payload_and_foreign_payloads_fail_permanently() {
        let mut command = Command::new("true");
        command.env = std::collections::BTreeMap::from([("A".into(), "1".into())]);
        let work = Work::Shell(command);
        assert_eq!(Work::from_payload(&work.to_payload()).unwrap(), work);
        let refused = Work::from_payload(b"hello").unwrap_err();
        assert!(!refused.retryable && refused.reason.contains("not work for ff"), "{refused:?}");
    }

    #[test]
    fn a_payload_of_an_earlier_version_is_understood() {
        let payload = br#"{"shell":{"run":"true","env":{},"working_dir":null}}"#;
        assert_eq!(Work::from_payload(payload).unwrap(), Work::Shell(Command::new("true")));
    }
}
