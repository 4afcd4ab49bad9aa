//! One execution, from its claim to its report.
//!
//! Nothing is reported or given back before the handler has ended or was dropped, because another attempt may start
//! immediately afterwards. If a handler cannot be dropped, because it computes without awaiting, the worker waits for
//! it; the lease limits the delay for other workers.

use std::{any::Any, future::pending, panic::AssertUnwindSafe, sync::Arc, time::Duration};

use bytes::Bytes;
use ff_core::{ClaimedExecution, Failure, Lease, backend::WorkBackend};
use futures::FutureExt;
use tokio::{task::JoinError, time::sleep};
use tokio_util::task::AbortOnDropHandle;
use tracing::Instrument;

use super::{
    WorkContext,
    renew::renew,
    report::{Report, release, report},
    shared::{Held, Shared},
};
use crate::{meters, retry::Delays};

pub(super) type HandlerResult = Result<Bytes, Failure>;

/// What to do after an attempt has ended here.
#[derive(Debug)]
enum Verdict {
    Report(Report),
    /// Return the execution to the queue.
    Release,
    /// Nothing: the lease is lost.
    Nothing,
}

/// Why the worker stopped waiting for a handler.
#[derive(Debug, Clone, Copy)]
enum Stop {
    LeaseLost,
    /// Its renewals are not answered.
    LeaseEnding,
    TimedOut(Duration),
    ShutDown,
}

/// Runs the handler under a held lease and reports. Ends when the slot is free again. A panic outside of the handler
/// (in the backend, the metrics recorder or the log subscriber) fails the attempt; if that cannot be reported either,
/// the execution returns to the queue when its lease runs out.
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
        let Err(panic) = AssertUnwindSafe(run(&shared, execution, &held)).catch_unwind().await else { return };
        let failure = Failure::retryable(format!("the worker panicked: {}", panic_text(&*panic)));
        if AssertUnwindSafe(fail_panicked(&shared, &lease, failure)).catch_unwind().await.is_err() {
            tracing::error!("the worker panicked again when it reported that; the lease runs out");
        }
    }
    .instrument(span)
    .await;
}

async fn run<B: WorkBackend + ?Sized>(shared: &Shared<B>, execution: ClaimedExecution, held: &Held<B>) {
    let verdict = match confirm(shared, &execution, held).await {
        Some(stop) => stop.verdict(None),
        None => supervise(shared, execution, held).await,
    };
    match verdict {
        Verdict::Report(outcome) => report(shared, &held.lease, outcome).await,
        Verdict::Release => release(shared, &held.lease).await,
        Verdict::Nothing => tracing::info!("stopped without a report; the lease of the execution is lost"),
    }
}

async fn fail_panicked<B: WorkBackend + ?Sized>(shared: &Shared<B>, lease: &Lease, failure: Failure) {
    tracing::error!(reason = failure.reason, "an attempt is failed, because the worker panicked beside its handler");
    meters::failed("execute");
    report(shared, lease, Report::Fail(failure)).await;
}

/// If earlier leases of this execution ran out unconfirmed, confirms this lease before the handler starts, so that a
/// handler that crashes this process is counted. Returns the reason if the handler must not start.
async fn confirm<B: WorkBackend + ?Sized>(
    shared: &Shared<B>,
    execution: &ClaimedExecution,
    held: &Held<B>,
) -> Option<Stop> {
    if execution.unconfirmed_leases == 0 {
        return None;
    }
    let mut delays = Delays::new();
    let confirmed = async {
        while let Err(error) = renew(shared, &[held.lease]).await {
            tracing::debug!(%error, "the lease is not confirmed yet");
            sleep(delays.next_delay()).await;
        }
    };
    tokio::select! {
        biased;
        stop = stopped(shared, execution.timeout, held) => Some(stop),
        () = confirmed => held.fate.lost.is_cancelled().then_some(Stop::LeaseLost),
    }
}

/// Waits for a reason to stop, other than the attempt's own timer.
async fn stopped<B: ?Sized>(shared: &Shared<B>, time_allowed: Option<Duration>, held: &Held<B>) -> Stop {
    tokio::select! {
        biased;
        () = held.fate.lost.cancelled() => Stop::LeaseLost,
        () = held.fate.timed_out.cancelled() => Stop::TimedOut(time_allowed.unwrap_or_default()),
        () = held.fate.ending.cancelled() => Stop::LeaseEnding,
        () = shared.abandon.cancelled() => Stop::ShutDown,
    }
}

/// Waits for the handler or for a reason to stop it; then it has ended.
async fn supervise<B: ?Sized>(shared: &Shared<B>, execution: ClaimedExecution, held: &Held<B>) -> Verdict {
    // Executions without a handler were refused before.
    let Some(handler) = shared.handlers.of(&execution) else { return Verdict::Release };
    let time_allowed = execution.timeout;
    let cancellation = held.fate.lost.child_token();
    let context = WorkContext::new(execution, cancellation.clone()).sharing(shared.handlers.state.clone());
    let mut running = AbortOnDropHandle::new(handler.start(context));
    let stop = tokio::select! {
        biased;
        // First, because a handler that obeys its token may return before this task runs.
        () = held.fate.lost.cancelled() => Stop::LeaseLost,
        joined = &mut running => return Verdict::Report(Report::of(result_of(joined))),
        after = timed_out(time_allowed) => Stop::TimedOut(after),
        stop = stopped(shared, time_allowed, held) => stop,
    };
    cancellation.cancel();
    if matches!(stop, Stop::LeaseLost) {
        shared.meters.leases_lost.increment(1);
    }
    let late = tokio::select! {
        biased;
        joined = &mut running => Some(joined),
        () = grace(shared, stop, held) => None,
    };
    let late = match late {
        Some(joined) => Some(result_of(joined)),
        None => {
            running.abort();
            // A late return value is ignored.
            let _ = (&mut running).await;
            None
        }
    };
    stop.verdict(late)
}

/// How long a cancelled handler may continue: at most until the end of its lease, when the next attempt starts.
async fn grace<B: ?Sized>(shared: &Shared<B>, stop: Stop, held: &Held<B>) {
    let lease_end = async {
        match stop {
            Stop::LeaseLost => pending().await,
            _ => held.fate.lost.cancelled().await,
        }
    };
    tokio::select! {
        () = sleep(shared.config.cancel_grace) => {}
        () = lease_end => {}
    }
}

async fn timed_out(time_allowed: Option<Duration>) -> Duration {
    match time_allowed {
        Some(after) => {
            sleep(after).await;
            after
        }
        None => pending().await,
    }
}

impl Stop {
    /// What to do with the attempt after a stop, given the late return value of the handler, if any.
    fn verdict(self, late: Option<HandlerResult>) -> Verdict {
        match (self, late) {
            (Self::LeaseLost, _) => Verdict::Nothing,
            (Self::TimedOut(after), _) => Verdict::Report(Report::Fail(Failure::retryable(format!(
                "the attempt took longer than its timeout of {after:?}"
            )))),
            // The work is done, and the lease is still held. A failure is most likely caused by the cancellation.
            (Self::ShutDown | Self::LeaseEnding, Some(Ok(result))) => Verdict::Report(Report::of(Ok(result))),
            (Self::ShutDown | Self::LeaseEnding, _) => Verdict::Release,
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
    use ff_core::limits;

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
    fn after_a_lost_lease_nothing_is_reported() {
        assert!(matches!(Stop::LeaseLost.verdict(None), Verdict::Nothing));
        assert!(matches!(Stop::LeaseLost.verdict(Some(Ok(Bytes::new()))), Verdict::Nothing));
    }

    #[test]
    fn a_timeout_is_a_failure_that_can_be_retried_even_if_the_handler_returned_late() {
        let stop = Stop::TimedOut(Duration::from_secs(5));
        let Verdict::Report(Report::Fail(failure)) = stop.verdict(Some(Ok(Bytes::new()))) else {
            panic!("it was to fail");
        };
        assert!(failure.retryable && failure.reason.contains("5s"), "{}", failure.reason);
    }

    #[test]
    fn at_shutdown_a_success_is_reported_and_other_attempts_are_given_back() {
        for stop in [Stop::ShutDown, Stop::LeaseEnding] {
            let success = stop.verdict(Some(Ok(Bytes::new())));
            assert!(matches!(success, Verdict::Report(Report::Complete(_))), "{success:?}");
            assert!(matches!(stop.verdict(Some(Err(Failure::retryable("cancelled")))), Verdict::Release));
            assert!(matches!(stop.verdict(None), Verdict::Release));
        }
    }
}
