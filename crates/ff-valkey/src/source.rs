//! Reading completion logs from the server.

use std::sync::Arc;

use async_trait::async_trait;
use ff_core::{
    EngineError, EntryId, LogCursor, LogId, Partition, Scope,
    reader::{LogFacts, epoch_ends},
};
use ff_script::{keys, wire::Decoder};
use fred::{
    error::Error,
    types::{Resp3Frame, Value},
};
use tokio::time::Instant;

use crate::{
    ValkeyHost,
    backoff::Backoff,
    page::Page,
    together::{Question, Together},
    value::{self, StreamInfo},
    vector::Heads,
};

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
    /// The server's time (ms), and then where each log stands, with its history.
    async fn starts(&self, logs: &[LogId]) -> Result<(u64, Vec<LogCursor>), EngineError>;
    /// The server's time, and then the last entry of each log.
    async fn heads(&self, logs: &[LogId]) -> Result<Heads, EngineError>;
    /// One page of each of several logs, with one round trip.
    async fn pages(&self, reads: &[PageRead]) -> Result<Vec<Page>, EngineError>;
    /// The last entries of the epochs of each of several logs, newest first, with one round trip.
    async fn epochs(&self, logs: &[LogId]) -> Result<Vec<Vec<EntryId>>, EngineError>;
    /// The last entry that each of several logs was given, of those that hold nothing any more: both at one moment.
    async fn emptied(&self, logs: &[LogId]) -> Result<Vec<Option<EntryId>>, EngineError>;
}

/// The logs on the server, over the connection for reads.
#[derive(Debug)]
pub(crate) struct ServerLogs(pub(crate) Arc<ValkeyHost>);

impl ServerLogs {
    fn together<'a>(&'a self, op: &'a str) -> Together<'a> {
        Together::new(&self.0, op)
    }

    /// The logs of a scope of so many partitions.
    pub(crate) fn all(scope: Scope, partitions: usize) -> Vec<LogId> {
        let numbers = 0..u16::try_from(partitions).unwrap_or(u16::MAX);
        numbers.map(|number| LogId { partition: Partition::new(number), scope }).collect()
    }

    /// What logs tell about themselves, and about the entry after a position in each.
    pub(crate) async fn facts(&self, of: &[(LogId, Option<EntryId>)]) -> Result<Vec<LogFacts>, EngineError> {
        const OP: &str = "reading what the completion logs hold";
        if of.is_empty() {
            return Ok(Vec::new());
        }
        let commands = |(log, after): &(LogId, Option<EntryId>)| {
            let page = |after| page_command(&PageRead { log: *log, after, up_to: None, limit: 1 });
            let length = ("XLEN", vec![keys::completion_log(*log).into()]);
            [head_command(*log), epochs_command(*log), page(None), page(*after), length]
        };
        let answers = self.together(OP).ask_all(of.iter().flat_map(commands).collect()).await?;
        let mut answers = answers.into_iter();
        let mut next = || answers.next().unwrap_or(Value::Null);
        let mut facts = |log: LogId| {
            let at = |value: Value| -> Option<(Option<EntryId>, Option<u64>)> {
                let entry = value::entries(value)?.into_iter().next();
                let shown =
                    entry.map(|(id, fields)| value::shown(&mut Decoder::default(), log, id, fields.as_slice().into()));
                let at = shown.as_ref().and_then(|shown| shown.event.as_ref()?.produced_at_ms);
                Some((shown.map(|shown| shown.entry), at))
            };
            let (head, last_at) = at(next())?;
            let ends = epoch_ends(&value::epochs(next())?, head);
            let ((_, first_at), (_, unread_at)) = (at(next())?, at(next())?);
            let len = std::str::from_utf8(&value::string(next())?).ok()?.parse().ok()?;
            Some(LogFacts { ends, len, first_at, last_at, unread_at })
        };
        of.iter().map(|(log, _)| facts(*log)).collect::<Option<_>>().ok_or_else(|| malformed(OP))
    }

    /// The server's time, and where each log stands, by one server.
    async fn starts_together(&self, op: &str, logs: &[LogId]) -> Result<(u64, Vec<LogCursor>), EngineError> {
        let together = self.together(op);
        let heads = logs.iter().map(|log| head_command(*log));
        // After the heads, see `epoch_ends`.
        let epochs = logs.iter().map(|log| epochs_command(*log));
        let mut answers =
            together.ask_all(std::iter::once(time_command()).chain(heads).chain(epochs).collect()).await?;
        let epochs: Option<Vec<_>> = answers.split_off(1 + logs.len()).into_iter().map(value::epochs).collect();
        let heads: Option<Vec<_>> = answers.split_off(1).into_iter().map(head_of).collect();
        let at_ms = answers.pop().and_then(time_of);
        let (Some(at_ms), Some(mut heads), Some(epochs)) = (at_ms, heads, epochs) else { return Err(malformed(op)) };
        // A log that was trimmed to nothing still knows which entry was its last.
        let empty: Vec<usize> = (0..logs.len()).filter(|at| heads[*at].is_none() && !epochs[*at].is_empty()).collect();
        let infos = infos(&together, op, empty.iter().map(|at| logs[*at])).await?;
        for (at, info) in empty.into_iter().zip(infos) {
            heads[at] = info.and_then(|info| info.last);
        }
        let cursor = |(head, epochs): (&Option<EntryId>, &Vec<_>)| match head {
            Some(head) => LogCursor::at_end(&epoch_ends(epochs, Some(*head))),
            None => LogCursor::default(),
        };
        Ok((at_ms, heads.iter().zip(&epochs).map(cursor).collect()))
    }
}

/// What each of these logs tells of itself at one moment; `None` where the log is not there.
async fn infos(
    together: &Together<'_>,
    op: &str,
    logs: impl Iterator<Item = LogId>,
) -> Result<Vec<Option<StreamInfo>>, EngineError> {
    let questions = logs.map(|log| ("XINFO", vec!["STREAM".into(), keys::completion_log(log).into()])).collect();
    let info = |answer: Result<Value, Error>| match answer {
        Ok(info) => value::stream_info(info).map(Some).ok_or_else(|| malformed(op)),
        Err(error) if error.details().contains("no such key") => Ok(None),
        Err(error) => Err(together.failed(error)),
    };
    together.ask(questions).await?.into_iter().map(info).collect()
}

fn malformed(op: &str) -> EngineError {
    EngineError::transport(op, "the server's answer has an unknown shape")
}

fn time_command() -> Question {
    ("TIME", Vec::new())
}

fn time_of(value: Value) -> Option<u64> {
    let parts = value::strings(value)?;
    let number = |at: usize| std::str::from_utf8(parts.get(at)?).ok()?.parse::<u64>().ok();
    Some(number(0)? * 1000 + number(1)? / 1000)
}

fn epochs_command(log: LogId) -> Question {
    ("HGETALL", vec![keys::log_epochs(log).into()])
}

fn head_command(log: LogId) -> Question {
    ("XREVRANGE", vec![keys::completion_log(log).into(), "+".into(), "-".into(), "COUNT".into(), "1".into()])
}

fn page_command(read: &PageRead) -> Question {
    let from = read.after.map_or_else(|| "-".to_owned(), |after| format!("({after}"));
    let to = read.up_to.map_or_else(|| "+".to_owned(), |up_to| up_to.to_string());
    let limit = read.limit.to_string();
    ("XRANGE", vec![keys::completion_log(read.log).into(), from.into(), to.into(), "COUNT".into(), limit.into()])
}

fn head_of(value: Value) -> Option<Option<EntryId>> {
    Some(value::entries(value)?.first().map(|(id, _)| *id))
}

#[async_trait]
impl LogSource for ServerLogs {
    async fn starts(&self, logs: &[LogId]) -> Result<(u64, Vec<LogCursor>), EngineError> {
        const OP: &str = "reading where the completion logs stand";
        let until = Instant::now() + self.0.config().command_timeout;
        let mut backoff = Backoff::reconnect();
        loop {
            match self.starts_together(OP, logs).await {
                Err(EngineError::Transport { .. }) if Instant::now() < until => backoff.pause().await,
                starts => return starts,
            }
        }
    }

    async fn heads(&self, logs: &[LogId]) -> Result<Heads, EngineError> {
        const OP: &str = "reading the heads of the completion logs";
        let heads = logs.iter().map(|log| head_command(*log));
        let mut answers = self.together(OP).ask_all(std::iter::once(time_command()).chain(heads).collect()).await?;
        let heads: Option<Vec<_>> = answers.split_off(1).into_iter().map(head_of).collect();
        let at_ms = answers.pop().and_then(time_of);
        let (Some(at_ms), Some(heads)) = (at_ms, heads) else { return Err(malformed(OP)) };
        Ok(Heads { at_ms, heads })
    }

    async fn pages(&self, reads: &[PageRead]) -> Result<Vec<Page>, EngineError> {
        const OP: &str = "reading completion logs";
        let answers = self.together(OP).ask_raw(reads.iter().map(page_command).collect()).await?;
        let page =
            |(read, answer): (&PageRead, Resp3Frame)| Page::answered(read.log, answer).ok_or_else(|| malformed(OP));
        reads.iter().zip(answers).map(page).collect()
    }

    async fn epochs(&self, logs: &[LogId]) -> Result<Vec<Vec<EntryId>>, EngineError> {
        const OP: &str = "reading the epochs of completion logs";
        // The head first, see `epoch_ends`.
        let questions = logs.iter().flat_map(|log| [head_command(*log), epochs_command(*log)]);
        let mut answers = self.together(OP).ask_all(questions.collect()).await?.into_iter();
        let mut ends = || {
            let head = head_of(answers.next()?)?;
            Some(epoch_ends(&value::epochs(answers.next()?)?, head))
        };
        logs.iter().map(|_| ends()).collect::<Option<_>>().ok_or_else(|| malformed(OP))
    }

    async fn emptied(&self, logs: &[LogId]) -> Result<Vec<Option<EntryId>>, EngineError> {
        const OP: &str = "asking completion logs what they hold";
        let infos = infos(&self.together(OP), OP, logs.iter().copied()).await?;
        Ok(infos.into_iter().map(|info| info.filter(|info| info.len == 0)?.last).collect())
    }
}
