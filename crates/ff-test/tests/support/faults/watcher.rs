//! A subscription whose frames are all recorded.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use ff_core::{Cursor, EngineError, ExecutionId, Frame, SubscribeBackend, SubscribeOptions};
use ff_test::history::Record;
use futures::StreamExt;
use tokio::{sync::watch, task::JoinHandle};

use super::load::PROBE;

/// How often it publishes its cursor.
const PUBLISH_EVERY: Duration = Duration::from_millis(50);

/// How fast a subscription is read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Pace {
    Fast,
    /// A pause after this many frames.
    Slow(u32, Duration),
    /// Not at all.
    Stalled,
}

#[derive(Debug)]
struct Shared {
    record: Record,
    cursor: Cursor,
    /// When the probes, by which recovery is measured, were received.
    probes: HashMap<ExecutionId, Instant>,
}

pub(crate) struct Watcher {
    shared: Arc<Mutex<Shared>>,
    pace: watch::Sender<Pace>,
    usual: Pace,
    task: JoinHandle<()>,
}

impl Watcher {
    pub(crate) async fn open(
        backend: &dyn SubscribeBackend,
        name: &str,
        options: SubscribeOptions,
        usual: Pace,
    ) -> Result<Self, EngineError> {
        let subscription = backend.subscribe(&options).await?;
        let cursor = subscription.cursor();
        let record = Record::new(name, &options, cursor.clone());
        let shared = Arc::new(Mutex::new(Shared { record, cursor, probes: HashMap::new() }));
        let (pace, receiver) = watch::channel(usual);
        let task = tokio::spawn(watch(subscription, shared.clone(), receiver));
        Ok(Self { shared, pace, usual, task })
    }

    fn shared(&self) -> MutexGuard<'_, Shared> {
        lock(&self.shared)
    }

    /// Whether it keeps up, so that recovery can be measured with it.
    pub(crate) fn is_fast(&self) -> bool {
        self.usual == Pace::Fast
    }

    pub(crate) fn set_pace(&self, pace: Pace) {
        self.pace.send_replace(pace);
    }

    pub(crate) fn set_usual_pace(&self) {
        self.set_pace(self.usual);
    }

    pub(crate) fn probe_seen(&self, probe: ExecutionId) -> Option<Instant> {
        self.shared().probes.get(&probe).copied()
    }

    pub(crate) fn cursor(&self) -> Cursor {
        self.shared().cursor.clone()
    }

    pub(crate) fn name(&self) -> String {
        self.shared().record.name().to_owned()
    }

    /// Ends it, and returns its record.
    pub(crate) fn close(self) -> Record {
        self.task.abort();
        self.shared().record.clone()
    }
}

async fn watch(mut subscription: ff_core::Subscription, shared: Arc<Mutex<Shared>>, mut pace: watch::Receiver<Pace>) {
    let mut published = Instant::now();
    let mut frames = 0;
    loop {
        let now = *pace.borrow_and_update();
        match now {
            Pace::Fast => {}
            Pace::Slow(every, pause) if frames % every == 0 => tokio::time::sleep(pause).await,
            Pace::Slow(..) => {}
            Pace::Stalled => {
                if pace.changed().await.is_err() {
                    return;
                }
                continue;
            }
        }
        match tokio::time::timeout(PUBLISH_EVERY, subscription.next()).await {
            Ok(Some(frame)) => {
                frames += 1;
                lock(&shared).take(&frame);
            }
            Ok(None) => return,
            Err(_) => {}
        }
        if published.elapsed() >= PUBLISH_EVERY {
            lock(&shared).cursor = subscription.cursor();
            published = Instant::now();
        }
    }
}

impl Shared {
    fn take(&mut self, frame: &Frame) {
        self.record.take(frame);
        if let Frame::Completion(completion) = frame
            && completion.tags.get(PROBE).is_some()
        {
            self.probes.entry(completion.execution_id).or_insert_with(Instant::now);
        }
    }
}

fn lock(shared: &Mutex<Shared>) -> MutexGuard<'_, Shared> {
    shared.lock().unwrap_or_else(PoisonError::into_inner)
}
