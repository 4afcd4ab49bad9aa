//! Who is told what: subscriptions that there is something to read, waiting workers that there is work.

use std::{
    collections::{BTreeSet, HashMap},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError, Weak,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use ff_core::{ExecutionId, LaneId, Partition, WorkSignal, WorkSignals};
use ff_script::keys;
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
    /// Who waits for the end of which executions.
    picked: Mutex<HashMap<ExecutionId, Vec<Arc<Notify>>>>,
}

impl Default for Switchboard {
    fn default() -> Self {
        let (wake_channels, picked) = (Mutex::default(), Mutex::default());
        Self { appends: watch::Sender::new(0), subscriptions: Arc::default(), wake_channels, picked }
    }
}

impl Switchboard {
    /// Tells all subscriptions that there is something to read.
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

    /// Whether anybody waits for certain executions.
    pub(crate) fn has_picked(&self) -> bool {
        !lock(&self.picked).is_empty()
    }

    /// Tells who waits for one of these executions; everybody, where it is not known which one has ended.
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

    /// Hands what is announced on `channel` to `wake_ups` for as long as those live.
    pub(crate) fn connect(&self, channel: String, wake_ups: &Arc<WakeUps>) {
        let mut channels = lock(&self.wake_channels);
        channels.retain(|_, listening| listening.strong_count() > 0);
        channels.insert(channel.into_bytes(), Arc::downgrade(wake_ups));
    }
}

/// A place among those that wait for certain executions; dropping it gives the place back.
#[derive(Debug)]
pub(crate) struct Picking {
    switchboard: Arc<Switchboard>,
    only: Arc<BTreeSet<ExecutionId>>,
    woken: Arc<Notify>,
}

impl Picking {
    /// Returns when one of them has ended since the last time.
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
        let wake_ups = lock(&self.wake_channels).get(channel).and_then(Weak::upgrade);
        wake_ups.is_some_and(|wake_ups| wake_ups.woken(message)).into()
    }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// The partitions that have work for one listener. A set: a partition that is signalled twice is looked at once, and
/// so it never grows beyond the partitions there are.
#[derive(Debug, Default)]
struct Inbox {
    ready: Mutex<BTreeSet<Partition>>,
    waker: AtomicWaker,
}

/// Who waits for work under one wake channel.
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

    /// Takes `<lane> <partition number>`; returns whether anybody listens to that lane. An empty message only asks
    /// whether anybody listens at all.
    fn woken(&self, message: &[u8]) -> bool {
        if message.is_empty() {
            return lock(&self.0).values().flatten().any(|inbox| inbox.strong_count() > 0);
        }
        let parsed = std::str::from_utf8(message)
            .ok()
            .and_then(|text| text.split_once(' '))
            .and_then(|(lane, number)| Some((LaneId::new(lane).ok()?, Partition::new(number.parse().ok()?))));
        let Some((lane, partition)) = parsed else {
            tracing::warn!(bytes = message.len(), "a message on the wake channel is no signal");
            return false;
        };
        let mut lanes = lock(&self.0);
        let Some(listening) = lanes.get_mut(&lane) else { return false };
        listening.retain(|inbox| inbox.strong_count() > 0);
        for inbox in listening.iter().filter_map(Weak::upgrade) {
            lock(&inbox.ready).insert(partition);
            inbox.waker.wake();
        }
        if listening.is_empty() {
            lanes.remove(&lane);
            return false;
        }
        true
    }
}

struct Signals(Arc<Inbox>);

impl Stream for Signals {
    type Item = WorkSignal;

    fn poll_next(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WorkSignal>> {
        // Registered before the look, so that a signal in between wakes this task.
        self.0.waker.register(context.waker());
        match lock(&self.0.ready).pop_first() {
            Some(partition) => Poll::Ready(Some(WorkSignal::Ready(partition))),
            None => Poll::Pending,
        }
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
    fn a_signal_reaches_who_listens_to_its_lane_and_counts_once() {
        let board = Switchboard::default();
        let wake_ups = Arc::new(WakeUps::default());
        board.connect("wake".to_owned(), &wake_ups);
        let mut signals = wake_ups.listen(&LaneId::new("a").unwrap());
        let announced = |message: &str| board.announce(b"wake", message.as_bytes());
        assert_eq!([announced("a 7"), announced("a 7"), announced("b 1"), announced("nonsense")], [1, 1, 0, 0]);
        assert_eq!((next(&mut signals), next(&mut signals)), (Some(7), None));
        drop(signals);
        assert_eq!(announced("a 7"), 0, "nobody listens any more");
        drop(wake_ups);
        assert_eq!((announced("a 7"), board.announce(b"other", b"a 7")), (0, 0));
    }
}
