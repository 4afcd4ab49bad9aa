//! Reports the outcome of an attempt to the backend, until the backend answers or the lease has certainly run out.

use backon::Retryable;
use bytes::Bytes;
use ff_core::{
    EngineError, Failure, Lease,
    backend::{FailOutcome, ReleaseOutcome, WorkBackend},
    limits,
};
use tokio::time::Instant;

use super::shared::Shared;
use crate::{meters, retry};

/// The report of an attempt.
#[derive(Debug)]
pub(super) enum Report {
    Complete(Bytes),
    Fail(Failure),
}

impl Report {
    pub(super) fn of(result: Result<Bytes, Failure>) -> Self {
        match result {
            Ok(result) if result.len() > limits::PAYLOAD_BYTES => Self::Fail(Failure::permanent(format!(
                "its result has {} bytes, at most {} are allowed; store it elsewhere and return a reference",
                result.len(),
                limits::PAYLOAD_BYTES
            ))),
            Ok(result) => Self::Complete(result),
            Err(failure) => Self::Fail(failure),
        }
    }
}

/// Reports the outcome. Repeating is safe, because the owner of a lease gets the same answer again.
pub(super) async fn report<B: WorkBackend + ?Sized>(shared: &Shared<B>, lease: &Lease, report: Report) {
    let answer = match report {
        Report::Complete(result) => {
            // Executions that were claimed together often end together.
            let waits = shared.leases().has_others_in_partition_of(lease);
            let complete = || async { shared.completer.complete(&*shared.backend, lease, &result, waits).await };
            match until_answered(shared, lease, "complete", complete).await {
                // The content is refused: no retry would change that, so the attempt must not hang.
                Err(refused @ EngineError::InvalidInput { .. }) => {
                    fail(shared, lease, &Failure::permanent(refused.to_string())).await
                }
                answer => answer.inspect(|()| shared.meters.completed.increment(1)),
            }
        }
        Report::Fail(failure) => fail(shared, lease, &failure).await,
    };
    if let Err(error) = answer {
        unreported(shared, &error);
    }
}

async fn fail<B: WorkBackend + ?Sized>(
    shared: &Shared<B>,
    lease: &Lease,
    failure: &Failure,
) -> Result<(), EngineError> {
    let outcome = until_answered(shared, lease, "fail", || async { shared.backend.fail(lease, failure).await }).await?;
    shared.meters.failed.increment(1);
    match outcome {
        FailOutcome::Retry { after } => tracing::info!(?after, "the attempt failed and will be retried"),
        FailOutcome::Ended => tracing::info!("the execution failed"),
        other => tracing::info!(outcome = ?other, "the failed attempt was reported"),
    }
    Ok(())
}

/// Gives the lease back, so that another worker does not have to wait until it runs out.
pub(super) async fn release<B: WorkBackend + ?Sized>(shared: &Shared<B>, lease: &Lease) {
    let leases = [*lease];
    match until_answered(shared, lease, "release", || async { shared.backend.release(&leases).await }).await {
        Ok(outcomes) => match outcomes.first() {
            Some(ReleaseOutcome::Released) => {
                shared.meters.released.increment(1);
                tracing::info!("given back to other workers");
            }
            Some(ReleaseOutcome::LeaseLost) => {
                shared.meters.leases_lost.increment(1);
                tracing::info!("the lease of the execution is lost; nothing to give back");
            }
            Some(_) | None => {
                shared.meters.reports_abandoned.increment(1);
                tracing::warn!("the record could not be read; the execution returns when its lease runs out");
            }
        },
        Err(error) => tracing::warn!(%error, "could not be given back; it returns when its lease runs out"),
    }
}

async fn until_answered<B, T, F, Fut>(
    shared: &Shared<B>,
    lease: &Lease,
    op: &'static str,
    call: F,
) -> Result<T, EngineError>
where
    B: ?Sized,
    F: Fn() -> Fut,
    Fut: Future<Output = Result<T, EngineError>>,
{
    call.retry(retry::schedule())
        .when(|error| error.is_retryable() && !surely_over(shared, lease))
        .notify(|error, delay| {
            meters::failed(op);
            tracing::debug!(op, %error, ?delay, "a report was not answered; repeating it");
        })
        .await
}

/// Whether the lease ran out one whole lease ago by the local clock. The server's lease began later and is swept later
/// still, so until then a report may be accepted.
fn surely_over<B: ?Sized>(shared: &Shared<B>, lease: &Lease) -> bool {
    let expires_at = shared.leases().expires_at(lease);
    expires_at.is_none_or(|at| Instant::now() >= at + shared.config.lease)
}

fn unreported<B: ?Sized>(shared: &Shared<B>, error: &EngineError) {
    match error {
        EngineError::State { .. } | EngineError::NotFound { .. } => {
            shared.meters.leases_lost.increment(1);
            tracing::info!(%error, "the lease of the execution is lost; its result is dropped");
        }
        _ => {
            shared.meters.reports_abandoned.increment(1);
            tracing::warn!(%error, "the result could not be reported; the execution returns when its lease runs out");
        }
    }
}
