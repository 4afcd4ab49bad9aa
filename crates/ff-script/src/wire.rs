//! Decodes completions: published events and log entries give the same payload.
//!
//! Both carry one JSON object. The object of a push is complete. A log entry holds the object in its field `e`, and the
//! further members of a push (`prev`, `result`) in separate fields. Unknown members are ignored. Nothing in this module
//! reads a socket or a clock.
//!
//! Objects in the format of our own library are read by a fast parser, `canonical.rs`, all others by serde, with the
//! same result.

mod canonical;
mod shared;

use std::{borrow::Cow, collections::BTreeMap};

use bytes::Bytes;
use ff_core::{
    CompletionPayload, EngineError, EntryId, ExecutionId, FlowId, LogId, Outcome, Position, Scope, Tags,
    reader::Predecessor,
};
use serde::{Deserialize, Deserializer};

use self::shared::RecentValues;

/// The largest object that is decoded. Ours are much smaller: an event contains a result of a few KiB at most.
pub const MAX_EVENT_BYTES: usize = 8 << 20;

/// A completion, and the predecessor of its epoch if it is the epoch's first entry.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The completion.
    pub payload: CompletionPayload,
    /// The log's last entry before this epoch, for the epoch's first entry.
    pub prev: Option<Predecessor>,
}

/// Why something is not a completion.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// It is too large.
    #[error("{bytes} bytes exceed the limit of {MAX_EVENT_BYTES} for an event")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It is not a JSON object, or a member is missing or of the wrong type.
    #[error("malformed event: {0}")]
    Json(#[from] serde_json::Error),
    /// A member has an invalid value.
    #[error("malformed event: {0}")]
    Value(#[from] EngineError),
    /// A log entry lacks its event, or its predecessor is not text.
    #[error("malformed log entry: field `{0}` is missing or not text")]
    Field(&'static str),
    /// A log entry names an execution that belongs to another log.
    #[error("the log {log} holds an event of execution {execution}")]
    WrongLog {
        /// The log.
        log: LogId,
        /// The execution.
        execution: ExecutionId,
    },
}

/// A string of the object, borrowed unless it has escapes. (Inside an `Option`, serde would copy a bare `Cow`.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// Tags, parsed or still as text.
enum EventTags<'a> {
    Read(Tags),
    Text(&'a str),
}

impl<'de> Deserialize<'de> for EventTags<'_> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        BTreeMap::deserialize(deserializer).map(|tags| Self::Read(Tags::recorded(tags)))
    }
}

/// The JSON object.
#[derive(Deserialize)]
struct Event<'a> {
    #[serde(borrow)]
    execution_id: Text<'a>,
    #[serde(borrow, default)]
    flow_id: Option<Text<'a>>,
    #[serde(borrow)]
    outcome: Text<'a>,
    #[serde(borrow, default)]
    pos: Option<Text<'a>>,
    #[serde(borrow, default)]
    prev: Option<Text<'a>>,
    #[serde(default)]
    at: Option<u64>,
    #[serde(borrow, default)]
    ns: Option<Text<'a>>,
    #[serde(borrow, default)]
    lane: Option<Text<'a>>,
    #[serde(default)]
    attempt: Option<u32>,
    #[serde(default)]
    r#gen: Option<u32>,
    #[serde(borrow, default)]
    reason: Option<Text<'a>>,
    #[serde(default)]
    tags: Option<EventTags<'a>>,
    #[serde(borrow, default)]
    result: Option<Text<'a>>,
    #[serde(default)]
    result_len: Option<u64>,
    #[serde(default)]
    pending: Option<bool>,
}

impl<'a> Event<'a> {
    fn parse(bytes: &'a [u8]) -> Result<Self, WireError> {
        if bytes.len() > MAX_EVENT_BYTES {
            return Err(WireError::TooLarge { bytes: bytes.len() });
        }
        match canonical::parse(bytes) {
            Some(event) => Ok(event),
            None => Ok(serde_json::from_slice(bytes)?),
        }
    }

    /// Everything but the position.
    fn payload(self, shared: &mut RecentValues) -> Result<CompletionPayload, WireError> {
        let execution_id: ExecutionId = self.execution_id.0.parse()?;
        let flow_id: Option<FlowId> = self.flow_id.map(|id| id.0.parse()).transpose()?;
        let mut payload = CompletionPayload::new(execution_id, flow_id, Outcome::from_wire(&self.outcome.0));
        payload.payload_bytes = self.result.map(|result| Bytes::from(result.0.into_owned()));
        payload.result_len = self.result_len;
        payload.produced_at_ms = self.at;
        payload.namespace = self.ns.map(|name| shared.namespace(&name.0)).transpose()?;
        payload.lane = self.lane.map(|name| shared.lane(&name.0)).transpose()?;
        payload.attempt = self.attempt.unwrap_or(0);
        payload.generation = self.r#gen.unwrap_or(0);
        payload.reason = self.reason.map(|reason| shared.reason(&reason.0)).transpose()?;
        payload.tags = match self.tags {
            Some(EventTags::Text(json)) => shared.tags(json)?,
            Some(EventTags::Read(tags)) => tags,
            None => Tags::default(),
        };
        payload.dependents_pending = self.pending.unwrap_or(false);
        Ok(payload)
    }
}

/// The known fields of a log entry. If a field occurs twice, the first counts.
#[derive(Debug, Clone, Copy, Default)]
pub struct EntryFields<'a> {
    event: Option<&'a [u8]>,
    prev: Option<&'a [u8]>,
    result: Option<&'a Bytes>,
}

impl<'a> FromIterator<(&'a [u8], &'a Bytes)> for EntryFields<'a> {
    fn from_iter<I: IntoIterator<Item = (&'a [u8], &'a Bytes)>>(fields: I) -> Self {
        let mut found = Self::default();
        for (name, value) in fields {
            match name {
                b"e" => found.event = found.event.or(Some(value)),
                b"prev" => found.prev = found.prev.or(Some(value)),
                b"result" => found.result = found.result.or(Some(value)),
                _ => {}
            }
        }
        found
    }
}

impl<'a> From<&'a [(Bytes, Bytes)]> for EntryFields<'a> {
    fn from(fields: &'a [(Bytes, Bytes)]) -> Self {
        fields.iter().map(|(name, value)| (&**name, value)).collect()
    }
}

impl EntryFields<'_> {
    /// The predecessor that an entry names, even if the rest of the entry cannot be read.
    ///
    /// # Errors
    /// [`WireError`] if the field exists and is not an entry id.
    pub fn predecessor(&self) -> Result<Option<Predecessor>, WireError> {
        let Some(prev) = self.prev else { return Ok(None) };
        let text = std::str::from_utf8(prev).map_err(|_| WireError::Field("prev"))?;
        Ok(Some(text.parse()?))
    }
}

/// Decodes the events of one stream. Values that recur (names, reasons, tags) share memory.
#[derive(Debug, Default)]
pub struct Decoder(RecentValues);

impl Decoder {
    /// As [`decode_push`].
    ///
    /// # Errors
    /// [`WireError`] for anything that is not a completion.
    pub fn push(&mut self, scope: Scope, bytes: &[u8]) -> Result<Decoded, WireError> {
        let event = Event::parse(bytes)?;
        let entry: Option<EntryId> = event.pos.as_ref().map(|id| id.0.parse()).transpose()?;
        let prev: Option<Predecessor> = event.prev.as_ref().map(|id| id.0.parse()).transpose()?;
        let mut payload = event.payload(&mut self.0)?;
        let log = LogId { partition: payload.execution_id.partition(), scope };
        payload.position = entry.map(|entry| Position { log, entry });
        payload.dependents_pending |= entry.is_none();
        Ok(Decoded { payload, prev })
    }

    /// As [`decode_entry`].
    ///
    /// # Errors
    /// [`WireError`] for anything that is not a completion of this log.
    pub fn entry(&mut self, log: LogId, entry: EntryId, fields: EntryFields<'_>) -> Result<Decoded, WireError> {
        let event = fields.event.ok_or(WireError::Field("e"))?;
        let mut payload = Event::parse(event)?.payload(&mut self.0)?;
        if payload.execution_id.partition() != log.partition {
            return Err(WireError::WrongLog { log, execution: payload.execution_id });
        }
        payload.payload_bytes = fields.result.cloned();
        payload.position = Some(Position { log, entry });
        Ok(Decoded { payload, prev: fields.predecessor()? })
    }
}

/// Decodes what was published on the channel of `scope`.
///
/// An event without a position comes from another publisher. Whether its dependents wait is not known, so they count as
/// pending.
///
/// # Errors
/// [`WireError`] for anything that is not a completion.
pub fn decode_push(scope: Scope, bytes: &[u8]) -> Result<Decoded, WireError> {
    Decoder::default().push(scope, bytes)
}

/// Decodes the entry `entry` of `log` from its fields.
///
/// # Errors
/// [`WireError`] for anything that is not a completion of this log.
pub fn decode_entry(log: LogId, entry: EntryId, fields: &[(Bytes, Bytes)]) -> Result<Decoded, WireError> {
    Decoder::default().entry(log, entry, fields.into())
}

/// The predecessor that an entry names, even if the rest of the entry cannot be read.
///
/// # Errors
/// [`WireError`] if the field exists and is not an entry id.
pub fn predecessor(fields: &[(Bytes, Bytes)]) -> Result<Option<Predecessor>, WireError> {
    EntryFields::from(fields).predecessor()
}

/// The execution of an entry in the library's format. The rest of the entry is not checked.
#[must_use]
pub fn execution_of(fields: &[(Bytes, Bytes)]) -> Option<ExecutionId> {
    let event = std::str::from_utf8(EntryFields::from(fields).event?).ok()?;
    let (id, _) = event.strip_prefix(r#"{"execution_id":""#)?.split_once('"')?;
    id.parse().ok()
}

#[cfg(test)]
mod tests {
    use ff_core::Partition;
    use serde_json::{Value, json};

    use super::*;

    const EXECUTION: &str = "{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b";
    const FLOW: &str = "0192f0c1-2b3c-7d4e-8f50-617283940a1c";

    fn log() -> LogId {
        LogId { partition: Partition::new(7), scope: Scope::Flows }
    }

    fn push(value: &Value) -> Result<Decoded, WireError> {
        decode_push(Scope::Flows, value.to_string().as_bytes())
    }

    #[test]
    fn an_event_with_the_three_basic_fields_is_decoded() {
        let decoded = push(&json!({"execution_id": EXECUTION, "flow_id": FLOW, "outcome": "success"})).unwrap();
        let mut expected =
            CompletionPayload::new(EXECUTION.parse().unwrap(), Some(FLOW.parse().unwrap()), Outcome::Success);
        expected.dependents_pending = true;
        assert_eq!(decoded, Decoded { payload: expected, prev: None });
    }

    #[test]
    fn unknown_members_are_ignored() {
        let event = json!({
            "execution_id": EXECUTION, "flow_id": null, "outcome": "evaporated", "pos": "9-4", "colour": ["blue", {}],
        });
        let payload = push(&event).unwrap().payload;
        assert_eq!(payload.outcome, Outcome::Unknown);
        assert_eq!(payload.position.unwrap(), Position { log: log(), entry: EntryId { epoch: 9, seq: 4 } });
        assert!(!payload.dependents_pending);
    }

    #[test]
    fn malformed_events_are_refused() {
        for bad in [
            "",
            "null",
            "[]",
            "{}",
            "not json",
            "{\"execution_id\":7}",
            &json!({"execution_id": "nonsense", "outcome": "success"}).to_string(),
            &json!({"execution_id": EXECUTION}).to_string(),
            &json!({"execution_id": EXECUTION, "outcome": "success", "flow_id": "x"}).to_string(),
            &json!({"execution_id": EXECUTION, "outcome": "success", "pos": "7"}).to_string(),
            &json!({"execution_id": EXECUTION, "outcome": "success", "ns": "a b"}).to_string(),
            &json!({"execution_id": EXECUTION, "outcome": "success", "tags": ["a"]}).to_string(),
            &json!({"execution_id": EXECUTION, "outcome": "success", "at": -1}).to_string(),
            &"[".repeat(100_000),
        ] {
            assert!(decode_push(Scope::Flows, bad.as_bytes()).is_err(), "{bad:.80}");
        }
        let huge = vec![b' '; MAX_EVENT_BYTES + 1];
        assert!(matches!(decode_push(Scope::Flows, &huge), Err(WireError::TooLarge { .. })));
    }

    #[test]
    fn an_entry_of_another_log_is_refused() {
        let fields =
            [(Bytes::from("e"), Bytes::from(json!({"execution_id": EXECUTION, "outcome": "failed"}).to_string()))];
        let entry = EntryId { epoch: 1, seq: 0 };
        assert!(decode_entry(log(), entry, &fields).is_ok());
        let elsewhere = LogId { partition: Partition::new(8), scope: Scope::Flows };
        assert!(matches!(decode_entry(elsewhere, entry, &fields), Err(WireError::WrongLog { .. })));
        assert!(matches!(decode_entry(log(), entry, &[]), Err(WireError::Field("e"))));
    }
}
