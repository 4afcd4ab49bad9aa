//! Queries of an operator about a server. Read-only, and not needed to run flows.

use std::collections::BTreeMap;

use ff_core::{EngineError, LogId, PartitionCount, Scope};
use ff_script::{keys, operations::Deployment};
use fred::{
    error::Error,
    interfaces::ClientLike,
    types::{ClusterHash, CustomCommand, Value},
};

use crate::{
    ValkeyHost,
    host::together::Together,
    net::{error::concerns_one_command, value},
};

/// The size of one completion log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogSize {
    /// The log.
    pub log: LogId,
    /// The number of present entries.
    pub entries: u64,
    /// The number of entries ever appended.
    pub appended: u64,
    /// The memory that it uses on the server.
    pub bytes: u64,
}

/// The sizes of several completion logs.
#[derive(Debug, Default)]
pub struct LogSizes {
    /// Those that have or had entries.
    pub sizes: Vec<LogSize>,
    /// Those that cannot be read: another program has overwritten the key, or a permission is missing.
    pub unreadable: Vec<(LogId, EngineError)>,
}

impl ValkeyHost {
    /// The fields of one section of INFO.
    ///
    /// # Errors
    /// [`EngineError::PermissionDenied`] if the user lacks the permission; transport errors.
    pub async fn info(&self, section: &str) -> Result<BTreeMap<String, String>, EngineError> {
        let answer = self.ask_self("INFO", &[section]).await?;
        let text = value::string(answer).unwrap_or_default();
        let text = String::from_utf8_lossy(&text).into_owned();
        let fields = text.lines().filter_map(|line| line.split_once(':'));
        Ok(fields.map(|(name, value)| (name.to_owned(), value.trim().to_owned())).collect())
    }

    /// One setting of the server; `None` if the server does not have it.
    ///
    /// # Errors
    /// [`EngineError::PermissionDenied`] if the user lacks the permission; transport errors, which also report that
    /// the server has no CONFIG (some providers remove it).
    pub async fn setting(&self, name: &str) -> Result<Option<String>, EngineError> {
        let answer = self.ask_self("CONFIG", &["GET", name]).await?;
        let pairs = value::pairs(answer).unwrap_or_default();
        Ok(pairs.first().map(|(_, value)| String::from_utf8_lossy(value).into_owned()))
    }

    /// Refuses a server that evicts keys when its memory is full: flows and logs would be lost silently.
    pub(crate) async fn refuse_eviction(&self) -> Result<(), EngineError> {
        let memory = self.info("memory").await?;
        let of = |name: &str| memory.get(name).map_or("", String::as_str);
        if of("maxmemory") == "0" || !of("maxmemory_policy").starts_with("allkeys") {
            return Ok(());
        }
        Err(EngineError::invalid(
            format!("maxmemory-policy {} of {}", of("maxmemory_policy"), self.config().endpoint),
            "it evicts flows and completion logs; CONFIG SET maxmemory-policy noeviction",
        ))
    }

    /// The user that this connection acts as.
    ///
    /// # Errors
    /// [`EngineError::PermissionDenied`] if the user lacks the permission; transport errors.
    pub async fn whoami(&self) -> Result<String, EngineError> {
        let answer = self.ask_self("ACL", &["WHOAMI"]).await?;
        let name = value::string(answer).unwrap_or_default();
        Ok(String::from_utf8_lossy(&name).into_owned())
    }

    /// Checks by ACL DRYRUN, which executes nothing, whether `user` may run this command. Returns the text of the
    /// server's refusal, or `None` if the user may run it.
    ///
    /// # Errors
    /// [`EngineError::PermissionDenied`] if the user lacks the permission; transport errors.
    pub async fn refusal(&self, user: &str, command: &[&str]) -> Result<Option<String>, EngineError> {
        let args: Vec<&str> = ["DRYRUN", user].into_iter().chain(command.iter().copied()).collect();
        let answer = self.ask_self("ACL", &args).await?;
        let text = value::string(answer).unwrap_or_default();
        Ok((&*text != b"OK").then(|| String::from_utf8_lossy(&text).into_owned()))
    }

    /// The partition count in the deployment's record; `None` if there is no record.
    ///
    /// # Errors
    /// [`EngineError::Protocol`] if the recorded count is not a valid partition count; transport errors.
    pub async fn recorded_partitions(&self) -> Result<Option<PartitionCount>, EngineError> {
        const OP: &str = "reading the deployment";
        let answer = self.ask_record("HGET", &["partition_count"]).await?;
        let Some(count) = value::string(answer) else { return Ok(None) };
        let text = String::from_utf8_lossy(&count);
        let count = text.parse().map_err(|_| {
            let reason = format!("the recorded partition count `{}` is not a number", text.escape_debug());
            EngineError::protocol(OP, reason)
        })?;
        PartitionCount::new(count).map(Some).map_err(|error| EngineError::protocol(OP, error.to_string()))
    }

    /// The names of the running engines.
    ///
    /// # Errors
    /// Transport errors; [`EngineError::PermissionDenied`].
    pub async fn engines(&self) -> Result<Vec<String>, EngineError> {
        let time = value::strings(self.ask_self("TIME", &[]).await?).unwrap_or_default();
        let number = |at: usize| time.get(at).and_then(|text| std::str::from_utf8(text).ok()?.parse::<u64>().ok());
        let now = number(0).unwrap_or(0) * 1_000 + number(1).unwrap_or(0) / 1_000;
        let args = vec![keys::ENGINES.into(), now.to_string().into(), "+inf".into(), "BYSCORE".into()];
        let answers = Together::new(self, "reading the active engines").ask_all(vec![("ZRANGE", args)]).await?;
        let names = answers.into_iter().next().and_then(value::strings).unwrap_or_default();
        Ok(names.iter().map(|name| String::from_utf8_lossy(name).into_owned()).collect())
    }

    /// The deployment's record, if it is complete.
    pub(crate) async fn deployment(&self) -> Result<Option<Deployment>, EngineError> {
        let answer = self.ask_record("HMGET", &["partition_count", "abi"]).await?;
        let Value::Array(fields) = answer else { return Ok(None) };
        let text = |at: usize| fields.get(at).and_then(Value::as_string);
        text(0).zip(text(1)).map(|(partitions, abi)| Deployment::recorded(&partitions, &abi)).transpose()
    }

    /// The sizes of all completion logs. If a log cannot be read, the sizes of the others are still returned.
    ///
    /// # Errors
    /// Transport errors, and refusals of the server that concern all logs.
    pub async fn log_sizes(&self, partitions: PartitionCount) -> Result<LogSizes, EngineError> {
        const OP: &str = "measuring the completion logs";
        let scopes = [Scope::Flows, Scope::Solo];
        let logs: Vec<LogId> =
            partitions.partitions().flat_map(|partition| scopes.map(|scope| LogId { partition, scope })).collect();
        let mut found = LogSizes::default();
        // Bounded, so that the server is never blocked for long.
        for some in logs.chunks(256) {
            let questions = some.iter().flat_map(|log| {
                let key = keys::completion_log(*log);
                [("XINFO", "STREAM"), ("MEMORY", "USAGE")]
                    .map(|(name, subcommand)| (name, vec![subcommand.into(), key.as_str().into()]))
            });
            let answers = Together::new(self, OP).ask(questions.collect()).await?;
            for (log, answer) in some.iter().zip(answers.chunks_exact(2)) {
                match log_size(*log, &answer[0], &answer[1]) {
                    Ok(size) => found.sizes.extend(size),
                    Err(error) if concerns_one_command(error) => {
                        found.unreadable.push((*log, self.doing(OP).failed(error.clone())));
                    }
                    Err(error) => return Err(self.doing(OP).failed(error.clone())),
                }
            }
        }
        Ok(found)
    }

    /// Fields of the deployment's record, from a primary.
    async fn ask_record(&self, name: &'static str, fields: &[&str]) -> Result<Value, EngineError> {
        let args = std::iter::once(keys::DEPLOYMENT).chain(fields.iter().copied()).map(Value::from).collect();
        let answers = Together::new(self, "reading the deployment's record").ask_all(vec![(name, args)]).await?;
        Ok(answers.into_iter().next().unwrap_or(Value::Null))
    }

    async fn ask_self(&self, name: &'static str, args: &[&str]) -> Result<Value, EngineError> {
        let command = CustomCommand::new_static(name, ClusterHash::Random, false);
        let words: Vec<Value> = args.iter().map(|word| Value::from(*word)).collect();
        let answer: Result<Value, Error> = self.reads().custom(command, words).await;
        let op = args.first().map_or_else(|| name.to_owned(), |first| format!("{name} {first}"));
        answer.map_err(|error| self.doing(&op).failed(error))
    }
}

/// The size of one log, by XINFO and MEMORY USAGE; `None` if the log does not exist.
fn log_size<'a>(
    log: LogId,
    info: &'a Result<Value, Error>,
    bytes: &Result<Value, Error>,
) -> Result<Option<LogSize>, &'a Error> {
    let info = match info {
        Ok(info) => info,
        Err(error) if error.details().contains("no such key") => return Ok(None),
        Err(error) => return Err(error),
    };
    let field = |name| number_in(info, name).unwrap_or(0);
    // A user without permission for MEMORY still gets the number of entries.
    let bytes = bytes.as_ref().ok().and_then(number).unwrap_or(0);
    Ok(Some(LogSize { log, entries: field("length"), appended: field("entries-added"), bytes }))
}

fn number(value: &Value) -> Option<u64> {
    value.as_u64().or_else(|| value.as_str()?.parse().ok())
}

/// A number in a reply of names and values, which is a map or a flat array, depending on the protocol.
fn number_in(reply: &Value, name: &str) -> Option<u64> {
    match reply {
        Value::Array(items) => {
            let pair = items.chunks_exact(2).find(|pair| pair[0].as_str().as_deref() == Some(name))?;
            number(&pair[1])
        }
        Value::Map(map) => {
            let (_, value) = map.iter().find(|(key, _)| key.as_str() == Some(name))?;
            number(value)
        }
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_number_is_found_among_names_and_values_of_any_shape() {
        let reply = Value::Array(vec![
            "length".into(),
            Value::Integer(7),
            "first-entry".into(),
            Value::Array(vec!["1-0".into(), Value::Array(vec![])]),
            "entries-added".into(),
            "12".into(),
        ]);
        assert_eq!(number_in(&reply, "length"), Some(7));
        assert_eq!(number_in(&reply, "entries-added"), Some(12));
        assert_eq!(number_in(&reply, "groups"), None);
        assert_eq!(number_in(&Value::Null, "length"), None);
    }
}
