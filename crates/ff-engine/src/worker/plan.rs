//! Decides from which partition to claim next, and how much. Pure: neither backend nor time.

use std::collections::BTreeSet;

use ff_core::Partition;

use crate::partition_queue::PartitionQueue;

/// The most that a backend hands out in one claim.
const CLAIM_BATCH: usize = 128;
/// Concurrent claims; more would not be faster, only less fair.
const CLAIMS_AT_ONCE: usize = 8;
/// Concurrent claims of partitions with a backlog. While these are answered, further slots become free, and the next
/// claim fills them together: one call for many executions, which then also end together.
const BACKLOG_CLAIMS_AT_ONCE: usize = 2;

/// One claim to be made.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Order {
    pub(super) partition: Partition,
    /// 0 to pass a wake on to another waiting worker.
    pub(super) max: usize,
}

/// Tracks the slots and the partitions known to have work.
///
/// A claim reserves the slots that it may fill; a slot is then taken until the outcome of its execution is reported. A
/// signal wakes one worker only, so a worker whose slots are all taken must pass it on. A worker whose slots are only
/// reserved waits for the answers first: most of them leave slots free.
#[derive(Debug)]
pub(super) struct ClaimPlan {
    slots: usize,
    reserved: usize,
    taken: usize,
    hot: PartitionQueue,
    /// Hot partitions for which this worker was woken and has not claimed since.
    woken: BTreeSet<Partition>,
    /// Partitions whose last claim left work behind.
    backlog: BTreeSet<Partition>,
    /// Claims of such partitions that are in progress.
    backlog_claims: BTreeSet<Partition>,
    closed: bool,
}

impl ClaimPlan {
    pub(super) fn new(slots: usize) -> Self {
        Self {
            slots,
            reserved: 0,
            taken: 0,
            hot: PartitionQueue::default(),
            woken: BTreeSet::new(),
            backlog: BTreeSet::new(),
            backlog_claims: BTreeSet::new(),
            closed: false,
        }
    }

    /// This worker was woken for the partition.
    pub(super) fn signalled(&mut self, partition: Partition) {
        self.hot.mark(partition);
        self.woken.insert(partition);
    }

    /// The partition was found to have work; no wake was consumed for it.
    pub(super) fn found(&mut self, partition: Partition) {
        self.hot.mark(partition);
    }

    /// The next claim to make now, if any. Its slots are reserved until it is answered.
    pub(super) fn next(&mut self) -> Option<Order> {
        if self.hot.served() >= CLAIMS_AT_ONCE {
            return None;
        }
        if self.is_full() {
            return self.pass_on();
        }
        let has_backlog = self.hot.first().is_some_and(|first| self.backlog.contains(&first));
        if has_backlog && self.backlog_claims.len() >= BACKLOG_CLAIMS_AT_ONCE {
            return None;
        }
        let max = if has_backlog { self.free().min(CLAIM_BATCH) } else { self.share() };
        if max == 0 {
            return None;
        }
        let partition = self.hot.begin()?;
        if has_backlog {
            self.backlog_claims.insert(partition);
        }
        self.woken.remove(&partition);
        self.reserved += max;
        Some(Order { partition, max })
    }

    fn pass_on(&mut self) -> Option<Order> {
        // A partition with a claim in progress is not lost: it was marked, so it returns at the end of the claim.
        let partition = std::iter::from_fn(|| self.woken.pop_first()).find(|woken| self.hot.begin_with(*woken))?;
        Some(Order { partition, max: 0 })
    }

    fn free(&self) -> usize {
        self.slots.saturating_sub(self.taken + self.reserved)
    }

    /// The free slots are divided among the partitions that can be asked concurrently.
    fn share(&self) -> usize {
        let turns = self.hot.waiting().clamp(1, CLAIMS_AT_ONCE - self.hot.served());
        self.free().div_ceil(turns).min(CLAIM_BATCH)
    }

    /// A claim returned `claimed` executions; each of them takes a slot. If there is more work, the backend has woken
    /// another worker.
    pub(super) fn answered(&mut self, order: Order, claimed: usize, more: bool) {
        self.reserved -= order.max;
        self.taken += claimed;
        self.backlog_claims.remove(&order.partition);
        if more {
            self.backlog.insert(order.partition);
        } else {
            self.backlog.remove(&order.partition);
        }
        if self.hot.end(order.partition, more) {
            self.woken.insert(order.partition);
        }
    }

    /// A claim failed. Repeating it returns the executions that it may have claimed.
    pub(super) fn failed(&mut self, order: Order) {
        self.reserved -= order.max;
        self.backlog_claims.remove(&order.partition);
        self.hot.end(order.partition, true);
        self.woken.insert(order.partition);
    }

    /// A claim failed as each repetition of it would. The partition waits until it is found or signalled again.
    pub(super) fn left(&mut self, order: Order) {
        self.answered(order, 0, false);
    }

    /// An execution has ended and freed its slot.
    pub(super) fn slot_freed(&mut self) {
        self.taken = self.taken.saturating_sub(1);
    }

    /// Stops claiming, and passes all known work to other workers.
    pub(super) fn close(&mut self) {
        self.closed = true;
        self.woken.extend(self.hot.iter());
    }

    pub(super) const fn is_closed(&self) -> bool {
        self.closed
    }

    fn is_full(&self) -> bool {
        self.closed || self.taken >= self.slots
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn p(number: u16) -> Partition {
        Partition::new(number)
    }

    fn order(partition: u16, max: usize) -> Order {
        Order { partition: p(partition), max }
    }

    /// A plan whose partitions have a backlog.
    fn with_backlog(slots: usize, partitions: &[u16]) -> ClaimPlan {
        let mut plan = ClaimPlan::new(slots);
        partitions.iter().for_each(|number| plan.found(p(*number)));
        let orders: Vec<_> = std::iter::from_fn(|| plan.next()).collect();
        assert_eq!(orders.len(), partitions.len());
        orders.into_iter().for_each(|order| plan.answered(order, 0, true));
        plan
    }

    #[test]
    fn one_hot_partition_is_offered_all_free_slots_up_to_a_batch() {
        let mut plan = ClaimPlan::new(10);
        plan.signalled(p(3));
        assert_eq!(plan.next(), Some(order(3, 10)));
        assert_eq!(plan.next(), None);
        let mut large = ClaimPlan::new(1_000);
        large.found(p(3));
        assert_eq!(large.next(), Some(order(3, 128)));
    }

    #[test]
    fn several_hot_partitions_share_the_free_slots_in_turn() {
        let mut plan = ClaimPlan::new(6);
        for number in [1, 2, 3] {
            plan.found(p(number));
        }
        assert_eq!([plan.next(), plan.next(), plan.next()], [Some(order(1, 2)), Some(order(2, 2)), Some(order(3, 2))]);
        plan.answered(order(1, 2), 2, true);
        plan.answered(order(2, 2), 0, false);
        assert_eq!(plan.next(), Some(order(1, 2)), "what partition 2 did not use goes to the one with more");
    }

    #[test]
    fn a_partition_with_more_work_waits_behind_the_others() {
        let mut plan = ClaimPlan::new(1);
        plan.found(p(1));
        plan.found(p(2));
        for expected in [1, 2, 1, 2] {
            let next = plan.next().unwrap();
            assert_eq!(next, order(expected, 1));
            plan.answered(next, 1, true);
            plan.slot_freed();
        }
    }

    #[test]
    fn partitions_with_a_backlog_are_offered_all_free_slots_two_at_a_time() {
        let mut plan = with_backlog(8, &[1, 2, 3]);
        let first = plan.next().unwrap();
        assert_eq!((first, plan.next()), (order(1, 8), None));
        plan.answered(first, 8, true);
        plan.slot_freed();
        assert_eq!(plan.next(), Some(order(2, 1)));
        plan.slot_freed();
        assert_eq!(plan.next(), Some(order(3, 1)));
        plan.slot_freed();
        plan.slot_freed();
        assert_eq!(plan.next(), None, "the next claim fills the slots that become free meanwhile");
        plan.answered(order(2, 1), 1, true);
        assert_eq!(plan.next(), Some(order(1, 2)));
    }

    #[test]
    fn a_partition_without_a_backlog_does_not_wait_for_claims_of_others() {
        let mut plan = with_backlog(8, &[1, 2]);
        let first = plan.next().unwrap();
        plan.answered(first, 7, true);
        assert_eq!(plan.next(), Some(order(2, 1)));
        plan.slot_freed();
        plan.slot_freed();
        assert_eq!(plan.next(), Some(order(1, 2)));
        plan.signalled(p(5));
        plan.slot_freed();
        assert_eq!(plan.next(), Some(order(5, 1)));
    }

    #[test]
    fn a_signal_that_finds_no_slot_is_passed_on_and_remembered_if_there_is_more() {
        let mut plan = ClaimPlan::new(1);
        plan.signalled(p(1));
        let first = plan.next().unwrap();
        plan.answered(first, 1, false);
        plan.signalled(p(2));
        assert_eq!(plan.next(), Some(order(2, 0)));
        plan.answered(order(2, 0), 0, true);
        assert_eq!(plan.next(), None);
        plan.slot_freed();
        assert_eq!(plan.next(), Some(order(2, 1)));
    }

    #[test]
    fn a_signal_behind_other_hot_partitions_is_passed_on_once_they_have_taken_the_slots() {
        let mut plan = ClaimPlan::new(1);
        plan.found(p(1));
        plan.signalled(p(2));
        let first = plan.next().unwrap();
        assert_eq!((first, plan.next()), (order(1, 1), None));
        plan.answered(first, 1, true);
        assert_eq!([plan.next(), plan.next()], [Some(order(2, 0)), None]);
    }

    #[test]
    fn a_signal_while_slots_are_reserved_waits_for_the_unused_ones() {
        let mut plan = ClaimPlan::new(4);
        plan.signalled(p(1));
        let first = plan.next().unwrap();
        plan.signalled(p(2));
        assert_eq!(plan.next(), None);
        plan.answered(first, 1, false);
        assert_eq!([plan.next(), plan.next()], [Some(order(2, 3)), None]);
    }

    #[test]
    fn a_signal_during_the_claim_of_its_partition_is_not_forgotten() {
        let mut plan = ClaimPlan::new(1);
        plan.signalled(p(1));
        let claim = plan.next().unwrap();
        plan.signalled(p(1));
        assert_eq!(plan.next(), None, "never two claims of one partition at once");
        plan.answered(claim, 1, false);
        assert_eq!(plan.next(), Some(order(1, 0)), "full now, so another worker is woken");
    }

    #[test]
    fn a_failed_claim_returns_its_slots_and_is_made_again() {
        let mut plan = ClaimPlan::new(4);
        plan.signalled(p(1));
        let claim = plan.next().unwrap();
        plan.failed(claim);
        assert_eq!(plan.next(), Some(claim));
    }

    #[test]
    fn a_closed_plan_passes_on_hot_partitions_and_claims_nothing() {
        let mut plan = ClaimPlan::new(4);
        plan.found(p(1));
        plan.close();
        plan.signalled(p(2));
        assert_eq!([plan.next(), plan.next(), plan.next()], [Some(order(1, 0)), Some(order(2, 0)), None]);
        plan.answered(order(1, 0), 0, true);
        assert_eq!(plan.next(), None);
    }

    #[derive(Debug, Clone)]
    enum Step {
        Signal(u16),
        Found(u16),
        Claim,
        Answer(usize, bool),
        Fail,
        End,
    }

    fn step() -> impl Strategy<Value = Step> {
        prop_oneof![
            (0u16..12).prop_map(Step::Signal),
            (0u16..12).prop_map(Step::Found),
            Just(Step::Claim),
            (0usize..8, any::<bool>()).prop_map(|(claimed, more)| Step::Answer(claimed, more)),
            Just(Step::Fail),
            Just(Step::End),
        ]
    }

    proptest! {
        #[test]
        fn slots_are_never_overdrawn_and_no_hot_partition_is_forgotten(
            slots in 1usize..6,
            steps in prop::collection::vec(step(), 0..200),
        ) {
            let mut plan = ClaimPlan::new(slots);
            let mut orders: Vec<Order> = Vec::new();
            let mut running = 0;
            let mut hot = BTreeSet::new();
            for step in steps {
                match step {
                    Step::Signal(number) => { plan.signalled(p(number)); hot.insert(p(number)); }
                    Step::Found(number) => { plan.found(p(number)); hot.insert(p(number)); }
                    Step::Claim => if let Some(order) = plan.next() {
                        prop_assert!(orders.iter().all(|other| other.partition != order.partition));
                        hot.remove(&order.partition);
                        orders.push(order);
                    },
                    Step::Answer(claimed, more) => if let Some(order) = orders.pop() {
                        let claimed = claimed.min(order.max);
                        running += claimed;
                        if more { hot.insert(order.partition); }
                        plan.answered(order, claimed, more);
                    },
                    Step::Fail => if let Some(order) = orders.pop() {
                        hot.insert(order.partition);
                        plan.failed(order);
                    },
                    Step::End => if running > 0 { running -= 1; plan.slot_freed(); },
                }
                prop_assert!(running + orders.iter().map(|order| order.max).sum::<usize>() <= slots);
            }
            for order in orders.drain(..) { plan.answered(order, 0, false); }
            for _ in 0..running { plan.slot_freed(); }
            let mut served = BTreeSet::new();
            while let Some(order) = plan.next() {
                if order.max > 0 { served.insert(order.partition); }
                plan.answered(order, 0, order.max == 0);
            }
            prop_assert!(hot.is_subset(&served), "{hot:?} {served:?}");
        }
    }
}
