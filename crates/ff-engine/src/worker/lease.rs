//! The leases that a worker holds, by its own monotonic clock. Pure: the clock is an argument.
//!
//! A lease counts from the moment at which its claim or renewal was *sent*. The server counts from when it executed the
//! call, which is later, so a lease runs out here before it runs out there.

use std::{collections::HashMap, time::Duration};

use ff_core::{ExecutionId, Lease};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

/// The times for the actions on a lease, as fractions of its length.
#[derive(Debug, Clone, Copy)]
pub(super) struct Timing {
    /// How long a lease runs.
    pub(super) lease: Duration,
    /// How long before the end of the lease its handler is cancelled, so that the handler ends before the lease.
    pub(super) margin: Duration,
}

impl Timing {
    /// The interval of checks for due renewals. The lease of a handler that takes longer than this is confirmed.
    pub(super) fn tick(self) -> Duration {
        self.lease / 10
    }

    fn renewal_period(self) -> Duration {
        self.lease / 3
    }
}

/// The events of a lease while its handler runs. Each happens at most once.
#[derive(Debug, Clone, Default)]
pub(super) struct Fate {
    /// The lease is void, or may be void by the local clock.
    pub(super) lost: CancellationToken,
    /// The lease is about to run out, because its renewals are not answered.
    pub(super) ending: CancellationToken,
    /// The backend reported that the attempt exceeded its timeout.
    pub(super) timed_out: CancellationToken,
}

#[derive(Debug)]
struct Entry {
    expires_at: Instant,
    renew_at: Instant,
    fate: Fate,
}

impl Entry {
    fn is_held(&self) -> bool {
        !self.fate.lost.is_cancelled()
    }

    fn stop_at(&self, timing: Timing) -> Instant {
        self.expires_at.checked_sub(timing.margin).unwrap_or(self.expires_at)
    }
}

/// All leases of one worker.
#[derive(Debug)]
pub(super) struct LeaseTable {
    timing: Timing,
    entries: HashMap<Lease, Entry>,
}

impl LeaseTable {
    pub(super) fn new(timing: Timing) -> Self {
        Self { timing, entries: HashMap::new() }
    }

    /// Adds a lease whose claim was sent at `claimed_at`.
    pub(super) fn insert(&mut self, lease: Lease, claimed_at: Instant) -> Fate {
        let fate = Fate::default();
        let expires_at = claimed_at + self.timing.lease;
        let renew_at = claimed_at + self.timing.tick();
        self.entries.insert(lease, Entry { expires_at, renew_at, fate: fate.clone() });
        fate
    }

    /// Removes a lease that is no longer needed.
    pub(super) fn remove(&mut self, lease: &Lease) {
        self.entries.remove(lease);
    }

    /// The leases to renew now, including those due within half a tick, so that they are renewed together. A lost lease
    /// stays lost.
    pub(super) fn due(&self, now: Instant) -> Vec<Lease> {
        let until = now + self.timing.tick() / 2;
        let is_due = |entry: &Entry| entry.is_held() && entry.renew_at <= until;
        self.entries.iter().filter(|(_, entry)| is_due(entry)).map(|(lease, _)| *lease).collect()
    }

    /// Makes the renewal of all leases due.
    pub(super) fn doubt(&mut self, now: Instant) {
        self.entries.values_mut().for_each(|entry| entry.renew_at = now);
    }

    /// A renewal that was sent at `sent_at` succeeded.
    pub(super) fn renewed(&mut self, lease: &Lease, sent_at: Instant) {
        if let Some(entry) = self.entries.get_mut(lease) {
            entry.expires_at = entry.expires_at.max(sent_at + self.timing.lease);
            entry.renew_at = sent_at + self.timing.renewal_period();
        }
    }

    /// The backend reported that the attempt exceeded its timeout; the end of the lease does not change.
    pub(super) fn timed_out(&mut self, lease: &Lease) {
        if let Some(entry) = self.entries.get_mut(lease) {
            entry.fate.timed_out.cancel();
            entry.renew_at = entry.expires_at;
        }
    }

    /// The backend reported that the lease is void.
    pub(super) fn lost(&mut self, lease: &Lease) {
        if let Some(entry) = self.entries.get(lease) {
            entry.fate.lost.cancel();
        }
    }

    /// The lease was ended from outside of this worker.
    pub(super) fn ended(&mut self, id: ExecutionId, epoch: u64) {
        let ended = self.entries.iter().filter(|(lease, _)| lease.execution_id == id && lease.epoch == epoch);
        ended.for_each(|(_, entry)| entry.fate.lost.cancel());
    }

    /// Cancels the handlers whose lease is about to run out, and expires the leases that may have run out. Returns the
    /// number of expired leases.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let mut expired = 0;
        for entry in self.entries.values().filter(|entry| entry.is_held()) {
            if entry.stop_at(self.timing) <= now {
                entry.fate.ending.cancel();
            }
            if entry.expires_at <= now {
                entry.fate.lost.cancel();
                expired += 1;
            }
        }
        expired
    }

    /// When [`LeaseTable::expire`] is needed next if there are no renewals.
    pub(super) fn next_end(&self) -> Option<Instant> {
        let end = |entry: &Entry| match entry.fate.ending.is_cancelled() {
            true => entry.expires_at,
            false => entry.stop_at(self.timing),
        };
        self.entries.values().filter(|entry| entry.is_held()).map(end).min()
    }

    /// Whether another lease of the partition is held.
    pub(super) fn has_others_in_partition_of(&self, lease: &Lease) -> bool {
        let partition = lease.execution_id.partition();
        self.entries.keys().any(|other| other != lease && other.execution_id.partition() == partition)
    }

    /// When this lease runs out, or ran out.
    pub(super) fn expires_at(&self, lease: &Lease) -> Option<Instant> {
        self.entries.get(lease).map(|entry| entry.expires_at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::lease;

    const SECOND: Duration = Duration::from_secs(1);
    const TIMING: Timing = Timing { lease: Duration::from_secs(30), margin: Duration::from_secs(5) };

    fn table() -> LeaseTable {
        LeaseTable::new(TIMING)
    }

    #[test]
    fn a_handler_is_stopped_before_its_lease_expires_and_the_lease_is_lost_at_its_end() {
        let start = Instant::now();
        let mut table = table();
        let fate = table.insert(lease(1), start);
        assert_eq!(table.next_end(), Some(start + 25 * SECOND));
        assert_eq!((table.expire(start + 24 * SECOND), fate.ending.is_cancelled()), (0, false));
        assert_eq!((table.expire(start + 25 * SECOND), fate.ending.is_cancelled()), (0, true));
        assert_eq!((fate.lost.is_cancelled(), table.next_end()), (false, Some(start + 30 * SECOND)));
        assert_eq!((table.expire(start + 30 * SECOND), fate.lost.is_cancelled()), (1, true));
        assert_eq!((table.next_end(), table.due(start + 60 * SECOND).len()), (None, 0));
    }

    #[test]
    fn a_lease_is_confirmed_early_and_then_renewed_after_a_third() {
        let start = Instant::now();
        let mut table = table();
        table.insert(lease(1), start);
        assert!(table.due(start + SECOND).is_empty());
        assert_eq!(table.due(start + 3 * SECOND), [lease(1)]);
        table.renewed(&lease(1), start + 3 * SECOND);
        assert!(table.due(start + 9 * SECOND).is_empty());
        assert_eq!(table.due(start + 12 * SECOND), [lease(1)]);
    }

    #[test]
    fn a_renewal_moves_the_expiry_forward_only() {
        let start = Instant::now();
        let mut table = table();
        table.insert(lease(1), start);
        table.renewed(&lease(1), start + 3 * SECOND);
        table.renewed(&lease(1), start + 2 * SECOND);
        assert_eq!(table.expires_at(&lease(1)), Some(start + 33 * SECOND));
    }

    #[test]
    fn a_lost_lease_is_not_renewed_again_and_others_are_untouched() {
        let start = Instant::now();
        let mut table = table();
        let [first, second, third] = [1, 2, 3].map(|number| table.insert(lease(number), start));
        table.lost(&lease(1));
        table.ended(lease(3).execution_id, 1);
        table.ended(lease(2).execution_id, 2);
        assert!(first.lost.is_cancelled() && !second.lost.is_cancelled() && third.lost.is_cancelled());
        table.doubt(start);
        assert_eq!(table.due(start), [lease(2)]);
    }

    #[test]
    fn a_lease_whose_attempt_timed_out_is_not_renewed_again() {
        let start = Instant::now();
        let mut table = table();
        let fate = table.insert(lease(1), start);
        table.timed_out(&lease(1));
        assert!(fate.timed_out.is_cancelled() && !fate.lost.is_cancelled());
        assert!(table.due(start + 20 * SECOND).is_empty());
        assert_eq!(table.expire(start + 30 * SECOND), 1);
    }

    #[test]
    fn an_answer_for_a_lease_that_was_dropped_meanwhile_is_ignored() {
        let mut table = table();
        let fate = table.insert(lease(1), Instant::now());
        table.remove(&lease(1));
        table.renewed(&lease(1), Instant::now());
        table.timed_out(&lease(1));
        table.lost(&lease(1));
        assert!(!fate.lost.is_cancelled() && table.due(Instant::now() + HOUR).is_empty());
    }

    const HOUR: Duration = Duration::from_secs(3_600);
}
