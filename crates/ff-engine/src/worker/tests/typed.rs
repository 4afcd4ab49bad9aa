//! Handlers over values, one per kind.

use std::collections::HashMap;

use ff_core::{ClaimedExecution, KIND_TAG, Tags};
use serde::Deserialize;

use super::*;
use crate::{HandlerError, PermanentExt};

#[derive(Deserialize)]
struct Order {
    lines: Vec<Line>,
}

#[derive(Deserialize)]
struct Line {
    count: u64,
}

async fn charge(_: WorkContext, order: Order) -> Result<HashMap<&'static str, u64>, HandlerError> {
    Ok(HashMap::from([("count", order.lines.iter().map(|line| line.count).sum())]))
}

fn with_payload(number: u128, name: &str, payload: &'static str) -> ClaimedExecution {
    let mut execution = execution(lease(number), name);
    execution.payload = Bytes::from_static(payload.as_bytes());
    execution
}

fn routes() -> WorkerBuilder {
    Worker::builder().concurrency(1).on("charge", charge)
}

/// What the worker reports of these executions, one report each.
async fn reported(builder: WorkerBuilder, executions: Vec<ClaimedExecution>) -> Vec<Call> {
    let (backend, wanted) = (Scripted::new(1), executions.len());
    backend.script(|script| script.work(executions));
    let worker = start(&backend, builder).await;
    backend.until(|calls| reports(calls) == wanted).await;
    worker.stop().await
}

#[tokio::test(start_paused = true)]
async fn the_payload_and_the_result_of_a_typed_handler_are_json() {
    let calls = reported(routes(), vec![with_payload(1, "charge", r#"{"lines":[{"count":2},{"count":3}]}"#)]).await;
    assert!(calls.contains(&Call::Complete(lease(1), Bytes::from_static(br#"{"count":5}"#))), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_payload_that_does_not_fit_fails_permanently_and_names_the_field() {
    let bad = vec![
        with_payload(1, "charge", r#"{"lines":[{"count":2},{"count":"x"}]}"#),
        with_payload(2, "charge", ""),
        with_payload(3, "charge", r#"{"lines":[]} {}"#),
    ];
    let failures = failures(&reported(routes(), bad).await);
    assert!(failures.iter().all(|(_, retryable)| !retryable), "{failures:?}");
    assert!(failures.iter().any(|(reason, _)| reason.contains("`lines[1].count`")), "{failures:?}");
    assert!(failures.iter().any(|(reason, _)| reason.contains("null")), "{failures:?}");
    assert!(failures.iter().any(|(reason, _)| reason.contains("not one JSON value")), "{failures:?}");
}

#[tokio::test(start_paused = true)]
async fn the_kind_of_an_execution_chooses_the_handler_before_its_name() {
    let mut tagged = with_payload(1, "charge", "null");
    tagged.tags = Tags::new([(KIND_TAG, "ship")]).unwrap();
    let builder = routes().on("ship", async |_, (): ()| Ok("sent"));
    let calls = reported(builder, vec![tagged]).await;
    assert!(calls.contains(&Call::Complete(lease(1), Bytes::from_static(br#""sent""#))), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn an_execution_without_a_handler_goes_back_without_a_failure() {
    let backend = Scripted::new(1);
    backend.script(|script| script.work([execution(lease(1), "unknown")]));
    let worker = start(&backend, routes()).await;
    backend.until(|calls| !released(calls).is_empty()).await;
    let calls = worker.stop().await;
    assert_eq!((released(&calls), reports(&calls)), (vec![lease(1)], 0));
}

#[tokio::test(start_paused = true)]
async fn the_fallback_handles_executions_without_a_handler() {
    let calls = reported(routes().handler(done), vec![execution(lease(1), "unknown")]).await;
    assert!(calls.contains(&Call::Complete(lease(1), Bytes::from_static(b"done"))), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn an_error_can_be_retried_unless_it_is_marked_as_permanent() {
    let parse = |text: &str| text.parse::<u8>();
    let builder = Worker::builder()
        .on("again", move |_, text: String| async move { Ok(parse(&text)?) })
        .on("never", move |_, text: String| async move { parse(&text).permanent() });
    let executions = vec![with_payload(1, "again", r#""x""#), with_payload(2, "never", r#""x""#)];
    let mut retryable: Vec<bool> = failures(&reported(builder, executions).await).iter().map(|(_, r)| *r).collect();
    retryable.sort_unstable();
    assert_eq!(retryable, [false, true]);
}

#[tokio::test(start_paused = true)]
async fn handlers_share_the_state_of_their_worker() {
    let read = |work: WorkContext, (): ()| async move { Ok(*work.state::<u32>()?) };
    let calls = reported(Worker::builder().state(7_u32).on("read", read), vec![execution(lease(1), "read")]).await;
    assert!(calls.contains(&Call::Complete(lease(1), Bytes::from_static(b"7"))), "{calls:?}");
    let missing = failures(&reported(Worker::builder().on("read", read), vec![execution(lease(1), "read")]).await);
    assert!(missing[0].0.contains("no state of type u32") && !missing[0].1, "{missing:?}");
}

#[test]
fn a_worker_without_a_handler_is_refused() {
    let refusal = Worker::builder().build(Scripted::new(1)).map(drop).unwrap_err();
    assert!(refusal.to_string().contains("`on` or `handler`"), "{refusal}");
}

#[tokio::test(start_paused = true)]
async fn a_started_worker_gives_back_its_work_at_shutdown() {
    let backend = one_execution(1);
    let builder = Worker::builder().drain_grace(Duration::ZERO).handler(obeys_cancellation);
    let handle = builder.build(Arc::clone(&backend)).unwrap().start();
    backend.until(|calls| !claims(calls).is_empty()).await;
    assert!(!handle.has_ended());
    handle.shutdown().await.unwrap();
    assert_eq!(released(&backend.calls()), [lease(1)]);
}

#[tokio::test(start_paused = true)]
async fn a_worker_that_panics_is_reported_as_ended() {
    let backend = Scripted::new(1);
    backend.script(|script| script.panics.extend(["work_signals"]));
    let handle = Worker::builder().handler(done).build(backend).unwrap().start();
    while !handle.has_ended() {
        tokio::task::yield_now().await;
    }
    let error = handle.shutdown().await.unwrap_err();
    assert!(matches!(error, EngineError::Ended { .. }), "{error:?}");
}
