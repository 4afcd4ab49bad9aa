//! The state that a worker's loop, its renewals and its executions share.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use ff_core::{Lease, WorkerId};
use tokio::{sync::Notify, time::Instant};
use tokio_util::sync::CancellationToken;

use super::{
    Worker,
    builder::Config,
    completer::Completer,
    handler::Handlers,
    lease::{Fate, LeaseTable, Timing},
};
use crate::meters::WorkerMeters;

pub(super) struct Shared<B: ?Sized> {
    pub(super) config: Config,
    pub(super) worker_id: WorkerId,
    pub(super) handlers: Handlers,
    pub(super) meters: WorkerMeters,
    pub(super) timing: Timing,
    /// Cancelled when the worker stops claiming.
    pub(super) closing: CancellationToken,
    /// Cancelled when the drain grace is over.
    pub(super) abandon: CancellationToken,
    /// A lease was added that is too old to wait for the next tick, or all leases must be checked.
    pub(super) renew_now: Notify,
    /// A lease was added that may end before the next tick.
    pub(super) expire_now: Notify,
    leases: Mutex<LeaseTable>,
    pub(super) completer: Arc<Completer>,
    pub(super) backend: Arc<B>,
}

impl<B: ?Sized> Shared<B> {
    pub(super) fn new(worker: Worker<B>) -> Self {
        let lease = worker.config.lease;
        let timing = Timing { lease, margin: worker.config.cancel_grace.min(lease / 6) };
        Self {
            meters: WorkerMeters::new(&worker.config.lane),
            config: worker.config,
            worker_id: worker.worker_id,
            handlers: worker.handlers,
            timing,
            closing: CancellationToken::new(),
            abandon: CancellationToken::new(),
            renew_now: Notify::new(),
            expire_now: Notify::new(),
            leases: Mutex::new(LeaseTable::new(timing)),
            completer: Arc::default(),
            backend: worker.backend,
        }
    }

    /// The lock is never held across an await, and its holders only touch the table.
    pub(super) fn leases(&self) -> MutexGuard<'_, LeaseTable> {
        self.leases.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Adds a lease whose claim was sent at `claimed_at`.
    pub(super) fn hold(self: &Arc<Self>, lease: Lease, claimed_at: Instant) -> Held<B> {
        let fate = self.leases().insert(lease, claimed_at);
        if claimed_at.elapsed() > self.timing.tick() {
            self.renew_now.notify_one();
            self.expire_now.notify_one();
        }
        self.meters.running.increment(1);
        Held { shared: Arc::clone(self), lease, fate }
    }

    /// Messages about lost leases may have been missed, so all leases are renewed now.
    pub(super) fn doubt_leases(&self) {
        self.leases().doubt(Instant::now());
        self.renew_now.notify_one();
    }
}

/// A lease that is renewed until this is dropped.
pub(super) struct Held<B: ?Sized> {
    shared: Arc<Shared<B>>,
    pub(super) lease: Lease,
    pub(super) fate: Fate,
}

impl<B: ?Sized> Drop for Held<B> {
    fn drop(&mut self) {
        self.shared.leases().remove(&self.lease);
        self.shared.meters.running.decrement(1);
    }
}
