//! Notifies subscriptions of new entries, and waiting workers of new work.

use std::{
    collections::{BTreeSet, HashMap},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use ff_core::{
    ExecutionId, LaneId, Partition,
    backend::{WorkSignal, WorkSignals},
};
use ff_script::{keys, timers::TimerFeed, wake::WakeMessage};
use futures::{Stream, task::AtomicWaker};
use tokio::sync::{Notify, watch};

use crate::keyspace::Listeners;

/// All channels of a host.
#[derive(Debug)]
pub(crate) struct Switchboard {
    /// Counts the calls that appended to a log.
    appends: watch::Sender<u64>,
    subscriptions: Arc<AtomicUsize>,
    wake_channels: Mutex<HashMap<Vec<u8>, Weak<WakeUps>>>,
    /// The waiters for the ends of certain executions.
    picked: Mutex<HashMap<ExecutionId, Vec<Arc<Notify>>>>,
    timers: TimerFeed,
}

impl Default for Switchboard {
    fn default() -> Self {
        let (wake_channels, picked) = (Mutex::default(), Mutex::default());
        let timers = TimerFeed::default();
        Self { appends: watch::Sender::new(0), subscriptions: Arc::default(), wake_channels, picked, timers }
    }
}

impl Switchboard {
    /// Notifies all subscriptions of new entries.
    pub(crate) fn appended(&self) {
        self.appends.send_modify(|count| *count = count.wrapping_add(1));
    }

    /// Changes whenever a log was appended to.
    pub(crate) fn appends(&self) -> watch::Receiver<u64> {
        self.appends.subscribe()
    }

    /// Waits for the ends of these executions and no others.
    pub(crate) fn pick(self: &Arc<Self>, only: &Arc<BTreeSet<ExecutionId>>) -> Picking {
        let woken = Arc::new(Notify::new());
        let mut picked = lock(&self.picked);
        for execution in &**only {
            picked.entry(*execution).or_default().push(woken.clone());
        }
        drop(picked);
        Picking { switchboard: self.clone(), only: only.clone(), woken }
    }

    /// Whether there are waiters for certain executions.
    pub(crate) fn has_picked(&self) -> bool {
        !lock(&self.picked).is_empty()
    }

    /// Notifies the waiters for these executions; all waiters if it is unknown which execution has ended.
    pub(crate) fn ended(&self, executions: impl Iterator<Item = Option<ExecutionId>>) {
        let picked = lock(&self.picked);
        for execution in executions {
            match execution {
                Some(execution) => picked.get(&execution).into_iter().flatten().for_each(|woken| woken.notify_one()),
                None => picked.values().flatten().for_each(|woken| woken.notify_one()),
            }
        }
    }

    pub(crate) fn subscriptions(&self) -> &Arc<AtomicUsize> {
        &self.subscriptions
    }

    /// The feed for timers and engines.
    pub(crate) const fn timers(&self) -> &TimerFeed {
        &self.timers
    }

    /// Delivers messages on `channel` to `wake_ups` for as long as those live.
    pub(crate) fn connect(&self, channel: String, wake_ups: &Arc<WakeUps>) {
        let mut channels = lock(&self.wake_channels);
        channels.retain(|_, listening| listening.strong_count() > 0);
        channels.insert(channel.into_bytes(), Arc::downgrade(wake_ups));
    }
}

/// A registration of a waiter for certain executions; dropping it removes the waiter.
#[derive(Debug)]
pub(crate) struct Picking {
    switchboard: Arc<Switchboard>,
    only: Arc<BTreeSet<ExecutionId>>,
    woken: Arc<Notify>,
}

impl Picking {
    /// Returns when one of them has ended since the previous call.
    pub(crate) async fn next(&self) {
        self.woken.notified().await;
    }
}

impl Drop for Picking {
    fn drop(&mut self) {
        let mut picked = lock(&self.switchboard.picked);
        for execution in &*self.only {
            if let Some(waiting) = picked.get_mut(execution) {
                waiting.retain(|other| !Arc::ptr_eq(other, &self.woken));
                if waiting.is_empty() {
                    picked.remove(execution);
                }
            }
        }
    }
}

impl Listeners for Switchboard {
    fn announce(&self, channel: &[u8], message: &[u8]) -> usize {
        if channel == keys::FLOW_CHANNEL.as_bytes() || channel == keys::SOLO_CHANNEL.as_bytes() {
            return self.subscriptions.load(Ordering::Relaxed);
        }
        if channel == keys::TIMERS_CHANNEL.as_bytes() {
            return self.timers.announced(message);
        }
        let wake_ups = lock(&self.wake_channels).get(channel).and_then(Weak::upgrade);
        wake_ups.is_some_and(|wake_ups| wake_ups.woken(message)).into()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The signals that one listener has not received yet. Sets: a partition that is signalled twice is scanned once, so
/// the size is bounded by the number of partitions and leases.
#[derive(Debug, Default)]
struct Inbox {
    news: Mutex<News>,
    waker: AtomicWaker,
}

/// Lost leases that wait for one listener; beyond that its workers learn of the loss when they renew.
const LOST: usize = 4_096;

#[derive(Debug, Default)]
struct News {
    lost: BTreeSet<(ExecutionId, u64)>,
    ready: BTreeSet<Partition>,
}

impl Inbox {
    fn tell(&self, note: impl FnOnce(&mut News)) {
        note(&mut lock(&self.news));
        self.waker.wake();
    }
}

/// The listeners for work under one wake channel.
#[derive(Debug, Default)]
pub(crate) struct WakeUps(Mutex<HashMap<LaneId, Vec<Weak<Inbox>>>>);

impl WakeUps {
    /// The signals of a lane from now on.
    pub(crate) fn listen(&self, lane: &LaneId) -> WorkSignals {
        let inbox = Arc::new(Inbox::default());
        let mut lanes = lock(&self.0);
        let listening = lanes.entry(lane.clone()).or_default();
        listening.retain(|inbox| inbox.strong_count() > 0);
        listening.push(Arc::downgrade(&inbox));
        Box::pin(Signals(inbox))
    }

    /// Takes a message; returns whether there is a listener for it.
    fn woken(&self, message: &[u8]) -> bool {
        match WakeMessage::read(message) {
            Some(WakeMessage::Probe) => lock(&self.0).values().flatten().any(|inbox| inbox.strong_count() > 0),
            Some(WakeMessage::Ready(lane, partition)) => self.ready(&lane, partition),
            Some(WakeMessage::Lost { execution_id, epoch }) => {
                // Only the workers know which of them holds the lease.
                let lanes = lock(&self.0);
                let listening: Vec<_> = lanes.values().flatten().filter_map(Weak::upgrade).collect();
                for inbox in &listening {
                    inbox.tell(|news| {
                        if news.lost.len() < LOST {
                            news.lost.insert((execution_id, epoch));
                        }
                    });
                }
                !listening.is_empty()
            }
            None => {
                tracing::warn!(bytes = message.len(), "a message on the wake channel is not a signal");
                false
            }
        }
    }

    fn ready(&self, lane: &LaneId, partition: Partition) -> bool {
        let mut lanes = lock(&self.0);
        let Some(listening) = lanes.get_mut(lane) else { return false };
        listening.retain(|inbox| inbox.strong_count() > 0);
        for inbox in listening.iter().filter_map(Weak::upgrade) {
            inbox.tell(|news| {
                news.ready.insert(partition);
            });
        }
        if listening.is_empty() {
            lanes.remove(lane);
            return false;
        }
        true
    }
}

struct Signals(Arc<Inbox>);

impl Stream for Signals {
    type Item = WorkSignal;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WorkSignal>> {
        // Registered before the check, so that a signal in between wakes this task.
        self.0.waker.register(context.waker());
        let mut news = lock(&self.0.news);
        let signal = match news.lost.pop_first() {
            Some((execution_id, epoch)) => Some(WorkSignal::Lost { execution_id, epoch }),
            None => news.ready.pop_first().map(WorkSignal::Ready),
        };
        signal.map_or(Poll::Pending, |signal| Poll::Ready(Some(signal)))
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    fn next(signals: &mut WorkSignals) -> Option<u16> {
        match signals.next().now_or_never().flatten() {
            Some(WorkSignal::Ready(partition)) => Some(partition.number()),
            _ => None,
        }
    }

    #[test]
    fn a_signal_reaches_the_listeners_of_its_lane_and_counts_once() {
        let board = Switchboard::default();
        let wake_ups = Arc::new(WakeUps::default());
        board.connect("wake".to_owned(), &wake_ups);
        let mut signals = wake_ups.listen(&LaneId::new("a").unwrap());
        let announced = |message: &str| board.announce(b"wake", message.as_bytes());
        assert_eq!([announced("a 7"), announced("a 7"), announced("b 1"), announced("nonsense")], [1, 1, 0, 0]);
        assert_eq!((next(&mut signals), next(&mut signals)), (Some(7), None));
        assert_eq!(announced("lost {fp:7} 0192f0c1-2b3c-7d4e-8f50-617283940a1b 3"), 1);
        let lost = signals.next().now_or_never().flatten();
        assert!(matches!(lost, Some(WorkSignal::Lost { epoch: 3, .. })), "{lost:?}");
        drop(signals);
        assert_eq!(announced("a 7"), 0, "no listener is left");
        drop(wake_ups);
        assert_eq!((announced("a 7"), board.announce(b"other", b"a 7")), (0, 0));
    }
}
