//! One execution, from its claim to its report.

use std::{any::Any, sync::Arc, time::Duration};

use bytes::Bytes;
use ff_core::{ClaimedExecution, Failure, WorkBackend, limits};
use tokio::{task::JoinError, time::timeout};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::{
    WorkContext,
    report::report,
    shared::{Held, Shared},
};

type HandlerResult = Result<Bytes, Failure>;

/// What is to be said of an attempt.
#[derive(Debug)]
pub(super) enum Report {
    Complete(Bytes),
    Fail(Failure),
}

/// Why the worker stopped waiting for a handler.
#[derive(Debug, Clone, Copy)]
enum Stop {
    LeaseLost,
    TimedOut(Duration),
    ShutDown,
}

/// Runs the handler under a held lease and reports. Ends when the slot is free again.
pub(super) async fn execute<B: WorkBackend + ?Sized>(
    shared: Arc<Shared<B>>,
    execution: ClaimedExecution,
    held: Held<B>,
) {
    let lease = held.lease;
    let span = tracing::info_span!(
        "ff.worker.execution",
        execution_id = %lease.execution_id,
        attempt = lease.attempt,
        lane = %shared.config.lane,
    );
    async {
        if let Some(outcome) = supervise(&shared, execution, &held).await {
            report(&shared, &lease, outcome).await;
        } else {
            tracing::info!("stopped without a report; it returns when its lease runs out, if it has not ended");
        }
    }
    .instrument(span)
    .await;
}

/// Waits for the handler or for a reason to stop it.
async fn supervise<B: ?Sized>(shared: &Shared<B>, execution: ClaimedExecution, held: &Held<B>) -> Option<Report> {
    let time_allowed = execution.timeout;
    let cancellation = held.lost.child_token();
    let context = WorkContext::new(execution, cancellation.clone());
    let handler = Arc::clone(&shared.handler);
    // A task of its own, so that neither a panic nor a computation without awaits reaches what watches over it.
    let running = async move { handler(context).await }.in_current_span();
    let mut running = AbortOnDropHandle::new(tokio::spawn(running));
    let stop = tokio::select! {
        biased;
        // First, since a handler that obeys its token may return before this task runs.
        () = held.lost.cancelled() => Stop::LeaseLost,
        joined = &mut running => return Some(Report::of(result_of(joined))),
        after = timed_out(time_allowed) => Stop::TimedOut(after),
        () = shared.abandon.cancelled() => Stop::ShutDown,
    };
    cancellation.cancel();
    if matches!(stop, Stop::LeaseLost) {
        shared.meters.leases_lost.increment(1);
    }
    let late = timeout(shared.config.cancel_grace, &mut running).await;
    stop.report(late.ok().map(result_of))
}

async fn timed_out(time_allowed: Option<Duration>) -> Duration {
    match time_allowed {
        Some(after) => {
            tokio::time::sleep(after).await;
            after
        }
        None => std::future::pending().await,
    }
}

impl Stop {
    /// What to report after a stop, given what the handler returned in spite of it.
    fn report(self, late: Option<HandlerResult>) -> Option<Report> {
        match (self, late) {
            (Self::LeaseLost, _) => None,
            (Self::TimedOut(after), _) => {
                Some(Report::Fail(Failure::retryable(format!("the attempt took longer than its timeout of {after:?}"))))
            }
            // Its work is done, and the lease is still held. A failure is most likely the cancellation's own doing.
            (Self::ShutDown, Some(Ok(result))) => Some(Report::of(Ok(result))),
            (Self::ShutDown, _) => None,
        }
    }
}

impl Report {
    fn of(result: HandlerResult) -> Self {
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

fn result_of(joined: Result<HandlerResult, JoinError>) -> HandlerResult {
    joined.unwrap_or_else(|error| {
        Err(Failure::retryable(match error.try_into_panic() {
            Ok(panic) => format!("the handler panicked: {}", panic_text(&*panic)),
            Err(_) => "the handler was aborted".to_owned(),
        }))
    })
}

fn panic_text(panic: &(dyn Any + Send)) -> &str {
    let text = panic.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("a panic without text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_beyond_the_limit_becomes_a_permanent_failure_with_its_size() {
        let Report::Fail(failure) = Report::of(Ok(vec![0; limits::PAYLOAD_BYTES + 1].into())) else {
            panic!("it was to fail");
        };
        assert!(!failure.retryable && failure.reason.contains("1048577"), "{}", failure.reason);
        assert!(matches!(Report::of(Ok(vec![0; limits::PAYLOAD_BYTES].into())), Report::Complete(_)));
    }

    #[test]
    fn after_a_lost_lease_nothing_is_reported_whatever_the_handler_returns() {
        assert!(Stop::LeaseLost.report(None).is_none());
        assert!(Stop::LeaseLost.report(Some(Ok(Bytes::new()))).is_none());
    }

    #[test]
    fn a_timeout_is_a_failure_that_can_be_retried_even_if_the_handler_returned_late() {
        let stop = Stop::TimedOut(Duration::from_secs(5));
        let Some(Report::Fail(failure)) = stop.report(Some(Ok(Bytes::new()))) else { panic!("it was to fail") };
        assert!(failure.retryable && failure.reason.contains("5s"), "{}", failure.reason);
    }

    #[test]
    fn at_the_end_of_the_grace_only_a_success_is_reported() {
        assert!(matches!(Stop::ShutDown.report(Some(Ok(Bytes::new()))), Some(Report::Complete(_))));
        assert!(Stop::ShutDown.report(Some(Err(Failure::retryable("cancelled")))).is_none());
        assert!(Stop::ShutDown.report(None).is_none());
    }
}
