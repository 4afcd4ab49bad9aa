//! How a worker learns of work and claims it.

use super::*;

#[tokio::test(start_paused = true)]
async fn work_that_was_there_before_is_executed_and_its_result_reported() {
    let backend = Scripted::new(4);
    let tags = Tags::new([("k", "v")]).unwrap();
    let mut submitted = execution(lease_in(3, 7), "resize");
    (submitted.payload, submitted.tags) = (Bytes::from_static(b"picture"), tags);
    backend.script(|script| script.work([submitted]));
    let handler = |context: WorkContext| async move {
        assert_eq!((context.name(), context.attempt(), context.tags().get("k")), ("resize", 1, Some("v")));
        assert_eq!((context.id(), context.flow_id()), (lease_in(3, 7).execution_id, None));
        Ok(context.payload().slice(..3))
    };
    let worker = start(&backend, Worker::builder().concurrency(2).handler(handler)).await;
    backend.until(|calls| reports(calls) == 1).await;
    let calls = worker.stop().await;
    let expected = Call::Complete(lease_in(3, 7), Bytes::from_static(b"pic"));
    assert_eq!(calls, [Call::Signals, Call::AwaitWork, Call::Claim(3, 2), expected]);
}

#[tokio::test(start_paused = true)]
async fn it_runs_over_a_trait_object() {
    let backend = one_execution(1);
    let object: Arc<dyn EngineBackend> = Arc::clone(&backend) as _;
    let worker = Worker::builder().handler(done).build(object).unwrap();
    tokio::spawn(worker.run(CancellationToken::new()));
    backend.until(|calls| reports(calls) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn a_signal_triggers_a_claim_at_once_and_without_one_there_is_no_poll() {
    let backend = Scripted::new(8);
    let _worker = start(&backend, Worker::builder().handler(done)).await;
    sleep(Duration::from_secs(10)).await;
    assert_eq!(backend.calls(), [Call::Signals, Call::AwaitWork]);
    let signalled = Instant::now();
    backend.script(|script| script.work([execution(lease_in(5, 1), "five")]));
    backend.ready(5);
    backend.until(|calls| reports(calls) == 1).await;
    assert!(signalled.elapsed() < Duration::from_millis(10));
    assert_eq!(claims(&backend.calls()), [(5, 16)]);
}

#[tokio::test(start_paused = true)]
async fn a_missed_signal_is_compensated_by_the_rescan() {
    let backend = Scripted::new(8);
    let _worker = start(&backend, Worker::builder().handler(done)).await;
    backend.script(|script| script.work([execution(lease_in(5, 1), "five")]));
    backend.until(|calls| reports(calls) == 1).await;
    assert_eq!(count(&backend.calls(), |call| *call == Call::AwaitWork), 2);
}

#[tokio::test(start_paused = true)]
async fn a_rescan_signal_asks_all_partitions_again_also_when_that_fails_first() {
    let backend = Scripted::new(8);
    let _worker = start(&backend, Worker::builder().handler(done)).await;
    backend.script(|script| {
        script.work([execution(lease_in(5, 1), "five")]);
        script.errors.push_back(("await_work", transport()));
    });
    let asked = Instant::now();
    backend.signal(WorkSignal::Rescan);
    backend.until(|calls| reports(calls) == 1).await;
    assert!(asked.elapsed() < Duration::from_secs(1), "{:?}", asked.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_rescan_signal_during_a_scan_asks_once_more_as_soon_as_that_is_over() {
    let backend = Scripted::new(8);
    backend.script(|script| script.await_takes = Duration::from_secs(3));
    let _worker = start(&backend, Worker::builder().handler(done)).await;
    backend.signal(WorkSignal::Rescan);
    sleep(Duration::from_secs(4)).await;
    assert_eq!(count(&backend.calls(), |call| *call == Call::AwaitWork), 2);
}

#[tokio::test(start_paused = true)]
async fn signals_that_end_are_subscribed_again() {
    let backend = Scripted::new(8);
    let _worker = start(&backend, Worker::builder().handler(done)).await;
    backend.end_signals();
    backend.until(|calls| count(calls, |call| *call == Call::Signals) == 2).await;
    backend.script(|script| script.work([execution(lease_in(5, 1), "five")]));
    backend.ready(5);
    backend.until(|calls| reports(calls) == 1).await;
}

#[tokio::test(start_paused = true)]
async fn an_absent_server_is_waited_for_and_a_refusal_ends_the_worker() {
    let backend = Scripted::new(1);
    backend.script(|script| {
        script.errors.push_back(("work_signals", transport()));
        script.errors.push_back(("work_signals", EngineError::Unavailable { op: "work_signals" }));
    });
    let worker = Worker::builder().handler(done).build(Arc::clone(&backend)).unwrap();
    let run = worker.run(CancellationToken::new()).await;
    assert!(matches!(run, Err(EngineError::Unavailable { .. })), "{run:?}");
    assert_eq!(backend.calls(), [Call::Signals, Call::Signals]);
}

#[tokio::test(start_paused = true)]
async fn no_more_run_at_once_than_there_are_slots_and_all_get_their_turn() {
    let backend = Scripted::new(4);
    backend.script(|script| {
        script.work((0..40).map(|number| execution(lease_in(number % 4, u128::from(number)), "many")));
    });
    let (running, most) = (Arc::new(AtomicUsize::new(0)), Arc::new(AtomicUsize::new(0)));
    let (now, peak) = (Arc::clone(&running), Arc::clone(&most));
    let handler = move |_| {
        let (now, peak) = (Arc::clone(&now), Arc::clone(&peak));
        async move {
            peak.fetch_max(now.fetch_add(1, Ordering::SeqCst) + 1, Ordering::SeqCst);
            sleep(Duration::from_secs(1)).await;
            now.fetch_sub(1, Ordering::SeqCst);
            Ok(Bytes::new())
        }
    };
    let worker = start(&backend, Worker::builder().concurrency(5).handler(handler)).await;
    backend.until(|calls| reports(calls) == 40).await;
    assert_eq!(most.load(Ordering::SeqCst), 5);
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_full_worker_passes_a_wake_on_and_comes_back_when_a_slot_is_free() {
    let backend = one_execution(4);
    let release = Arc::new(Notify::new());
    let released = Arc::clone(&release);
    let handler = move |_| {
        let released = Arc::clone(&released);
        async move {
            released.notified().await;
            Ok(Bytes::new())
        }
    };
    let _worker = start(&backend, Worker::builder().concurrency(1).handler(handler)).await;
    backend.until(|calls| claims(calls) == [(0, 1)]).await;
    backend.script(|script| script.work([execution(lease_in(2, 2), "two")]));
    backend.ready(2);
    backend.until(|calls| claims(calls) == [(0, 1)] && calls.contains(&Call::PassOn(2))).await;
    release.notify_one();
    backend.until(|calls| claims(calls) == [(0, 1), (2, 1)]).await;
}

#[tokio::test(start_paused = true)]
async fn a_failed_claim_is_made_again_after_a_pause() {
    let backend = one_execution(1);
    backend.script(|script| script.errors.extend((0..3).map(|_| ("claim", transport()))));
    let started = Instant::now();
    let _worker = start(&backend, Worker::builder().handler(done)).await;
    backend.until(|calls| reports(calls) == 1).await;
    assert_eq!(claims(&backend.calls()).len(), 4);
    let ids = backend.claim_ids();
    assert!(ids[0].is_some() && ids.iter().all(|id| *id == ids[0]), "it is the same claim: {ids:?}");
    assert!(started.elapsed() >= Duration::from_millis(350), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_claim_that_cannot_be_read_waits_for_the_next_scan_and_holds_up_no_other_partition() {
    let backend = Scripted::new(3);
    backend.script(|script| {
        script.work([execution(lease_in(1, 1), "one"), execution(lease_in(2, 2), "two")]);
        script.errors.extend((0..100).map(|_| ("claim 1", protocol())));
    });
    let _worker = start(&backend, Worker::builder().rescan_interval(HOUR).handler(done)).await;
    let started = Instant::now();
    backend.until(|calls| reports(calls) == 1).await;
    assert_eq!(started.elapsed(), Duration::ZERO);
    sleep(HOUR / 2).await;
    let tries = claims(&backend.calls()).iter().filter(|(partition, _)| *partition == 1).count();
    assert_eq!(tries, 1);
}

#[tokio::test(start_paused = true)]
async fn a_repeated_claim_that_brings_more_than_there_are_slots_gives_the_rest_back() {
    let backend = one_execution(1);
    backend.script(|script| script.surplus.push(execution(lease(2), "two")));
    let builder = Worker::builder().concurrency(1).handler(sleeps_for_an_hour);
    let _worker = start(&backend, builder).await;
    backend.until(|calls| !released(calls).is_empty()).await;
    assert_eq!(released(&backend.calls()), [lease(2)]);
}

#[test]
fn settings_that_cannot_work_are_refused_with_their_value() {
    let refusal =
        |builder: WorkerBuilder| builder.handler(done).build(Scripted::new(1)).map(drop).unwrap_err().to_string();
    assert!(refusal(Worker::builder().concurrency(0)).contains("concurrency 0"));
    assert!(refusal(Worker::builder().lease(Duration::from_millis(9))).contains("9ms"));
    assert!(refusal(Worker::builder().rescan_interval(Duration::ZERO)).contains("0ns"));
}

#[test]
fn two_workers_without_a_name_draw_different_ones() {
    let name = || Worker::builder().handler(done).build(Scripted::new(1)).unwrap().worker_id().clone();
    assert_ne!(name(), name());
}

#[allow(dead_code, reason = "compiling it is the test")]
fn a_running_worker_can_be_spawned(worker: Worker<dyn EngineBackend>) -> JoinHandle<Result<(), EngineError>> {
    tokio::spawn(worker.run(CancellationToken::new()))
}

/// A worker that takes `one` only.
fn takes_one() -> WorkerBuilder {
    let handler = |context: WorkContext| async move {
        assert_eq!(context.name(), "one", "the handler is never given what is refused");
        Ok(Bytes::new())
    };
    Worker::builder().concurrency(1).accept(|execution| execution.name == "one").handler(handler)
}

#[tokio::test(start_paused = true)]
async fn refused_executions_go_back_without_a_failure_and_delay_nothing() {
    let backend = Scripted::new(1);
    backend.script(|script| script.work([execution(lease(1), "stranger"), execution(lease(2), "one")]));
    let worker = start(&backend, takes_one()).await;
    backend.until(|calls| reports(calls) == 1 && released(calls).len() == 1).await;
    let calls = worker.stop().await;
    assert_eq!(released(&calls), [lease(1)]);
    assert!(calls.contains(&Call::Complete(lease(2), Bytes::new())) && failures(&calls).is_empty(), "{calls:?}");
}

#[tokio::test(start_paused = true)]
async fn an_execution_that_is_always_refused_is_not_claimed_in_a_loop() {
    let backend = Scripted::new(1);
    backend.script(|script| script.work([execution(lease(1), "stranger")]));
    let _worker = start(&backend, takes_one()).await;
    let started = Instant::now();
    for refusals in 1..=20 {
        backend.until(|calls| released(calls).len() == refusals).await;
        backend.script(|script| script.work([execution(lease(1), "stranger")]));
        backend.ready(0);
    }
    assert!(started.elapsed() > 10 * LEASE / 2, "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn kept_refused_executions_go_back_at_once_at_shutdown() {
    let backend = Scripted::new(1);
    backend.script(|script| script.work([execution(lease(1), "stranger")]));
    let worker = start(&backend, takes_one()).await;
    for refusals in 1..=12 {
        backend.until(|calls| released(calls).len() == refusals).await;
        backend.script(|script| script.work([execution(lease(1), "stranger")]));
        backend.ready(0);
    }
    backend.until(|calls| claims(calls).len() == 13).await;
    let stopping = Instant::now();
    assert_eq!(released(&worker.stop().await).len(), 13);
    assert!(stopping.elapsed() < Duration::from_secs(1), "{:?}", stopping.elapsed());
}
