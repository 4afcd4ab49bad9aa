//! Where everything meets: pushes and log pages come in, queues of subscriptions go out.
//!
//! # What is hard here
//!
//! One order must hold for each log in each queue, although its entries reach this process by two ways: pushed, which
//! is fast and can miss some, and read, which misses none and is slow. And the slowest reader must not be anybody
//! else's problem. Both are solved by the same two rules:
//!
//! 1. All decisions are taken under one lock, by pure code, and nothing is awaited under it.
//! 2. At any moment each log has one way in, and each subscription has one way out.
//!
//! ```text
//! log:           Starting -> Live (pushes) <-> Reading (pages; pushes are held)              vector.rs
//! subscription:  Live (fed by the hub)     <-> CatchingUp (reads for itself, own vector)     fanout.rs, catchup.rs
//! ```
//!
//! A subscription joins at the hub's vector under the lock; between the two no time passes, so it gets everything
//! committed from then on, by whichever way it comes.
//!
//! # When something fails
//!
//! | failure | what happens |
//! | --- | --- |
//! | the subscriber's connection is lost | it subscribes again, then all heads are compared; logs that went on are read |
//! | messages overrun the pump | all heads are compared |
//! | a push is repeated, or comes late | duplicate: it is counted and dropped |
//! | a push does not follow | its log is read after the cursor |
//! | a read fails | again after a pause, for ever; pushes of that log wait (bounded; beyond that it is read again) |
//! | the log no longer holds what follows | the gap is counted and warned of; delivery goes on after it |
//! | the log's history is another one | the newest common entry is found by the log's epochs; reading goes on after it |
//! | a queue is full | that subscription catches up by itself |
//! | nobody polls a stream | its queue stays full; nothing is read for it until there is room |
//! | a stream is dropped | it is removed under the lock; its catching up is aborted |

use std::{
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ff_core::{CompletionPayload, CompletionStream, EngineError, PartitionCount, ScannerFilter, Scope};
use ff_script::wire;
use tokio::{
    sync::{Notify, Semaphore, mpsc},
    time::Instant,
};

use crate::{
    ValkeyConfig,
    backoff::Backoff,
    bare::BareEvents,
    catchup,
    fanout::{Fanout, SubscriptionId},
    source::{LogSource, PageRead},
    stream::Completions,
    telemetry,
    vector::{Shown, Vector, Work},
};

/// How many logs the hub reads with one round trip, and how many entries of each.
const LOGS_AT_ONCE: usize = 8;
const PAGE: usize = 256;
/// How many subscriptions read for themselves at once.
const CATCH_UPS_AT_ONCE: usize = 8;
/// The pause before a log is read again that did not show what was pushed.
const LATER: Duration = Duration::from_millis(50);

/// The subscriptions to one scope of completions.
pub(crate) struct Hub {
    scope: Scope,
    capacity: usize,
    max_subscriptions: usize,
    source: Arc<dyn LogSource>,
    state: Mutex<State>,
    /// The reader has something to do.
    reader: Notify,
    compare_heads: AtomicBool,
    catch_up_turns: Semaphore,
    bare: BareEvents,
}

pub(crate) struct State {
    pub(crate) vector: Vector,
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
            state: Mutex::new(State { vector: Vector::new(scope, partitions), fanout: Fanout::default() }),
            reader: Notify::new(),
            compare_heads: AtomicBool::new(false),
            catch_up_turns: Semaphore::new(CATCH_UPS_AT_ONCE),
            bare: BareEvents::default(),
        }
    }

    /// Runs `decide` under the lock, then sees to what follows from it.
    pub(crate) fn with_state<T>(self: &Arc<Self>, decide: impl FnOnce(&mut State) -> T) -> T {
        let mut state = self.lock();
        let decided = decide(&mut state);
        for lagged in state.fanout.take_lagged() {
            let id = lagged.id;
            tracing::debug!(?id, "a subscription's queue is full; it reads the log by itself");
            let task = tokio::spawn(catchup::run(self.clone(), lagged)).abort_handle();
            state.fanout.set_task(id, task);
        }
        if state.vector.reading() > 0 {
            self.reader.notify_one();
        }
        let counts = state.fanout.take_counts();
        telemetry::level(telemetry::LAGGING, state.fanout.lagging());
        drop(state);
        counts.emit();
        decided
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing under the lock leaves the state half-changed in a way that a reader of it could not bear.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Takes messages of the completion channel.
    pub(crate) fn pushed(self: &Arc<Self>, messages: impl Iterator<Item = Bytes>) {
        let mut positioned = Vec::new();
        let mut bare = Vec::new();
        for message in messages {
            match wire::decode_push(self.scope, &message) {
                Ok(decoded) => match decoded.payload.position {
                    Some(position) => {
                        let event = Some(Arc::new(decoded.payload));
                        positioned.push((position.log, Shown { entry: position.entry, prev: decoded.prev, event }));
                    }
                    None => bare.push(Arc::new(decoded.payload)),
                },
                Err(error) => {
                    telemetry::count(telemetry::MALFORMED, 1);
                    tracing::warn!(%error, bytes = message.len(), "a message on the completion channel is no completion");
                }
            }
        }
        self.with_state(|State { vector, fanout }| {
            for (log, shown) in positioned {
                if !vector.push(log, shown, fanout) {
                    telemetry::count(telemetry::MALFORMED, 1);
                    tracing::warn!(%log, "a completion names a partition that this deployment does not have");
                }
            }
            for event in bare {
                self.take_bare(fanout, event);
            }
        });
    }

    fn take_bare(&self, fanout: &mut Fanout, event: Arc<CompletionPayload>) {
        let horizon = fanout.horizon();
        fanout.deliver_bare(&event, horizon, ScannerFilter::is_noop);
        if fanout.distinct_filters().any(|filter| !filter.is_noop()) {
            self.bare.hold(event, horizon);
        }
    }

    pub(crate) const fn bare(&self) -> &BareEvents {
        &self.bare
    }

    pub(crate) fn source(&self) -> &dyn LogSource {
        &*self.source
    }

    /// Waits for one of the few places for reading on behalf of a subscription.
    pub(crate) async fn catch_up_turn(&self) -> Option<tokio::sync::SemaphorePermit<'_>> {
        self.catch_up_turns.acquire().await.ok()
    }

    /// Reads where all logs stand. To be called once, after the subscription is acknowledged and while messages are
    /// already being taken.
    ///
    /// # Errors
    /// As for a read.
    pub(crate) async fn start(self: &Arc<Self>) -> Result<(), EngineError> {
        let logs = self.lock().vector.logs();
        let heads = self.source.heads(&logs).await?;
        self.with_state(|State { vector, fanout }| vector.heads(&heads, fanout));
        Ok(())
    }

    /// Messages may have been missed: the heads are compared as soon as the reader comes to it.
    pub(crate) fn missed(&self) {
        self.compare_heads.store(true, Ordering::Release);
        self.reader.notify_one();
    }

    /// The task that reads logs for the hub.
    pub(crate) async fn read_logs(self: Arc<Self>) {
        let mut backoff = Backoff::reconnect();
        let mut last_later = Instant::now();
        loop {
            let done = if self.compare_heads.swap(false, Ordering::AcqRel) {
                self.start().await.inspect_err(|_| self.compare_heads.store(true, Ordering::Release))
            } else {
                let (work, later) = {
                    let vector = &mut self.lock().vector;
                    if last_later.elapsed() >= LATER {
                        vector.wake_later();
                        last_later = Instant::now();
                    }
                    (vector.work(LOGS_AT_ONCE), vector.has_later())
                };
                match (work.is_empty(), later) {
                    (false, _) => self.read(&work).await,
                    (true, true) => {
                        tokio::time::sleep(LATER).await;
                        Ok(())
                    }
                    (true, false) => {
                        self.reader.notified().await;
                        Ok(())
                    }
                }
            };
            match done {
                Ok(()) => backoff = Backoff::reconnect(),
                Err(error) => {
                    tracing::warn!(%error, "reading completion logs failed; trying again");
                    backoff.pause().await;
                }
            }
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
                let is_last = entries.len() < PAGE;
                self.with_state(|State { vector, fanout }| vector.page(page.log, &entries, is_last, fanout));
                // Streams take what they were given before their queues get more.
                tokio::task::yield_now().await;
            }
        }
        for work in work {
            if let Work::Epochs(log) = *work {
                let ends = self.source.epochs(log).await?;
                self.with_state(|State { vector, .. }| vector.epochs(log, &ends));
            }
        }
        Ok(())
    }

    /// Opens a subscription at the hub's vector. `keep` is kept for as long as the stream lives.
    ///
    /// # Errors
    /// [`EngineError::ResourceExhausted`] at the configured number.
    pub(crate) fn subscribe(
        self: &Arc<Self>,
        filter: &ScannerFilter,
        keep: Arc<dyn Send + Sync>,
    ) -> Result<CompletionStream, EngineError> {
        let (queue, events) = mpsc::channel(self.capacity);
        let joined = self.with_state(|State { fanout, .. }| {
            let room = fanout.subscriptions() < self.max_subscriptions;
            room.then(|| (fanout.join(filter, queue), fanout.subscriptions()))
        });
        let Some((id, subscriptions)) = joined else {
            let reason =
                format!("this process has {} of them; raise max_subscriptions or drop some", self.max_subscriptions);
            return Err(EngineError::ResourceExhausted { resource: "subscriptions", reason });
        };
        telemetry::level(telemetry::SUBSCRIPTIONS, subscriptions);
        Ok(Box::pin(Completions::new(events, Membership { hub: self.clone(), id, _keep: keep })))
    }

    /// The number of subscriptions, and of those that read for themselves.
    pub(crate) fn counts(&self) -> (usize, usize) {
        let state = self.lock();
        (state.fanout.subscriptions(), state.fanout.lagging())
    }
}

/// A place among the hub's subscriptions; dropping it gives the place back.
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
