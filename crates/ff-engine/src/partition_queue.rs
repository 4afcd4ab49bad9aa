//! Partitions waiting for their turn: each at most once, served round robin, never served twice at the same time.
//!
//! A mark can arrive while its partition is being served. The call in flight may have looked before the work arrived,
//! so the mark must not be dropped; a second call must not run concurrently with the first either. The mark is kept,
//! and the partition waits for another turn as soon as the current one ends.

use std::collections::{HashMap, VecDeque};

use ff_core::Partition;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Waiting,
    Served { marked_again: bool },
}

/// A fair, coalescing queue of partitions.
#[derive(Debug, Default)]
pub(crate) struct PartitionQueue {
    waiting: VecDeque<Partition>,
    states: HashMap<Partition, State>,
    served: usize,
}

impl PartitionQueue {
    /// Requests one more turn of this partition.
    pub(crate) fn mark(&mut self, partition: Partition) {
        match self.states.get_mut(&partition) {
            None => {
                self.states.insert(partition, State::Waiting);
                self.waiting.push_back(partition);
            }
            Some(State::Served { marked_again }) => *marked_again = true,
            Some(State::Waiting) => {}
        }
    }

    /// The partition that has waited longest.
    pub(crate) fn first(&self) -> Option<Partition> {
        self.waiting.front().copied()
    }

    /// Begins the turn of the partition that has waited longest.
    pub(crate) fn begin(&mut self) -> Option<Partition> {
        let partition = self.waiting.pop_front()?;
        self.states.insert(partition, State::Served { marked_again: false });
        self.served += 1;
        Some(partition)
    }

    /// Begins the turn of this partition, if it is waiting.
    pub(crate) fn begin_with(&mut self, partition: Partition) -> bool {
        if self.states.get(&partition) != Some(&State::Waiting) {
            return false;
        }
        self.waiting.retain(|waiting| *waiting != partition);
        self.states.insert(partition, State::Served { marked_again: false });
        self.served += 1;
        true
    }

    /// Ends a partition's turn. The partition waits for another one if `more`, or if it was marked meanwhile. Returns
    /// whether it was marked.
    pub(crate) fn end(&mut self, partition: Partition, more: bool) -> bool {
        let marked = self.states.remove(&partition) == Some(State::Served { marked_again: true });
        self.served -= 1;
        if more || marked {
            self.mark(partition);
        }
        marked
    }

    /// How many partitions wait.
    pub(crate) fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// The number of turns in progress.
    pub(crate) fn served(&self) -> usize {
        self.served
    }

    /// All partitions that wait, in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Partition> + '_ {
        self.waiting.iter().copied()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn p(number: u16) -> Partition {
        Partition::new(number)
    }

    #[test]
    fn marks_of_a_waiting_partition_coalesce() {
        let mut queue = PartitionQueue::default();
        queue.mark(p(1));
        queue.mark(p(1));
        assert_eq!((queue.begin(), queue.begin()), (Some(p(1)), None));
        assert!(!queue.end(p(1), false));
        assert_eq!((queue.begin(), queue.served()), (None, 0));
    }

    #[test]
    fn a_mark_during_the_turn_gives_another_turn_and_never_a_second_at_once() {
        let mut queue = PartitionQueue::default();
        queue.mark(p(1));
        queue.begin();
        queue.mark(p(1));
        assert_eq!(queue.begin(), None);
        assert!(queue.end(p(1), false));
        assert_eq!(queue.begin(), Some(p(1)));
    }

    #[test]
    fn a_partition_with_more_work_is_queued_behind_the_waiting_ones() {
        let mut queue = PartitionQueue::default();
        queue.mark(p(1));
        queue.mark(p(2));
        let first = queue.begin().unwrap();
        queue.end(first, true);
        assert_eq!(queue.iter().collect::<Vec<_>>(), [p(2), p(1)]);
    }

    #[test]
    fn a_partition_can_be_taken_out_of_its_turn_only_while_it_waits() {
        let mut queue = PartitionQueue::default();
        queue.mark(p(1));
        queue.mark(p(2));
        assert!(queue.begin_with(p(2)) && !queue.begin_with(p(2)) && !queue.begin_with(p(3)));
        assert_eq!((queue.waiting(), queue.served()), (1, 1));
    }
}
