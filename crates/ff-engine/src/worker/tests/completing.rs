//! Completions of one partition that arrive while another is under way.

use futures::{FutureExt, pin_mut};

use super::{super::completer::Completer, *};
use crate::counting::Counters;

fn three_executions() -> Arc<Scripted> {
    let backend = one_execution(1);
    backend.script(|script| {
        script.work([execution(lease(2), "two"), execution(lease(3), "three")]);
        script.complete_takes = Duration::from_secs(1);
    });
    backend
}

/// The completions, with how many each call contained.
fn completions(calls: &[Call]) -> Vec<usize> {
    let size = |call: &Call| match call {
        Call::Complete(..) => Some(1),
        Call::CompleteMany(leases) => Some(leases.len()),
        _ => None,
    };
    calls.iter().filter_map(size).collect()
}

/// Ends `one` at once and the others a little later.
async fn ends_in_turn(context: WorkContext) -> Result<Bytes, Failure> {
    if context.name() != "one" {
        sleep(Duration::from_millis(500)).await;
    }
    done(context).await
}

#[tokio::test(start_paused = true)]
async fn completions_that_arrive_during_a_call_go_together_in_the_next() {
    let backend = three_executions();
    let _worker = start(&backend, Worker::builder().concurrency(3).handler(ends_in_turn)).await;
    backend.until(|calls| reports(calls) == 3).await;
    assert_eq!(completions(&backend.calls()), [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn executions_that_end_at_the_same_moment_are_completed_in_one_call() {
    let backend = three_executions();
    let _worker = start(&backend, Worker::builder().concurrency(3).handler(done)).await;
    backend.until(|calls| reports(calls) == 3).await;
    assert_eq!(completions(&backend.calls()), [3]);
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_among_them_is_the_only_one_that_is_refused() {
    let counters = Counters::default();
    let _recorder = metrics::set_default_local_recorder(&counters);
    let backend = three_executions();
    backend.script(|script| {
        script.lost.insert(lease(2));
        script.lost.insert(lease(3));
    });
    let worker = start(&backend, Worker::builder().concurrency(3).handler(done)).await;
    backend.until(|calls| reports(calls) == 3).await;
    worker.stop().await;
    let counted = ["ff_worker_completed", "ff_worker_leases_lost"].map(|name| counters.get(name));
    assert_eq!(counted, [1, 2]);
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_call_is_repeated_for_each_of_its_completions() {
    let backend = three_executions();
    let _worker = start(&backend, Worker::builder().concurrency(3).handler(ends_in_turn)).await;
    backend.until(|calls| reports(calls) == 1).await;
    backend.script(|script| script.errors.push_back(("complete", transport())));
    backend.until(|calls| reports(calls) == 5).await;
    backend.settle().await;
    assert_eq!(reports(&backend.calls()), 5, "1 at first, 2 that fail, and these again");
}

#[tokio::test(start_paused = true)]
async fn completions_of_other_partitions_do_not_wait() {
    let backend = Scripted::new(2);
    backend.script(|script| script.complete_takes = HOUR);
    let completer = Arc::new(Completer::default());
    let (one, other, result) = (lease_in(0, 1), lease_in(1, 2), Bytes::new());
    let first = completer.complete(&*backend, &one, &result, false);
    let second = completer.complete(&*backend, &other, &result, false);
    pin_mut!(first, second);
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    assert_eq!(completions(&backend.calls()), [1, 1]);
}

#[tokio::test(start_paused = true)]
async fn a_dropped_call_leaves_no_completion_waiting() {
    let backend = Scripted::new(1);
    backend.script(|script| script.complete_takes = Duration::from_secs(1));
    let completer = Arc::new(Completer::default());
    let leases = [1, 2, 3].map(lease);
    let result = Bytes::new();
    let mut first = Box::pin(completer.complete(&*backend, &leases[0], &result, false));
    let mut second = Box::pin(completer.complete(&*backend, &leases[1], &result, false));
    let mut third = Box::pin(completer.complete(&*backend, &leases[2], &result, false));
    assert!(first.as_mut().now_or_never().is_none());
    assert!(second.as_mut().now_or_never().is_none());
    assert!(third.as_mut().now_or_never().is_none());
    // The second gets the right to send for itself and the third, and is dropped before it runs.
    drop(first);
    drop(second);
    third.await.unwrap();
    assert_eq!(completions(&backend.calls()), [1, 1]);
}
