//! Signals of new work or lost leases, from this process's wake channel to the workers of a lane.
//!
//! A signal is a hint: a worker that misses one would wait for the next sweep. So if signals may have been missed (a
//! reconnect, an overrun, a full queue) the stream yields [`WorkSignal::Rescan`]. A signal for a lane without a worker
//! in this process is passed on to another process.

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use ff_core::{
    LaneId, Partition,
    backend::{WorkSignal, WorkSignals},
};
use ff_script::wake::WakeMessage;
use futures::Stream;
use tokio::sync::mpsc;

use crate::net::quiet::Quiet;

/// Signals that wait for one listener; when there are more, it scans all partitions once.
const QUEUE: usize = 256;

#[derive(Debug, Clone)]
struct Waiter {
    queue: mpsc::Sender<WorkSignal>,
    missed: Arc<AtomicBool>,
}

impl Waiter {
    /// Whether the listener still exists.
    fn signal(&self, signal: WorkSignal) -> bool {
        match self.queue.try_send(signal) {
            Ok(()) => true,
            Err(mpsc::error::TrySendError::Full(_)) => {
                self.missed.store(true, Ordering::Release);
                true
            }
            Err(mpsc::error::TrySendError::Closed(_)) => false,
        }
    }
}

/// All listeners of this process.
#[derive(Debug, Default)]
pub(crate) struct WakeUps {
    listeners: Mutex<HashMap<LaneId, Vec<Waiter>>>,
}

impl WakeUps {
    /// The signals of a lane from now on. `keep` is held for as long as the stream lives.
    pub(crate) fn listen(&self, lane: &LaneId, keep: Arc<dyn Send + Sync>) -> WorkSignals {
        let (queue, signals) = mpsc::channel(QUEUE);
        let missed = Arc::new(AtomicBool::new(false));
        let mut listeners = self.lock();
        let of_lane = listeners.entry(lane.clone()).or_default();
        of_lane.retain(|listener| !listener.queue.is_closed());
        of_lane.push(Waiter { queue, missed: missed.clone() });
        Box::pin(Signals { signals, missed, _keep: keep })
    }

    /// Takes a message of the wake channel. Returns a signal without a listener in this process.
    pub(crate) fn woken(&self, message: &[u8]) -> Option<(LaneId, Partition)> {
        match WakeMessage::read(message) {
            Some(WakeMessage::Probe) => None,
            Some(WakeMessage::Lost { execution_id, epoch }) => {
                // Only the workers know which of them holds the lease.
                self.notify_all(WorkSignal::Lost { execution_id, epoch });
                None
            }
            Some(WakeMessage::Ready(lane, partition)) => {
                (!self.notify(&lane, WorkSignal::Ready(partition))).then_some((lane, partition))
            }
            None => {
                static LINES: Quiet = Quiet::new();
                if let Some(left_out) = LINES.turn() {
                    tracing::warn!(bytes = message.len(), left_out, "a message on the wake channel is not a signal");
                }
                None
            }
        }
    }

    /// Ends all streams: no more signals will arrive.
    pub(crate) fn close(&self) {
        self.lock().clear();
    }

    /// Signals may have been missed.
    pub(crate) fn rescan(&self) {
        self.notify_all(WorkSignal::Rescan);
    }

    /// Returns whether a worker listens on the lane.
    fn notify(&self, lane: &LaneId, signal: WorkSignal) -> bool {
        let mut listeners = self.lock();
        let Some(of_lane) = listeners.get_mut(lane) else { return false };
        of_lane.retain(|listener| listener.signal(signal));
        if of_lane.is_empty() {
            listeners.remove(lane);
            return false;
        }
        true
    }

    fn notify_all(&self, signal: WorkSignal) {
        self.lock().retain(|_, of_lane| {
            of_lane.retain(|listener| listener.signal(signal));
            !of_lane.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LaneId, Vec<Waiter>>> {
        self.listeners.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

struct Signals {
    signals: mpsc::Receiver<WorkSignal>,
    missed: Arc<AtomicBool>,
    _keep: Arc<dyn Send + Sync>,
}

impl Stream for Signals {
    type Item = WorkSignal;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<WorkSignal>> {
        // Set only while the queue is full, so a poll follows.
        if self.missed.swap(false, Ordering::AcqRel) {
            return Poll::Ready(Some(WorkSignal::Rescan));
        }
        self.signals.poll_recv(context)
    }
}

#[cfg(test)]
mod tests {
    use futures::{FutureExt, StreamExt};

    use super::*;

    fn next(signals: &mut WorkSignals) -> Option<WorkSignal> {
        signals.next().now_or_never().flatten()
    }

    #[test]
    fn a_signal_reaches_the_listeners_of_its_lane() {
        let wake_ups = WakeUps::default();
        let mut a = wake_ups.listen(&LaneId::new("a").unwrap(), Arc::new(()));
        let mut b = wake_ups.listen(&LaneId::new("b").unwrap(), Arc::new(()));
        for message in ["a 7", "b x", "nonsense", "b 99999999"] {
            assert_eq!(wake_ups.woken(message.as_bytes()), None);
        }
        assert_eq!(next(&mut a), Some(WorkSignal::Ready(Partition::new(7))));
        assert_eq!((next(&mut a), next(&mut b)), (None, None));
        wake_ups.rescan();
        assert_eq!((next(&mut a), next(&mut b)), (Some(WorkSignal::Rescan), Some(WorkSignal::Rescan)));
    }

    #[test]
    fn a_signal_for_a_lane_without_a_worker_is_passed_on() {
        let wake_ups = WakeUps::default();
        let signals = wake_ups.listen(&LaneId::new("a").unwrap(), Arc::new(()));
        let passed_on = |lane| Some((LaneId::new(lane).unwrap(), Partition::new(7)));
        assert_eq!((wake_ups.woken(b"a 7"), wake_ups.woken(b"b 7")), (None, passed_on("b")));
        drop(signals);
        assert_eq!(wake_ups.woken(b"a 7"), passed_on("a"));
    }

    #[test]
    fn all_lanes_are_notified_of_a_lost_lease() {
        let wake_ups = WakeUps::default();
        let mut lanes = ["a", "b"].map(|lane| wake_ups.listen(&LaneId::new(lane).unwrap(), Arc::new(())));
        wake_ups.woken(b"lost {fp:7} 0192f0c1-2b3c-7d4e-8f50-617283940a1b 3");
        let execution_id = "{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b".parse().unwrap();
        for signals in &mut lanes {
            assert_eq!(next(signals), Some(WorkSignal::Lost { execution_id, epoch: 3 }));
        }
    }

    #[test]
    fn a_full_queue_becomes_one_rescan_and_a_dropped_listener_is_removed() {
        let wake_ups = WakeUps::default();
        let mut signals = wake_ups.listen(&LaneId::default_lane(), Arc::new(()));
        for _ in 0..QUEUE + 5 {
            wake_ups.woken(b"default 1");
        }
        assert_eq!(next(&mut signals), Some(WorkSignal::Rescan));
        assert_eq!(next(&mut signals), Some(WorkSignal::Ready(Partition::new(1))));
        drop(signals);
        wake_ups.woken(b"default 1");
        assert!(wake_ups.lock().is_empty());
    }
}
