//! Converts values of the client to the shapes of the server's replies. Pure.

use std::collections::HashMap;

use bytes::Bytes;
use ff_core::{EntryId, reader::Predecessor};
use fred::{
    error::{Error, ErrorKind},
    types::{Resp3Frame, Value},
};

/// A flat array of strings; numbers count as their text.
pub(crate) fn strings(value: Value) -> Option<Vec<Bytes>> {
    match value {
        Value::Array(items) => items.into_iter().map(string).collect(),
        Value::Null => None,
        other => string(other).map(|one| vec![one]),
    }
}

/// The error in an answer. The client does not inspect a raw answer.
pub(crate) fn refusal(answer: &Resp3Frame) -> Option<Error> {
    let text = match answer {
        Resp3Frame::SimpleError { data, .. } => data.to_string(),
        Resp3Frame::BlobError { data, .. } => String::from_utf8_lossy(data).into_owned(),
        _ => return None,
    };
    let kind =
        if text.starts_with("NOAUTH") || text.starts_with("WRONGPASS") { ErrorKind::Auth } else { ErrorKind::Unknown };
    Some(Error::new(kind, text))
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

/// The names and values of a log entry.
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

/// Names and values, as a map or as a flat list.
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

/// The reply of XINFO STREAM, an atomic view of the stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct StreamInfo {
    /// The number of present entries.
    pub(crate) len: u64,
    /// The last assigned id; `None` if the stream never had an entry.
    pub(crate) last: Option<EntryId>,
}

/// Parses the reply of XINFO STREAM.
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

/// The hash of a log's epochs; invalid epochs are left out.
pub(crate) fn epochs(value: Value) -> Option<Vec<(u64, Predecessor)>> {
    pairs(value).map(|fields| epochs_in(&fields))
}

/// The epochs among these fields.
pub(crate) fn epochs_in(fields: &Fields) -> Vec<(u64, Predecessor)> {
    let text = |bytes: &Bytes| std::str::from_utf8(bytes).ok().map(str::to_owned);
    let epoch = |(epoch, prev): &(Bytes, Bytes)| Some((text(epoch)?.parse().ok()?, text(prev)?.parse().ok()?));
    fields.iter().filter_map(epoch).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_refusal_is_distinguished_from_an_answer() {
        let refused = Resp3Frame::SimpleError { data: "NOPERM no".into(), attributes: None };
        assert_eq!(refusal(&refused).unwrap().details(), "NOPERM no");
        assert!(refusal(&Resp3Frame::Null).is_none());
    }
}
