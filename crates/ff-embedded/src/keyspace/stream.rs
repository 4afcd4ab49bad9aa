//! Streams: entries by id, stored in nodes like the server's, because an approximate trim removes whole nodes.

use std::collections::VecDeque;

use bytes::Bytes;
use ff_core::EntryId;

use super::{
    entry::{Data, Kind},
    listpack,
};

/// The server's defaults for when a node is full.
const NODE_ENTRIES: usize = 100;
const NODE_BYTES: usize = 4096;
/// The default limit of entries that an approximate trim removes.
const TRIMMED_AT_ONCE: usize = 100 * NODE_ENTRIES;

pub(crate) type Fields = Box<[(Bytes, Bytes)]>;

#[derive(Debug)]
pub(crate) struct Entry {
    pub(crate) id: EntryId,
    /// The number of entries ever appended to this stream. Unlike ids it never decreases, whatever the clock does.
    pub(crate) serial: u64,
    pub(crate) fields: Fields,
}

#[derive(Debug)]
struct Node {
    /// The id of the entry with which the node began; it may be gone.
    first: EntryId,
    /// The field names of that entry, which entries with the same names do not repeat.
    names: Box<[Bytes]>,
    entries: VecDeque<Entry>,
    /// The number of entries ever added, including removed ones.
    count: usize,
    bytes: usize,
}

impl Node {
    fn starting_with(id: EntryId, fields: &[(Bytes, Bytes)]) -> Self {
        let names: Box<[Bytes]> = fields.iter().map(|(name, _)| name.clone()).collect();
        let count = i64::try_from(names.len()).unwrap_or(i64::MAX);
        let head = listpack::integer(1) + listpack::integer(0) + listpack::integer(count) + listpack::integer(0);
        let bytes = listpack::EMPTY + head + names.iter().map(|name| listpack::string(name)).sum::<usize>();
        Self { first: id, names, entries: VecDeque::new(), count: 0, bytes }
    }

    fn has_room_for(&self, fields: &[(Bytes, Bytes)]) -> bool {
        let size: usize = fields.iter().map(|(name, value)| name.len() + value.len()).sum();
        self.bytes + size < NODE_BYTES && self.count < NODE_ENTRIES
    }

    fn push(&mut self, entry: Entry) {
        self.bytes += self.size_of(&entry);
        self.count += 1;
        self.entries.push_back(entry);
    }

    fn size_of(&self, entry: &Entry) -> usize {
        let same = self.names.iter().eq(entry.fields.iter().map(|(name, _)| name));
        let number = |n: usize| listpack::integer(i64::try_from(n).unwrap_or(i64::MAX));
        // The server subtracts with wrap-around and reads the result as signed.
        let difference = |a: u64, b: u64| listpack::integer(a.wrapping_sub(b).cast_signed());
        let ids = difference(entry.id.epoch, self.first.epoch) + difference(entry.id.seq, self.first.seq);
        let values: usize = entry.fields.iter().map(|(_, value)| listpack::string(value)).sum();
        let names: usize = entry.fields.iter().map(|(name, _)| listpack::string(name)).sum();
        let width = entry.fields.len();
        let own = if same { number(width + 3) } else { number(width) + names + number(2 * width + 4) };
        // The flags take as much space as any small number.
        listpack::integer(0) + ids + values + own
    }
}

#[derive(Debug)]
pub(crate) struct Stream {
    /// Distinguishes this stream from an earlier one with the same key.
    stamp: u64,
    nodes: VecDeque<Node>,
    length: usize,
    last: EntryId,
    appended: u64,
}

impl Kind for Stream {
    fn of(data: &Data) -> Option<&Self> {
        if let Data::Stream(stream) = data { Some(stream) } else { None }
    }

    fn of_mut(data: &mut Data) -> Option<&mut Self> {
        if let Data::Stream(stream) = data { Some(stream) } else { None }
    }

    fn create(stamp: u64) -> Data {
        let last = EntryId { epoch: 0, seq: 0 };
        Data::Stream(Self { stamp, nodes: VecDeque::new(), length: 0, last, appended: 0 })
    }
}

/// The criterion of a trim.
#[derive(Debug, Clone, Copy)]
pub(super) enum Trim {
    /// Removes entries beyond this number.
    MaxLength(usize),
    /// Removes entries with a smaller id.
    MinId(EntryId),
}

/// How exactly a trim is applied.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Exactness {
    /// All matching entries.
    Exact,
    /// Whole nodes only, with at most this many entries in total.
    Nodes { at_most: usize },
}

impl Default for Exactness {
    fn default() -> Self {
        Self::Nodes { at_most: TRIMMED_AT_ONCE }
    }
}

impl Stream {
    pub(crate) const fn len(&self) -> usize {
        self.length
    }

    /// The largest id ever assigned.
    pub(crate) const fn last_id(&self) -> EntryId {
        self.last
    }

    pub(crate) const fn stamp(&self) -> u64 {
        self.stamp
    }

    /// The serial of the last entry ever appended.
    pub(crate) const fn appended(&self) -> u64 {
        self.appended
    }

    /// Appends an entry; the caller has checked that `id` is larger than the last.
    pub(super) fn push(&mut self, id: EntryId, fields: Fields) {
        if !self.nodes.back().is_some_and(|node| node.has_room_for(&fields)) {
            self.nodes.push_back(Node::starting_with(id, &fields));
        }
        self.last = id;
        self.length += 1;
        self.appended += 1;
        if let Some(node) = self.nodes.back_mut() {
            node.push(Entry { id, serial: self.appended, fields });
        }
    }

    pub(super) fn remove(&mut self, id: EntryId) -> bool {
        let Some(index) = self.nodes.partition_point(|node| node.first <= id).checked_sub(1) else { return false };
        let entries = &mut self.nodes[index].entries;
        let Ok(at) = entries.binary_search_by_key(&id, |entry| entry.id) else { return false };
        entries.remove(at);
        if entries.is_empty() {
            self.nodes.remove(index);
        }
        self.length -= 1;
        true
    }

    pub(crate) fn iter(&self) -> impl DoubleEndedIterator<Item = &Entry> {
        self.nodes.iter().flat_map(|node| &node.entries)
    }

    /// The entries from `first` to `last`, both included.
    pub(super) fn range(&self, first: EntryId, last: EntryId) -> impl DoubleEndedIterator<Item = &Entry> {
        let from = self.nodes.partition_point(|node| node.first <= first).saturating_sub(1);
        let to = self.nodes.partition_point(|node| node.first <= last).max(from);
        let nodes = self.nodes.range(from..to);
        nodes.flat_map(|node| &node.entries).filter(move |entry| (first..=last).contains(&entry.id))
    }

    /// The first entry with a larger id.
    pub(crate) fn following(&self, id: EntryId) -> Option<&Entry> {
        let passed = |node: &Node| node.entries.back().is_none_or(|entry| entry.id <= id);
        let from = self.nodes.partition_point(passed);
        self.nodes.range(from..).flat_map(|node| &node.entries).find(|entry| entry.id > id)
    }

    /// The entries that were appended after `serial`.
    pub(crate) fn after(&self, serial: u64) -> impl Iterator<Item = &Entry> {
        let seen = |node: &Node| node.entries.back().is_none_or(|entry| entry.serial <= serial);
        let from = self.nodes.partition_point(seen);
        self.nodes.range(from..).flat_map(|node| &node.entries).skip_while(move |entry| entry.serial <= serial)
    }

    /// Trims, and returns how many entries were removed.
    pub(super) fn trim(&mut self, trim: Trim, exactness: Exactness) -> usize {
        let at_most = if let Exactness::Nodes { at_most } = exactness { at_most } else { usize::MAX };
        let before = self.length;
        while let Some(node) = self.nodes.front() {
            let size = node.entries.len();
            let whole = match trim {
                Trim::MaxLength(max) => self.length > max && self.length - size >= max,
                Trim::MinId(min) => node.entries.back().is_none_or(|entry| entry.id < min),
            };
            if !whole || before - self.length + size > at_most {
                break;
            }
            self.length -= size;
            self.nodes.pop_front();
        }
        if exactness == Exactness::Exact {
            self.trim_first_node(trim);
        }
        before - self.length
    }

    fn trim_first_node(&mut self, trim: Trim) {
        let Some(node) = self.nodes.front_mut() else { return };
        let surplus = match trim {
            Trim::MaxLength(max) => self.length.saturating_sub(max),
            Trim::MinId(min) => node.entries.partition_point(|entry| entry.id < min),
        };
        node.entries.drain(..surplus);
        self.length -= surplus;
    }
}
