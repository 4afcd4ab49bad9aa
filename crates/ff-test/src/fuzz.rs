//! Properties of the parsers of external input, for any bytes: one function per kind of input, for the fuzz targets
//! under `fuzz/` and for the property tests of `tests/fuzz.rs`.
//!
//! Each function panics if a property does not hold, and returns whether the input was accepted.

mod replies;

use std::{fmt, str::FromStr};

use bytes::Bytes;
use ff_core::{
    EngineError, EntryId, ExecutionId, FlowId, FlowState, LaneId, LifecyclePhase, LogId, Namespace, Outcome, Partition,
    Position, PublicState, Scope, WorkerId, reader::Predecessor,
};
use ff_script::wire::{Decoded, WireError, decode_entry, decode_push, predecessor};
use serde_json::{Map, Value, json};

pub use replies::replies;

type Fields = Vec<(Bytes, Bytes)>;

/// Checks a message of the channel of completions.
///
/// An accepted one belongs to the log of its execution. Encoded again, as a push or as a log entry, it decodes to the
/// same value.
pub fn wire_push(bytes: &[u8]) -> bool {
    let (flows, solo) = (decode_push(Scope::Flows, bytes), decode_push(Scope::Solo, bytes));
    assert_eq!(flows.is_ok(), solo.is_ok(), "whether it can be read depends on the channel");
    let accepted = flows.is_ok();
    for (scope, decoded) in [(Scope::Flows, flows), (Scope::Solo, solo)] {
        let Ok(decoded) = decoded else { continue };
        let log = LogId { partition: decoded.payload.execution_id.partition(), scope };
        match decoded.payload.position {
            Some(position) => assert_eq!(position.log, log),
            None => {
                assert!(decoded.payload.dependents_pending, "the dependents of an unpositioned event count as pending");
            }
        }
        survives_the_wire(log, decoded);
    }
    accepted
}

/// Checks an entry of the log of flows of partition 7: its event, its `prev` and its `result`, with a zero byte after
/// each of the first two. An empty `prev` is absent.
///
/// An accepted entry has the given position and its own result, and decodes to the same value as a push. An entry of
/// another log is reported as such.
pub fn log_entry(bytes: &[u8]) -> bool {
    let log = LogId { partition: Partition::new(7), scope: Scope::Flows };
    let entry = EntryId { epoch: 9, seq: 4 };
    let fields = fields_of(bytes);
    match decode_entry(log, entry, &fields) {
        Ok(decoded) => {
            assert_eq!(decoded.payload.position, Some(Position { log, entry }));
            assert_eq!(decoded.payload.execution_id.partition(), log.partition);
            assert_eq!(decoded.prev, predecessor(&fields).expect("it was read with the entry"));
            let result = fields.iter().find(|(name, _)| name == "result").map(|(_, value)| value);
            assert_eq!(decoded.payload.payload_bytes.as_ref(), result);
            // A result that is not text is never part of a push.
            if result.is_none_or(|result| std::str::from_utf8(result).is_ok()) {
                survives_the_wire(log, decoded);
            }
            true
        }
        Err(WireError::WrongLog { execution, .. }) => {
            assert_ne!(execution.partition(), log.partition);
            let own = decode_entry(LogId { partition: execution.partition(), ..log }, entry, &fields);
            assert!(!matches!(own, Err(WireError::WrongLog { .. })));
            false
        }
        Err(_) => false,
    }
}

fn fields_of(bytes: &[u8]) -> Fields {
    let mut parts = bytes.splitn(3, |byte| *byte == 0).map(Bytes::copy_from_slice);
    let mut fields = vec![(Bytes::from("e"), parts.next().unwrap_or_default())];
    fields.extend(parts.next().filter(|prev| !prev.is_empty()).map(|prev| (Bytes::from("prev"), prev)));
    fields.extend(parts.next().map(|result| (Bytes::from("result"), result)));
    fields
}

/// Encodes a completion as a push and as an entry, with its members in the library's order and in another one, and
/// decodes it.
pub fn survives_the_wire(log: LogId, mut decoded: Decoded) {
    for object in [in_order, sorted] {
        let (push, _) = written(&decoded, object);
        assert_eq!(decode_push(log.scope, &push).expect("what was written is read"), decoded);
    }
    // An entry always has a position.
    let entry = decoded.payload.position.map_or(EntryId { epoch: 1, seq: 0 }, |position| position.entry);
    decoded.payload.position = Some(Position { log, entry });
    for object in [in_order, sorted] {
        let (push, fields) = written(&decoded, object);
        assert_eq!(decode_entry(log, entry, &fields).expect("what was written is read"), decoded);
        assert_eq!(decode_push(log.scope, &push).expect("what was written is read"), decoded);
    }
}

type Members<'a> = [(&'a str, Value)];

/// An object in the library's format.
fn in_order(members: &Members<'_>) -> String {
    let members: Vec<_> = members.iter().map(|(name, value)| format!("\"{name}\":{value}")).collect();
    format!("{{{}}}", members.join(","))
}

fn sorted(members: &Members<'_>) -> String {
    let members: Map<_, _> = members.iter().map(|(name, value)| ((*name).to_owned(), value.clone())).collect();
    Value::Object(members).to_string()
}

/// Encodes a completion: the object of the push, and the fields of the log entry.
fn written(decoded: &Decoded, object: fn(&Members<'_>) -> String) -> (Vec<u8>, Fields) {
    let payload = &decoded.payload;
    let common = [
        ("execution_id", json!(payload.execution_id)),
        ("flow_id", json!(payload.flow_id)),
        ("outcome", json!(payload.outcome)),
        ("at", json!(payload.produced_at_ms)),
        ("ns", json!(payload.namespace)),
        ("lane", json!(payload.lane)),
        ("attempt", json!(payload.attempt)),
        ("gen", json!(payload.generation)),
        ("reason", json!(payload.reason)),
        ("tags", json!(payload.tags)),
        ("result_len", json!(payload.result_len)),
        ("pending", json!(payload.dependents_pending.then_some(true))),
    ];
    let mut members: Vec<_> = common.into_iter().filter(|(_, value)| !value.is_null()).collect();
    let mut fields = vec![(Bytes::from("e"), Bytes::from(object(&members)))];
    if let Some(position) = payload.position {
        members.push(("pos", json!(position.entry.to_string())));
    }
    if let Some(prev) = decoded.prev {
        let text = predecessor_text(prev);
        members.push(("prev", json!(text)));
        fields.push((Bytes::from("prev"), Bytes::from(text)));
    }
    if let Some(result) = &payload.payload_bytes {
        members.push(("result", json!(String::from_utf8_lossy(result))));
        fields.push((Bytes::from("result"), result.clone()));
    }
    (object(&members).into_bytes(), fields)
}

fn predecessor_text(prev: Predecessor) -> String {
    match prev {
        Predecessor::Start => "none".to_owned(),
        Predecessor::Entry(entry) => entry.to_string(),
    }
}

/// Checks the text of an id, a name or a state.
///
/// An accepted text has one spelling only: the printed value is the same text. (The numbers of a log entry's id are
/// parsed leniently; printed and parsed again they are equal.) A refused text gives a message of one short line.
pub fn ids(bytes: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(bytes) else { return false };
    let accepted = [
        has_one_spelling::<ExecutionId>(text),
        has_one_spelling::<FlowId>(text),
        has_one_spelling::<Namespace>(text),
        has_one_spelling::<LaneId>(text),
        has_one_spelling::<WorkerId>(text),
        is_a_state::<Outcome>(text),
        is_a_state::<PublicState>(text),
        is_a_state::<LifecyclePhase>(text),
        is_a_state::<FlowState>(text),
        is_an_entry(text),
    ];
    if let Ok(id) = text.parse::<ExecutionId>() {
        let json = serde_json::to_string(&id).expect("an id is a JSON string");
        assert_eq!(serde_json::from_str::<ExecutionId>(&json).expect("its own JSON is read"), id);
        assert_eq!(ExecutionId::from_parts(id.partition(), id.uuid()), id);
    }
    accepted.contains(&true)
}

fn has_one_spelling<T: FromStr<Err = EngineError> + fmt::Display>(text: &str) -> bool {
    match text.parse::<T>() {
        Ok(value) => {
            assert_eq!(value.to_string(), text);
            true
        }
        Err(error) => {
            let message = error.to_string();
            assert!(message.len() < 1_200 && !message.contains(char::is_control), "{message:?}");
            false
        }
    }
}

fn is_a_state<T: FromStr<Err = EngineError> + fmt::Display>(text: &str) -> bool {
    let Ok(state) = text.parse::<T>() else { return false };
    assert_eq!(state.to_string(), text);
    true
}

fn is_an_entry(text: &str) -> bool {
    let (entry, prev) = (text.parse::<EntryId>(), text.parse::<Predecessor>());
    if let Ok(prev) = &prev {
        assert_eq!(predecessor_text(*prev).parse::<Predecessor>().expect("its own text is read"), *prev);
    }
    let Ok(entry) = entry else { return prev.is_ok() };
    assert_eq!(entry.to_string().parse::<EntryId>().expect("its own text is read"), entry);
    assert_eq!(prev.expect("an entry can be a predecessor"), Predecessor::Entry(entry));
    true
}
