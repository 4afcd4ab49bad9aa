//! Counts the reports of the workers by the metric that they keep, so that nothing stands between worker and backend.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use anyhow::{Result, anyhow};
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

const METRIC: &str = "ff_worker_completed";

/// How many reports of success the server has accepted from the workers of this process.
#[derive(Debug, Clone, Default)]
pub(crate) struct Completed(Arc<AtomicU64>);

impl Completed {
    /// Counts from now on, once in a process.
    pub(crate) fn count() -> Result<Self> {
        let completed = Self::default();
        metrics::set_global_recorder(completed.clone()).map_err(|_| anyhow!("another recorder is set"))?;
        Ok(completed)
    }

    /// Returns once there are so many.
    pub(crate) async fn until(&self, count: usize) {
        while self.0.load(Ordering::Relaxed) < count as u64 {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    }
}

impl Recorder for Completed {
    fn describe_counter(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn describe_gauge(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn describe_histogram(&self, _key: KeyName, _unit: Option<Unit>, _description: SharedString) {}

    fn register_counter(&self, key: &Key, _metadata: &Metadata<'_>) -> Counter {
        if key.name() == METRIC { Counter::from_arc(self.0.clone()) } else { Counter::noop() }
    }

    fn register_gauge(&self, _key: &Key, _metadata: &Metadata<'_>) -> Gauge {
        Gauge::noop()
    }

    fn register_histogram(&self, _key: &Key, _metadata: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}
