//! Renews the leases of running executions, and gives up those that cannot be renewed.
//!
//! This runs on its own thread, so that handlers that compute for long without awaiting, even if they block all threads
//! of the user's runtime, do not lose all leases. The backend must be able to make the call without that runtime.

use std::{convert::Infallible, sync::Arc};

use ff_core::{
    EngineError, Lease,
    backend::{RenewOutcome, WorkBackend},
};
use futures::future::join_all;
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::{CancellationToken, DropGuard};

use super::shared::Shared;
use crate::{meters::Outage, retry::Delays};

/// Leases renewed by one call.
const RENEW_BATCH: usize = 128;

/// Renews the leases on a separate thread. The guard stops it; the token is cancelled when it has ended for any reason.
/// If no thread can be started, the token is cancelled already.
pub(super) fn keep_apart<B: WorkBackend + ?Sized>(shared: &Arc<Shared<B>>) -> (DropGuard, CancellationToken) {
    let (stop, ended) = (CancellationToken::new(), CancellationToken::new());
    let (shared, stopping, ending) = (Arc::clone(shared), stop.clone(), ended.clone().drop_guard());
    let keep = move || {
        let _ending = ending;
        match tokio::runtime::Builder::new_current_thread().enable_all().build() {
            Ok(runtime) => drop(runtime.block_on(stopping.run_until_cancelled(keep_leases(&*shared)))),
            Err(error) => tracing::warn!(%error, "the thread for renewals has no runtime"),
        }
    };
    if let Err(error) = std::thread::Builder::new().name("ff-leases".to_owned()).spawn(keep) {
        tracing::warn!(%error, "the thread for renewals could not be started");
    }
    (stop.drop_guard(), ended)
}

/// Renews and expires until dropped.
pub(super) async fn keep_leases<B: WorkBackend + ?Sized>(shared: &Shared<B>) -> Infallible {
    tokio::select! {
        never = renew_leases(shared) => never,
        never = expire_leases(shared) => never,
    }
}

/// Renews the due leases at each tick; after an error it retries soon.
async fn renew_leases<B: WorkBackend + ?Sized>(shared: &Shared<B>) -> Infallible {
    let tick = shared.timing.tick();
    let mut delays = Delays::new();
    let mut outage = Outage::of("renew");
    let mut wait = tick;
    loop {
        tokio::select! {
            () = sleep(wait) => {}
            () = shared.renew_now.notified() => {}
        }
        let leases = shared.leases().due(Instant::now());
        let answers = join_all(leases.chunks(RENEW_BATCH).map(|batch| renew(shared, batch))).await;
        wait = match answers.into_iter().find_map(Result::err) {
            None => {
                outage.succeeded();
                delays.reset();
                tick
            }
            Some(error) => {
                outage.failed(&error);
                delays.next_delay().min(tick)
            }
        };
    }
}

/// Renews some leases once.
pub(super) async fn renew<B: WorkBackend + ?Sized>(shared: &Shared<B>, batch: &[Lease]) -> Result<(), EngineError> {
    let sent_at = Instant::now();
    let outcomes = shared.backend.renew(batch, shared.config.lease).await?;
    let mut leases = shared.leases();
    for (lease, outcome) in batch.iter().zip(outcomes) {
        match outcome {
            RenewOutcome::Renewed => leases.renewed(lease, sent_at),
            RenewOutcome::TimedOut => leases.timed_out(lease),
            RenewOutcome::LeaseLost => leases.lost(lease),
            // Not known: the lease is kept until it expires by the local clock.
            _ => {}
        }
    }
    Ok(())
}

/// Gives up each lease at the moment when it may have run out, even if a renewal is in progress. A lease that is added
/// meanwhile ends later than the next tick, unless it is old already.
async fn expire_leases<B: ?Sized>(shared: &Shared<B>) -> Infallible {
    loop {
        let tick = Instant::now() + shared.timing.tick();
        let next_end = shared.leases().next_end().map_or(tick, |end| end.min(tick));
        tokio::select! {
            () = sleep_until(next_end) => {}
            () = shared.expire_now.notified() => {}
        }
        let expired = shared.leases().expire(Instant::now());
        if expired > 0 {
            tracing::warn!(expired, "leases ran out before they could be renewed");
        }
    }
}
