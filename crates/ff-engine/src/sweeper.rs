//! Makes time pass: delays, leases, timeouts, deadlines and retention take effect when a partition is swept.
//!
//! A partition is swept when something is due there: a sweep says when that is next, and a call that creates a timer
//! which is due sooner announces it. Beyond that each partition is swept once per interval, which finds unannounced
//! timers: a lost announcement costs one interval at most. Where nothing is announced to this process (the backend
//! announces nothing, or the subscription fails), the interval is at most a second.

use std::{sync::Arc, time::Duration};

use ff_core::{
    EngineError, SweepPolicy,
    backend::{MaintenanceBackend, SweepReport, TimerSignal, TimerSignals},
    limits,
};
use futures::{FutureExt, StreamExt, future::BoxFuture};
use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until},
};
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    membership::Condition,
    meters::{self, Outage, Outages},
    retry,
    schedule::{SHORTEST_WAIT, Schedule},
    share::{self, Share},
};

/// The longest interval: with its jitter it stays below the time ahead of which timers are announced.
const LONGEST_INTERVAL: Duration = limits::TIMER_HORIZON.saturating_sub(Duration::from_secs(1));
/// The longest interval while timers are not announced to this process.
const BLIND_INTERVAL: Duration = Duration::from_secs(1);
/// How long after a refused subscription to timers the next one is tried.
const SUBSCRIBE_AGAIN: Duration = Duration::from_secs(30);

/// Sweeps partitions when something is due there, and each at an interval.
pub struct Sweeper<B: ?Sized> {
    backend: Arc<B>,
    interval: Duration,
    policy: SweepPolicy,
    share: watch::Receiver<Share>,
    condition: Arc<Condition>,
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
    /// A sweeper of all partitions of this backend: each at least every 5 s, with the default policy.
    #[must_use]
    pub fn new(backend: Arc<B>) -> Self {
        Self {
            backend,
            interval: Duration::from_secs(5),
            policy: SweepPolicy::default(),
            share: share::everything(),
            condition: Arc::default(),
        }
    }

    /// How long it is from one sweep of a partition to the next (give or take a tenth) where nothing is known to be due
    /// before. At least 1 ms, at most 9 s.
    #[must_use]
    pub fn interval(mut self, interval: Duration) -> Self {
        self.interval = interval.clamp(SHORTEST_WAIT, LONGEST_INTERVAL);
        self
    }

    /// For how long ended executions are kept.
    #[must_use]
    pub const fn policy(mut self, policy: SweepPolicy) -> Self {
        self.policy = policy;
        self
    }

    /// Sweeps only the partitions of this share, and reports the outcome of the sweeps.
    pub(crate) fn within(mut self, share: watch::Receiver<Share>, condition: Arc<Condition>) -> Self {
        (self.share, self.condition) = (share, condition);
        self
    }

    /// Sweeps until `shutdown` is cancelled; the first sweeps begin at once. Errors are logged, counted and tried
    /// again.
    ///
    /// # Cancel safety
    /// Dropping the future loses nothing: the next sweep finds the same due work.
    pub async fn run(self, shutdown: CancellationToken) {
        let share = self.share.clone();
        let sweeping = async {
            Sweeping {
                signals: Signals::to(&*self.backend),
                schedule: Schedule::default(),
                outages: Outages::of("sweep"),
                delays: retry::Delays::new(),
                sweeper: &self,
            }
            .work(share)
            .await;
        };
        shutdown.run_until_cancelled(sweeping).await;
    }
}

/// The subscription to timers, in whatever state it is.
enum Signals<'a> {
    Subscribing(BoxFuture<'a, Result<TimerSignals, EngineError>>),
    Subscribed(TimerSignals),
}

impl<'a> Signals<'a> {
    fn to<B: MaintenanceBackend + ?Sized>(backend: &'a B) -> Self {
        Self::Subscribing(backend.timer_signals().boxed())
    }

    fn later<B: MaintenanceBackend + ?Sized>(backend: &'a B) -> Self {
        let subscribe = async {
            sleep(retry::jittered(SUBSCRIBE_AGAIN)).await;
            backend.timer_signals().await
        };
        Self::Subscribing(subscribe.boxed())
    }

    const fn are_received(&self) -> bool {
        matches!(self, Self::Subscribed(_))
    }
}

/// What came of the subscription.
enum Heard {
    Subscribed(TimerSignals),
    Signal(TimerSignal),
    Refused(EngineError),
    Ended,
}

impl Signals<'_> {
    /// # Cancel safety
    /// Nothing is lost: what was not returned comes with the next call.
    async fn next(&mut self) -> Heard {
        match self {
            Self::Subscribing(subscribing) => match subscribing.await {
                Ok(signals) => Heard::Subscribed(signals),
                Err(error) => Heard::Refused(error),
            },
            Self::Subscribed(signals) => signals.next().await.map_or(Heard::Ended, Heard::Signal),
        }
    }
}

/// A sweeper at work.
struct Sweeping<'a, B: ?Sized> {
    sweeper: &'a Sweeper<B>,
    schedule: Schedule,
    signals: Signals<'a>,
    outages: Outages,
    delays: retry::Delays,
}

impl<B: MaintenanceBackend + ?Sized> Sweeping<'_, B> {
    async fn work(mut self, mut share: watch::Receiver<Share>) {
        let mut subscribing = Outage::of("timer_signals");
        self.serve(&share.borrow_and_update());
        loop {
            tokio::select! {
                heard = self.signals.next() => self.heard(heard, &mut subscribing),
                () = share::changed(&mut share) => self.serve(&share.borrow_and_update()),
                () = at(self.schedule.wake_at()) => self.sweep().await,
            }
        }
    }

    fn serve(&mut self, share: &Share) {
        let count = self.sweeper.backend.partition_count();
        self.schedule.serve(share.partitions(count), Instant::now());
    }

    fn heard(&mut self, heard: Heard, subscribing: &mut Outage) {
        match heard {
            Heard::Signal(TimerSignal::Due { partition, after }) => {
                meters::add("ff_sweeper_timers_announced", 1);
                self.schedule.announced(partition, Instant::now() + after);
            }
            Heard::Signal(TimerSignal::Engines) => self.sweeper.condition.changed.notify_one(),
            Heard::Signal(TimerSignal::Missed) => {
                self.schedule.all_at_once(Instant::now());
                self.sweeper.condition.changed.notify_one();
            }
            Heard::Signal(_) => {}
            Heard::Subscribed(signals) => {
                subscribing.succeeded();
                self.signals = Signals::Subscribed(signals);
                // What was created before the subscription was announced to nobody here.
                self.schedule.all_at_once(Instant::now());
            }
            Heard::Refused(error) => {
                if !matches!(error, EngineError::Unavailable { .. }) {
                    subscribing.failed(&error);
                }
                self.signals = Signals::later(&*self.sweeper.backend);
            }
            Heard::Ended => self.signals = Signals::to(&*self.sweeper.backend),
        }
    }

    fn interval(&self) -> Duration {
        let interval = self.sweeper.interval;
        if self.signals.are_received() { interval } else { interval.min(BLIND_INTERVAL) }
    }

    async fn sweep(&mut self) {
        let interval = self.interval();
        let batch = self.schedule.next_batch(Instant::now(), interval / 10);
        if batch.is_empty() {
            return;
        }
        let span = tracing::debug_span!("ff.sweeper.sweep", partitions = batch.len());
        let reports = self.sweeper.backend.sweep(&batch, &self.sweeper.policy).instrument(span).await;
        self.outages.note(batch.iter().copied().zip(reports.iter().map(|report| report.as_ref().err())));
        let succeeded = reports.iter().any(Result::is_ok);
        self.sweeper.condition.swept(succeeded);
        if succeeded {
            self.delays.reset();
        }
        // One moment for all of them, so that they go along with each other again.
        let now = Instant::now();
        let regular = now + retry::jittered(interval);
        // If one partition fails while others succeed, the cause is in that partition; a quick retry does not repair
        // it.
        let again = now + if succeeded { BLIND_INTERVAL } else { self.delays.next_delay().min(BLIND_INTERVAL) };
        for (partition, report) in batch.into_iter().zip(reports) {
            match report {
                Ok(report) => {
                    count(&report);
                    self.schedule.swept(partition, &report, now, regular);
                }
                // Sooner is of no use for what cannot be read.
                Err(EngineError::Protocol { .. }) => self.schedule.failed(partition, regular),
                Err(_) => self.schedule.failed(partition, again),
            }
        }
    }
}

async fn at(moment: Option<Instant>) {
    match moment {
        Some(moment) => sleep_until(moment).await,
        None => std::future::pending().await,
    }
}

fn count(report: &SweepReport) {
    meters::add("ff_sweeper_sweeps", 1);
    meters::add("ff_sweeper_released", report.released);
    meters::add("ff_sweeper_reclaimed", report.reclaimed);
    meters::add("ff_sweeper_ended", report.ended);
    meters::add("ff_sweeper_resolved", report.resolved);
    meters::add("ff_sweeper_removed", report.removed);
}

#[cfg(test)]
mod tests {
    use ff_core::Partition;

    use super::*;
    use crate::testing::{Call, Scripted, protocol, transport};

    const SECOND: Duration = Duration::from_secs(1);

    fn report(more: bool, next_due: Option<Duration>) -> SweepReport {
        let mut report = SweepReport::default();
        report.more = more;
        report.next_due = next_due;
        report
    }

    fn swept(calls: &[Call]) -> Vec<Vec<u16>> {
        let partitions = |call: &Call| match call {
            Call::Sweep(partitions) => Some(partitions.clone()),
            _ => None,
        };
        calls.iter().filter_map(partitions).collect()
    }

    fn sweeps(calls: &[Call]) -> usize {
        swept(calls).len()
    }

    /// A sweeper that hears of timers, after its first sweeps.
    async fn listening(backend: &Arc<Scripted>) {
        backend.script(|script| script.announces = true);
        tokio::spawn(Sweeper::new(Arc::clone(backend)).run(CancellationToken::new()));
        sleep(SECOND).await;
    }

    #[tokio::test(start_paused = true)]
    async fn without_announcements_every_partition_is_swept_once_a_second() {
        let backend = Scripted::new(2);
        let start = Instant::now();
        tokio::spawn(Sweeper::new(Arc::clone(&backend)).run(CancellationToken::new()));
        backend.until(|calls| sweeps(calls) == 4).await;
        assert_eq!(swept(&backend.calls()), vec![vec![0, 1]; 4]);
        let elapsed = start.elapsed();
        assert!(elapsed >= SECOND * 27 / 10 && elapsed <= SECOND * 34 / 10, "{elapsed:?}");
    }

    #[tokio::test(start_paused = true)]
    async fn with_announcements_an_idle_partition_is_swept_every_five_seconds() {
        let backend = Scripted::new(2);
        listening(&backend).await;
        let before = sweeps(&backend.calls());
        sleep(SECOND * 50).await;
        let passes = sweeps(&backend.calls()) - before;
        assert!((9..=12).contains(&passes), "{passes}");
    }

    #[tokio::test(start_paused = true)]
    async fn an_announced_timer_is_swept_at_its_moment_and_alone() {
        let backend = Scripted::new(3);
        listening(&backend).await;
        let (before, start) = (sweeps(&backend.calls()), Instant::now());
        backend.timer(TimerSignal::Due { partition: Partition::new(1), after: SECOND / 20 });
        backend.until(|calls| sweeps(calls) > before).await;
        assert_eq!(swept(&backend.calls())[before], [1]);
        assert!((SECOND / 20..SECOND / 14).contains(&start.elapsed()), "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn missed_announcements_trigger_a_sweep_of_everything() {
        let backend = Scripted::new(3);
        listening(&backend).await;
        let (before, start) = (sweeps(&backend.calls()), Instant::now());
        backend.timer(TimerSignal::Missed);
        backend.until(|calls| sweeps(calls) > before).await;
        assert_eq!(swept(&backend.calls())[before], [0, 1, 2]);
        assert!(start.elapsed() < SECOND / 10, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_failed_sweep_is_tried_again_within_a_second() {
        let backend = Scripted::new(2);
        listening(&backend).await;
        backend.script(|script| script.errors.push_back(("sweep", transport())));
        let (before, start) = (sweeps(&backend.calls()), Instant::now());
        backend.timer(TimerSignal::Missed);
        backend.until(|calls| sweeps(calls) == before + 2).await;
        assert!(start.elapsed() < SECOND, "{:?}", start.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_cannot_be_read_is_swept_again_only_at_the_interval() {
        let backend = Scripted::new(2);
        listening(&backend).await;
        backend.script(|script| script.errors.extend((0..100).map(|_| ("sweep 1", protocol()))));
        backend.timer(TimerSignal::Missed);
        backend.settle().await;
        let before = backend.calls().len();
        sleep(SECOND * 50).await;
        let tries = swept(&backend.calls()[before..]).iter().filter(|partitions| partitions.contains(&1)).count();
        assert!((9..=12).contains(&tries), "{tries}");
    }

    #[tokio::test(start_paused = true)]
    async fn only_the_share_is_swept_and_new_partitions_at_once() {
        let backend = Scripted::new(3);
        let of = |numbers: &[u16]| Share::Of(Arc::new(numbers.iter().map(|number| Partition::new(*number)).collect()));
        let (sender, share) = watch::channel(of(&[1]));
        let sweeper = Sweeper::new(Arc::clone(&backend)).within(share, Arc::default());
        tokio::spawn(sweeper.run(CancellationToken::new()));
        backend.until(|calls| sweeps(calls) == 3).await;
        assert_eq!(swept(&backend.calls()), [[1], [1], [1]]);
        let notified = Instant::now();
        sender.send_replace(of(&[2]));
        backend.until(|calls| sweeps(calls) == 4).await;
        assert_eq!(swept(&backend.calls())[3], [2]);
        assert!(notified.elapsed() < SECOND / 10, "{:?}", notified.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn a_due_partition_is_swept_when_it_is_due_and_one_with_more_at_once() {
        let backend = Scripted::new(3);
        backend.script(|script| {
            script.sweep(1, [report(true, None), report(false, Some(SECOND / 10))]);
        });
        let start = Instant::now();
        tokio::spawn(Sweeper::new(Arc::clone(&backend)).run(CancellationToken::new()));
        backend.until(|calls| sweeps(calls) == 2).await;
        assert!(start.elapsed() < SECOND / 10);
        backend.until(|calls| sweeps(calls) == 3).await;
        assert!((SECOND / 10..SECOND / 5).contains(&start.elapsed()), "{:?}", start.elapsed());
        assert_eq!(swept(&backend.calls()), [vec![0, 1, 2], vec![1], vec![1]]);
    }
}
