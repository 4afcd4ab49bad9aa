//! Reading completion logs from the server.

use std::sync::Arc;

use async_trait::async_trait;
use ff_core::{
    EngineError, EntryId, LogId, Partition, Scope,
    reader::{EpochEnds, LogCursor, LogFacts},
};
use ff_script::{
    host::Call,
    keys,
    operations::{Appended, Head, LogBytes, Newest, appended_call, heads_call, parse_appended, parse_head},
    wire::{self, Decoder},
};
use fred::{
    error::Error,
    types::{Resp3Frame, Value},
};
use tokio::time::Instant;

use crate::{
    ValkeyHost,
    completions::page::{Page, log_entry},
    host::{
        self,
        together::{Question, Together},
    },
    net::{
        backoff::Backoff,
        error::{concerns_one_command, is_missing_function},
        value::{self, StreamInfo},
    },
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

/// The result of reading each of several logs. A log that cannot be read does not affect the others.
pub(crate) type OfEach<T> = Vec<Result<T, EngineError>>;

/// The source of logs: the primary, or a simulation. A read fails as a whole if the server could not be reached or
/// could not answer at all; a refusal for one log fails only that log.
#[async_trait]
pub(crate) trait LogSource: Send + Sync + 'static {
    /// The server's time (ms), and then the position of each log, with its history.
    async fn starts(&self, logs: &[LogId]) -> Result<(u64, OfEach<LogCursor>), EngineError>;
    /// The server's time, and the logs of a scope to which it has appended since it returned this tally.
    async fn appended(&self, scope: Scope, since: &str) -> Result<Appended, EngineError>;
    /// The newest entry of each log, compared with the newest entry that the reader has.
    async fn heads(&self, of: &[(LogId, Option<Newest>)]) -> Result<OfEach<Head>, EngineError>;
    /// One page of each of several logs, with one round trip.
    async fn pages(&self, reads: &[PageRead]) -> Result<OfEach<Page>, EngineError>;
    /// The last entries of the epochs of each of several logs, newest first, with one round trip.
    async fn epochs(&self, logs: &[LogId]) -> Result<OfEach<EpochEnds>, EngineError>;
    /// The last entry ever appended to each of several logs, for the logs that are empty: both facts are read
    /// atomically.
    async fn emptied(&self, logs: &[LogId]) -> Result<OfEach<Option<EntryId>>, EngineError>;
}

/// The logs on the server, over the connection for reads.
#[derive(Debug)]
pub(crate) struct ServerLogs(pub(crate) Arc<ValkeyHost>);

impl ServerLogs {
    fn together<'a>(&'a self, op: &'a str) -> Together<'a> {
        Together::new(&self.0, op)
    }

    /// Calls a function for each log; `None` if the library is missing or this user may not call it.
    async fn call_for_each(&self, op: &str, calls: Vec<Call>) -> Result<Option<Answers>, EngineError> {
        let questions = calls.iter().map(|call| ("FCALL_RO", host::arguments(call))).collect();
        let answers = ask(&self.together(op), questions).await?;
        let may_not = |error: &Error| error.details().starts_with("NOPERM") && !error.details().contains(" key");
        let is_missing = |answer: &Result<Value, Error>| {
            answer.as_ref().is_err_and(|error| is_missing_function(error) || may_not(error))
        };
        Ok(if answers.first().is_some_and(is_missing) { None } else { Some(answers) })
    }

    /// As [`LogSource::heads`], without the library.
    async fn heads_without_library(&self, of: &[(LogId, Option<Newest>)]) -> Result<OfEach<Head>, EngineError> {
        let together = self.together(HEADS);
        let answers = ask(&together, of.iter().map(|(log, _)| head_command(*log)).collect()).await?;
        let head = |((_, has), answer): (&(LogId, Option<Newest>), Result<Value, Error>)| {
            let is = |has: &Newest, newest: &Newest| {
                newest.entry == has.entry && (has.execution.is_none() || has.execution == newest.execution)
            };
            Ok(match (read(&together, HEADS, Some(answer), newest_of)?, has) {
                (None, None) => Head::Known,
                (None, Some(_)) => Head::Empty,
                (Some(newest), Some(has)) if is(has, &newest) => Head::Known,
                (Some(newest), _) => Head::At(newest),
            })
        };
        Ok(of.iter().zip(answers).map(head).collect())
    }

    /// The logs of a scope with this many partitions.
    pub(crate) fn all(scope: Scope, partitions: usize) -> Vec<LogId> {
        let numbers = 0..u16::try_from(partitions).unwrap_or(u16::MAX);
        numbers.map(|number| LogId { partition: Partition::new(number), scope }).collect()
    }

    /// The facts of each of several logs, and of the entry after a position in it.
    pub(crate) async fn facts(&self, of: &[(LogId, Option<EntryId>)]) -> Result<OfEach<LogFacts>, EngineError> {
        const OP: &str = "reading what the completion logs hold";
        let together = self.together(OP);
        let commands = |(log, after): &(LogId, Option<EntryId>)| {
            let page = |after| page_command(&PageRead { log: *log, after, up_to: None, limit: 1 });
            let length = ("XLEN", vec![keys::completion_log(*log).into()]);
            [head_command(*log), epochs_command(*log), page(None), page(*after), length]
        };
        let mut answers = ask(&together, of.iter().flat_map(commands).collect()).await?.into_iter();
        let mut facts = |log: LogId, after: Option<EntryId>| {
            // All answers for this log are taken, even if one of them is an error.
            let [head, epochs, first, next, len] = std::array::from_fn(|_| answers.next());
            let entry = |answer| read(&together, OP, answer, |value| entry_in(value, log));
            let (last, epochs) = (entry(head)?, read(&together, OP, epochs, value::pairs)?);
            let bytes = epochs.iter().find(|(name, _)| name == LogBytes::FIELD);
            let bytes = bytes.map(|(_, value)| LogBytes::read(value)).unwrap_or_default();
            let ends = EpochEnds::of(&value::epochs_in(&epochs), last.map(|(head, _)| head));
            let at = |entry: Option<(EntryId, Option<u64>)>| entry.and_then(|(_, at)| at);
            Ok(LogFacts {
                ends,
                len: read(&together, OP, len, |value| std::str::from_utf8(&value::string(value)?).ok()?.parse().ok())?,
                bytes: bytes.total(),
                unread_bytes: bytes.after(after),
                first_at: at(entry(first)?),
                last_at: at(last),
                unread_at: at(entry(next)?),
            })
        };
        Ok(of.iter().map(|(log, after)| facts(*log, *after)).collect())
    }

    /// The server's time, and the position of each log, from one server.
    async fn starts_together(&self, op: &str, logs: &[LogId]) -> Result<(u64, OfEach<LogCursor>), EngineError> {
        let together = self.together(op);
        let heads = logs.iter().map(|log| head_command(*log));
        // After the heads, see `EpochEnds::of`.
        let epochs = logs.iter().map(|log| epochs_command(*log));
        let questions = std::iter::once(time_command()).chain(heads).chain(epochs).collect();
        let mut answers = ask(&together, questions).await?.into_iter();
        let at_ms = read(&together, op, answers.next(), time_of)?;
        let heads: OfEach<_> = logs.iter().map(|_| read(&together, op, answers.next(), head_of)).collect();
        let stand = |head: Result<Option<EntryId>, EngineError>| {
            let epochs = read(&together, op, answers.next(), value::epochs);
            Ok((head?, epochs?))
        };
        let mut stands: OfEach<_> = heads.into_iter().map(stand).collect();
        // A log that was trimmed to nothing still records its last entry.
        let is_empty = |at: &usize| matches!(&stands[*at], Ok((None, epochs)) if !epochs.is_empty());
        let empty: Vec<usize> = (0..logs.len()).filter(is_empty).collect();
        let infos = infos(&together, op, empty.iter().map(|at| logs[*at])).await?;
        for (at, info) in empty.into_iter().zip(infos) {
            match (&mut stands[at], info) {
                (Ok((head, _)), Ok(info)) => *head = info.and_then(|info| info.last),
                (stand, info) => *stand = info.map(|_| (None, Vec::new())),
            }
        }
        let cursor = |stand: Result<(Option<EntryId>, Vec<_>), EngineError>| {
            let (head, epochs) = stand?;
            Ok(head.map_or_else(LogCursor::default, |head| LogCursor::at_end(&EpochEnds::of(&epochs, Some(head)))))
        };
        Ok((at_ms, stands.into_iter().map(cursor).collect()))
    }
}

type Answers = Vec<Result<Value, Error>>;

/// One answer for each question, or the reason why the server refused it. An error that concerns all commands fails
/// them all.
async fn ask(together: &Together<'_>, questions: Vec<Question>) -> Result<Answers, EngineError> {
    let answers = together.ask(questions).await?;
    let for_all = answers.iter().filter_map(|answer| answer.as_ref().err()).find(|error| !concerns_one_command(error));
    match for_all {
        Some(error) => Err(together.failed(error.clone())),
        None => Ok(answers),
    }
}

/// Parses one answer, or returns its error.
fn read<T>(
    together: &Together<'_>,
    op: &str,
    answer: Option<Result<Value, Error>>,
    read: impl FnOnce(Value) -> Option<T>,
) -> Result<T, EngineError> {
    let value = answer.ok_or_else(|| malformed(op))?.map_err(|error| together.failed(error))?;
    read(value).ok_or_else(|| malformed(op))
}

/// The server's information on each of these logs, read atomically; `None` if the log does not exist.
async fn infos(
    together: &Together<'_>,
    op: &str,
    logs: impl Iterator<Item = LogId>,
) -> Result<OfEach<Option<StreamInfo>>, EngineError> {
    let questions = logs.map(|log| ("XINFO", vec!["STREAM".into(), keys::completion_log(log).into()])).collect();
    let info = |answer: Result<Value, Error>| match answer {
        Ok(info) => value::stream_info(info).map(Some).ok_or_else(|| malformed(op)),
        Err(error) if error.details().contains("no such key") => Ok(None),
        Err(error) => Err(together.failed(error)),
    };
    Ok(ask(together, questions).await?.into_iter().map(info).collect())
}

const HEADS: &str = "reading the heads of the completion logs";

fn newest_of(value: Value) -> Option<Option<Newest>> {
    let newest = value::entries(value)?.into_iter().next();
    Some(newest.map(|(entry, fields)| Newest { entry, execution: wire::execution_of(&fields).map(|id| id.uuid()) }))
}

/// The first of these entries, and when it was committed.
fn entry_in(value: Value, log: LogId) -> Option<Option<(EntryId, Option<u64>)>> {
    let entry = value::entries(value)?.into_iter().next();
    let shown = entry.map(|(id, fields)| log_entry(&mut Decoder::default(), log, id, fields.as_slice().into()));
    Some(shown.map(|shown| (shown.entry, shown.event.as_ref().and_then(|event| event.produced_at_ms))))
}

fn malformed(op: &str) -> EngineError {
    EngineError::protocol(op, "the server's answer has an unknown shape")
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
    async fn starts(&self, logs: &[LogId]) -> Result<(u64, OfEach<LogCursor>), EngineError> {
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

    async fn appended(&self, scope: Scope, since: &str) -> Result<Appended, EngineError> {
        let call = appended_call(LogId { partition: Partition::new(0), scope }, since);
        let op = call.function;
        if let Some(mut answers) = self.call_for_each(op, vec![call]).await? {
            let answer = answers.pop().ok_or_else(|| malformed(op))?;
            let reply = value::strings(answer.map_err(|error| self.0.doing(op).failed(error))?);
            return parse_appended(&reply.ok_or_else(|| malformed(op))?, scope);
        }
        let mut answers = self.together(HEADS).ask_all(vec![time_command()]).await?;
        let at_ms = answers.pop().and_then(time_of).ok_or_else(|| malformed(HEADS))?;
        Ok(Appended { at_ms, tally: String::new(), logs: None })
    }

    async fn heads(&self, of: &[(LogId, Option<Newest>)]) -> Result<OfEach<Head>, EngineError> {
        let calls = of.iter().map(|(log, has)| heads_call(*log, *has)).collect();
        let Some(answers) = self.call_for_each("ff1_heads", calls).await? else {
            return self.heads_without_library(of).await;
        };
        let head = |answer: Result<Value, Error>| {
            let reply = value::strings(answer.map_err(|error| self.0.doing("ff1_heads").failed(error))?);
            parse_head(&reply.ok_or_else(|| malformed(HEADS))?)
        };
        Ok(answers.into_iter().map(head).collect())
    }

    async fn pages(&self, reads: &[PageRead]) -> Result<OfEach<Page>, EngineError> {
        const OP: &str = "reading completion logs";
        let answers = self.together(OP).ask_raw(reads.iter().map(page_command).collect()).await?;
        let page = |(read, answer): (&PageRead, Result<Resp3Frame, Error>)| match answer {
            Ok(answer) => Ok(Page::answered(read.log, answer).ok_or_else(|| malformed(OP))),
            Err(error) if concerns_one_command(&error) => Ok(Err(self.0.doing(OP).failed(error))),
            Err(error) => Err(self.0.doing(OP).failed(error)),
        };
        reads.iter().zip(answers).map(page).collect()
    }

    async fn epochs(&self, logs: &[LogId]) -> Result<OfEach<EpochEnds>, EngineError> {
        const OP: &str = "reading the epochs of completion logs";
        let together = self.together(OP);
        // The head first, see `EpochEnds::of`.
        let questions = logs.iter().flat_map(|log| [head_command(*log), epochs_command(*log)]);
        let mut answers = ask(&together, questions.collect()).await?.into_iter();
        let mut ends = || {
            let (head, epochs) = (answers.next(), answers.next());
            let head = read(&together, OP, head, head_of)?;
            Ok(EpochEnds::of(&read(&together, OP, epochs, value::epochs)?, head))
        };
        Ok(logs.iter().map(|_| ends()).collect())
    }

    async fn emptied(&self, logs: &[LogId]) -> Result<OfEach<Option<EntryId>>, EngineError> {
        const OP: &str = "asking completion logs what they hold";
        let infos = infos(&self.together(OP), OP, logs.iter().copied()).await?;
        let emptied = |info: Result<Option<StreamInfo>, EngineError>| {
            Ok(info?.and_then(|info| if info.len == 0 { info.last } else { None }))
        };
        Ok(infos.into_iter().map(emptied).collect())
    }
}
