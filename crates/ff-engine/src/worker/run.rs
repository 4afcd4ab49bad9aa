//! The worker's loop: listens, claims, starts executions, and drains.
//!
//! All calls to the backend run outside of the loop, so that a slow answer delays neither a signal nor a freed slot.
//! [`ClaimPlan`] decides which claim to make next.

use std::{collections::HashMap, sync::Arc, time::Duration};

use backon::Retryable;
use ff_core::{
    ClaimId, ClaimedExecution, EngineError, Partition,
    backend::{Claim, ClaimRequest, MaintenanceBackend, WorkBackend, WorkSignal, WorkSignals},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::{
    task::{JoinError, JoinSet},
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_util::sync::CancellationToken;

use super::{
    Worker,
    execute::execute,
    plan::{ClaimPlan, Order},
    refusals::Refusals,
    renew::{keep_apart, keep_leases},
    report::release,
    shared::Shared,
};
use crate::{
    meters::{self, Outage},
    retry::{self, Delays},
};

/// How long reports of handlers that were cancelled at the end of the drain may take.
const REPORT_GRACE: Duration = Duration::from_secs(5);
/// The most events that are handled before claims are made.
const EVENTS_AT_ONCE: usize = 64;

/// The identity of a claim for the backend, kept until the claim is answered.
#[derive(Debug, Clone, Copy)]
struct Identity {
    id: ClaimId,
    /// When it was first sent. Its leases may count from then.
    sent_at: Instant,
}

struct ClaimAnswer {
    order: Order,
    /// `None` for a claim of 0 executions.
    identity: Option<Identity>,
    claim: Result<Claim, EngineError>,
}

/// The result of a scan of all partitions; with `signals` if the subscription had to be renewed.
struct ScanAnswer {
    signals: Option<WorkSignals>,
    found: Result<Vec<Partition>, EngineError>,
}

enum Event {
    Signal(Option<WorkSignal>),
    Claimed(ClaimAnswer),
    Scanned(ScanAnswer),
    ScanDue,
    PauseOver,
    Ended,
    GivenBack,
}

pub(super) struct Runner<B: ?Sized> {
    plan: ClaimPlan,
    signals: Option<WorkSignals>,
    claims: FuturesUnordered<BoxFuture<'static, ClaimAnswer>>,
    /// Claims that failed and may have been executed: the next claim there repeats them.
    unanswered: HashMap<Partition, Identity>,
    claim_outage: Outage,
    claim_delays: Delays,
    /// After a failed claim: no claims before this time.
    paused_until: Option<Instant>,
    /// At most one.
    scan: FuturesUnordered<BoxFuture<'static, ScanAnswer>>,
    scan_outage: Outage,
    scan_delays: Delays,
    scan_again: bool,
    next_scan: Option<Instant>,
    running: JoinSet<()>,
    /// Leases that are being given back.
    returning: JoinSet<()>,
    refusals: Refusals,
    shared: Arc<Shared<B>>,
}

impl<B: WorkBackend + MaintenanceBackend + ?Sized> Runner<B> {
    pub(super) fn new(worker: Worker<B>) -> Self {
        Self {
            plan: ClaimPlan::new(worker.config.concurrency),
            signals: None,
            claims: FuturesUnordered::new(),
            unanswered: HashMap::new(),
            claim_outage: Outage::of("claim"),
            claim_delays: Delays::new(),
            paused_until: None,
            scan: FuturesUnordered::new(),
            scan_outage: Outage::of("await_work"),
            scan_delays: Delays::new(),
            scan_again: false,
            next_scan: Some(Instant::now()),
            running: JoinSet::new(),
            returning: JoinSet::new(),
            refusals: Refusals::default(),
            shared: Arc::new(Shared::new(worker)),
        }
    }

    pub(super) async fn run(mut self, shutdown: CancellationToken) -> Result<(), EngineError> {
        let Some(signals) = shutdown.run_until_cancelled(subscribe(&self.shared)).await else {
            return Ok(());
        };
        self.signals = Some(signals?);
        tracing::info!(lane = %self.shared.config.lane, worker_id = %self.shared.worker_id, "the worker is ready");
        let shared = Arc::clone(&self.shared);
        // Virtual time does not apply to other threads.
        let apart = (!cfg!(test)).then(|| keep_apart(&shared));
        let keep = async {
            if let Some((_stop, ended)) = &apart {
                ended.cancelled().await;
                tracing::warn!("leases are renewed on the worker's own runtime; handlers must not keep it busy");
            }
            keep_leases(&*shared).await
        };
        tokio::select! {
            never = keep => match never {},
            () = self.work(&shutdown) => Ok(()),
        }
    }

    async fn work(&mut self, shutdown: &CancellationToken) {
        loop {
            self.start_claims();
            tokio::select! {
                biased;
                () = shutdown.cancelled() => break,
                event = self.next_event() => self.handle(event),
            }
            // Slots that become free together are filled by one claim.
            for _ in 1..EVENTS_AT_ONCE {
                let Some(event) = self.next_event().now_or_never() else { break };
                self.handle(event);
            }
        }
        self.drain().await;
    }

    /// # Cancel safety
    /// Nothing is lost: the next call returns every event that was not returned.
    async fn next_event(&mut self) -> Event {
        tokio::select! {
            signal = next_signal(&mut self.signals) => Event::Signal(signal),
            Some(answer) = self.claims.next() => Event::Claimed(answer),
            Some(ended) = self.running.join_next() => ended_by(ended, Event::Ended),
            Some(ended) = self.returning.join_next() => ended_by(ended, Event::GivenBack),
            Some(answer) = self.scan.next() => Event::Scanned(answer),
            () = at(self.next_scan) => Event::ScanDue,
            () = at(self.paused_until) => Event::PauseOver,
        }
    }

    fn handle(&mut self, event: Event) {
        match event {
            Event::Signal(Some(WorkSignal::Ready(partition))) => self.plan.signalled(partition),
            Event::Signal(Some(WorkSignal::Lost { execution_id, epoch })) => {
                self.shared.leases().ended(execution_id, epoch);
            }
            // Also for a signal of a later version.
            Event::Signal(Some(_)) => {
                self.shared.doubt_leases();
                self.scan_soon();
            }
            Event::Signal(None) => {
                tracing::warn!("the work signals ended; subscribing again");
                self.signals = None;
                self.scan_soon();
            }
            Event::Claimed(answer) => self.claimed(answer),
            Event::Scanned(answer) => self.scanned(answer),
            Event::ScanDue => self.start_scan(),
            Event::PauseOver => self.paused_until = None,
            Event::Ended => self.plan.slot_freed(),
            Event::GivenBack => {}
        }
    }

    fn start_claims(&mut self) {
        if self.paused_until.is_some() {
            return;
        }
        while let Some(order) = self.plan.next() {
            let identity = self.identity(order);
            self.claims.push(claim(Arc::clone(&self.shared), order, identity).boxed());
        }
    }

    /// The identity of the next claim of a partition: that of an unanswered claim, as long as its leases may run.
    fn identity(&self, order: Order) -> Option<Identity> {
        let unanswered = self.unanswered.get(&order.partition).copied();
        let repeated = unanswered.filter(|identity| identity.sent_at.elapsed() < self.shared.config.lease);
        let fresh = || (order.max > 0).then(|| Identity { id: ClaimId::generate(), sent_at: Instant::now() });
        repeated.or_else(fresh)
    }

    fn claimed(&mut self, ClaimAnswer { order, identity, claim }: ClaimAnswer) {
        self.unanswered.remove(&order.partition);
        match claim {
            Ok(claim) => {
                self.claim_outage.succeeded();
                self.claim_delays.reset();
                let (mut executions, refused) = self.sorted(claim.executions);
                // A repeated claim may return more executions than there are free slots now.
                let surplus = executions.split_off(self.startable(order).min(executions.len()));
                self.plan.answered(order, executions.len(), claim.more);
                if let Some(identity) = identity {
                    self.start(executions, identity.sent_at);
                    self.give_back(surplus, identity.sent_at);
                    self.refuse(refused, identity.sent_at);
                }
            }
            Err(error) => {
                if let Some(identity) = identity.filter(|_| error.is_retryable()) {
                    self.unanswered.insert(order.partition, identity);
                }
                self.claim_outage.failed(&error);
                if matches!(error, EngineError::Protocol { .. }) {
                    // The next scan finds the partition again; the others need not wait for it.
                    self.plan.left(order);
                    return;
                }
                self.plan.failed(order);
                self.paused_until = Some(Instant::now() + self.claim_delays.next_delay());
            }
        }
    }

    /// How many executions of a claim are started: none while the worker drains.
    const fn startable(&self, order: Order) -> usize {
        if self.plan.is_closed() { 0 } else { order.max }
    }

    fn start(&mut self, executions: Vec<ClaimedExecution>, sent_at: Instant) {
        self.shared.meters.claimed.increment(executions.len() as u64);
        for execution in executions {
            let held = self.shared.hold(execution.lease, sent_at);
            self.running.spawn(execute(Arc::clone(&self.shared), execution, held));
        }
    }

    fn give_back(&mut self, executions: Vec<ClaimedExecution>, sent_at: Instant) {
        for execution in executions {
            let (shared, held) = (Arc::clone(&self.shared), self.shared.hold(execution.lease, sent_at));
            self.returning.spawn(async move { release(&shared, &held.lease).await });
        }
    }

    /// Splits executions into accepted and refused ones.
    fn sorted(&self, executions: Vec<ClaimedExecution>) -> (Vec<ClaimedExecution>, Vec<ClaimedExecution>) {
        executions.into_iter().partition(|execution| self.shared.handlers.take(execution))
    }

    /// Gives back what is not to be done here. That takes no slot, so it holds nothing else up.
    fn refuse(&mut self, executions: Vec<ClaimedExecution>, sent_at: Instant) {
        self.shared.meters.refused.increment(executions.len() as u64);
        for execution in executions {
            let wait = self.refusals.wait(&execution, self.shared.config.lease);
            let (shared, held) = (Arc::clone(&self.shared), self.shared.hold(execution.lease, sent_at));
            self.returning.spawn(async move {
                tokio::select! {
                    () = held.fate.lost.cancelled() => return,
                    () = shared.closing.cancelled() => {}
                    () = sleep(wait) => {}
                }
                release(&shared, &held.lease).await;
            });
        }
    }

    fn scan_soon(&mut self) {
        if self.next_scan.is_some() {
            self.next_scan = Some(Instant::now());
        } else {
            // A scan is in progress and may have passed the partition already.
            self.scan_again = true;
        }
    }

    fn start_scan(&mut self) {
        self.next_scan = None;
        self.scan.push(scan(Arc::clone(&self.shared), self.signals.is_none()).boxed());
    }

    fn scanned(&mut self, answer: ScanAnswer) {
        if answer.signals.is_some() {
            self.signals = answer.signals;
        }
        let again = std::mem::take(&mut self.scan_again);
        let wait = match answer.found {
            Ok(partitions) => {
                self.scan_outage.succeeded();
                self.scan_delays.reset();
                partitions.into_iter().for_each(|partition| self.plan.found(partition));
                if again { Duration::ZERO } else { retry::jittered(self.shared.config.rescan_interval) }
            }
            Err(error) => {
                self.scan_outage.failed(&error);
                self.scan_delays.next_delay()
            }
        };
        self.next_scan = Some(Instant::now() + wait);
    }

    /// Lets running handlers finish, then cancels them, then drops them. Executions that have not ended by then are
    /// given back, and so are those of claims that were in progress.
    async fn drain(&mut self) {
        self.plan.close();
        self.shared.closing.cancel();
        self.next_scan = None;
        self.scan.clear();
        let config = &self.shared.config;
        let (drain_grace, end_grace) = (config.drain_grace, config.cancel_grace + REPORT_GRACE);
        if timeout(drain_grace, self.work_off()).await.is_err() {
            if !drain_grace.is_zero() {
                tracing::warn!(executions = self.running.len(), "the grace is over; cancelling what still runs");
            }
            self.shared.abandon.cancel();
            let _ = timeout(end_grace, self.work_off()).await;
            self.running.shutdown().await;
            self.returning.shutdown().await;
        }
        tracing::info!("the worker has stopped");
    }

    /// Continues with the claimed executions, without new claims, until none is left.
    async fn work_off(&mut self) {
        loop {
            self.start_claims();
            if self.running.is_empty() && self.returning.is_empty() && self.claims.is_empty() {
                return;
            }
            match self.next_event().await {
                // The worker would not claim the work that a scan finds.
                Event::Signal(Some(WorkSignal::Rescan)) => self.shared.doubt_leases(),
                Event::ScanDue | Event::Scanned(_) => {}
                Event::Signal(None) => self.signals = None,
                event => self.handle(event),
            }
        }
    }
}

/// The event of a task's end. A panic of the task is logged and counted; its lease runs out.
fn ended_by(ended: Result<(), JoinError>, event: Event) -> Event {
    if let Err(error) = ended {
        tracing::error!(%error, "a task of the worker ended early; the lease that it had runs out");
        meters::failed("task");
    }
    event
}

/// Subscribes. Retries while the backend is unavailable; returns errors that a retry cannot repair.
async fn subscribe<B: WorkBackend + ?Sized>(shared: &Shared<B>) -> Result<WorkSignals, EngineError> {
    let mut outage = Outage::of("work_signals");
    (|| async { shared.backend.work_signals(&shared.config.lane).await })
        .retry(retry::schedule())
        .when(EngineError::is_retryable)
        .notify(|error, _| outage.failed(error))
        .await
}

async fn claim<B: WorkBackend + ?Sized>(
    shared: Arc<Shared<B>>,
    order: Order,
    identity: Option<Identity>,
) -> ClaimAnswer {
    let lane = &shared.config.lane;
    let claim = match identity {
        // An unanswered claim is repeated even if the worker is full now: it gives back what it cannot start.
        Some(identity) => {
            let request = ClaimRequest::new(shared.worker_id.clone(), lane.clone(), order.partition)
                .max(u32::try_from(order.max.max(1)).unwrap_or(u32::MAX))
                .lease(shared.config.lease)
                .id(identity.id);
            shared.backend.claim(&request).await
        }
        None => {
            let passed_on = shared.backend.pass_on(lane, order.partition).await;
            shared.meters.wakes_passed_on.increment(u64::from(passed_on.is_ok()));
            passed_on.map(|more| Claim::new(Vec::new(), more))
        }
    };
    ClaimAnswer { order, identity, claim }
}

async fn scan<B: WorkBackend + MaintenanceBackend + ?Sized>(shared: Arc<Shared<B>>, subscribe: bool) -> ScanAnswer {
    let mut signals = None;
    if subscribe {
        match shared.backend.work_signals(&shared.config.lane).await {
            Ok(subscribed) => signals = Some(subscribed),
            Err(error) => return ScanAnswer { signals, found: Err(error) },
        }
    }
    shared.meters.rescans.increment(1);
    let partitions: Vec<_> = shared.backend.partition_count().partitions().collect();
    let found = shared.backend.await_work(&shared.config.lane, &partitions).await;
    ScanAnswer { signals, found }
}

async fn next_signal(signals: &mut Option<WorkSignals>) -> Option<WorkSignal> {
    match signals {
        Some(signals) => signals.next().await,
        None => std::future::pending().await,
    }
}

async fn at(instant: Option<Instant>) {
    match instant {
        Some(instant) => sleep_until(instant).await,
        None => std::future::pending().await,
    }
}
