//! Signals that work has come, from this process's wake channel to whoever works on a lane.
//!
//! A signal is a hint: who misses one would wait for the next sweep. So where signals may have been missed (a
//! reconnect, an overrun, a full queue) the stream says [`WorkSignal::Rescan`].

use std::{
    collections::HashMap,
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicBool, Ordering},
    },
    task::{Context, Poll},
};

use ff_core::{LaneId, Partition, WorkSignal, WorkSignals};
use futures::Stream;
use tokio::sync::mpsc;

/// Signals that wait for one listener; beyond that it scans all partitions once.
const QUEUE: usize = 256;

#[derive(Debug, Clone)]
struct Listener {
    queue: mpsc::Sender<WorkSignal>,
    missed: Arc<AtomicBool>,
}

impl Listener {
    /// Whether anybody listens.
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
    listeners: Mutex<HashMap<LaneId, Vec<Listener>>>,
}

impl WakeUps {
    /// The signals of a lane from now on. `keep` is kept for as long as the stream lives.
    pub(crate) fn listen(&self, lane: &LaneId, keep: Arc<dyn Send + Sync>) -> WorkSignals {
        let (queue, signals) = mpsc::channel(QUEUE);
        let missed = Arc::new(AtomicBool::new(false));
        let mut listeners = self.lock();
        let of_lane = listeners.entry(lane.clone()).or_default();
        of_lane.retain(|listener| !listener.queue.is_closed());
        of_lane.push(Listener { queue, missed: missed.clone() });
        Box::pin(Signals { signals, missed, _keep: keep })
    }

    /// Takes a message of the wake channel: `<lane> <partition number>`.
    pub(crate) fn woken(&self, message: &[u8]) {
        if message.is_empty() {
            // A partition asks whether this process is still there. To be received is the answer.
            return;
        }
        let parsed = std::str::from_utf8(message)
            .ok()
            .and_then(|text| text.split_once(' '))
            .and_then(|(lane, number)| Some((LaneId::new(lane).ok()?, number.parse().ok()?)));
        let Some((lane, number)) = parsed else {
            tracing::warn!(bytes = message.len(), "a message on the wake channel is no signal");
            return;
        };
        let mut listeners = self.lock();
        if let Some(of_lane) = listeners.get_mut(&lane) {
            of_lane.retain(|listener| listener.signal(WorkSignal::Ready(Partition::new(number))));
            if of_lane.is_empty() {
                listeners.remove(&lane);
            }
        }
    }

    /// Signals may have been missed.
    pub(crate) fn rescan(&self) {
        self.lock().retain(|_, of_lane| {
            of_lane.retain(|listener| listener.signal(WorkSignal::Rescan));
            !of_lane.is_empty()
        });
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<LaneId, Vec<Listener>>> {
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
        match self.signals.poll_recv(context) {
            // The sender lives in the listeners, which a closed queue leaves only when this is dropped.
            Poll::Ready(None) => Poll::Pending,
            other => other,
        }
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
        for message in ["a 7", "b x", "nonsense", "c 1", "b 99999999"] {
            wake_ups.woken(message.as_bytes());
        }
        assert_eq!(next(&mut a), Some(WorkSignal::Ready(Partition::new(7))));
        assert_eq!((next(&mut a), next(&mut b)), (None, None));
        wake_ups.rescan();
        assert_eq!((next(&mut a), next(&mut b)), (Some(WorkSignal::Rescan), Some(WorkSignal::Rescan)));
    }

    #[test]
    fn a_full_queue_becomes_one_rescan_and_a_dropped_listener_is_forgotten() {
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
