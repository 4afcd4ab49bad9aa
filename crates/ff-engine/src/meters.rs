//! The metrics and their names. The table for users is in the crate's documentation.

use std::collections::HashMap;

use ff_core::{EngineError, LaneId, Partition};
use metrics::{Counter, Gauge, counter, gauge};

/// A worker's counters, looked up once per run.
pub(crate) struct WorkerMeters {
    pub(crate) claimed: Counter,
    pub(crate) running: Gauge,
    pub(crate) completed: Counter,
    pub(crate) failed: Counter,
    pub(crate) leases_lost: Counter,
    pub(crate) released: Counter,
    pub(crate) refused: Counter,
    pub(crate) reports_abandoned: Counter,
    pub(crate) wakes_passed_on: Counter,
    pub(crate) rescans: Counter,
}

impl WorkerMeters {
    pub(crate) fn new(lane: &LaneId) -> Self {
        let lane = lane.to_string();
        let count = |name: &'static str| counter!(name, "lane" => lane.clone());
        Self {
            claimed: count("ff_worker_claimed"),
            running: gauge!("ff_worker_running", "lane" => lane.clone()),
            completed: count("ff_worker_completed"),
            failed: count("ff_worker_failed"),
            leases_lost: count("ff_worker_leases_lost"),
            released: count("ff_worker_released"),
            refused: count("ff_worker_refused"),
            reports_abandoned: count("ff_worker_reports_abandoned"),
            wakes_passed_on: count("ff_worker_wakes_passed_on"),
            rescans: count("ff_worker_rescans"),
        }
    }
}

/// Adds `by` to a counter without labels.
pub(crate) fn add(name: &'static str, by: u32) {
    if by > 0 {
        counter!(name).increment(u64::from(by));
    }
}

/// Counts failed calls and logs each outage once: a warning when it begins, an info line when it ends.
#[derive(Debug)]
pub(crate) struct Outage {
    op: &'static str,
    failures: u32,
}

impl Outage {
    pub(crate) fn of(op: &'static str) -> Self {
        Self { op, failures: 0 }
    }

    pub(crate) fn failed(&mut self, error: &EngineError) {
        failed(self.op);
        self.failures = self.failures.saturating_add(1);
        if self.failures == 1 && matches!(error, EngineError::Protocol { .. }) {
            tracing::warn!(op = self.op, %error, "failing; left to the next regular round");
        } else if self.failures == 1 {
            tracing::warn!(op = self.op, %error, "failing; will be tried again");
        } else {
            tracing::debug!(op = self.op, %error, failures = self.failures, "still failing");
        }
    }

    fn failed_in(&mut self, partition: Partition, error: &EngineError) {
        let _in_partition = tracing::warn_span!("ff.partition", %partition).entered();
        self.failed(error);
    }

    pub(crate) fn succeeded(&mut self) {
        if self.failures > 0 {
            tracing::info!(op = self.op, failures = self.failures, "works again");
            self.failures = 0;
        }
    }
}

/// Outages of single partitions: a partition that fails while others work is logged once, and again when it works.
#[derive(Debug)]
pub(crate) struct Outages {
    op: &'static str,
    whole: Outage,
    partitions: HashMap<Partition, Outage>,
}

impl Outages {
    pub(crate) fn of(op: &'static str) -> Self {
        Self { op, whole: Outage::of(op), partitions: HashMap::new() }
    }

    /// Records the outcome of one call, or several concurrent calls, in each partition.
    pub(crate) fn note<'a>(&mut self, results: impl Iterator<Item = (Partition, Option<&'a EngineError>)> + Clone) {
        let mut errors = results.clone().filter_map(|(_, error)| error);
        let (first, count) = (errors.next(), results.clone().count());
        if let Some(error) = first.filter(|_| count > 1 && errors.count() + 1 == count) {
            self.whole.failed(error);
            return;
        }
        for (partition, error) in results {
            match error {
                Some(error) => {
                    let outage = self.partitions.entry(partition).or_insert_with(|| Outage::of(self.op));
                    outage.failed_in(partition, error);
                }
                None => {
                    self.whole.succeeded();
                    if let Some(mut outage) = self.partitions.remove(&partition) {
                        outage.succeeded();
                    }
                }
            }
        }
    }
}

/// How many partitions this engine serves, among how many engines.
pub(crate) fn serving(partitions: usize, engines: usize) {
    gauge!("ff_engine_partitions").set(f64::from(u32::try_from(partitions).unwrap_or(u32::MAX)));
    gauge!("ff_engine_peers").set(f64::from(u32::try_from(engines).unwrap_or(u32::MAX)));
}

/// Counts one failed call.
pub(crate) fn failed(op: &'static str) {
    counter!("ff_engine_errors", "op" => op).increment(1);
}
