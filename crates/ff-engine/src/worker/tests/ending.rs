//! How executions end, and what is reported of them.

use super::*;
use crate::counting::Counters;

#[tokio::test(start_paused = true)]
async fn a_failure_is_reported_as_the_handler_gave_it() {
    let backend = one_execution(1);
    let handler = |_| async { Err(Failure::permanent("no such file")) };
    let _worker = start(&backend, Worker::builder().handler(handler)).await;
    backend.until(|calls| reports(calls) == 1).await;
    assert_eq!(failures(&backend.calls()), [("no such file".to_owned(), false)]);
}

#[tokio::test(start_paused = true)]
async fn a_panic_is_a_failure_with_its_text_and_costs_no_slot() {
    let backend = one_execution(1);
    backend.script(|script| script.work([execution(lease(2), "two")]));
    let handler = |context: WorkContext| async move {
        assert!(context.name() != "one", "the disk of {} is on fire", context.name());
        Ok(Bytes::new())
    };
    let _worker = start(&backend, Worker::builder().concurrency(1).handler(handler)).await;
    backend.until(|calls| reports(calls) == 2).await;
    let expected = "the handler panicked: the disk of one is on fire".to_owned();
    assert_eq!(failures(&backend.calls()), [(expected, true)]);
}

#[tokio::test(start_paused = true)]
async fn a_result_that_is_too_large_ends_as_a_failure_that_names_its_size() {
    let backend = one_execution(1);
    let handler = |_| async { Ok(Bytes::from(vec![0; limits::PAYLOAD_BYTES + 1])) };
    let _worker = start(&backend, Worker::builder().handler(handler)).await;
    backend.until(|calls| reports(calls) == 1).await;
    let failures = failures(&backend.calls());
    assert!(failures[0].0.contains("1048577") && !failures[0].1, "{failures:?}");
}

#[tokio::test(start_paused = true)]
async fn a_result_that_the_backend_refuses_ends_as_a_failure_too() {
    let backend = one_execution(1);
    backend.script(|script| script.errors.push_back(("complete", EngineError::invalid("result", "too large"))));
    let _worker = start(&backend, Worker::builder().handler(done)).await;
    backend.until(|calls| reports(calls) == 2).await;
    assert_eq!(failures(&backend.calls()), [("result: too large".to_owned(), false)]);
}

#[tokio::test(start_paused = true)]
async fn a_running_lease_is_confirmed_early_and_then_renewed_at_a_third_of_its_time() {
    let backend = one_execution(1);
    let started = Instant::now();
    let _worker = start(&backend, Worker::builder().lease(LEASE).handler(sleeps_for_an_hour)).await;
    backend.until(|calls| count(calls, |call| *call == Call::Renew(vec![lease(1)])) == 3).await;
    assert!((20..=22).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lost_lease_cancels_the_handler_and_nothing_is_reported() {
    let backend = one_execution(1);
    backend.script(|script| {
        script.work([execution(lease(2), "two")]);
        script.lost.insert(lease(1));
    });
    let builder = Worker::builder().lease(LEASE).concurrency(1).handler(obeys_cancellation);
    let worker = start(&backend, builder).await;
    backend.until(|calls| claims(calls).len() == 2).await;
    assert_eq!(reports(&backend.calls()), 0, "and the slot is free for the next");
    worker.task.abort();
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_ignores_its_cancellation_is_dropped_after_the_grace() {
    let backend = one_execution(1);
    backend.script(|script| {
        script.work([execution(lease(2), "two")]);
        script.lost.insert(lease(1));
    });
    let builder = Worker::builder().lease(LEASE).concurrency(1).cancel_grace(Duration::from_secs(7));
    let started = Instant::now();
    let _worker = start(&backend, builder.handler(sleeps_for_an_hour)).await;
    backend.until(|calls| claims(calls).len() == 2).await;
    assert!((10..=11).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_cannot_be_renewed_stops_its_handler_before_it_expires() {
    let backend = one_execution(1);
    backend.script(|script| script.errors.extend((0..1_000).map(|_| ("renew", transport()))));
    let (cancelled, seen) = (Arc::new(Notify::new()), Instant::now());
    let tell = Arc::clone(&cancelled);
    let handler = move |context: WorkContext| {
        let tell = Arc::clone(&tell);
        async move {
            context.cancelled().await;
            tell.notify_one();
            Err(Failure::retryable("cancelled"))
        }
    };
    let _worker = start(&backend, Worker::builder().lease(LEASE).handler(handler)).await;
    cancelled.notified().await;
    let stop = LEASE - LEASE / 6;
    assert!((stop..stop + Duration::from_secs(1)).contains(&seen.elapsed()), "{:?}", seen.elapsed());
    assert!(count(&backend.calls(), |call| matches!(call, Call::Renew(_))) > 5, "it kept trying");
    backend.settle().await;
    assert_eq!((reports(&backend.calls()), released(&backend.calls())), (0, vec![lease(1)]));
}

#[tokio::test(start_paused = true)]
async fn a_handler_that_ignores_its_cancellation_is_dropped_when_its_lease_expires() {
    let backend = one_execution(1);
    backend.script(|script| script.errors.extend((0..1_000).map(|_| ("renew", transport()))));
    let builder = Worker::builder().lease(LEASE).cancel_grace(HOUR);
    let started = Instant::now();
    let _worker = start(&backend, builder.handler(sleeps_for_an_hour)).await;
    backend.until(|calls| !released(calls).is_empty()).await;
    assert!((30..=31).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_lease_that_another_caller_ended_cancels_its_handler_at_once() {
    let backend = one_execution(1);
    let cancelled = Arc::new(Notify::new());
    let tell = Arc::clone(&cancelled);
    let handler = move |context: WorkContext| {
        let tell = Arc::clone(&tell);
        async move {
            context.cancelled().await;
            tell.notify_one();
            Ok(Bytes::new())
        }
    };
    let _worker = start(&backend, Worker::builder().handler(handler)).await;
    backend.until(|calls| !claims(calls).is_empty()).await;
    let notified = Instant::now();
    let execution_id = lease(1).execution_id;
    backend.signal(WorkSignal::Lost { execution_id, epoch: 1 });
    cancelled.notified().await;
    assert!(notified.elapsed() < Duration::from_millis(100), "{:?}", notified.elapsed());
    backend.settle().await;
    assert_eq!(reports(&backend.calls()), 0);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_that_timed_out_by_the_backends_clock_is_cancelled_and_fails() {
    let backend = Scripted::new(1);
    let mut slow = execution(lease(1), "slow");
    slow.timeout = Some(HOUR);
    backend.script(|script| {
        script.work([slow]);
        script.timed_out.insert(lease(1));
    });
    let _worker = start(&backend, Worker::builder().lease(LEASE).handler(obeys_cancellation)).await;
    backend.until(|calls| reports(calls) == 1).await;
    assert!(failures(&backend.calls())[0].0.contains("timeout"), "{:?}", backend.calls());
}

#[tokio::test(start_paused = true)]
async fn a_lease_is_confirmed_before_the_handler_starts_if_earlier_ones_were_not() {
    let backend = Scripted::new(1);
    let mut suspect = execution(lease(1), "suspect");
    suspect.unconfirmed_leases = 1;
    backend.script(|script| {
        script.work([suspect]);
        script.errors.push_back(("renew", transport()));
    });
    let _worker = start(&backend, Worker::builder().handler(done)).await;
    backend.until(|calls| reports(calls) == 1).await;
    let calls: Vec<_> = backend.calls().into_iter().skip(3).collect();
    let confirmation = Call::Renew(vec![lease(1)]);
    assert_eq!(calls, [confirmation.clone(), confirmation, Call::Complete(lease(1), Bytes::from_static(b"done"))]);
}

#[tokio::test(start_paused = true)]
async fn a_renewed_lease_counts_from_when_its_renewal_was_sent() {
    let backend = one_execution(1);
    backend.script(|script| script.renew_takes = Duration::from_secs(5));
    let started = Instant::now();
    let builder = Worker::builder().lease(LEASE).concurrency(1).handler(obeys_cancellation);
    let _worker = start(&backend, builder).await;
    backend.until(|calls| count(calls, |call| matches!(call, Call::Renew(_))) == 1).await;
    backend.script(|script| {
        script.work([execution(lease(2), "two")]);
        script.errors.extend((0..1_000).map(|_| ("renew", transport())));
    });
    backend.ready(0);
    backend.until(|calls| claims(calls).iter().filter(|(_, max)| *max > 0).count() == 2).await;
    // Sent after a tenth of the first lease; the answer that came later changes nothing.
    let given_up = LEASE / 10 + LEASE - LEASE / 6;
    assert!((given_up..given_up + Duration::from_secs(1)).contains(&started.elapsed()), "{:?}", started.elapsed());
}

#[tokio::test(start_paused = true)]
async fn a_report_is_repeated_after_the_local_expiry_while_the_server_may_still_accept_it() {
    let backend = one_execution(1);
    backend.script(|script| {
        script.errors.extend((0..1_000).flat_map(|_| [("complete", transport()), ("renew", transport())]));
    });
    let _worker = start(&backend, Worker::builder().lease(2 * LEASE).handler(done)).await;
    sleep(2 * LEASE + Duration::from_secs(10)).await;
    let tries = reports(&backend.calls());
    sleep(LEASE).await;
    assert!(reports(&backend.calls()) > tries, "{tries} tries");
}

#[tokio::test(start_paused = true)]
async fn an_unanswered_report_is_repeated_while_the_lease_is_kept() {
    let backend = one_execution(1);
    backend.script(|script| script.errors.extend((0..12).map(|_| ("complete", transport()))));
    let _worker = start(&backend, Worker::builder().lease(LEASE).handler(done)).await;
    backend.until(|calls| reports(calls) == 13).await;
    assert!(count(&backend.calls(), |call| matches!(call, Call::Renew(_))) > 0);
}

#[tokio::test(start_paused = true)]
async fn a_report_whose_answer_cannot_be_read_is_not_repeated_and_counted_as_abandoned() {
    let counters = Counters::default();
    let _recorder = metrics::set_default_local_recorder(&counters);
    let backend = one_execution(1);
    backend.script(|script| script.errors.extend((0..100).map(|_| ("complete", protocol()))));
    let _worker = start(&backend, Worker::builder().lease(LEASE).handler(done)).await;
    backend.until(|calls| reports(calls) == 1).await;
    sleep(LEASE).await;
    assert_eq!((reports(&backend.calls()), counters.get("ff_worker_reports_abandoned")), (1, 1));
}

#[tokio::test(start_paused = true)]
async fn a_report_is_given_up_when_the_lease_is_surely_over_and_its_slot_is_free_again() {
    let backend = one_execution(1);
    backend.script(|script| {
        script.errors.extend((0..1_000).flat_map(|_| [("complete", transport()), ("renew", transport())]));
    });
    let builder = Worker::builder().lease(LEASE).concurrency(1).rescan_interval(HOUR).handler(done);
    let _worker = start(&backend, builder).await;
    sleep(LEASE * 3).await;
    let tries = reports(&backend.calls());
    backend.script(|script| script.work([execution(lease(2), "two")]));
    backend.ready(0);
    backend.until(|calls| claims(calls).len() == 2).await;
    sleep(Duration::ZERO).await;
    assert!(tries > 5);
    let first = Call::Complete(lease(1), Bytes::from_static(b"done"));
    assert_eq!(count(&backend.calls(), |call| *call == first), tries);
}

#[tokio::test(start_paused = true)]
async fn a_report_for_a_lease_that_is_lost_is_not_repeated() {
    let backend = one_execution(1);
    let lost = EngineError::State { what: "execution".into(), conflict: StateConflict::LeaseLost };
    backend.script(|script| script.errors.push_back(("complete", lost)));
    let _worker = start(&backend, Worker::builder().handler(done)).await;
    sleep(LEASE).await;
    assert_eq!(reports(&backend.calls()), 1);
}

#[tokio::test(start_paused = true)]
async fn an_attempt_beyond_its_timeout_is_cancelled_and_fails() {
    let backend = Scripted::new(1);
    let mut slow = execution(lease(1), "slow");
    slow.timeout = Some(Duration::from_secs(3));
    backend.script(|script| script.work([slow]));
    let started = Instant::now();
    let _worker = start(&backend, Worker::builder().handler(obeys_cancellation)).await;
    backend.until(|calls| reports(calls) == 1).await;
    assert!((3..4).contains(&started.elapsed().as_secs()), "{:?}", started.elapsed());
    let failures = failures(&backend.calls());
    assert!(failures[0].0.contains("timeout of 3s") && failures[0].1, "{failures:?}");
}

#[tokio::test(start_paused = true)]
async fn a_panic_beside_the_handler_fails_the_attempt_and_costs_no_slot() {
    let counters = Counters::default();
    let _recorder = metrics::set_default_local_recorder(&counters);
    let backend = one_execution(1);
    backend.script(|script| {
        script.work([execution(lease(2), "two")]);
        script.panics.insert("complete");
    });
    let worker = start(&backend, Worker::builder().concurrency(1).handler(done)).await;
    backend.until(|calls| failures(calls).len() == 2).await;
    let expected = ("the worker panicked: scripted".to_owned(), true);
    assert_eq!(failures(&worker.stop().await), [expected.clone(), expected]);
    assert_eq!(counters.get("ff_engine_errors"), 2);
}

#[tokio::test(start_paused = true)]
async fn a_panic_that_cannot_be_reported_costs_no_slot_either() {
    let backend = one_execution(1);
    backend.script(|script| {
        script.work([execution(lease(2), "two")]);
        script.panics.extend(["complete", "fail"]);
    });
    let worker = start(&backend, Worker::builder().concurrency(1).handler(done)).await;
    backend.until(|calls| failures(calls).len() == 2).await;
    worker.stop().await;
}

#[tokio::test(start_paused = true)]
async fn a_panic_when_a_lease_is_given_back_is_counted() {
    let counters = Counters::default();
    let _recorder = metrics::set_default_local_recorder(&counters);
    let backend = one_execution(1);
    backend.script(|script| {
        script.panics.insert("release");
    });
    let builder = Worker::builder().accept(|_| false);
    let worker = start(&backend, builder.handler(done)).await;
    backend.until(|calls| !released(calls).is_empty()).await;
    worker.stop().await;
    assert_eq!(counters.get("ff_engine_errors"), 1);
}
