//! What one execution of `ff run` does, as its payload says: a command, or a sleep in place of recorded work.

mod shell;
mod tail;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use bytes::Bytes;
use ff_core::{ExecutionId, Failure, FlowId};
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

/// The work of one execution, as it travels in the payload.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case", deny_unknown_fields)]
pub(crate) enum Work {
    /// Run a command with `sh -c`.
    Shell {
        run: String,
        #[serde(default)]
        env: BTreeMap<String, String>,
        #[serde(default)]
        working_dir: Option<PathBuf>,
    },
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

    /// Does the work; what it printed (its last part) is the result.
    ///
    /// # Errors
    /// The reason and whether a further attempt may help.
    ///
    /// # Cancel safety
    /// Dropping the future ends what was started.
    pub(crate) async fn perform(&self, attempt: &Attempt) -> Result<Bytes, Failure> {
        match self {
            Self::Shell { run, env, working_dir } => shell::run(run, env, working_dir.as_deref(), attempt).await,
            Self::Sleep { micros } => {
                tokio::select! {
                    () = attempt.stop.cancelled() => Err(Failure::retryable("stopped")),
                    () = tokio::time::sleep(Duration::from_micros(*micros)) => Ok(Bytes::new()),
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn work_survives_the_payload_and_foreign_payloads_are_refused_for_good() {
        let work =
            Work::Shell { run: "true".into(), env: BTreeMap::from([("A".into(), "1".into())]), working_dir: None };
        assert_eq!(Work::from_payload(&work.to_payload()).unwrap(), work);
        let refused = Work::from_payload(b"hello").unwrap_err();
        assert!(!refused.retryable && refused.reason.contains("not work for ff"), "{refused:?}");
    }
}
