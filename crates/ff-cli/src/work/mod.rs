//! The work of one execution of `ff run`, as its payload: a command, or a sleep that replaces recorded work.

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
    output::{LineSender, Lines},
    shell::ShellCommand,
    strays::{adopt_orphans, end_last},
};

/// How many of the last bytes of the output become the execution's result.
const RESULT_BYTES: usize = 64 * 1024;
/// The beginning of the reason of an attempt that was stopped from outside.
pub(crate) const STOPPED: &str = "stopped";

/// The work of one execution, as serialised in the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Work {
    /// Run a command in a shell.
    Shell(ShellCommand),
    /// Sleep.
    Sleep {
        #[serde(rename = "microseconds")]
        micros: u64,
    },
}

/// The context of one attempt.
#[derive(Debug, Clone)]
pub(crate) struct Attempt {
    pub(crate) execution_id: ExecutionId,
    pub(crate) flow_id: Option<FlowId>,
    pub(crate) number: u32,
    /// Cancelled when the attempt must stop: cancellation, timeout, lost lease.
    pub(crate) stop: CancellationToken,
    /// The file for the whole output, if any.
    pub(crate) output_file: Option<PathBuf>,
    /// Where lines of output are sent, if they are shown.
    pub(crate) printed: Option<LineSender>,
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

/// The outcome of an attempt.
#[derive(Debug)]
pub(crate) struct Ended {
    /// The result that is reported: the last part of the output, or why it failed and whether a retry may help.
    pub(crate) result: Result<Bytes, Failure>,
    /// Absent if no process ended on its own: stopped, not started, or no command.
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
    /// A permanent failure: the payload is not from this program.
    pub(crate) fn from_payload(payload: &[u8]) -> Result<Self, Failure> {
        serde_json::from_slice(payload)
            .map_err(|error| Failure::permanent(format!("the payload is not work for ff: {error}")))
    }

    /// How long it may take to end after the stop signal.
    pub(crate) fn grace(&self) -> Duration {
        match self {
            Self::Shell(command) => command.grace(),
            Self::Sleep { .. } => Duration::ZERO,
        }
    }

    /// Performs the work. When it returns, no process of the attempt is left.
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

/// The file of this program, also if it was replaced since the start.
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
        let mut command = ShellCommand::new("true");
        command.env = std::collections::BTreeMap::from([("A".into(), "1".into())]);
        let work = Work::Shell(command);
        assert_eq!(Work::from_payload(&work.to_payload()).unwrap(), work);
        let refused = Work::from_payload(b"hello").unwrap_err();
        assert!(!refused.retryable && refused.reason.contains("not work for ff"), "{refused:?}");
    }

    #[test]
    fn a_payload_of_an_earlier_version_is_understood() {
        let payload = br#"{"shell":{"run":"true","env":{},"working_dir":null}}"#;
        assert_eq!(Work::from_payload(payload).unwrap(), Work::Shell(ShellCommand::new("true")));
    }
}
