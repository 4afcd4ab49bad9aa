//! Keeps the leases of running executions alive, and gives up those that cannot be kept.

use std::convert::Infallible;

use ff_core::{EngineError, Lease, RenewOutcome, WorkBackend};
use futures::future::join_all;
use tokio::time::{Instant, sleep, sleep_until};

use super::shared::Shared;
use crate::{meters::Outage, retry::Delays};

/// Leases renewed by one call.
const RENEW_BATCH: usize = 128;

/// Renews and expires until dropped.
pub(super) async fn keep_leases<B: WorkBackend + ?Sized>(shared: &Shared<B>) -> Infallible {
    tokio::select! {
        never = renew_leases(shared) => never,
        never = expire_leases(shared) => never,
    }
}

/// Renews all leases after a third of their time; after an error again soon.
async fn renew_leases<B: WorkBackend + ?Sized>(shared: &Shared<B>) -> Infallible {
    let period = shared.renewal_period();
    let mut delays = Delays::new();
    let mut outage = Outage::of("renew");
    let mut wait = period;
    loop {
        tokio::select! {
            () = sleep(wait) => {}
            () = shared.renew_now.notified() => {}
        }
        let leases = shared.leases().held();
        let answers = join_all(leases.chunks(RENEW_BATCH).map(|batch| renew_batch(shared, batch))).await;
        wait = match answers.into_iter().find_map(Result::err) {
            None => {
                outage.succeeded();
                delays.reset();
                period
            }
            Some(error) => {
                outage.failed(&error);
                delays.next_delay().min(period)
            }
        };
    }
}

async fn renew_batch<B: WorkBackend + ?Sized>(shared: &Shared<B>, batch: &[Lease]) -> Result<(), EngineError> {
    let expires_at = Instant::now() + shared.config.lease;
    let outcomes = shared.backend.renew(batch, shared.config.lease).await?;
    let mut leases = shared.leases();
    for (lease, outcome) in batch.iter().zip(outcomes) {
        match outcome {
            RenewOutcome::Renewed => leases.renewed(lease, expires_at),
            RenewOutcome::TimedOut => {}
            RenewOutcome::LeaseLost => leases.lost(lease),
        }
    }
    Ok(())
}

/// Gives up each lease at the moment when it may have run out, whatever its renewal is doing.
async fn expire_leases<B: ?Sized>(shared: &Shared<B>) -> Infallible {
    loop {
        let next_expiry = shared.leases().next_expiry();
        let expiry = async {
            match next_expiry {
                Some(at) => sleep_until(at).await,
                None => std::future::pending().await,
            }
        };
        tokio::select! {
            () = expiry => {
                let expired = shared.leases().expire(Instant::now());
                if expired > 0 {
                    tracing::warn!(expired, "leases ran out before they could be renewed");
                }
            }
            () = shared.leases_changed.notified() => {}
        }
    }
}
