//! Schedules the sweeps of partitions. Pure: the clock and the jitter are arguments.
//!
//! Each served partition has one time for its next sweep: when a timer is due there, or its regular sweep. An announced
//! timer can only move that time forward; the report of a sweep replaces it.

use std::{
    collections::{BTreeSet, HashMap, HashSet},
    time::Duration,
};

use ff_core::{Partition, backend::SweepReport};
use tokio::time::Instant;

/// Partitions swept by one call.
const SWEEP_BATCH: usize = 64;
/// A backend that reports due work which its sweep does not do must not make the sweeper spin.
pub(crate) const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Why and when a partition is swept next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Turn {
    at: Instant,
    /// Whether a sweep before `at` would be useless. A regular sweep may join others a little earlier.
    exact: bool,
}

/// The partitions served, each with its next turn.
#[derive(Debug, Default)]
pub(crate) struct Schedule {
    served: HashSet<Partition>,
    turns: HashMap<Partition, Turn>,
    order: BTreeSet<(Instant, Partition)>,
}

impl Schedule {
    /// Serves exactly these partitions from now on. New partitions have their turn immediately.
    pub(crate) fn serve(&mut self, partitions: impl IntoIterator<Item = Partition>, now: Instant) {
        let served: HashSet<_> = partitions.into_iter().collect();
        let given_up: Vec<_> = self.served.difference(&served).copied().collect();
        let new: Vec<_> = served.difference(&self.served).copied().collect();
        given_up.into_iter().for_each(|partition| self.forget(partition));
        self.served = served;
        new.into_iter().for_each(|partition| self.plan(partition, Turn { at: now, exact: false }));
    }

    /// When the next partition has its turn, if any is served.
    pub(crate) fn wake_at(&self) -> Option<Instant> {
        self.order.first().map(|(at, _)| *at)
    }

    /// A timer of the partition is due at `at`.
    pub(crate) fn announced(&mut self, partition: Partition, at: Instant) {
        if self.turns.get(&partition).is_some_and(|turn| at < turn.at) {
            self.plan(partition, Turn { at, exact: true });
        }
    }

    /// Timers may be due in any partition.
    pub(crate) fn all_at_once(&mut self, now: Instant) {
        let served: Vec<_> = self.served.iter().copied().collect();
        served.into_iter().for_each(|partition| self.plan(partition, Turn { at: now, exact: false }));
    }

    /// The partitions whose turn has come, longest wait first. Regular sweeps that are due within `ahead` are included.
    pub(crate) fn next_batch(&mut self, now: Instant, ahead: Duration) -> Vec<Partition> {
        if self.wake_at().is_none_or(|at| at > now) {
            return Vec::new();
        }
        let has_turn = |(at, partition): &&(Instant, Partition)| {
            *at <= now || self.turns.get(partition).is_some_and(|turn| !turn.exact)
        };
        let soon = self.order.iter().take_while(|(at, _)| *at <= now + ahead);
        let batch: Vec<_> = soon.filter(has_turn).take(SWEEP_BATCH).map(|(_, partition)| *partition).collect();
        batch.iter().for_each(|partition| self.forget(*partition));
        batch
    }

    /// Plans the turn after a sweep from its report; the regular one is at `regular`.
    pub(crate) fn swept(&mut self, partition: Partition, report: &SweepReport, now: Instant, regular: Instant) {
        let due = report.next_due.map(|after| now + after.max(SHORTEST_WAIT)).filter(|at| *at < regular);
        let turn = match due {
            _ if report.more => Turn { at: now, exact: true },
            Some(at) => Turn { at, exact: true },
            None => Turn { at: regular, exact: false },
        };
        self.plan(partition, turn);
    }

    /// Plans a retry for a partition whose sweep failed.
    pub(crate) fn failed(&mut self, partition: Partition, again: Instant) {
        self.plan(partition, Turn { at: again, exact: false });
    }

    fn plan(&mut self, partition: Partition, turn: Turn) {
        self.forget(partition);
        if self.served.contains(&partition) {
            self.order.insert((turn.at, partition));
            self.turns.insert(partition, turn);
        }
    }

    fn forget(&mut self, partition: Partition) {
        if let Some(turn) = self.turns.remove(&partition) {
            self.order.remove(&(turn.at, partition));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);
    const NOT_AHEAD: Duration = Duration::ZERO;

    fn p(number: u16) -> Partition {
        Partition::new(number)
    }

    fn report(more: bool, next_due: Option<Duration>) -> SweepReport {
        let mut report = SweepReport::default();
        report.more = more;
        report.next_due = next_due;
        report
    }

    /// Serves this many partitions, of which none has a turn before the returned start + 5 s.
    fn swept_once(count: u16) -> (Schedule, Instant) {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.serve((0..count).map(p), start);
        loop {
            let batch = schedule.next_batch(start, NOT_AHEAD);
            if batch.is_empty() {
                return (schedule, start);
            }
            batch.into_iter().for_each(|p| schedule.swept(p, &report(false, None), start, start + 5 * SECOND));
        }
    }

    #[test]
    fn every_partition_that_is_served_has_its_turn_at_once_in_batches_of_64() {
        let (mut schedule, now) = (Schedule::default(), Instant::now());
        schedule.serve((0..150).map(p), now);
        let batches: Vec<_> =
            std::iter::from_fn(|| Some(schedule.next_batch(now, NOT_AHEAD)).filter(|b| !b.is_empty())).collect();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 22]);
        assert_eq!(batches.concat(), (0..150).map(p).collect::<Vec<_>>());
        assert_eq!(schedule.wake_at(), None);
    }

    #[test]
    fn a_partition_with_more_to_do_is_swept_again_after_the_waiting_ones() {
        let (mut schedule, start) = (Schedule::default(), Instant::now());
        schedule.serve((0..65).map(p), start);
        let first = schedule.next_batch(start, NOT_AHEAD);
        let later = start + SHORTEST_WAIT;
        schedule.swept(first[0], &report(true, None), later, later + SECOND);
        assert_eq!(schedule.next_batch(later, NOT_AHEAD), [p(64), p(0)]);
    }

    #[test]
    fn a_timer_before_the_regular_sweep_is_swept_on_time_and_alone() {
        let (mut schedule, start) = swept_once(3);
        schedule.swept(p(1), &report(false, Some(SECOND / 4)), start, start + 5 * SECOND);
        schedule.swept(p(2), &report(false, Some(7 * SECOND)), start, start + 5 * SECOND);
        assert_eq!(schedule.wake_at(), Some(start + SECOND / 4));
        assert_eq!(schedule.next_batch(start + SECOND / 4, SECOND), [p(1)]);
        assert_eq!(schedule.wake_at(), Some(start + 5 * SECOND));
    }

    #[test]
    fn an_announced_timer_advances_a_sweep_and_never_delays_it() {
        let (mut schedule, start) = swept_once(2);
        schedule.announced(p(1), start + SECOND);
        schedule.announced(p(1), start + 2 * SECOND);
        schedule.announced(p(9), start);
        assert_eq!(schedule.wake_at(), Some(start + SECOND));
        assert_eq!(schedule.next_batch(start + SECOND, NOT_AHEAD), [p(1)]);
    }

    #[test]
    fn a_newer_report_replaces_an_older_plan() {
        let (mut schedule, start) = swept_once(1);
        schedule.swept(p(0), &report(false, Some(SECOND / 4)), start, start + 5 * SECOND);
        schedule.swept(p(0), &report(false, Some(SECOND / 2)), start, start + 5 * SECOND);
        assert_eq!(schedule.wake_at(), Some(start + SECOND / 2));
    }

    #[test]
    fn regular_sweeps_may_join_an_earlier_batch_and_timers_may_not() {
        let (mut schedule, start) = swept_once(3);
        let now = start + 4 * SECOND;
        schedule.announced(p(0), now);
        schedule.announced(p(1), now + SECOND / 2);
        assert_eq!(schedule.next_batch(now, SECOND), [p(0), p(2)]);
    }

    #[test]
    fn a_partition_that_is_always_due_does_not_spin() {
        let (mut schedule, start) = swept_once(1);
        schedule.swept(p(0), &report(false, Some(Duration::ZERO)), start, start + SECOND);
        assert_eq!(schedule.wake_at(), Some(start + SHORTEST_WAIT));
    }

    #[test]
    fn a_partition_that_is_given_up_has_no_turn_even_if_it_was_being_swept() {
        let (mut schedule, start) = swept_once(2);
        schedule.all_at_once(start);
        let batch = schedule.next_batch(start, NOT_AHEAD);
        schedule.serve([p(1)], start);
        batch.into_iter().for_each(|p| schedule.swept(p, &report(true, None), start, start + SECOND));
        assert_eq!(schedule.next_batch(start, NOT_AHEAD), [p(1)]);
    }
}
