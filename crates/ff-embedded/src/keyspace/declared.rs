//! The keys that may be created.

use rustc_hash::FxHashSet;

/// From this many keys on they are looked up by hash: most calls declare about fifteen keys and create three or four,
/// too few for a separate set.
const MANY: usize = 64;

/// While a function runs: its KEYS, the only keys that it may create. Otherwise all keys may be created.
#[derive(Debug, Default)]
pub(super) struct Declared {
    running: bool,
    /// The concatenated keys, and the end of each.
    few: Vec<u8>,
    ends: Vec<usize>,
    many: FxHashSet<Box<[u8]>>,
}

impl Declared {
    pub(super) fn begin<K: AsRef<[u8]>>(&mut self, keys: &[K]) {
        self.end();
        self.running = true;
        if keys.len() >= MANY {
            self.many = keys.iter().map(|key| key.as_ref().into()).collect();
            return;
        }
        for key in keys {
            self.few.extend_from_slice(key.as_ref());
            self.ends.push(self.few.len());
        }
    }

    pub(super) fn end(&mut self) {
        self.running = false;
        self.few.clear();
        self.ends.clear();
        self.many = FxHashSet::default();
    }

    pub(super) fn allows(&self, key: &[u8]) -> bool {
        if !self.running || self.many.contains(key) {
            return true;
        }
        let starts = std::iter::once(0).chain(self.ends.iter().copied());
        starts.zip(&self.ends).any(|(start, end)| &self.few[start..*end] == key)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_call_may_create_declared_keys_only() {
        let mut declared = Declared::default();
        for count in [0, 3, MANY - 1, MANY, 2 * MANY] {
            let keys: Vec<String> = (0..count).map(|n| format!("key {n}")).collect();
            declared.begin(&keys);
            assert!(keys.iter().all(|key| declared.allows(key.as_bytes())), "{count}");
            assert!(["", "key", "key 00", "0", "key 0key 1"].iter().all(|key| !declared.allows(key.as_bytes())));
            declared.end();
            assert!(declared.allows(b"another"));
        }
    }
}
