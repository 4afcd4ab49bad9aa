//! What the client hands over, as the shapes that the server's commands have. Pure.

use std::{collections::HashMap, sync::Arc};

use bytes::Bytes;
use ff_core::{EntryId, LogId, Predecessor};
use ff_script::wire::{Decoder, EntryFields};
use fred::types::Value;

use crate::{quiet::Quiet, vector::Shown};

/// A flat array of strings; numbers count as their text.
pub(crate) fn strings(value: Value) -> Option<Vec<Bytes>> {
    match value {
        Value::Array(items) => items.into_iter().map(string).collect(),
        Value::Null => None,
        other => string(other).map(|one| vec![one]),
    }
}

/// One string.
pub(crate) fn string(value: Value) -> Option<Bytes> {
    match value {
        Value::Bytes(bytes) => Some(bytes),
        Value::String(text) => Some(text.into_inner()),
        Value::Integer(number) => Some(number.to_string().into()),
        _ => None,
    }
}

/// Names and values of a log entry.
pub(crate) type Fields = Vec<(Bytes, Bytes)>;

/// The reply of XRANGE or XREVRANGE: entries with their fields.
pub(crate) fn entries(value: Value) -> Option<Vec<(EntryId, Fields)>> {
    let items = match value {
        Value::Array(items) => items,
        Value::Null => Vec::new(),
        _ => return None,
    };
    items.into_iter().map(entry).collect()
}

fn entry(value: Value) -> Option<(EntryId, Fields)> {
    let Value::Array(parts) = value else { return None };
    let mut parts = parts.into_iter();
    let id = std::str::from_utf8(&string(parts.next()?)?).ok()?.parse().ok()?;
    Some((id, pairs(parts.next()?)?))
}

/// Names and values, as a map or one after the other.
pub(crate) fn pairs(value: Value) -> Option<Fields> {
    match value {
        Value::Map(map) => map
            .inner()
            .into_iter()
            .map(|(key, value)| Some((Bytes::copy_from_slice(key.as_bytes()), string(value)?)))
            .collect(),
        Value::Array(items) => {
            let flat: Vec<Bytes> = items.into_iter().map(string).collect::<Option<_>>()?;
            Some(flat.chunks_exact(2).map(|pair| (pair[0].clone(), pair[1].clone())).collect())
        }
        Value::Null => Some(Vec::new()),
        _ => None,
    }
}

/// What the reply of XINFO STREAM tells, all of it at one moment.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamInfo {
    /// How many entries it holds.
    pub(crate) len: u64,
    /// The last id that it was given, unless it has never held anything.
    pub(crate) last: Option<EntryId>,
}

/// The reply of XINFO STREAM.
pub(crate) fn stream_info(info: Value) -> Option<StreamInfo> {
    let mut fields: HashMap<Bytes, Value> = match info {
        Value::Map(map) => {
            map.inner().into_iter().map(|(key, value)| (Bytes::copy_from_slice(key.as_bytes()), value)).collect()
        }
        Value::Array(items) => {
            let mut items = items.into_iter();
            let pairs = std::iter::from_fn(|| Some((items.next()?, items.next()?)));
            pairs.map(|(key, value)| Some((string(key)?, value))).collect::<Option<_>>()?
        }
        _ => return None,
    };
    let mut field = |name: &str| string(fields.remove(name.as_bytes())?);
    let len = std::str::from_utf8(&field("length")?).ok()?.parse().ok()?;
    let last: EntryId = std::str::from_utf8(&field("last-generated-id")?).ok()?.parse().ok()?;
    Some(StreamInfo { len, last: (last != EntryId { epoch: 0, seq: 0 }).then_some(last) })
}

/// An entry of `log` as readers take it. One that is no completion keeps its place.
pub(crate) fn shown(decoder: &mut Decoder, log: LogId, entry: EntryId, fields: EntryFields<'_>) -> Shown {
    match decoder.entry(log, entry, fields) {
        Ok(decoded) => Shown { entry, prev: decoded.prev, event: Some(Arc::new(decoded.payload)) },
        Err(error) => {
            static LINES: Quiet = Quiet::new();
            if let Some(left_out) = LINES.turn() {
                tracing::warn!(%log, %entry, %error, left_out, "unreadable log entry");
            }
            Shown { entry, prev: fields.predecessor().ok().flatten(), event: None }
        }
    }
}

/// The hash of a log's epochs; what is no epoch is left out.
pub(crate) fn epochs(value: Value) -> Option<Vec<(u64, Predecessor)>> {
    pairs(value).map(|fields| epochs_in(&fields))
}

/// The epochs among these fields.
pub(crate) fn epochs_in(fields: &Fields) -> Vec<(u64, Predecessor)> {
    let text = |bytes: &Bytes| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let epoch = |(epoch, prev): &(Bytes, Bytes)| Some((text(epoch)?.parse().ok()?, text(prev)?.parse().ok()?));
    fields.iter().filter_map(epoch).collect()
}
