//! Makes time pass: delays, leases, timeouts, deadlines and retention take effect when a partition is swept.
//!
//! Every partition is swept once per interval. One that says when it has something due before that is swept again at
//! that moment, and one that stopped at its bound is swept again at once, behind those that wait.

use std::{
    collections::{BTreeSet, HashMap, HashSet, VecDeque},
    sync::Arc,
    time::Duration,
};

use ff_core::{MaintenanceBackend, Partition, PartitionCount, SweepPolicy, SweepReport};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    meters::{self, Outages},
    retry,
};

/// Partitions swept by one call.
const SWEEP_BATCH: usize = 64;
/// A backend that calls something due which its sweep does not do must not make this loop spin.
const SHORTEST_WAIT: Duration = Duration::from_millis(1);

/// Sweeps all partitions at an interval, and single ones when something is due there.
pub struct Sweeper<B: ?Sized> {
    backend: Arc<B>,
    interval: Duration,
    policy: SweepPolicy,
}

impl<B: ?Sized> std::fmt::Debug for Sweeper<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Sweeper")
            .field("interval", &self.interval)
            .field("policy", &self.policy)
            .finish_non_exhaustive()
    }
}

impl<B: MaintenanceBackend + ?Sized> Sweeper<B> {
    /// A sweeper over this backend: every second, with the default policy.
    #[must_use]
    pub fn new(backend: Arc<B>) -> Self {
        Self { backend, interval: Duration::from_secs(1), policy: SweepPolicy::default() }
    }

    /// How long it is from one pass over all partitions to the next (give or take a tenth), at least 1 ms.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.max(SHORTEST_WAIT);
        self
    }

    /// For how long ended executions are kept.
    #[must_use]
    pub const fn policy(mut self, policy: SweepPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sweeps until `shutdown` is cancelled; the first pass begins at once. Errors are logged, counted and left to the
    /// next pass.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: whoever sweeps next finds the same due.
    pub async fn run(self, shutdown: CancellationToken) {
        let sweeping = async {
            let mut schedule = Schedule::new(self.backend.partition_count(), self.interval);
            let mut outages = Outages::of("sweep");
            loop {
                if schedule.waiting.is_empty() {
                    sleep_until(schedule.wake_at()).await;
                }
                schedule.begin_due(Instant::now(), retry::jittered(self.interval));
                let batch = schedule.next_batch();
                let span = tracing::debug_span!("ff.sweeper.sweep", partitions = batch.len());
                self.sweep(batch, &mut schedule, &mut outages).instrument(span).await;
            }
        };
        shutdown.run_until_cancelled(sweeping).await;
    }

    async fn sweep(&self, batch: Vec<Partition>, schedule: &mut Schedule, outages: &mut Outages) {
        let reports = self.backend.sweep(&batch, &self.policy).await;
        outages.note(batch.iter().copied().zip(reports.iter().map(|report| report.as_ref().err())));
        let now = Instant::now();
        for (partition, report) in batch.into_iter().zip(reports) {
            if let Ok(report) = report {
                count(&report);
                schedule.swept(partition, &report, now);
            }
        }
    }
}

fn count(report: &SweepReport) {
    meters::add("ff_sweeper_released", report.released);
    meters::add("ff_sweeper_reclaimed", report.reclaimed);
    meters::add("ff_sweeper_ended", report.ended);
    meters::add("ff_sweeper_resolved", report.resolved);
    meters::add("ff_sweeper_removed", report.removed);
    meters::add("ff_sweeper_lost", report.lost);
}

/// When which partition is swept. Pure: the clock and the jitter are arguments.
struct Schedule {
    count: PartitionCount,
    interval: Duration,
    next_pass: Instant,
    /// Single partitions with something due before the next pass.
    due: BTreeSet<(Instant, Partition)>,
    due_at: HashMap<Partition, Instant>,
    /// Partitions to be swept now, each once.
    waiting: VecDeque<Partition>,
    is_waiting: HashSet<Partition>,
}

impl Schedule {
    /// The first pass is due now.
    fn new(count: PartitionCount, interval: Duration) -> Self {
        Self {
            count,
            interval,
            next_pass: Instant::now(),
            due: BTreeSet::new(),
            due_at: HashMap::new(),
            waiting: VecDeque::new(),
            is_waiting: HashSet::new(),
        }
    }

    /// When the next pass or single partition is due.
    fn wake_at(&self) -> Instant {
        self.due.first().map_or(self.next_pass, |(at, _)| self.next_pass.min(*at))
    }

    /// Puts what is due in line: single partitions first, then, if its time has come, all of them. The pass after
    /// that one is `until_next_pass` away.
    fn begin_due(&mut self, now: Instant, until_next_pass: Duration) {
        while let Some((at, partition)) = self.due.first().copied()
            && at <= now
        {
            self.forget_due(partition);
            self.wait(partition);
        }
        if self.next_pass <= now {
            self.next_pass = now + until_next_pass;
            meters::add("ff_sweeper_passes", 1);
            self.count.partitions().for_each(|partition| self.wait(partition));
        }
    }

    /// The partitions that have waited longest.
    fn next_batch(&mut self) -> Vec<Partition> {
        let batch: Vec<_> = self.waiting.drain(..self.waiting.len().min(SWEEP_BATCH)).collect();
        for partition in &batch {
            self.is_waiting.remove(partition);
            self.forget_due(*partition);
        }
        batch
    }

    /// Plans the partition's next sweep by what this one reported; without anything to go by it is the next pass's.
    fn swept(&mut self, partition: Partition, report: &SweepReport, now: Instant) {
        if report.more {
            self.wait(partition);
        } else if let Some(next_due) = report.next_due.filter(|next_due| *next_due < self.interval) {
            let at = now + next_due.max(SHORTEST_WAIT);
            self.forget_due(partition);
            self.due.insert((at, partition));
            self.due_at.insert(partition, at);
        }
    }

    fn wait(&mut self, partition: Partition) {
        if self.is_waiting.insert(partition) {
            self.waiting.push_back(partition);
        }
    }

    fn forget_due(&mut self, partition: Partition) {
        if let Some(at) = self.due_at.remove(&partition) {
            self.due.remove(&(at, partition));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{Call, Scripted, transport};

    const SECOND: Duration = Duration::from_secs(1);

    fn p(number: u16) -> Partition {
        Partition::new(number)
    }

    fn report(more: bool, next_due: Option<Duration>) -> SweepReport {
        let mut report = SweepReport::default();
        report.more = more;
        report.next_due = next_due;
        report
    }

    fn schedule(count: u16) -> Schedule {
        Schedule::new(PartitionCount::new(count).unwrap(), SECOND)
    }

    #[test]
    fn a_pass_covers_every_partition_once_in_batches_of_64() {
        let mut schedule = schedule(150);
        schedule.begin_due(schedule.wake_at(), SECOND);
        let batches: Vec<_> = std::iter::from_fn(|| Some(schedule.next_batch()).filter(|b| !b.is_empty())).collect();
        assert_eq!(batches.iter().map(Vec::len).collect::<Vec<_>>(), [64, 64, 22]);
        assert_eq!(batches.concat(), (0..150).map(p).collect::<Vec<_>>());
    }

    #[test]
    fn a_partition_with_more_to_do_is_swept_again_behind_those_that_wait() {
        let mut schedule = schedule(65);
        let start = schedule.wake_at();
        schedule.begin_due(start, SECOND);
        let first = schedule.next_batch();
        schedule.swept(first[0], &report(true, None), start);
        assert_eq!(schedule.next_batch(), [p(64), p(0)]);
    }

    #[test]
    fn what_is_due_before_the_next_pass_is_swept_at_its_moment_and_alone() {
        let mut schedule = schedule(3);
        let start = schedule.wake_at();
        schedule.begin_due(start, SECOND);
        schedule.next_batch();
        schedule.swept(p(1), &report(false, Some(SECOND / 4)), start);
        schedule.swept(p(2), &report(false, Some(SECOND * 5)), start);
        assert_eq!(schedule.wake_at(), start + SECOND / 4);
        schedule.begin_due(start + SECOND / 4, SECOND);
        assert_eq!(schedule.next_batch(), [p(1)]);
        assert_eq!(schedule.wake_at(), start + SECOND);
    }

    #[test]
    fn a_newer_report_replaces_an_older_plan() {
        let mut schedule = schedule(1);
        let start = schedule.wake_at();
        schedule.begin_due(start, SECOND);
        schedule.next_batch();
        schedule.swept(p(0), &report(false, Some(SECOND / 4)), start);
        schedule.swept(p(0), &report(false, Some(SECOND / 2)), start);
        assert_eq!(schedule.wake_at(), start + SECOND / 2);
    }

    #[test]
    fn something_due_at_once_for_ever_does_not_spin() {
        let mut schedule = schedule(1);
        let start = schedule.wake_at();
        schedule.begin_due(start, SECOND);
        schedule.next_batch();
        schedule.swept(p(0), &report(false, Some(Duration::ZERO)), start);
        assert_eq!(schedule.wake_at(), start + SHORTEST_WAIT);
    }

    fn swept(calls: &[Call]) -> Vec<Vec<u16>> {
        let partitions = |call: &Call| match call {
            Call::Sweep(partitions) => Some(partitions.clone()),
            _ => None,
        };
        calls.iter().filter_map(partitions).collect()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pass_is_made_every_interval_and_an_error_waits_for_the_next() {
        let backend = Scripted::new(2);
        backend.script(|script| script.errors.push_back(("sweep", transport())));
        let start = Instant::now();
        tokio::spawn(Sweeper::new(Arc::clone(&backend)).run(CancellationToken::new()));
        backend.until(|calls| calls.len() == 4).await;
        assert_eq!(swept(&backend.calls()), vec![vec![0, 1]; 4]);
        let elapsed = start.elapsed();
        assert!(elapsed >= SECOND * 27 / 10 && elapsed <= SECOND * 34 / 10, "{elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_cannot_be_swept_leaves_the_others_alone() {
        let backend = Scripted::new(3);
        backend.script(|script| {
            script.errors.push_back(("sweep 1", transport()));
            script.sweep(2, [report(true, None)]);
        });
        tokio::spawn(Sweeper::new(Arc::clone(&backend)).run(CancellationToken::new()));
        backend.until(|calls| calls.len() == 2).await;
        assert_eq!(swept(&backend.calls()), [vec![0, 1, 2], vec![2]]);
    }

    #[tokio::test(start_paused = true)]
    async fn a_due_partition_is_swept_when_it_is_due_and_one_with_more_at_once() {
        let backend = Scripted::new(3);
        backend.script(|script| {
            script.sweep(1, [report(true, None), report(false, Some(SECOND / 10))]);
        });
        let start = Instant::now();
        tokio::spawn(Sweeper::new(Arc::clone(&backend)).run(CancellationToken::new()));
        backend.until(|calls| calls.len() == 2).await;
        assert!(start.elapsed() < SECOND / 10);
        backend.until(|calls| calls.len() == 3).await;
        assert!((SECOND / 10..SECOND / 5).contains(&start.elapsed()), "{:?}", start.elapsed());
        assert_eq!(swept(&backend.calls()), [vec![0, 1, 2], vec![1], vec![1]]);
    }
}
