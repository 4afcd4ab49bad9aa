//! A snapshot of the whole keyspace, for tests that check invariants.

use std::collections::BTreeMap;

use bytes::Bytes;
use ff_core::EntryId;

use super::{Keyspace, entry::Data};

/// One entry of a stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StreamEntry {
    /// Its id.
    pub id: EntryId,
    /// Its fields in their order.
    pub fields: Vec<(Bytes, Bytes)>,
}

/// The value of one key.
#[derive(Debug, Clone, PartialEq)]
#[non_exhaustive]
pub enum KeyValue {
    /// A hash.
    Hash(BTreeMap<Bytes, Bytes>),
    /// A sorted set, in its order.
    SortedSet(Vec<(Bytes, f64)>),
    /// A stream.
    Stream {
        /// Its entries in their order.
        entries: Vec<StreamEntry>,
        /// The largest id that was ever assigned.
        last_generated: EntryId,
    },
    /// A string.
    String(Bytes),
}

impl From<&Data> for KeyValue {
    fn from(data: &Data) -> Self {
        let copy = Bytes::copy_from_slice;
        match data {
            Data::Hash(hash) => Self::Hash(hash.iter().map(|(name, value)| (copy(name), copy(value))).collect()),
            Data::SortedSet(set) => Self::SortedSet(set.iter().map(|(member, score)| (copy(member), score)).collect()),
            Data::Stream(stream) => Self::Stream {
                entries: stream
                    .iter()
                    .map(|entry| StreamEntry { id: entry.id, fields: entry.fields.to_vec() })
                    .collect(),
                last_generated: stream.last_id(),
            },
            Data::String(text) => Self::String(copy(text.bytes())),
        }
    }
}

impl Keyspace {
    /// All keys, sorted, with copies of their values.
    pub(crate) fn snapshot(&self) -> BTreeMap<Bytes, KeyValue> {
        self.data.iter().map(|(key, data)| (Bytes::copy_from_slice(key), data.into())).collect()
    }
}
