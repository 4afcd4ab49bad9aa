//! How a worker stops.

use super::*;
use crate::counting::Counters;

#[tokio::test(start_paused = true)]
async fn shutdown_lets_running_executions_finish_and_claims_nothing_more() {
    let backend = one_execution(2);
    let handler = |_| async {
        sleep(Duration::from_secs(20)).await;
        Ok(Bytes::new())
    };
    let worker = start(&backend, Worker::builder().lease(Duration::from_secs(9)).handler(handler)).await;
    backend.until(|calls| claims(calls).len() == 1).await;
    worker.shutdown.cancel();
    sleep(Duration::from_secs(1)).await;
    backend.script(|script| script.work([execution(lease_in(1, 2), "late")]));
    backend.ready(1);
    let calls = worker.stop().await;
    assert_eq!(claims(&calls), [(0, 16)]);
    assert!(calls.contains(&Call::PassOn(1)), "the late signal went to another worker");
    assert!(count(&calls, |call| matches!(call, Call::Renew(_))) >= 6, "renewed to the end");
    assert_eq!(reports(&calls), 1);
}

#[tokio::test(start_paused = true)]
async fn executions_claimed_during_shutdown_are_given_back_and_not_started() {
    let backend = one_execution(1);
    backend.script(|script| script.claim_takes = Duration::from_secs(2));
    let worker = start(&backend, Worker::builder().handler(done)).await;
    sleep(Duration::from_secs(1)).await;
    let calls = worker.stop().await;
    assert_eq!((reports(&calls), released(&calls)), (0, vec![lease(1)]));
}

#[tokio::test(start_paused = true)]
async fn executions_claimed_after_the_grace_are_not_started() {
    let backend = one_execution(1);
    backend.script(|script| script.claim_takes = Duration::from_secs(5));
    let begun = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&begun);
    let handler = move |context| {
        counted.fetch_add(1, Ordering::SeqCst);
        done(context)
    };
    let builder = Worker::builder().drain_grace(Duration::from_secs(1)).cancel_grace(Duration::from_secs(1));
    let worker = start(&backend, builder.handler(handler)).await;
    sleep(Duration::from_secs(1)).await;
    let calls = worker.stop().await;
    assert_eq!((claims(&calls), begun.load(Ordering::SeqCst)), (vec![(0, 16)], 0));
    assert_eq!(released(&calls), [lease(1)]);
}

#[tokio::test(start_paused = true)]
async fn executions_that_outlive_the_grace_are_cancelled_and_given_back() {
    let backend = one_execution(1);
    backend.script(|script| script.work([execution(lease(2), "stubborn")]));
    let handler = |context: WorkContext| async move {
        if context.name() == "stubborn" {
            sleep(HOUR).await;
        }
        obeys_cancellation(context).await
    };
    let builder = Worker::builder().drain_grace(Duration::from_secs(4)).cancel_grace(Duration::from_secs(2));
    let worker = start(&backend, builder.handler(handler)).await;
    backend.until(|calls| !claims(calls).is_empty()).await;
    let stopping = Instant::now();
    let calls = worker.stop().await;
    assert_eq!(reports(&calls), 0, "a failure would cost an attempt");
    let mut released = released(&calls);
    released.sort_unstable_by_key(|lease| lease.execution_id);
    assert_eq!(released, [lease(1), lease(2)]);
    assert!((6..=7).contains(&stopping.elapsed().as_secs()), "{:?}", stopping.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_success_at_the_very_end_of_the_shutdown_is_reported() {
    let backend = one_execution(1);
    let handler = |context: WorkContext| async move {
        context.cancelled().await;
        Ok(Bytes::from_static(b"checkpoint"))
    };
    let worker = start(&backend, Worker::builder().drain_grace(Duration::ZERO).handler(handler)).await;
    backend.until(|calls| !claims(calls).is_empty()).await;
    backend.settle().await;
    let calls = worker.stop().await;
    assert!(calls.contains(&Call::Complete(lease(1), Bytes::from_static(b"checkpoint"))), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_could_not_be_given_back_is_not_counted_as_given_back() {
    let counters = Counters::default();
    let _recorder = metrics::set_default_local_recorder(&counters);
    let backend = one_execution(1);
    backend.script(|script| {
        script.work([execution(lease(2), "two")]);
        script.unreadable.insert(lease(1));
    });
    let builder = Worker::builder().concurrency(2).drain_grace(Duration::ZERO);
    let worker = start(&backend, builder.handler(sleeps_for_an_hour)).await;
    backend.settle().await;
    assert_eq!(released(&worker.stop().await).len(), 2);
    let counted = ["ff_worker_released", "ff_worker_reports_abandoned"].map(|name| counters.get(name));
    assert_eq!(counted, [1, 1]);
}
