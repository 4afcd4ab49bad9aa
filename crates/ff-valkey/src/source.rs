//! Reading completion logs from the server.

use std::sync::Arc;

use async_trait::async_trait;
use ff_core::{EngineError, EntryId, LogId};
use ff_script::keys;
use fred::{
    error::Error,
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value},
};

use crate::{ValkeyHost, reading::epoch_ends, value, vector::Shown};

/// Which entries of a log to read.
#[derive(Debug, Clone, Copy)]
pub(crate) struct PageRead {
    pub(crate) log: LogId,
    /// Exclusive; from the log's start if none.
    pub(crate) after: Option<EntryId>,
    /// Inclusive; to the log's end if none.
    pub(crate) up_to: Option<EntryId>,
    pub(crate) limit: usize,
}

/// Where logs are read: the primary, or a simulation.
#[async_trait]
pub(crate) trait LogSource: Send + Sync + 'static {
    /// The last entry of each log.
    async fn heads(&self, logs: &[LogId]) -> Result<Vec<Option<EntryId>>, EngineError>;
    /// One page of each of several logs, with one round trip.
    async fn pages(&self, reads: &[PageRead]) -> Result<Vec<Vec<Shown>>, EngineError>;
    /// The last entries of a log's epochs, newest first.
    async fn epochs(&self, log: LogId) -> Result<Vec<EntryId>, EngineError>;
}

/// The logs on the server, over the connection for reads.
#[derive(Debug)]
pub(crate) struct ServerLogs(pub(crate) Arc<ValkeyHost>);

impl ServerLogs {
    /// Sends one command per key and returns all answers, or the first error.
    async fn ask(&self, op: &str, commands: Vec<(&'static str, Vec<Value>)>) -> Result<Vec<Value>, EngineError> {
        let pipeline = self.0.reads().pipeline();
        let expected = commands.len();
        for (name, args) in commands {
            let command = CustomCommand::new_static(name, ClusterHash::FirstKey, false);
            let queued: Result<(), Error> = pipeline.custom(command, args).await;
            queued.map_err(|error| self.0.doing(op).failed(error))?;
        }
        let answers: Result<Vec<Value>, Error> = pipeline.try_all().await.into_iter().collect();
        let answers = answers.map_err(|error| self.0.doing(op).failed(error))?;
        if answers.len() == expected { Ok(answers) } else { Err(malformed(op)) }
    }
}

fn malformed(op: &str) -> EngineError {
    EngineError::transport(op, "the server's answer has an unknown shape")
}

fn head_command(log: LogId) -> (&'static str, Vec<Value>) {
    ("XREVRANGE", vec![keys::completion_log(log).into(), "+".into(), "-".into(), "COUNT".into(), "1".into()])
}

fn head_of(value: Value) -> Option<Option<EntryId>> {
    Some(value::entries(value)?.first().map(|(id, _)| *id))
}

#[async_trait]
impl LogSource for ServerLogs {
    async fn heads(&self, logs: &[LogId]) -> Result<Vec<Option<EntryId>>, EngineError> {
        const OP: &str = "reading the heads of the completion logs";
        let answers = self.ask(OP, logs.iter().map(|log| head_command(*log)).collect()).await?;
        answers.into_iter().map(head_of).collect::<Option<_>>().ok_or_else(|| malformed(OP))
    }

    async fn pages(&self, reads: &[PageRead]) -> Result<Vec<Vec<Shown>>, EngineError> {
        const OP: &str = "reading completion logs";
        let command = |read: &PageRead| {
            let from = read.after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
            let to = read.up_to.map_or_else(|| "+".to_owned(), |up_to| up_to.to_string());
            let limit = read.limit.to_string();
            (
                "XRANGE",
                vec![keys::completion_log(read.log).into(), from.into(), to.into(), "COUNT".into(), limit.into()],
            )
        };
        let answers = self.ask(OP, reads.iter().map(command).collect()).await?;
        let page = |(read, answer): (&PageRead, Value)| {
            let entries = value::entries(answer)?;
            Some(entries.iter().map(|(id, fields)| value::shown(read.log, *id, fields)).collect())
        };
        reads.iter().zip(answers).map(page).collect::<Option<_>>().ok_or_else(|| malformed(OP))
    }

    async fn epochs(&self, log: LogId) -> Result<Vec<EntryId>, EngineError> {
        const OP: &str = "reading the epochs of a completion log";
        let hash = ("HGETALL", vec![keys::log_epochs(log).into()]);
        let answers = self.ask(OP, vec![hash, head_command(log)]).await?;
        let [epochs, head] = <[Value; 2]>::try_from(answers).map_err(|_| malformed(OP))?;
        let epochs = value::epochs(epochs).ok_or_else(|| malformed(OP))?;
        Ok(epoch_ends(&epochs, head_of(head).ok_or_else(|| malformed(OP))?))
    }
}
