//! The leases that a worker holds, by its own monotonic clock. Pure: the clock is an argument.
//!
//! A lease is counted from the moment at which its claim or renewal was *sent*. The server counts from when it executed
//! the call, which is later, so a lease that has run out there has run out here before.

use std::collections::HashMap;

use ff_core::{ExecutionId, Lease};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

#[derive(Debug)]
struct Entry {
    expires_at: Instant,
    lost: CancellationToken,
}

/// All leases of one worker.
#[derive(Debug, Default)]
pub(super) struct LeaseTable {
    entries: HashMap<Lease, Entry>,
}

impl LeaseTable {
    /// Takes a lease up; the token is cancelled when it is lost.
    pub(super) fn insert(&mut self, lease: Lease, expires_at: Instant) -> CancellationToken {
        let lost = CancellationToken::new();
        self.entries.insert(lease, Entry { expires_at, lost: lost.clone() });
        lost
    }

    /// Drops a lease that is not needed any more.
    pub(super) fn remove(&mut self, lease: &Lease) {
        self.entries.remove(lease);
    }

    /// The leases worth renewing: a lost one stays lost.
    pub(super) fn held(&self) -> Vec<Lease> {
        self.entries.iter().filter(|(_, entry)| !entry.lost.is_cancelled()).map(|(lease, _)| *lease).collect()
    }

    /// A renewal succeeded.
    pub(super) fn renewed(&mut self, lease: &Lease, expires_at: Instant) {
        if let Some(entry) = self.entries.get_mut(lease) {
            entry.expires_at = entry.expires_at.max(expires_at);
        }
    }

    /// The backend says that the lease is void.
    pub(super) fn lost(&mut self, lease: &Lease) {
        if let Some(entry) = self.entries.get(lease) {
            entry.lost.cancel();
        }
    }

    /// Somebody else has ended the lease.
    pub(super) fn ended(&mut self, id: ExecutionId, epoch: u64) {
        let ended = self.entries.iter().filter(|(lease, _)| lease.execution_id == id && lease.epoch == epoch);
        ended.for_each(|(_, entry)| entry.lost.cancel());
    }

    /// Gives up every lease that may have run out by now; the answer is how many.
    pub(super) fn expire(&mut self, now: Instant) -> usize {
        let over = self.entries.values().filter(|entry| entry.expires_at <= now && !entry.lost.is_cancelled());
        over.map(|entry| entry.lost.cancel()).count()
    }

    /// When the first held lease runs out unless it is renewed.
    pub(super) fn next_expiry(&self) -> Option<Instant> {
        self.entries.values().filter(|entry| !entry.lost.is_cancelled()).map(|entry| entry.expires_at).min()
    }

    /// When this lease runs out, or ran out.
    pub(super) fn expires_at(&self, lease: &Lease) -> Option<Instant> {
        self.entries.get(lease).map(|entry| entry.expires_at)
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;
    use crate::testing::lease;

    const SECOND: Duration = Duration::from_secs(1);

    #[test]
    fn a_lease_expires_at_its_time_and_not_before() {
        let start = Instant::now();
        let mut table = LeaseTable::default();
        let lost = table.insert(lease(1), start + SECOND);
        assert_eq!((table.expire(start), lost.is_cancelled()), (0, false));
        assert_eq!(table.next_expiry(), Some(start + SECOND));
        assert_eq!((table.expire(start + SECOND), lost.is_cancelled()), (1, true));
        assert_eq!((table.next_expiry(), table.held().len()), (None, 0));
    }

    #[test]
    fn a_renewal_moves_the_expiry_forward_only() {
        let start = Instant::now();
        let mut table = LeaseTable::default();
        table.insert(lease(1), start + SECOND);
        table.renewed(&lease(1), start + 3 * SECOND);
        table.renewed(&lease(1), start + 2 * SECOND);
        assert_eq!(table.expires_at(&lease(1)), Some(start + 3 * SECOND));
        assert_eq!(table.expire(start + 2 * SECOND), 0);
    }

    #[test]
    fn a_lost_lease_is_not_renewed_again_and_others_are_untouched() {
        let start = Instant::now();
        let mut table = LeaseTable::default();
        let (first, second) = (table.insert(lease(1), start + SECOND), table.insert(lease(2), start + SECOND));
        table.lost(&lease(1));
        assert!(first.is_cancelled() && !second.is_cancelled());
        assert_eq!(table.held(), [lease(2)]);
    }

    #[test]
    fn an_answer_for_a_lease_that_was_dropped_meanwhile_is_ignored() {
        let mut table = LeaseTable::default();
        let token = table.insert(lease(1), Instant::now());
        table.remove(&lease(1));
        table.renewed(&lease(1), Instant::now());
        table.lost(&lease(1));
        assert!(!token.is_cancelled() && table.held().is_empty());
    }
}
