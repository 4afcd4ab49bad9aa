//! What a worker's loop, its renewals and its executions share.

use std::{
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use ff_core::{Lease, WorkerId};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Worker,
    builder::{Config, Handler},
    lease::LeaseTable,
};
use crate::meters::WorkerMeters;

pub(super) struct Shared<B: ?Sized> {
    pub(super) config: Config,
    pub(super) worker_id: WorkerId,
    pub(super) handler: Handler,
    pub(super) meters: WorkerMeters,
    /// Cancelled when the drain grace is over.
    pub(super) abandon: CancellationToken,
    /// A lease was taken up, so the first to expire may be another one.
    pub(super) leases_changed: Notify,
    /// A lease was taken up that is too old to wait for the next renewal.
    pub(super) renew_now: Notify,
    leases: Mutex<LeaseTable>,
    pub(super) backend: Arc<B>,
}

impl<B: ?Sized> Shared<B> {
    pub(super) fn new(worker: Worker<B>) -> Self {
        Self {
            meters: WorkerMeters::new(&worker.config.lane),
            config: worker.config,
            worker_id: worker.worker_id,
            handler: worker.handler,
            abandon: CancellationToken::new(),
            leases_changed: Notify::new(),
            renew_now: Notify::new(),
            leases: Mutex::default(),
            backend: worker.backend,
        }
    }

    /// The lock is never held across an await, and its holders only touch the table.
    pub(super) fn leases(&self) -> MutexGuard<'_, LeaseTable> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn renewal_period(&self) -> Duration {
        self.config.lease / 3
    }

    /// Takes up a lease whose claim was sent at `claimed_at`.
    pub(super) fn hold(self: &Arc<Self>, lease: Lease, claimed_at: Instant) -> Held<B> {
        let expires_at = claimed_at + self.config.lease;
        let lost = self.leases().insert(lease, expires_at);
        self.leases_changed.notify_one();
        if claimed_at.elapsed() > self.renewal_period() {
            self.renew_now.notify_one();
        }
        self.meters.running.increment(1);
        Held { shared: Arc::clone(self), lease, lost }
    }
}

/// A lease that is renewed for as long as this lives.
pub(super) struct Held<B: ?Sized> {
    shared: Arc<Shared<B>>,
    pub(super) lease: Lease,
    /// Cancelled when the lease is lost.
    pub(super) lost: CancellationToken,
}

impl<B: ?Sized> Drop for Held<B> {
    fn drop(&mut self) {
        self.shared.leases().remove(&self.lease);
        self.shared.meters.running.decrement(1);
    }
}
