//! The interval scan that repairs what a push did not: the reason why no push is ever needed for correctness.
//!
//! A round works through partitions with a bounded number of calls. Where the budget ends, the next round goes on, and
//! a partition too large for one visit is visited again after the others had their turn: neither many partitions nor
//! one large one starve anybody.

use std::{
    collections::{HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use ff_core::{
    EngineError, ExecutionId, Partition,
    backend::{MaintenanceBackend, ReconcileCursor, ReconcileReport},
    limits,
};
use futures::future::join_all;
use tokio::{
    sync::watch,
    time::{Instant, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    meters::{self, Outage, Outages},
    retry,
    share::{self, Share},
};

/// Executions looked at by one call.
const STEP: u32 = 128;
/// Partitions visited at the same time.
const VISITS_AT_ONCE: usize = 8;
/// Calls that a visit makes: one that resolves and one that reconciles.
const CALLS_PER_VISIT: usize = 2;

/// Scans all partitions at an interval and repairs what interrupted calls left incomplete.
pub struct DependencyReconciler<B: ?Sized> {
    backend: Arc<B>,
    interval: Duration,
    budget: usize,
    share: watch::Receiver<Share>,
}

impl<B: ?Sized> std::fmt::Debug for DependencyReconciler<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("DependencyReconciler")
            .field("interval", &self.interval)
            .field("budget", &self.budget)
            .finish_non_exhaustive()
    }
}

impl<B: MaintenanceBackend + ?Sized> DependencyReconciler<B> {
    /// A reconciler over this backend: every 15 s, with 1,024 calls a round.
    #[must_use]
    pub fn new(backend: Arc<B>) -> Self {
        Self { backend, interval: Duration::from_secs(15), budget: 1_024, share: share::everything() }
    }

    /// How long it rests between two rounds (give or take a tenth), at most ten years.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.min(limits::DURATION);
        self
    }

    /// How many calls a round makes at most; a partition takes two, and more if it is large.
    #[must_use]
    pub fn budget(mut self, calls: usize) -> Self {
        self.budget = calls;
        self
    }

    /// Scans only the partitions that this says.
    pub(crate) fn within(mut self, share: watch::Receiver<Share>) -> Self {
        self.share = share;
        self
    }

    /// Scans until `shutdown` is cancelled; the first round begins at once. Errors are logged, counted and left to the
    /// next round.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: a new reconciler begins from the start.
    pub async fn run(self, shutdown: CancellationToken) {
        let scanning = async {
            let mut scan = Scan::new(&self);
            let mut share = self.share.clone();
            // Without a channel that changes, the share is everything.
            let _ = share.wait_for(|share| *share != Share::Unknown).await;
            let mut next_round = Instant::now();
            loop {
                let served = share.borrow_and_update().clone();
                scan.rotation.serve(&served.partitions(self.backend.partition_count()));
                let is_due = next_round <= Instant::now();
                if is_due {
                    next_round = Instant::now() + retry::jittered(self.interval);
                }
                scan.round(is_due).instrument(tracing::debug_span!("ff.reconciler.round")).await;
                tokio::select! {
                    () = sleep_until(next_round) => {}
                    () = share::changed(&mut share) => {}
                }
            }
        };
        shutdown.run_until_cancelled(scanning).await;
    }
}

/// One partition's turn.
struct Visit {
    partition: Partition,
    cursor: Option<ReconcileCursor>,
}

/// Whose turn it is. Those that the last round did not reach come first.
#[derive(Default)]
struct Rotation {
    waiting: VecDeque<Partition>,
    seen: VecDeque<Partition>,
    cursors: HashMap<Partition, ReconcileCursor>,
}

impl Rotation {
    /// Serves these partitions and no others. Those that are new are the next to have their turn.
    fn serve(&mut self, partitions: &[Partition]) {
        let served: HashSet<_> = partitions.iter().copied().collect();
        self.waiting.retain(|partition| served.contains(partition));
        self.seen.retain(|partition| served.contains(partition));
        self.cursors.retain(|partition, _| served.contains(partition));
        let known: HashSet<_> = self.waiting.iter().chain(&self.seen).copied().collect();
        let new: Vec<_> = partitions.iter().copied().filter(|partition| !known.contains(partition)).collect();
        new.into_iter().rev().for_each(|partition| self.waiting.push_front(partition));
    }

    /// Every partition gets its turn again, after those that still wait for theirs.
    fn begin_round(&mut self) {
        self.waiting.append(&mut self.seen);
    }

    fn next(&mut self) -> Option<Visit> {
        let partition = self.waiting.pop_front()?;
        Some(Visit { partition, cursor: self.cursors.remove(&partition) })
    }

    /// The visit went as far as `next`; without one, the partition is through for this round.
    fn visited(&mut self, partition: Partition, next: Option<ReconcileCursor>) {
        match next {
            Some(cursor) => {
                self.cursors.insert(partition, cursor);
                self.waiting.push_back(partition);
            }
            None => self.seen.push_back(partition),
        }
    }

    /// The visit failed; the next round goes on where it stood.
    fn failed(&mut self, partition: Partition, cursor: Option<ReconcileCursor>) {
        self.cursors.extend(cursor.map(|cursor| (partition, cursor)));
        self.seen.push_back(partition);
    }
}

/// The scan through its rounds.
struct Scan<'a, B: ?Sized> {
    reconciler: &'a DependencyReconciler<B>,
    rotation: Rotation,
    outages: Outages,
    resolving: Outages,
    deployment: Outage,
    /// Executions that could not be read and were named.
    unreadable: HashSet<ExecutionId>,
}

impl<'a, B: MaintenanceBackend + ?Sized> Scan<'a, B> {
    fn new(reconciler: &'a DependencyReconciler<B>) -> Self {
        Self {
            reconciler,
            rotation: Rotation::default(),
            outages: Outages::of("reconcile"),
            resolving: Outages::of("resolve_dependents"),
            deployment: Outage::of("verify_deployment"),
            unreadable: HashSet::new(),
        }
    }

    /// Visits the partitions that wait for their turn; in a regular round that is every one.
    async fn round(&mut self, regular: bool) {
        match self.reconciler.backend.verify_deployment().await {
            Ok(()) => self.deployment.succeeded(),
            // Another partition count: whatever this process would repair is elsewhere now.
            Err(error) => {
                self.deployment.failed(&error);
                return;
            }
        }
        if regular {
            self.rotation.begin_round();
        }
        let mut visits_left = (self.reconciler.budget / CALLS_PER_VISIT).max(1);
        while visits_left > 0 {
            let visits = self.take(visits_left.min(VISITS_AT_ONCE));
            if visits.is_empty() {
                break;
            }
            visits_left -= visits.len();
            self.visit(&visits).await;
        }
        meters::add("ff_reconciler_rounds", 1);
    }

    fn take(&mut self, count: usize) -> Vec<Visit> {
        std::iter::from_fn(|| self.rotation.next()).take(count).collect()
    }

    async fn visit(&mut self, visits: &[Visit]) {
        let backend = &*self.reconciler.backend;
        let (resolved, answers): (Vec<_>, Vec<_>) =
            join_all(visits.iter().map(|visit| reconcile(backend, visit))).await.into_iter().unzip();
        let partitions = visits.iter().map(|visit| visit.partition);
        self.resolving.note(partitions.zip(resolved.iter().map(|resolved| resolved.as_ref().err())));
        let partitions = visits.iter().map(|visit| visit.partition);
        self.outages.note(partitions.zip(answers.iter().map(|answer| answer.as_ref().err())));
        for (visit, answer) in visits.iter().zip(answers) {
            match answer {
                Ok(report) => {
                    self.repaired(visit, &report);
                    self.rotation.visited(visit.partition, report.next);
                }
                Err(_) => {
                    self.rotation.failed(visit.partition, visit.cursor.clone());
                }
            }
        }
    }

    fn repaired(&mut self, visit: &Visit, report: &ReconcileReport) {
        let partition = visit.partition;
        meters::add("ff_reconciler_examined", report.examined);
        meters::add("ff_reconciler_repaired", report.repaired);
        meters::add("ff_reconciler_lost", report.lost);
        meters::add("ff_reconciler_unreadable", report.unreadable);
        match report.one_unreadable {
            Some(id) if self.unreadable.insert(id) => tracing::warn!(
                execution = %id,
                count = report.unreadable,
                "executions cannot be read and are passed over: another program has overwritten their key or their flow's"
            ),
            None if visit.cursor.is_none() => self.unreadable.retain(|id| id.partition() != partition),
            _ => {}
        }
        if report.repaired > 0 {
            tracing::info!(%partition, repaired = report.repaired, "repaired what an interrupted call left incomplete");
        }
    }
}

/// A failure to resolve dependents must not prevent the repair of the rest, so each has its own result.
async fn reconcile<B: MaintenanceBackend + ?Sized>(
    backend: &B,
    visit: &Visit,
) -> (Result<(), EngineError>, Result<ReconcileReport, EngineError>) {
    let resolved = backend.resolve_dependents(visit.partition).await;
    let resolved = resolved.map(|report| meters::add("ff_reconciler_resolved", report.resolved));
    (resolved, backend.reconcile(visit.partition, visit.cursor.clone(), STEP).await)
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::testing::{Call, Scripted, cursor, protocol, transport};

    /// Serves this many partitions, all of which wait for the first round.
    fn rotation(count: u16) -> Rotation {
        let mut rotation = Rotation::default();
        rotation.serve(&(0..count).map(Partition::new).collect::<Vec<_>>());
        rotation
    }

    fn numbers(rotation: &mut Rotation, visits: usize) -> Vec<u16> {
        let visit = |_| {
            let visit = rotation.next()?;
            rotation.visited(visit.partition, None);
            Some(visit.partition.number())
        };
        (0..visits).map_while(visit).collect()
    }

    #[test]
    fn a_round_continues_where_the_budget_of_the_last_one_ended() {
        let mut rotation = rotation(5);
        rotation.begin_round();
        assert_eq!(numbers(&mut rotation, 3), [0, 1, 2]);
        rotation.begin_round();
        assert_eq!(numbers(&mut rotation, 3), [3, 4, 0]);
        rotation.begin_round();
        assert_eq!(numbers(&mut rotation, 9), [1, 2, 3, 4, 0], "and no partition twice in a round");
    }

    #[test]
    fn a_large_partition_continues_from_its_cursor_after_the_others() {
        let mut rotation = rotation(2);
        rotation.begin_round();
        let first = rotation.next().unwrap();
        rotation.visited(first.partition, Some(cursor(7)));
        assert_eq!(rotation.next().unwrap().partition.number(), 1);
        let again = rotation.next().unwrap();
        assert_eq!((again.partition.number(), again.cursor), (0, Some(cursor(7))));
        rotation.visited(again.partition, None);
        rotation.begin_round();
        assert_eq!(rotation.next().unwrap().cursor, None, "a partition scanned to its end starts again");
    }

    #[test]
    fn partitions_taken_over_come_next_and_those_given_up_are_dropped() {
        let mut rotation = rotation(4);
        assert_eq!(numbers(&mut rotation, 2), [0, 1]);
        rotation.serve(&[0, 3, 7].map(Partition::new));
        assert_eq!(numbers(&mut rotation, 9), [7, 3]);
        rotation.begin_round();
        assert_eq!(numbers(&mut rotation, 9), [0, 7, 3]);
    }

    #[test]
    fn a_failed_visit_keeps_its_cursor_for_the_next_round() {
        let mut rotation = rotation(1);
        rotation.begin_round();
        let visit = rotation.next().unwrap();
        rotation.failed(visit.partition, Some(cursor(3)));
        assert!(rotation.next().is_none(), "not twice in one round");
        rotation.begin_round();
        assert_eq!(rotation.next().unwrap().cursor, Some(cursor(3)));
    }

    fn reconciled(calls: &[Call]) -> Vec<u16> {
        let partition = |call: &Call| match call {
            Call::Reconcile(partition, _) => Some(*partition),
            _ => None,
        };
        calls.iter().filter_map(partition).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn every_round_verifies_the_deployment_and_visits_all_partitions_once() {
        let backend = Scripted::new(20);
        let started = tokio::time::Instant::now();
        tokio::spawn(DependencyReconciler::new(Arc::clone(&backend)).run(CancellationToken::new()));
        backend.until(|calls| reconciled(calls).len() == 40).await;
        assert!((13..=17).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
        let calls = backend.calls();
        assert_eq!(calls.iter().filter(|call| **call == Call::Verify).count(), 2);
        assert_eq!(backend.resolved().len(), 40);
        assert_eq!(reconciled(&calls), (0..20).chain(0..20).collect::<Vec<_>>());
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_is_processed_to_its_end_and_an_error_does_not_affect_the_others() {
        let backend = Scripted::new(3);
        backend.script(|script| {
            script.reconcile(0, [Some(cursor(1)), Some(cursor(2)), None]);
            script.errors.push_back(("resolve_dependents 1", transport()));
            script.errors.push_back(("reconcile 1", transport()));
        });
        tokio::spawn(DependencyReconciler::new(Arc::clone(&backend)).run(CancellationToken::new()));
        backend.until(|calls| reconciled(calls).len() == 5).await;
        let calls = backend.calls();
        assert_eq!(reconciled(&calls), [0, 1, 2, 0, 0]);
        assert!(calls.contains(&Call::Reconcile(0, Some(cursor(2)))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_cannot_be_read_is_tried_once_per_round() {
        let backend = Scripted::new(3);
        backend.script(|script| script.errors.extend((0..100).map(|_| ("reconcile 1", protocol()))));
        tokio::spawn(DependencyReconciler::new(Arc::clone(&backend)).run(CancellationToken::new()));
        backend.until(|calls| calls.iter().filter(|call| **call == Call::Verify).count() == 4).await;
        assert_eq!(reconciled(&backend.calls())[..9], [0, 1, 2].repeat(3));
    }

    #[tokio::test(start_paused = true)]
    async fn a_round_continues_at_the_cursor_at_which_the_last_one_failed() {
        let backend = Scripted::new(1);
        backend.script(|script| {
            script.resolve_takes = Duration::from_secs(1);
            script.reconcile(0, [Some(cursor(7)), None]);
        });
        tokio::spawn(DependencyReconciler::new(Arc::clone(&backend)).run(CancellationToken::new()));
        backend.until(|calls| reconciled(calls).len() == 1).await;
        backend.script(|script| script.errors.push_back(("reconcile", transport())));
        backend.until(|calls| reconciled(calls).len() == 3).await;
        let at_the_cursor = |call: &&Call| **call == Call::Reconcile(0, Some(cursor(7)));
        assert_eq!(backend.calls().iter().filter(at_the_cursor).count(), 2, "one of them failed");
    }

    #[tokio::test(start_paused = true)]
    async fn with_another_recorded_partition_count_nothing_is_changed() {
        let backend = Scripted::new(3);
        let conflict = || EngineError::Conflict { what: "partition count".into(), reason: "it is 8".into() };
        backend.script(|script| script.errors.push_back(("verify_deployment", conflict())));
        tokio::spawn(DependencyReconciler::new(Arc::clone(&backend)).run(CancellationToken::new()));
        backend.until(|calls| calls.len() == 1).await;
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(backend.calls(), [Call::Verify]);
        backend.until(|calls| reconciled(calls).len() == 3).await;
    }
}
