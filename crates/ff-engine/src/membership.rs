//! Shares the partitions between the active engines, so that each is swept and reconciled by one of them.
//!
//! An engine registers itself at an interval and receives the list of active engines. It registers again immediately
//! when a signal reports that the list has changed. Failures and their handling:
//!
//! | failure | handling |
//! | --- | --- |
//! | an engine crashes or hangs | it expires after [`GONE_AFTER`]; the others take over at their next registration |
//! | an engine stops | it removes itself; the others take over immediately |
//! | an engine cannot register, now or at its start | it serves all partitions, which is harmless, until it can |
//! | an engine is registered, but all its sweeps fail | it does not register again until a sweep succeeds |

use std::{
    sync::{
        Arc, Mutex, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use ff_core::{EngineError, EngineId, backend::MaintenanceBackend};
use tokio::{
    sync::{Notify, watch},
    time::{Instant, sleep, timeout},
};
use tokio_util::sync::CancellationToken;

use crate::{
    meters::{self, Outage},
    retry,
    share::Share,
};

/// How often an engine registers itself.
const NOTE_INTERVAL: Duration = Duration::from_secs(2);
/// When an engine that does not register expires. A crash costs this time plus one interval of the others.
const GONE_AFTER: Duration = Duration::from_secs(6);
/// Changes within this time are handled together.
const SETTLING: Duration = Duration::from_millis(20);
/// The timeout for the removal of an engine that stops.
const FAREWELL: Duration = Duration::from_secs(1);

/// What the parts of an engine report to its membership.
#[derive(Debug, Default)]
pub(crate) struct Condition {
    /// Since when all sweeps fail.
    failing_since: Mutex<Option<Instant>>,
    /// A signal reported that the active engines have changed.
    pub(crate) changed: Notify,
    /// The number of active engines, as last known.
    engines: AtomicUsize,
}

impl Condition {
    /// Records the outcome of the last sweep.
    pub(crate) fn swept(&self, succeeded: bool) {
        let mut since = self.failing_since.lock().unwrap_or_else(PoisonError::into_inner);
        if succeeded {
            *since = None;
        } else {
            since.get_or_insert_with(Instant::now);
        }
    }

    fn is_failing(&self) -> bool {
        let since = *self.failing_since.lock().unwrap_or_else(PoisonError::into_inner);
        since.is_some_and(|since| since.elapsed() > GONE_AFTER)
    }

    /// The number of active engines, as last known; 0 while it is not known.
    pub(crate) fn engines(&self) -> usize {
        self.engines.load(Ordering::Relaxed)
    }
}

/// Registers an engine for as long as it runs.
pub(crate) struct Membership<B: ?Sized> {
    pub(crate) backend: Arc<B>,
    pub(crate) engine: EngineId,
    pub(crate) share: watch::Sender<Share>,
    pub(crate) condition: Arc<Condition>,
}

impl<B: MaintenanceBackend + ?Sized> Membership<B> {
    /// Runs until `shutdown` is cancelled; then removes the engine.
    pub(crate) async fn run(self, shutdown: CancellationToken) {
        let noting = async {
            let mut outage = Outage::of("note_engine");
            let mut noted_at = None;
            loop {
                if !self.condition.is_failing() {
                    let noted = self.backend.note_engine(&self.engine, GONE_AFTER).await;
                    self.noted(noted, &mut noted_at, &mut outage);
                }
                self.wait().await;
            }
        };
        if shutdown.run_until_cancelled(noting).await.is_none() {
            // A failure does not matter: the registration would expire a little later.
            let _ = timeout(FAREWELL, self.backend.note_engine(&self.engine, Duration::ZERO)).await;
        }
    }

    async fn wait(&self) {
        tokio::select! {
            () = sleep(retry::jittered(NOTE_INTERVAL)) => {}
            () = self.condition.changed.notified() => sleep(SETTLING).await,
        }
    }

    fn noted(&self, answer: Result<Vec<EngineId>, EngineError>, noted_at: &mut Option<Instant>, outage: &mut Outage) {
        match answer {
            Ok(at_work) => {
                outage.succeeded();
                *noted_at = Some(Instant::now());
                self.condition.engines.store(at_work.len(), Ordering::Relaxed);
                self.serve(Share::among(&self.engine, &at_work, self.backend.partition_count()));
            }
            Err(EngineError::Unavailable { .. }) => self.serve(Share::All),
            Err(error) => {
                outage.failed(&error);
                if noted_at.is_none_or(|at| at.elapsed() > GONE_AFTER) {
                    self.condition.engines.store(0, Ordering::Relaxed);
                    self.serve(Share::All);
                }
            }
        }
    }

    fn serve(&self, share: Share) {
        let partitions = share.partitions(self.backend.partition_count()).len();
        meters::serving(partitions, self.condition.engines());
        self.share.send_if_modified(|served| {
            let changes = *served != share;
            if changes {
                tracing::debug!(partitions, engines = self.condition.engines(), "the share of this engine has changed");
                *served = share;
            }
            changes
        });
    }
}

#[cfg(test)]
mod tests {
    use ff_core::{Partition, PartitionCount};

    use super::*;
    use crate::testing::{Call, Scripted, transport};

    fn id(name: &str) -> EngineId {
        EngineId::new(name).unwrap()
    }

    struct Running {
        backend: Arc<Scripted>,
        share: watch::Receiver<Share>,
        condition: Arc<Condition>,
        stop: CancellationToken,
    }

    fn start(backend: &Arc<Scripted>) -> Running {
        let (share, receiver) = watch::channel(Share::Unknown);
        let (condition, stop) = (Arc::<Condition>::default(), CancellationToken::new());
        let membership =
            Membership { backend: Arc::clone(backend), engine: id("a"), share, condition: Arc::clone(&condition) };
        tokio::spawn(membership.run(stop.clone()));
        Running { backend: Arc::clone(backend), share: receiver, condition, stop }
    }

    fn notes(calls: &[Call]) -> usize {
        calls.iter().filter(|call| matches!(call, Call::Note(_, stays) if !stays.is_zero())).count()
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_serves_its_part_and_takes_over_when_another_is_gone() {
        let backend = Scripted::new(64);
        backend.script(|script| script.engines = Some(vec![id("a"), id("b")]));
        let mut running = start(&backend);
        running.share.wait_for(|share| matches!(share, Share::Of(_))).await.unwrap();
        let served = running.share.borrow().partitions(PartitionCount::new(64).unwrap()).len();
        assert!((10..=54).contains(&served), "{served}");
        backend.script(|script| script.engines = Some(vec![id("a")]));
        running.share.wait_for(|share| *share == Share::All).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn a_change_is_queried_at_once_and_not_with_the_next_call() {
        let backend = Scripted::new(4);
        backend.script(|script| script.engines = Some(vec![id("a")]));
        let mut running = start(&backend);
        running.share.wait_for(|share| *share == Share::All).await.unwrap();
        let notified = Instant::now();
        backend.script(|script| script.engines = Some(vec![id("b")]));
        running.condition.changed.notify_one();
        running.share.wait_for(|share| !share.serves(Partition::new(0))).await.unwrap();
        assert!(notified.elapsed() < Duration::from_millis(100), "{:?}", notified.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_cannot_register_serves_everything_until_it_can() {
        let backend = Scripted::new(4);
        backend.script(|script| {
            script.engines = Some(vec![id("b")]);
            script.errors.push_back(("note_engine", transport()));
        });
        let mut running = start(&backend);
        running.share.wait_for(|share| *share == Share::All).await.unwrap();
        running.share.wait_for(|share| !share.serves(Partition::new(0))).await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn one_failed_registration_changes_no_share_and_an_outage_ends_in_serving_everything() {
        let backend = Scripted::new(4);
        backend.script(|script| script.engines = Some(vec![id("b")]));
        let mut running = start(&backend);
        running.share.wait_for(|share| matches!(share, Share::Of(_))).await.unwrap();
        let began = Instant::now();
        backend.script(|script| script.errors.extend((0..5).map(|_| ("note_engine", transport()))));
        running.share.wait_for(|share| *share == Share::All).await.unwrap();
        assert!(began.elapsed() >= GONE_AFTER - NOTE_INTERVAL, "{:?}", began.elapsed());
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_whose_sweeps_fail_leaves_its_part_to_others_until_one_succeeds() {
        let backend = Scripted::new(4);
        backend.script(|script| script.engines = Some(vec![id("a")]));
        let running = start(&backend);
        running.condition.swept(false);
        sleep(GONE_AFTER + NOTE_INTERVAL).await;
        let noted = notes(&backend.calls());
        sleep(Duration::from_secs(60)).await;
        assert_eq!(notes(&backend.calls()), noted);
        running.condition.swept(true);
        running.backend.until(|calls| notes(calls) > noted).await;
    }

    #[tokio::test(start_paused = true)]
    async fn an_engine_that_stops_announces_it() {
        let backend = Scripted::new(4);
        let running = start(&backend);
        backend.until(|calls| notes(calls) > 0).await;
        running.stop.cancel();
        backend.until(|calls| calls.last() == Some(&Call::Note(id("a"), Duration::ZERO))).await;
    }
}
