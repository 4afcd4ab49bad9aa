//! The calls by which readers compare the logs' heads, and their replies. The reader sends the calls itself, because it
//! must check that a primary answers.

use ff_core::{EngineError, EntryId, LogId, Partition, Scope};
use uuid::Uuid;

use super::{ReplyReader, arg, read};
use crate::{
    host::{Call, Reply},
    keys,
};

/// The newest entry of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Newest {
    /// Its id.
    pub entry: EntryId,
    /// Its execution; `None` if that is not known.
    pub execution: Option<Uuid>,
}

/// The newest entry of a log, compared with the reader's cursor.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Head {
    /// It is the reader's newest entry, or both have none.
    Known,
    /// The log is empty.
    Empty,
    /// It is another entry, this one.
    At(Newest),
}

/// What a server process has appended since the previous call.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Appended {
    /// The server's time (ms).
    pub at_ms: u64,
    /// The argument of the next call.
    pub tally: String,
    /// The logs that it has appended to, with their newest entries; `None` if the process does not know.
    pub logs: Option<Vec<(LogId, Newest)>>,
}

/// Compares the newest entry of a log with the reader's newest entry of it.
#[must_use]
pub fn heads_call(log: LogId, has: Option<Newest>) -> Call {
    let known = match has {
        None => "-".to_owned(),
        Some(Newest { entry, execution: None }) => entry.to_string(),
        Some(Newest { entry, execution: Some(execution) }) => format!("{entry} {execution}"),
    };
    read("ff1_heads", vec![keys::completion_log(log)], vec![arg(known)])
}

/// Parses the reply to [`heads_call`].
///
/// # Errors
/// [`EngineError::Protocol`] for a reply of another shape.
pub fn parse_head(reply: &Reply) -> Result<Head, EngineError> {
    let mut reader = ReplyReader::new("comparing the newest entries of completion logs", reply);
    match reader.text()? {
        "" => Ok(Head::Known),
        "-" => Ok(Head::Empty),
        newest => newest_in(newest).map(Head::At).ok_or_else(|| reader.malformed(newest)),
    }
}

/// Asks the server that owns `log` which logs of the same scope were appended to since this tally.
#[must_use]
pub fn appended_call(log: LogId, since: &str) -> Call {
    let scope = match log.scope {
        Scope::Flows => "flows",
        Scope::Solo => "solo",
    };
    read("ff1_appended", vec![keys::completion_log(log)], vec![arg(since), arg(scope)])
}

/// Parses the reply to [`appended_call`].
///
/// # Errors
/// [`EngineError::Protocol`] for a reply of another shape.
pub fn parse_appended(reply: &Reply, scope: Scope) -> Result<Appended, EngineError> {
    let mut reader = ReplyReader::new("asking which completion logs were appended to", reply);
    let (at_ms, tally) = (reader.number()?, reader.text()?.to_owned());
    let mut logs = Vec::new();
    while !reader.is_at_end() {
        let text = reader.text()?;
        if text == "*" {
            return Ok(Appended { at_ms, tally, logs: None });
        }
        let of = |text: &str| {
            let (number, newest) = text.split_once(' ')?;
            let partition = Partition::new(number.parse().ok()?);
            Some((LogId { partition, scope }, newest_in(newest)?))
        };
        logs.push(of(text).ok_or_else(|| reader.malformed(text))?);
    }
    Ok(Appended { at_ms, tally, logs: Some(logs) })
}

fn newest_in(text: &str) -> Option<Newest> {
    let (entry, execution) = text.split_once(' ')?;
    Some(Newest { entry: entry.parse().ok()?, execution: execution.parse().ok() })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reply(texts: &[&str]) -> Reply {
        texts.iter().map(arg).collect()
    }

    #[test]
    fn replies_are_parsed_and_malformed_ones_are_errors() {
        let uuid = Uuid::from_u128(7);
        let newest = Newest { entry: EntryId { epoch: 5, seq: 2 }, execution: Some(uuid) };
        assert_eq!(parse_head(&reply(&[""])).unwrap(), Head::Known);
        assert_eq!(parse_head(&reply(&["-"])).unwrap(), Head::Empty);
        assert_eq!(parse_head(&reply(&[&format!("5-2 {uuid}")])).unwrap(), Head::At(newest));
        assert_eq!(parse_head(&reply(&["5-2 "])).unwrap(), Head::At(Newest { execution: None, ..newest }));
        let log = LogId { partition: Partition::new(9), scope: Scope::Solo };
        let appended = parse_appended(&reply(&["12", "1.2:3", &format!("9 5-2 {uuid}")]), Scope::Solo).unwrap();
        assert_eq!(appended, Appended { at_ms: 12, tally: "1.2:3".to_owned(), logs: Some(vec![(log, newest)]) });
        assert_eq!(parse_appended(&reply(&["12", "1.2:3", "*"]), Scope::Solo).unwrap().logs, None);
        assert!(parse_head(&reply(&["5"])).is_err() && parse_head(&reply(&[])).is_err());
        assert!(parse_appended(&reply(&["12", "1.2:3", "9 x"]), Scope::Solo).is_err());
    }
}
