//! The most recent deliveries of this process. A subscription that was behind takes them when it rejoins the live feed.
//! Pure.

use std::{
    collections::{HashMap, VecDeque},
    sync::Arc,
};

use ff_core::{CompletionPayload, EntryId, reader::LogReader};

/// The limits of the ring: the number of its events, and roughly the bytes of these events with their contents.
const EVENTS: usize = 4096;
const BYTES: usize = 8 << 20;

#[derive(Debug)]
struct Recent {
    index: usize,
    /// The log's newest entry before this event.
    before: Option<EntryId>,
    event: Arc<CompletionPayload>,
    bytes: usize,
}

/// The memory that an event takes if it shares no text with another.
fn size_of_event(event: &CompletionPayload) -> usize {
    /// The place of a tag in its map, and the allocations of its two texts.
    const TAG: usize = 4 * size_of::<usize>() + 2 * size_of::<String>();
    let result = event.payload_bytes.as_ref().map_or(0, bytes::Bytes::len);
    let reason = event.reason.as_ref().map_or(0, |reason| reason.len());
    let tags: usize = event.tags.iter().map(|(key, value)| TAG + key.len() + value.len()).sum();
    size_of::<CompletionPayload>() + result + reason + tags
}

/// The recent events of all logs in the order of their delivery.
#[derive(Debug, Default)]
pub(crate) struct Ring {
    recent: VecDeque<Recent>,
    bytes: usize,
}

impl Ring {
    pub(crate) fn push(&mut self, index: usize, before: Option<EntryId>, event: Arc<CompletionPayload>) {
        let bytes = size_of_event(&event);
        self.bytes += bytes;
        self.recent.push_back(Recent { index, before, event, bytes });
        while self.recent.len() > EVENTS || self.bytes > BYTES {
            match self.recent.pop_front() {
                Some(oldest) => self.bytes -= oldest.bytes,
                None => break,
            }
        }
    }

    /// Removes the events of one log. A reader that is behind the next event must then read the log.
    pub(crate) fn forget(&mut self, index: usize) {
        self.recent.retain(|recent| recent.index != index);
        self.bytes = self.recent.iter().map(|recent| recent.bytes).sum();
    }

    pub(crate) fn clear(&mut self) {
        *self = Self::default();
    }

    /// All deliveries of the logs `behind` after the positions in `frontier`, in order. `None` if the ring no longer
    /// holds some of them, or if one of them is an entry that was rolled back for the reader.
    pub(crate) fn after(&self, behind: &[usize], frontier: &[LogReader]) -> Option<Vec<&Arc<CompletionPayload>>> {
        let mut found: HashMap<usize, bool> = behind.iter().map(|index| (*index, false)).collect();
        let mut missing = Vec::new();
        for recent in &self.recent {
            let Some(found) = found.get_mut(&recent.index) else { continue };
            let cursor = frontier[recent.index].cursor();
            *found |= recent.before == cursor.last();
            if *found {
                if recent.event.position.is_some_and(|position| cursor.had(position.entry)) {
                    return None;
                }
                missing.push(&recent.event);
            }
        }
        found.values().all(|found| *found).then_some(missing)
    }
}

#[cfg(test)]
mod tests {
    use ff_core::{ExecutionId, LogId, Outcome, Partition, PartitionCount, Scope, reader::LogCursor};

    use super::*;

    fn event() -> Arc<CompletionPayload> {
        Arc::new(CompletionPayload::new(ExecutionId::generate_solo(PartitionCount::DEFAULT), None, Outcome::Success))
    }

    fn at(seq: u64) -> Option<EntryId> {
        Some(EntryId { epoch: 1, seq })
    }

    #[test]
    fn the_successors_of_a_recent_position_are_found() {
        let mut ring = Ring::default();
        let events: Vec<_> = (0..4).map(|_| event()).collect();
        ring.push(0, at(0), events[0].clone());
        ring.push(1, None, events[1].clone());
        ring.push(0, at(1), events[2].clone());
        ring.push(0, at(2), events[3].clone());
        let reader = |number, last| {
            let log = LogId { partition: Partition::new(number), scope: Scope::Flows };
            LogReader::new(log, LogCursor::after(last))
        };
        let frontier = [reader(0, at(1)), reader(1, None)];
        let same = |found: Vec<&Arc<CompletionPayload>>, expected: &[usize]| {
            found.len() == expected.len() && found.iter().zip(expected).all(|(f, e)| Arc::ptr_eq(f, &events[*e]))
        };
        assert!(same(ring.after(&[0], &frontier).unwrap(), &[2, 3]));
        assert!(same(ring.after(&[1, 0], &frontier).unwrap(), &[1, 2, 3]));
        for _ in 0..EVENTS - 1 {
            ring.push(1, at(9), event());
        }
        assert!(ring.after(&[0], &frontier).is_none());
        assert_eq!(ring.recent.len(), EVENTS);
    }

    #[test]
    fn large_tags_do_not_make_it_grow() {
        let mut ring = Ring::default();
        for number in 0..EVENTS {
            let mut large = CompletionPayload::clone(&event());
            large.tags = ff_core::Tags::new((0..32).map(|tag| (format!("{number}-{tag}"), "v".repeat(128)))).unwrap();
            ring.push(0, None, Arc::new(large));
        }
        assert!(ring.bytes <= BYTES && ring.recent.len() < BYTES / (32 * 128), "{} of them", ring.recent.len());
    }

    #[test]
    fn large_results_do_not_make_it_grow() {
        let mut ring = Ring::default();
        for _ in 0..100 {
            let mut large = CompletionPayload::clone(&event());
            large.payload_bytes = Some(vec![0; BYTES / 10].into());
            ring.push(0, None, Arc::new(large));
        }
        assert!(ring.bytes <= BYTES && ring.recent.len() < 11);
    }
}
