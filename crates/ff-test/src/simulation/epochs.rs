//! Epochs: checks that no two tenures have the same, and compares two hosts regardless of their epochs.

use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};

use bytes::Bytes;
use ff_core::{EntryId, Scope};
use ff_embedded::{KeyValue, StreamEntry};

use super::stage::Contents;

/// Which tenure has begun which epoch.
#[derive(Debug, Default)]
pub(super) struct Tenures {
    now: u32,
    begun: HashMap<(Scope, u64), u32>,
    /// The entries of the logs seen so far, without those rolled back.
    seen: HashSet<(Scope, EntryId)>,
}

impl Tenures {
    /// Checks the entries of a log. Returns an epoch that continues or begins again after its tenure is over.
    pub(super) fn look(&mut self, scope: Scope, entries: impl IntoIterator<Item = EntryId>) -> Option<u64> {
        let mut taken = None;
        for entry in entries {
            let is_new = self.seen.insert((scope, entry));
            if is_new && *self.begun.entry((scope, entry.epoch)).or_insert(self.now) != self.now {
                taken = Some(entry.epoch);
            }
        }
        taken
    }

    /// Another tenure begins, with these entries in the logs.
    pub(super) fn change(&mut self, held: impl IntoIterator<Item = (Scope, EntryId)>) {
        self.now += 1;
        self.seen = held.into_iter().collect();
    }
}

/// The epochs in the keys of a host, each with a number for its order in each of the two logs.
pub(super) struct Renumbering(BTreeMap<u64, u64>);

impl Renumbering {
    pub(super) fn of(contents: &Contents) -> Self {
        /// More than the epochs of one log.
        const MOST: u64 = 10_000;
        let mut epochs = [BTreeSet::new(), BTreeSet::new()];
        for (key, value) in contents.iter().filter(|(key, _)| text(key).contains(":completions")) {
            let epochs = &mut epochs[usize::from(text(key).contains(":solo"))];
            match value {
                KeyValue::Hash(fields) => {
                    epochs.extend(fields.keys().filter_map(|epoch| text(epoch).parse::<u64>().ok()));
                }
                KeyValue::Stream { entries, last_generated } => {
                    epochs.extend(entries.iter().map(|entry| entry.id.epoch).chain([last_generated.epoch]));
                }
                _ => {}
            }
        }
        let mut numbers: BTreeMap<u64, u64> = BTreeMap::new();
        for (epochs, width) in epochs.iter().zip([MOST, 1]) {
            for (place, epoch) in (1..).zip(epochs) {
                *numbers.entry(*epoch).or_default() += place * width;
            }
        }
        Self(numbers)
    }

    /// Replaces epochs by their numbers, in positions and as the names of fields.
    pub(super) fn applied(&self, value: &KeyValue) -> KeyValue {
        match value {
            KeyValue::Hash(fields) => {
                KeyValue::Hash(fields.iter().map(|(name, value)| self.pair(name, value)).collect())
            }
            KeyValue::Stream { entries, last_generated } => KeyValue::Stream {
                entries: entries.iter().map(|entry| self.entry(entry)).collect(),
                last_generated: self.id(*last_generated),
            },
            other => other.clone(),
        }
    }

    fn entry(&self, entry: &StreamEntry) -> StreamEntry {
        let fields = entry.fields.iter().map(|(name, value)| self.pair(name, value)).collect();
        StreamEntry { id: self.id(entry.id), fields }
    }

    fn id(&self, id: EntryId) -> EntryId {
        let number = self.0.get(&id.epoch).copied().unwrap_or(id.epoch);
        EntryId { epoch: number, seq: id.seq }
    }

    fn pair(&self, name: &Bytes, value: &Bytes) -> (Bytes, Bytes) {
        // A position, or several with numbers between them.
        let word = |word: &str| word.parse().map_or_else(|_| word.to_owned(), |id| self.id(id).to_string());
        let are_positions = text(value).split(' ').next().is_some_and(|first| first.parse::<EntryId>().is_ok());
        let position = are_positions.then(|| text(value).split(' ').map(word).collect::<Vec<_>>().join(" "));
        let epoch = text(name).parse().ok().and_then(|epoch: u64| self.0.get(&epoch)).map(|number| number.to_string());
        (epoch.map_or_else(|| name.clone(), Bytes::from), position.map_or_else(|| value.clone(), Bytes::from))
    }
}

fn text(bytes: &[u8]) -> &str {
    std::str::from_utf8(bytes).unwrap_or_default()
}
