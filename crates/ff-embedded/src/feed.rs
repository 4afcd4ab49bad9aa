//! Records which logs were appended to last, so that a reader reads only those instead of all.

use std::collections::VecDeque;

/// How many appends are remembered. A reader that is further behind reads all logs once.
const REMEMBERED: usize = 4_096;

/// The keys of the logs that were appended to, in order.
#[derive(Debug, Default)]
pub(crate) struct Feed {
    recent: VecDeque<Box<[u8]>>,
    /// The number of appends before the first remembered one.
    forgotten: u64,
}

impl Feed {
    pub(crate) fn note(&mut self, keys: Vec<Box<[u8]>>) {
        self.recent.extend(keys);
        let surplus = self.recent.len().saturating_sub(REMEMBERED);
        self.recent.drain(..surplus);
        self.forgotten += surplus as u64;
    }

    /// The total number of appends.
    pub(crate) fn head(&self) -> u64 {
        self.forgotten + self.recent.len() as u64
    }

    /// The keys appended to after the first `seen` appends; `None` if they are no longer remembered.
    pub(crate) fn after(&self, seen: u64) -> Option<impl Iterator<Item = &[u8]>> {
        let from = usize::try_from(seen.checked_sub(self.forgotten)?).ok()?;
        Some(self.recent.range(from.min(self.recent.len())..).map(AsRef::as_ref))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_the_changes_that_it_has_not_seen_while_they_are_remembered() {
        let mut feed = Feed::default();
        let keys = |count: usize| (0..count).map(|n| n.to_string().into_bytes().into()).collect::<Vec<_>>();
        feed.note(keys(3));
        let seen: Vec<_> = feed.after(1).unwrap().collect();
        assert_eq!((seen, feed.head()), (vec![&b"1"[..], b"2"], 3));
        feed.note(keys(REMEMBERED));
        assert!(feed.after(2).is_none());
        assert_eq!(feed.after(3).unwrap().count(), REMEMBERED);
        assert_eq!(feed.after(feed.head()).unwrap().count(), 0);
    }
}
