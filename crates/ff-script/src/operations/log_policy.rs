//! The limits of the completion logs, and the bytes that the library has counted in one.

use bytes::Bytes;
use ff_core::{EngineError, EntryId, Scope, limits, reader::LogLimits};

/// A log may exceed its limit in bytes by one piece (the limit divided by this), by one entry, and by what a restart
/// has left uncounted.
const PIECES: u64 = 16;
/// The bytes of the largest event without its result: ids, reason and tags, see `lua/lib/completion.lua`.
const LONGEST_EVENT: u64 = 40 * 1024;

/// How many completions the logs keep, and which results are part of their event.
///
/// A log loses its oldest entries when it exceeds its limit of entries, or when the entries after them have reached its
/// limit of bytes. Counted are the bytes of events and results, and 40 for each entry; the server's memory needs up to
/// a quarter more.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogPolicy {
    /// Entries kept per log of flows.
    pub flow_entries: u64,
    /// Entries kept per log of solo executions.
    pub solo_entries: u64,
    /// The largest result, in bytes, that is part of its event: at most [`limits::INLINE_RESULT_BYTES`].
    pub inline_result_bytes: u64,
    /// Bytes kept per log of flows.
    pub flow_bytes: u64,
    /// Bytes kept per log of solo executions.
    pub solo_bytes: u64,
}

impl Default for LogPolicy {
    /// 10,000 entries and 16 MiB for flows, 1,000 and 4 MiB for solo executions; results of 4 KiB.
    ///
    /// 10,000 completions of about 350 bytes take 3.5 MB, so the limit of bytes matters only for events with results or
    /// many tags. A log still holds 3,700 results of 4 KiB.
    fn default() -> Self {
        Self {
            flow_entries: 10_000,
            solo_entries: 1_000,
            inline_result_bytes: 4_096,
            flow_bytes: 16 * 1024 * 1024,
            solo_bytes: 4 * 1024 * 1024,
        }
    }
}

impl LogPolicy {
    /// How many entries a log of this scope keeps.
    #[must_use]
    pub const fn entries(self, scope: Scope) -> u64 {
        match scope {
            Scope::Flows => self.flow_entries,
            Scope::Solo => self.solo_entries,
        }
    }

    /// How many bytes a log of this scope keeps.
    #[must_use]
    pub const fn bytes(self, scope: Scope) -> u64 {
        match scope {
            Scope::Flows => self.flow_bytes,
            Scope::Solo => self.solo_bytes,
        }
    }

    /// The limits of a log of this scope.
    #[must_use]
    pub const fn limits(self, scope: Scope) -> LogLimits {
        LogLimits { entries: self.entries(scope), bytes: self.bytes(scope) }
    }

    /// The most bytes of the server's memory that one log of this scope takes, except for what restarts leave uncounted
    /// (a 64th of its limit each).
    #[must_use]
    pub fn most_memory(self, scope: Scope) -> u64 {
        let entry = self.inline_result_bytes + LONGEST_EVENT;
        let bytes = self.bytes(scope);
        let counted = (bytes + bytes / PIECES + entry).min(self.entries(scope).saturating_mul(entry));
        counted + counted / 4
    }

    /// Checks the ranges of the settings; every host calls it.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] with the setting and its range.
    pub fn check(self) -> Result<(), EngineError> {
        const BYTES: std::ops::RangeInclusive<u64> = 1_024..=256 * 1024 * 1024;
        limits::check_number("log entries of flows", self.flow_entries, 1..=10_000_000)?;
        limits::check_number("log entries of solo executions", self.solo_entries, 1..=10_000_000)?;
        limits::check_number("log bytes of flows", self.flow_bytes, BYTES)?;
        limits::check_number("log bytes of solo executions", self.solo_bytes, BYTES)?;
        limits::check_number("inline result bytes", self.inline_result_bytes, 0..=limits::INLINE_RESULT_BYTES as u64)
    }

    pub(super) fn argument(self) -> Bytes {
        let Self { flow_entries, solo_entries, inline_result_bytes, flow_bytes, solo_bytes } = self;
        Bytes::from(format!("{flow_entries} {solo_entries} {inline_result_bytes} {flow_bytes} {solo_bytes}"))
    }
}

/// The bytes of a log, as the library last saved them beside the log's epochs (`lua/lib/bytes.lua`).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct LogBytes {
    upto: Option<EntryId>,
    offset: u64,
    /// Entries, and the offsets at which they begin, oldest first.
    marks: Vec<(EntryId, u64)>,
}

impl LogBytes {
    /// The field of the hash of epochs in which the library saves them.
    pub const FIELD: &str = "bytes";

    /// Parses the field; a malformed one counts as zero bytes.
    #[must_use]
    pub fn read(field: &[u8]) -> Self {
        let words: Vec<&str> = std::str::from_utf8(field).unwrap_or_default().split(' ').collect();
        let pair = |pair: &[&str]| Some((pair[0].parse().ok()?, pair[1].parse().ok()?));
        let pairs: Option<Vec<(EntryId, u64)>> = words.chunks_exact(2).map(pair).collect();
        match pairs.as_deref() {
            Some([(upto, offset), marks @ ..]) => Self { upto: Some(*upto), offset: *offset, marks: marks.to_vec() },
            _ => Self::default(),
        }
    }

    /// The counted bytes of entries that the log may still hold.
    #[must_use]
    pub fn total(&self) -> u64 {
        self.marks.first().map_or(0, |(_, at)| self.offset.saturating_sub(*at))
    }

    /// The bytes of the entries after this one, at most one piece too many; of all entries for `None`.
    #[must_use]
    pub fn after(&self, entry: Option<EntryId>) -> u64 {
        let Some(entry) = entry else { return self.total() };
        if self.upto.is_none_or(|upto| entry >= upto) {
            return 0;
        }
        let before = self.marks.iter().rev().find(|(mark, _)| *mark <= entry);
        before.map_or_else(|| self.total(), |(_, at)| self.offset.saturating_sub(*at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seq: u64) -> Option<EntryId> {
        Some(EntryId { epoch: 7, seq })
    }

    #[test]
    fn the_bytes_after_a_position_are_counted_from_the_mark_before_it() {
        let bytes = LogBytes::read(b"7-30 900 7-0 100 7-10 400 7-20 700");
        assert_eq!(bytes.total(), 800);
        let after = [None, at(0), at(9), at(10), at(29), at(30), at(40)].map(|entry| bytes.after(entry));
        assert_eq!(after, [800, 800, 800, 500, 200, 0, 0]);
    }

    #[test]
    fn a_malformed_count_of_bytes_is_zero() {
        for text in ["", "0-0 0", "7-3 5 x y", "bytes"] {
            let bytes = LogBytes::read(text.as_bytes());
            assert_eq!((bytes.total(), bytes.after(at(0))), (0, 0), "{text}");
        }
    }

    #[test]
    fn the_memory_of_a_log_is_bounded_by_the_smaller_of_its_two_limits() {
        let small = LogPolicy { flow_bytes: 1 << 20, ..LogPolicy::default() };
        assert_eq!(small.most_memory(Scope::Flows), ((1 << 20) + (1 << 16) + 45_056) / 4 * 5);
        let few = LogPolicy { flow_entries: 10, ..LogPolicy::default() };
        assert_eq!(few.most_memory(Scope::Flows), 450_560 / 4 * 5);
    }
}
