//! The value of a key.

use super::{hash::Hash, stream::Stream, string::Text, zset::SortedSet};

#[derive(Debug)]
pub(crate) enum Data {
    Hash(Hash),
    SortedSet(SortedSet),
    Stream(Stream),
    String(Text),
}

impl Data {
    pub(crate) const fn type_name(&self) -> &'static str {
        match self {
            Self::Hash(_) => "hash",
            Self::SortedSet(_) => "zset",
            Self::Stream(_) => "stream",
            Self::String(_) => "string",
        }
    }
}

/// A type of data that a key can hold.
pub(crate) trait Kind {
    fn of(data: &Data) -> Option<&Self>;
    fn of_mut(data: &mut Data) -> Option<&mut Self>;
    /// An empty value. `stamp` is unique among all values ever created in a keyspace.
    fn create(stamp: u64) -> Data;
}
