//! Decoding of completions: what is published on a channel and what stands in a log, to one and the same payload.
//!
//! Both carry one JSON object. A push holds everything in it; a log entry holds the object in its field `e` and, in
//! fields of their own, what the object of a push has in addition (`prev`, `result`). Members that are not known here
//! are ignored. Nothing in this module reads a socket or a clock.

use std::borrow::Cow;

use bytes::Bytes;
use ff_core::{
    CompletionPayload, EngineError, EntryId, ExecutionId, FlowId, LaneId, LogId, Namespace, Outcome, Position,
    Predecessor, Scope, Tags,
};
use serde::Deserialize;

/// The largest object that is looked at. Ours stay far below: a result travels only up to a few KiB.
pub const MAX_EVENT_BYTES: usize = 8 << 20;

/// A completion and its place in the chain of epochs.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The completion.
    pub payload: CompletionPayload,
    /// What an epoch's first entry says of the log before it.
    pub prev: Option<Predecessor>,
}

/// Why something is not a completion.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WireError {
    /// It is too large to be one.
    #[error("{bytes} bytes are more than the {MAX_EVENT_BYTES} that an event may have")]
    TooLarge {
        /// Its size.
        bytes: usize,
    },
    /// It is no JSON object, or a member is missing or of the wrong type.
    #[error("malformed event: {0}")]
    Json(#[from] serde_json::Error),
    /// A member has a value that means nothing.
    #[error("malformed event: {0}")]
    Value(#[from] EngineError),
    /// A log entry lacks its event, or its predecessor is no text.
    #[error("malformed log entry: field `{0}` is missing or no text")]
    Field(&'static str),
    /// A log entry tells of an execution that belongs to another log.
    #[error("the log {log} holds an event of execution {execution}")]
    WrongLog {
        /// Where it stands.
        log: LogId,
        /// Of whom it tells.
        execution: ExecutionId,
    },
}

/// A string of the object, borrowed unless an escape has to be undone. (Inside an `Option`, serde would copy a bare
/// `Cow`.)
#[derive(Deserialize)]
struct Text<'a>(#[serde(borrow)] Cow<'a, str>);

/// The object as it is written.
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
    tags: Option<Tags>,
    #[serde(default)]
    result: Option<String>,
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
        Ok(serde_json::from_slice(bytes)?)
    }

    /// Everything but the position.
    fn payload(self) -> Result<CompletionPayload, WireError> {
        let execution_id: ExecutionId = self.execution_id.0.parse()?;
        let flow_id: Option<FlowId> = self.flow_id.map(|id| id.0.parse()).transpose()?;
        let mut payload = CompletionPayload::new(execution_id, flow_id, Outcome::from_wire(&self.outcome.0));
        payload.payload_bytes = self.result.map(Bytes::from);
        payload.result_len = self.result_len;
        payload.produced_at_ms = self.at;
        payload.namespace = self.ns.map(|name| Namespace::new(&name.0)).transpose()?;
        payload.lane = self.lane.map(|name| LaneId::new(&name.0)).transpose()?;
        payload.attempt = self.attempt.unwrap_or(0);
        payload.generation = self.r#gen.unwrap_or(0);
        payload.reason = self.reason.map(|reason| reason.0.into());
        payload.tags = self.tags.unwrap_or_default();
        payload.dependents_pending = self.pending.unwrap_or(false);
        Ok(payload)
    }
}

/// Decodes what was published on the channel of `scope`.
///
/// An event without a position comes from another publisher: whether dependents wait is not known then, so it says
/// they do.
///
/// # Errors
/// [`WireError`] for anything that is no completion.
pub fn decode_push(scope: Scope, bytes: &[u8]) -> Result<Decoded, WireError> {
    let event = Event::parse(bytes)?;
    let entry: Option<EntryId> = event.pos.as_ref().map(|id| id.0.parse()).transpose()?;
    let prev: Option<Predecessor> = event.prev.as_ref().map(|id| id.0.parse()).transpose()?;
    let mut payload = event.payload()?;
    let log = LogId { partition: payload.execution_id.partition(), scope };
    payload.position = entry.map(|entry| Position { log, entry });
    payload.dependents_pending |= entry.is_none();
    Ok(Decoded { payload, prev })
}

/// Decodes the entry `entry` of `log` from its fields.
///
/// # Errors
/// [`WireError`] for anything that is no completion of this log.
pub fn decode_entry(log: LogId, entry: EntryId, fields: &[(Bytes, Bytes)]) -> Result<Decoded, WireError> {
    let event = field(fields, b"e").ok_or(WireError::Field("e"))?;
    let mut payload = Event::parse(event)?.payload()?;
    if payload.execution_id.partition() != log.partition {
        return Err(WireError::WrongLog { log, execution: payload.execution_id });
    }
    payload.payload_bytes = field(fields, b"result").cloned();
    payload.position = Some(Position { log, entry });
    Ok(Decoded { payload, prev: predecessor(fields)? })
}

/// What an entry says of the log before it, also when the rest of it cannot be read.
///
/// # Errors
/// [`WireError`] when the field is there and no entry id.
pub fn predecessor(fields: &[(Bytes, Bytes)]) -> Result<Option<Predecessor>, WireError> {
    let Some(prev) = field(fields, b"prev") else { return Ok(None) };
    let text = std::str::from_utf8(prev).map_err(|_| WireError::Field("prev"))?;
    Ok(Some(text.parse()?))
}

fn field<'a>(fields: &'a [(Bytes, Bytes)], name: &[u8]) -> Option<&'a Bytes> {
    fields.iter().find(|(key, _)| key == name).map(|(_, value)| value)
}

#[cfg(test)]
mod tests {
    use ff_core::Partition;
    use proptest::prelude::*;
    use serde_json::{Map, Value, json};
    use uuid::Uuid;

    use super::*;

    const EXECUTION: &str = "{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b";
    const FLOW: &str = "0192f0c1-2b3c-7d4e-8f50-617283940a1c";

    fn log() -> LogId {
        LogId { partition: Partition::new(7), scope: Scope::Flows }
    }

    fn push(value: &Value) -> Result<Decoded, WireError> {
        decode_push(Scope::Flows, value.to_string().as_bytes())
    }

    /// What the library writes for a completion: the object of the push, and the fields of the log entry.
    fn written(decoded: &Decoded) -> (Vec<u8>, Vec<(Bytes, Bytes)>) {
        let payload = &decoded.payload;
        let mut object = Map::new();
        let mut put = |name: &str, value: Value| object.insert(name.to_owned(), value);
        put("execution_id", json!(payload.execution_id));
        put("outcome", json!(payload.outcome.as_str()));
        put("attempt", json!(payload.attempt));
        put("gen", json!(payload.generation));
        payload.flow_id.map(|flow| put("flow_id", json!(flow)));
        payload.produced_at_ms.map(|at| put("at", json!(at)));
        payload.namespace.as_ref().map(|ns| put("ns", json!(ns)));
        payload.lane.as_ref().map(|lane| put("lane", json!(lane)));
        payload.reason.as_ref().map(|reason| put("reason", json!(**reason)));
        payload.result_len.map(|len| put("result_len", json!(len)));
        if !payload.tags.is_empty() {
            put("tags", json!(payload.tags));
        }
        if payload.dependents_pending {
            put("pending", json!(true));
        }
        let mut fields = vec![(Bytes::from("e"), Bytes::from(Value::Object(object.clone()).to_string()))];
        if let Some(position) = payload.position {
            object.insert("pos".into(), json!(position.entry.to_string()));
        }
        if let Some(prev) = decoded.prev {
            let text = match prev {
                Predecessor::Start => "none".to_owned(),
                Predecessor::Entry(id) => id.to_string(),
            };
            object.insert("prev".into(), json!(text));
            fields.push((Bytes::from("prev"), Bytes::from(text)));
        }
        if let Some(result) = &payload.payload_bytes {
            object.insert("result".into(), json!(std::str::from_utf8(result).unwrap()));
            fields.push((Bytes::from("result"), result.clone()));
        }
        (Value::Object(object).to_string().into_bytes(), fields)
    }

    #[test]
    fn a_bare_event_has_three_facts_and_leaves_the_rest_open() {
        let decoded = push(&json!({"execution_id": EXECUTION, "flow_id": FLOW, "outcome": "success"})).unwrap();
        let mut expected =
            CompletionPayload::new(EXECUTION.parse().unwrap(), Some(FLOW.parse().unwrap()), Outcome::Success);
        expected.dependents_pending = true;
        assert_eq!(decoded, Decoded { payload: expected, prev: None });
    }

    #[test]
    fn members_that_are_not_known_are_ignored() {
        let event = json!({
            "execution_id": EXECUTION, "flow_id": null, "outcome": "evaporated", "pos": "9-4", "colour": ["blue", {}],
        });
        let payload = push(&event).unwrap().payload;
        assert_eq!(payload.outcome, Outcome::Unknown);
        assert_eq!(payload.position.unwrap(), Position { log: log(), entry: EntryId { epoch: 9, seq: 4 } });
        assert!(!payload.dependents_pending);
    }

    #[test]
    fn what_is_no_completion_is_refused() {
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

    prop_compose! {
        fn completion()(
            ids: (u128, u128),
            flow: bool,
            outcome in prop::sample::select(vec![Outcome::Success, Outcome::Failed, Outcome::Skipped, Outcome::Expired]),
            at in prop::option::of(0u64..=u64::from(u32::MAX) << 12),
            counts: (u32, u32),
            named: bool,
            result in prop::option::of(".*"),
            result_len in prop::option::of(0u64..1 << 40),
            reason in prop::option::of(".*"),
            tags in prop::collection::btree_map("[a-z\"\\\\é]{1,8}", "\\PC{0,16}", 0..4),
            pending: bool,
            entry: (u64, u64),
            prev in prop::option::of(prop::option::of(any::<(u64, u64)>())),
        ) -> Decoded {
            let id = |(epoch, seq)| EntryId { epoch, seq };
            let execution = ExecutionId::from_parts(Partition::new(7), Uuid::from_u128(ids.0));
            let flow = flow.then(|| FlowId::from_uuid(Uuid::from_u128(ids.1)));
            let mut payload = CompletionPayload::new(execution, flow, outcome);
            payload.produced_at_ms = at;
            payload.attempt = counts.0;
            payload.generation = counts.1;
            payload.namespace = named.then(|| Namespace::new("team/a").unwrap());
            payload.lane = named.then(LaneId::default_lane);
            payload.payload_bytes = result.map(Bytes::from);
            payload.result_len = result_len;
            payload.reason = reason.map(Into::into);
            payload.tags = Tags::new(tags).unwrap();
            payload.dependents_pending = pending;
            payload.position = Some(Position { log: log(), entry: id(entry) });
            Decoded { payload, prev: prev.map(|prev| prev.map_or(Predecessor::Start, |e| Predecessor::Entry(id(e)))) }
        }
    }

    proptest! {
        #[test]
        fn push_and_log_entry_decode_to_what_was_written(decoded in completion()) {
            let (push, fields) = written(&decoded);
            let entry = decoded.payload.position.unwrap().entry;
            prop_assert_eq!(&decode_push(Scope::Flows, &push).unwrap(), &decoded);
            prop_assert_eq!(&decode_entry(log(), entry, &fields).unwrap(), &decoded);
        }

        #[test]
        fn no_bytes_panic_the_decoder(bytes in prop::collection::vec(any::<u8>(), 0..200), decoded in completion(), cut: u16, flip: u8) {
            let _ = decode_push(Scope::Flows, &bytes);
            let (mut push, _) = written(&decoded);
            let at = usize::from(cut) % push.len();
            push[at] ^= flip;
            let _ = decode_push(Scope::Flows, &push);
            let _ = decode_push(Scope::Flows, &push[..at]);
        }
    }
}
