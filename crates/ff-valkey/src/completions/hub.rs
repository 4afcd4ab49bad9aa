//! The hub: pushes and log pages come in, events for the queues of subscriptions go out.
//!
//! # The difficulty
//!
//! One order must hold for each log in each queue, although entries reach this process in two ways: pushes are fast and
//! can be lost; reads miss nothing and are slow. And the slowest subscription must not delay the others. Two rules
//! solve both:
//!
//! 1. All decisions are taken under one lock, by pure code, and nothing is awaited under it.
//! 2. At any moment each log has one way in, and each subscription has one way out.
//!
//! ```text
//! log:           Starting -> Live (pushes) <-> Reading (pages; pushes are held)              frontier.rs
//! subscription:  Live (fed by the hub)     <-> CatchingUp (reads for itself, own frontier)     fanout.rs, catchup.rs
//! ```
//!
//! A subscription joins at the hub's frontier under the lock, so it receives everything committed from then on, in
//! whichever way it arrives. A subscription that starts from a cursor begins in catch-up.
//!
//! Pushes may be lost. Every 2 s the hub asks the server to which logs it has appended (the library
//! records that), and compares their newest entries with the cursors. So the last event of a quiet log is not missed,
//! and a connection that is alive and delivers nothing is detected and re-established. When another server process
//! answers, all logs are compared, so lost entries are found. Every log also has its turn within a few rounds
//! (`frontier.rs`), so a log that an operator cut or deleted is found too. While nothing happens this costs one short
//! call for all logs, and a few more for the logs in turn.
//!
//! # When something fails
//!
//! | failure | what happens |
//! | --- | --- |
//! | the subscriber's connection is lost | it subscribes again, then all heads are compared; logs that have advanced
//! are read |
//! | messages overrun the pump | all heads are compared |
//! | a push is repeated, or arrives late | duplicate: it is counted and dropped |
//! | a push does not follow the cursor | its log is read after the cursor |
//! | a read fails | it is retried after a pause, without limit; pushes of that log wait (bounded; beyond that it is
//! read again) |
//! | the connection is alive and delivers nothing | the comparison finds heads beyond the cursors; their logs are read;
//! if no message arrives until the next comparison, the connection is re-established |
//! | the log no longer holds what follows the cursor | a gap with the exact range; delivery continues after it |
//! | the log has lost delivered entries | the newest common entry is found by the log's epochs; a gap over the entries
//! that were rolled back; delivery continues after the common entry |
//! | an entry is not a completion | a gap of one position |
//! | a push names another execution than the log | everything delivered from there on is taken back by a gap, and the
//! log's own entries are delivered |
//! | one log cannot be read: its key has another type, or a permission is missing | health and one log line name it; it
//! is tried at each comparison; all other logs continue |
//! | a queue is full | that subscription catches up on its own (or drops its oldest, or ends, by its overflow policy) |
//! | a stream is not polled | its queue stays full; nothing is read for it until there is capacity |
//! | a task of the hub ends, by a panic | its subscriptions end, new ones are refused, health names it |
//! | a stream is dropped | it is removed under the lock; its catching up is aborted |

mod schedule;
mod trouble;

use std::{
    collections::BTreeSet,
    num::NonZeroUsize,
    panic::AssertUnwindSafe,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ff_core::{
    CompletionPayload, EngineError, LogId, PartitionCount, ScannerFilter, Scope, SubscribeOptions, reader::LogCursor,
};
use ff_script::{
    operations::{Appended, Head},
    wire::Decoder,
};
use futures::FutureExt;
use tokio::{
    sync::{Notify, Semaphore},
    time::Instant,
};

use crate::{
    ValkeyConfig,
    completions::{
        catchup,
        fanout::{Fanout, Joining, SubscriptionId},
        frontier::{Comparison, Frontier, LogEntry, Waiting, Work},
        queue::{Accepts, Queue},
        source::{LogSource, OfEach, PageRead},
        unpositioned::UnpositionedEvents,
    },
    net::{backoff::Backoff, quiet::Quiet},
    tasks::{self, Tasks},
    telemetry,
};
#[cfg(test)]
use schedule::{COMPARE_EVERY, ON_ITS_WAY};
use schedule::{ReadSchedule, Turn};
use trouble::Trouble;

/// How many logs the hub reads with one round trip, and how many entries of each.
const LOGS_AT_ONCE: usize = 8;
const PAGE: usize = 256;
/// How many subscriptions catch up at once.
const CATCH_UPS_AT_ONCE: usize = 8;
/// How often subscriptions receive a checkpoint.
const CHECKPOINT_EVERY: Duration = Duration::from_secs(1);

/// The subscriptions to one scope of completions.
pub(crate) struct Hub {
    scope: Scope,
    capacity: usize,
    max_subscriptions: usize,
    source: Arc<dyn LogSource>,
    state: Mutex<State>,
    /// Wakes the reading task.
    reader: Notify,
    /// All heads must be compared now: messages may have been missed.
    compare_heads: AtomicBool,
    /// The number of received messages, of any kind.
    received: AtomicU64,
    /// The connection is alive but does not deliver messages.
    silent_feed: Notify,
    catch_up_turns: Semaphore,
    unpositioned: UnpositionedEvents,
    tasks: Tasks,
}

pub(crate) struct State {
    pub(crate) frontier: Frontier,
    pub(crate) fanout: Fanout,
}

impl Hub {
    pub(crate) fn new(
        scope: Scope,
        partitions: PartitionCount,
        config: &ValkeyConfig,
        source: Arc<dyn LogSource>,
    ) -> Self {
        Self {
            scope,
            capacity: config.subscription_capacity.max(1),
            max_subscriptions: config.max_subscriptions,
            source,
            state: Mutex::new(State { frontier: Frontier::new(scope, partitions), fanout: Fanout::default() }),
            reader: Notify::new(),
            compare_heads: AtomicBool::new(false),
            received: AtomicU64::new(0),
            silent_feed: Notify::new(),
            catch_up_turns: Semaphore::new(CATCH_UPS_AT_ONCE),
            unpositioned: UnpositionedEvents::default(),
            tasks: Tasks::default(),
        }
    }

    /// Shares the record of the backend's tasks.
    pub(crate) fn watched(self, tasks: Tasks) -> Self {
        Self { tasks, ..self }
    }

    /// A task that the hub needs has ended: its subscriptions end, instead of waiting without result.
    pub(crate) fn fail(&self) {
        self.lock().fanout.close();
    }

    /// Runs `decide` under the lock, then acts on its effects.
    pub(crate) fn with_state<T>(self: &Arc<Self>, decide: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let decided = decide(&mut state);
        for lagged in state.fanout.take_lagged() {
            let id = lagged.id;
            tracing::debug!(?id, "a subscription's queue is full; it catches up from the log");
            let (tasks, queue) = (self.tasks.clone(), lagged.queue.clone());
            let run = AssertUnwindSafe(catchup::run(self.clone(), lagged)).catch_unwind();
            let run = async move {
                if let Err(panic) = run.await {
                    tasks.note("catching up", tasks::said(&*panic));
                    queue.close();
                }
            };
            let task = tokio::spawn(run).abort_handle();
            state.fanout.set_task(id, task);
        }
        if state.frontier.reading() > 0 {
            self.reader.notify_one();
        }
        let counts = state.fanout.take_counts();
        telemetry::level(telemetry::LAGGING, state.fanout.lagging());
        drop(state);
        counts.emit();
        decided
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A panic under the lock cannot leave the state inconsistent, so a poisoned lock is safe to use.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes messages of the completion channel.
    pub(crate) fn pushed(self: &Arc<Self>, messages: impl Iterator<Item = Bytes>) {
        let mut positioned = Vec::new();
        let mut unpositioned = Vec::new();
        let mut decoder = Decoder::default();
        for message in messages {
            self.received.fetch_add(1, Ordering::Relaxed);
            match decoder.push(self.scope, &message) {
                Ok(decoded) => match decoded.payload.position {
                    Some(position) => {
                        let event = Some(Arc::new(decoded.payload));
                        positioned.push((position.log, LogEntry { entry: position.entry, prev: decoded.prev, event }));
                    }
                    None => unpositioned.push(Arc::new(decoded.payload)),
                },
                Err(error) => {
                    telemetry::count(telemetry::MALFORMED, 1);
                    static LINES: Quiet = Quiet::new();
                    if let Some(left_out) = LINES.turn() {
                        tracing::warn!(
                            %error, bytes = message.len(), left_out,
                            "a message on the completion channel is not a completion"
                        );
                    }
                }
            }
        }
        self.with_state(|State { frontier, fanout }| {
            for (log, shown) in positioned {
                if !frontier.push(log, shown, fanout) {
                    telemetry::count(telemetry::MALFORMED, 1);
                    static LINES: Quiet = Quiet::new();
                    if let Some(left_out) = LINES.turn() {
                        tracing::warn!(%log, left_out, "a completion names a partition that this deployment does not have");
                    }
                }
            }
            for event in unpositioned {
                self.take_bare(fanout, event);
            }
        });
    }

    fn take_bare(&self, fanout: &mut Fanout, event: Arc<CompletionPayload>) {
        let horizon = fanout.horizon();
        fanout.deliver_bare(&event, horizon, ScannerFilter::is_noop);
        if fanout.distinct_filters().any(|filter| !filter.is_noop()) {
            self.unpositioned.hold(event, horizon);
        }
    }

    pub(crate) const fn unpositioned(&self) -> &UnpositionedEvents {
        &self.unpositioned
    }

    pub(crate) const fn scope(&self) -> Scope {
        self.scope
    }

    pub(crate) fn source(&self) -> &dyn LogSource {
        &*self.source
    }

    /// Waits for a permit to read on behalf of a subscription.
    pub(crate) async fn catch_up_turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.catch_up_turns.acquire().await.ok()
    }

    /// Reads the positions of all logs. Call it once, after the subscription is acknowledged and while messages are
    /// already being taken.
    ///
    /// # Errors
    /// As for a read.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<(), EngineError> {
        let logs = self.lock().frontier.logs();
        let (at_ms, mut starts) = self.source.starts(&logs).await?;
        // A permission that is missing for all logs is an error for the caller.
        if starts.iter().all(Result::is_err)
            && let Some(Err(error)) = starts.pop()
        {
            return Err(error);
        }
        self.with_state(|State { frontier, fanout }| frontier.starts(at_ms, starts, fanout));
        Ok(())
    }

    /// Messages may have been missed: the reading task compares the heads as soon as it can.
    pub(crate) fn missed(&self) {
        self.compare_heads.store(true, Ordering::Release);
        self.reader.notify_one();
    }

    /// Returns when the connection was found not to deliver messages although logs have grown.
    pub(crate) async fn silent_feed(&self) {
        self.silent_feed.notified().await;
    }

    /// Compares heads with the cursors. `tally` is what the server returned with the previous comparison. Returns
    /// whether a head lies beyond all received pushes.
    async fn compare(self: &Arc<Self>, all: bool, tally: &mut String) -> Result<bool, EngineError> {
        let mut asked = self.lock().frontier.compare(all);
        let since = if all { "" } else { tally.as_str() };
        let (appended, heads) = match self.ask_heads(&mut asked, since).await {
            Ok(answers) => answers,
            Err(error) => {
                self.lock().frontier.not_compared(&asked);
                return Err(error);
            }
        };
        let beyond = self.with_state(|State { frontier, .. }| {
            let beyond = frontier.heads(&asked, appended.at_ms, heads);
            frontier.wake_unreadable();
            beyond
        });
        *tally = appended.tally;
        Ok(beyond)
    }

    /// Asks to which logs the server has appended since it returned the tally `since`, and for the heads that remain to
    /// be compared.
    async fn ask_heads(&self, asked: &mut Comparison, since: &str) -> Result<(Appended, OfEach<Head>), EngineError> {
        let mut appended = self.source.appended(self.scope, since).await?;
        match appended.logs.take() {
            Some(logs) => self.lock().frontier.narrow(asked, logs),
            None if !since.is_empty() => self.lock().frontier.widen(asked),
            None => {}
        }
        let heads = if asked.logs.is_empty() { Vec::new() } else { self.source.heads(&asked.logs).await? };
        Ok((appended, heads))
    }

    /// The task that reads logs for the hub.
    pub(crate) async fn read_logs(self: Arc<Self>) {
        let mut trouble = Trouble::default();
        let mut backoff = Backoff::reconnect();
        let mut schedule = ReadSchedule::new(Instant::now());
        let mut tally = String::new();
        loop {
            let done = self.take_turn(&mut schedule, &mut tally).await;
            trouble.unreadable(self.scope, self.lock().frontier.unreadable());
            match done {
                Ok(()) => {
                    backoff = Backoff::reconnect();
                    trouble.over();
                }
                Err(error) => {
                    trouble.failed(&error);
                    backoff.pause().await;
                }
            }
        }
    }

    async fn take_turn(self: &Arc<Self>, schedule: &mut ReadSchedule, tally: &mut String) -> Result<(), EngineError> {
        if self.compare_heads.swap(false, Ordering::AcqRel) {
            schedule.request();
        }
        match schedule.next(Instant::now(), self.waiting()) {
            Turn::Compare { all } => {
                let compared = self.compare_round(schedule, all, tally).await;
                if compared.is_err()
                    && let Turn::Read { later, overdue } = schedule.next_read(Instant::now(), self.waiting())
                {
                    // Comparisons may keep failing although logs can be read. A read that fails stays planned.
                    let _ = self.read(&self.plan(later, overdue)).await;
                }
                compared
            }
            Turn::Read { later, overdue } => self.read(&self.plan(later, overdue)).await,
            Turn::Pause(until) => {
                tokio::time::sleep_until(until).await;
                Ok(())
            }
            Turn::Wait(until) => {
                let _ = tokio::time::timeout_at(until, self.reader.notified()).await;
                Ok(())
            }
        }
    }

    fn waiting(&self) -> Waiting {
        self.lock().frontier.waiting()
    }

    /// One comparison, and its consequences for the connection.
    async fn compare_round(
        self: &Arc<Self>,
        schedule: &mut ReadSchedule,
        all: bool,
        tally: &mut String,
    ) -> Result<(), EngineError> {
        let received = self.received.load(Ordering::Relaxed);
        if schedule.is_silent(all, received) {
            telemetry::count(telemetry::SILENT_FEED, 1);
            tracing::warn!("no messages although the logs have grown; reconnecting the subscriber");
            self.silent_feed.notify_one();
        }
        match self.compare(all, tally).await {
            Ok(beyond) => {
                schedule.compared(Instant::now(), beyond, received);
                Ok(())
            }
            Err(error) => {
                schedule.failed(Instant::now(), all);
                Err(error)
            }
        }
    }

    /// What to read now, with the postponed reads that are due.
    fn plan(&self, later: bool, overdue: bool) -> Vec<Work> {
        let frontier = &mut self.lock().frontier;
        if later {
            frontier.wake_later();
        }
        if overdue {
            frontier.read_overdue();
        }
        frontier.work(LOGS_AT_ONCE)
    }

    /// The task that sends checkpoints to subscriptions, and reports their lag as metrics.
    pub(crate) async fn send_checkpoints(self: Arc<Self>) {
        let mut announced: Option<Arc<[LogCursor]>> = None;
        let mut named = BTreeSet::new();
        loop {
            tokio::time::sleep(CHECKPOINT_EVERY).await;
            let (lags, complete_as_of) = self.with_state(|State { frontier, fanout }| {
                let now = frontier.snapshot();
                if announced.as_ref().is_none_or(|announced| !Arc::ptr_eq(announced, &now)) {
                    fanout.checkpoint(&now);
                    announced = Some(now);
                }
                (fanout.lags(), frontier.complete_as_of())
            });
            telemetry::complete_as_of(self.scope, complete_as_of);
            // The lag of a name whose last subscription has gone is reported once more.
            let gone: Vec<_> = named.iter().filter(|name| !lags.contains_key(*name)).cloned().collect();
            for (name, lag) in lags.iter().map(|(name, lag)| (name, *lag)).chain(gone.iter().map(|name| (name, 0))) {
                telemetry::lag(self.scope, name.as_ref(), lag);
            }
            named = lags.into_keys().collect();
        }
    }

    async fn read(self: &Arc<Self>, work: &[Work]) -> Result<(), EngineError> {
        let pages: Vec<PageRead> = work
            .iter()
            .filter_map(|work| match *work {
                Work::Page(log, after) => Some(PageRead { log, after, up_to: None, limit: PAGE }),
                Work::Epochs(_) => None,
            })
            .collect();
        if !pages.is_empty() {
            let read = self.source.pages(&pages).await?;
            for (page, entries) in pages.iter().zip(read) {
                let entries = match entries {
                    Ok(entries) => entries,
                    Err(error) => {
                        self.lock().frontier.failed(page.log, error.to_string());
                        continue;
                    }
                };
                let is_last = entries.len() < PAGE;
                let entries: Vec<LogEntry> = entries.collect();
                self.with_state(|State { frontier, fanout }| frontier.page(page.log, entries, is_last, fanout));
                // Streams consume their queues before the queues get more.
                tokio::task::yield_now().await;
            }
        }
        let looked_up: Vec<LogId> = work
            .iter()
            .filter_map(|work| match *work {
                Work::Epochs(log) => Some(log),
                Work::Page(..) => None,
            })
            .collect();
        if !looked_up.is_empty() {
            let ends = self.source.epochs(&looked_up).await?;
            self.with_state(|State { frontier, fanout }| {
                for (log, ends) in looked_up.iter().zip(ends) {
                    match ends {
                        Ok(ends) => frontier.epochs(*log, &ends, fanout),
                        Err(error) => frontier.failed(*log, error.to_string()),
                    }
                }
            });
        }
        Ok(())
    }

    /// Opens a subscription: at `from`, or at the hub's frontier. `keep` is held for as long as the membership lives.
    ///
    /// # Errors
    /// [`EngineError::ResourceExhausted`] at the configured limit.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        options: &Arc<SubscribeOptions>,
        accepts: Accepts,
        from: Option<Arc<[LogCursor]>>,
        keep: Arc<dyn Send + Sync>,
    ) -> Result<Joined, EngineError> {
        self.tasks.check("subscribing")?;
        let queue = Queue::new(options.capacity.map_or(self.capacity, NonZeroUsize::get), accepts);
        let joined = self.with_state(|State { fanout, frontier }| {
            let room = fanout.subscriptions() < self.max_subscriptions;
            room.then(|| {
                let start = from.clone().unwrap_or_else(|| frontier.snapshot());
                let id = fanout.join(Joining { options: options.clone(), queue: queue.clone(), from });
                (id, start, fanout.subscriptions())
            })
        });
        let Some((id, start, subscriptions)) = joined else {
            let reason =
                format!("this process has {} of them; raise max_subscriptions or drop some", self.max_subscriptions);
            return Err(EngineError::ResourceExhausted { resource: "subscriptions", reason });
        };
        telemetry::level(telemetry::SUBSCRIPTIONS, subscriptions);
        Ok(Joined { queue, start, membership: Membership { hub: self.clone(), id, _keep: keep } })
    }

    /// The time of the server (ms) up to which everything committed has been handed to the subscriptions.
    pub(crate) fn complete_as_of(&self) -> Option<u64> {
        self.lock().frontier.complete_as_of()
    }

    /// The logs that cannot be read at present, with the reason.
    pub(crate) fn unreadable(&self) -> Vec<(LogId, String)> {
        self.lock().frontier.unreadable().map(|(log, why)| (log, why.to_owned())).collect()
    }

    /// The number of subscriptions, and of those that are catching up.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.fanout.subscriptions(), state.fanout.lagging())
    }
}

/// The parts of a new subscription.
pub(crate) struct Joined {
    pub(crate) queue: Arc<Queue>,
    /// Its start position.
    pub(crate) start: Arc<[LogCursor]>,
    pub(crate) membership: Membership,
}

/// A membership of the hub; dropping it removes the subscription.
pub(crate) struct Membership {
    hub: Arc<Hub>,
    id: SubscriptionId,
    _keep: Arc<dyn Send + Sync>,
}

impl Drop for Membership {
    fn drop(&mut self) {
        let (left, lagging) = {
            let mut state = self.hub.lock();
            state.fanout.leave(self.id);
            (state.fanout.subscriptions(), state.fanout.lagging())
        };
        telemetry::level(telemetry::SUBSCRIPTIONS, left);
        telemetry::level(telemetry::LAGGING, lagging);
    }
}

#[cfg(test)]
#[path = "hub_tests.rs"]
mod tests;
