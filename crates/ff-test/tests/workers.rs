//! Workers on real servers: the distribution of work, shutdown, busy runtimes, and the cancellation of handlers.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    sync::{
        Arc, Mutex,
        atomic::{AtomicU32, Ordering},
    },
    time::{Duration, Instant},
};

use bytes::Bytes;
use ff_conformance::Fixture;
use ff_core::{
    Backoff, EngineBackend, ExecutionSpec, ExecutionSubmission, Failure, Outcome,
    backend::{WorkSignal, WorkSignals},
};
use ff_embedded::EmbeddedBackend;
use ff_engine::{Engine, WorkContext, Worker};
use futures::{FutureExt, StreamExt};
use support::Stand;
use tokio::{sync::mpsc, task::JoinHandle, time::sleep};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(120);
/// So long that no rescan hides a lost signal.
const NEVER: Duration = Duration::from_secs(3_600);

async fn process(stand: &Stand) -> Arc<dyn EngineBackend> {
    Arc::new(ff_valkey::ValkeyBackend::connect(stand.server.url()).await.unwrap())
}

/// A worker that counts its executions.
fn counting(fixture: &Fixture, backend: &Arc<dyn EngineBackend>, done: &Arc<AtomicU32>) -> (CancellationToken, Joined) {
    let done = Arc::clone(done);
    let handler = move |_: WorkContext| {
        done.fetch_add(1, Ordering::SeqCst);
        async { Ok(Bytes::new()) }
    };
    let builder = Worker::builder().lane(fixture.lane.clone()).rescan_interval(NEVER).handler(handler);
    let stop = CancellationToken::new();
    let task = tokio::spawn(builder.build(backend.clone()).unwrap().run(stop.clone()));
    (stop, task)
}

type Joined = JoinHandle<Result<(), ff_core::EngineError>>;

async fn until(what: &str, mut reached: impl AsyncFnMut() -> bool) {
    let wait = async {
        while !reached().await {
            sleep(Duration::from_millis(10)).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, wait).await.is_ok(), "it never came to that: {what}");
}

/// How many processes wait for work in each of the partitions.
async fn all_wait(stand: &Stand, fixture: &Fixture, processes: usize) {
    let partitions: Vec<_> = fixture.backend.partition_count().partitions().collect();
    let last = partitions.last().unwrap();
    let key = format!("ff:part:{last}:waiters");
    until("all processes wait", async || {
        stand.command(&["ZCARD", &key]).await.int() == Some(i64::try_from(processes).unwrap())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_is_distributed_over_all_waiting_processes() {
    const PROCESSES: usize = 4;
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let counts: Vec<Arc<AtomicU32>> = (0..PROCESSES).map(|_| Arc::default()).collect();
    let mut stops = Vec::new();
    for count in &counts {
        let (stop, _) = counting(&fixture, &process(&stand).await, count);
        stops.push(stop.drop_guard());
    }
    all_wait(&stand, &fixture, PROCESSES).await;
    for round in 1..=80 {
        fixture.submit_members(&[("a", &[])]).await;
        let total = || counts.iter().map(|count| count.load(Ordering::SeqCst)).sum::<u32>();
        until("the execution ran", async || total() == round).await;
    }
    let least = counts.iter().map(|count| count.load(Ordering::SeqCst)).min().unwrap();
    assert!(least >= 10, "{counts:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_does_not_wait_for_a_process_whose_worker_has_left() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let [leaves, stays] = [process(&stand).await, process(&stand).await];
    let (left, done) = (Arc::default(), Arc::default());
    let (stop, task) = counting(&fixture, &leaves, &left);
    let (other, _) = counting(&fixture, &stays, &done);
    all_wait(&stand, &fixture, 2).await;
    stop.cancel();
    task.await.unwrap().unwrap();
    for round in 1..=20 {
        fixture.submit_members(&[("a", &[])]).await;
        until("the execution ran", async || done.load(Ordering::SeqCst) == round).await;
    }
    other.cancel();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_without_a_taker_is_passed_on_by_the_sweep() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let all: Vec<_> = fixture.backend.partition_count().partitions().collect();
    let mut waiting: Vec<(Arc<dyn EngineBackend>, WorkSignals)> = Vec::new();
    for _ in 0..2 {
        let backend = process(&stand).await;
        let signals = backend.work_signals(&fixture.lane).await.unwrap();
        backend.await_work(&fixture.lane, &all).await.unwrap();
        waiting.push((backend, signals));
    }
    let partition = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id.partition();
    let mut notified = [false; 2];
    until("both processes were signalled", async || {
        fixture.sweep(partition).await;
        for (notified, (_, signals)) in notified.iter_mut().zip(&mut waiting) {
            while let Some(Some(signal)) = signals.next().now_or_never() {
                *notified |= signal == WorkSignal::Ready(partition);
            }
        }
        notified == [true; 2]
    })
    .await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_signal_that_is_passed_on_reaches_the_next_waiting_process() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let flow = fixture.flow(&[("a", &[])]).idempotency_key("work");
    let partition = flow.flow_id().partition(stand.backend.partition_count());
    let mut waiting: Vec<(Arc<dyn EngineBackend>, WorkSignals)> = Vec::new();
    for _ in 0..2 {
        let backend = process(&stand).await;
        let signals = backend.work_signals(&fixture.lane).await.unwrap();
        backend.await_work(&fixture.lane, &[partition]).await.unwrap();
        waiting.push((backend, signals));
    }
    fixture.submit(&flow).await;
    let [(first, first_signals), (second, second_signals)] = &mut waiting[..] else { panic!("there are two") };
    let is_ready =
        async |signals: &mut WorkSignals| while signals.next().await != Some(WorkSignal::Ready(partition)) {};
    let (signalled, other) = tokio::select! {
        () = is_ready(first_signals) => (first, second_signals),
        () = is_ready(second_signals) => (second, first_signals),
    };
    assert!(signalled.pass_on(&fixture.lane, partition).await.unwrap());
    assert!(tokio::time::timeout(PATIENCE, is_ready(other)).await.is_ok());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_that_no_process_waits_for_causes_no_sweeps() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let partition = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id.partition();
    assert_eq!(fixture.sweep(partition).await.next_due, None);
    let other = Fixture::new(stand.backend.clone());
    stand.backend.await_work(&other.lane, &[partition]).await.unwrap();
    assert!(fixture.sweep(partition).await.next_due.is_some(), "a signal may have to be repeated");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cancellation_reaches_the_handler_by_push() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let (tell, mut notified) = mpsc::unbounded_channel();
    let handler = move |context: WorkContext| {
        let tell = tell.clone();
        async move {
            tell.send("started").unwrap();
            context.cancelled().await;
            tell.send("cancelled").unwrap();
            Ok(Bytes::new())
        }
    };
    // Its first renewal, which would also report it, is six minutes away.
    let builder = Worker::builder().lane(fixture.lane.clone()).lease(NEVER).handler(handler);
    let stop = CancellationToken::new();
    tokio::spawn(builder.build(process(&stand).await).unwrap().run(stop.clone()));
    for _ in 0..3 {
        let flow = fixture.submit_members(&[("a", &[])]).await;
        assert_eq!(notified.recv().await, Some("started"));
        stand.backend.cancel_flow(flow.flow_id, "enough").await.unwrap();
        let heard = tokio::time::timeout(Duration::from_secs(60), notified.recv()).await;
        assert_eq!(heard.expect("the handler hears of it"), Some("cancelled"));
    }
    stop.cancel();
}

/// Four executions whose handlers keep all threads of the workers' runtime busy for several leases.
#[test]
fn handlers_that_keep_all_threads_busy_keep_their_leases() {
    let runtime = || tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    let (calm, busy) = (runtime(), runtime());
    let stand = calm.block_on(Stand::start());
    let fixture = Fixture::new(stand.backend.clone());
    let runs = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&runs);
    let handler = move |_: WorkContext| {
        let counted = Arc::clone(&counted);
        async move {
            counted.fetch_add(1, Ordering::SeqCst);
            std::thread::sleep(Duration::from_secs(5));
            Ok(Bytes::new())
        }
    };
    let stop = CancellationToken::new();
    let (url, stopping) = (stand.server.url().to_owned(), stop.clone());
    let builder = Worker::builder().lane(fixture.lane.clone()).lease(Duration::from_secs(2)).handler(handler);
    busy.spawn(async move {
        let backend = Arc::new(ff_valkey::ValkeyBackend::connect(&url).await.unwrap());
        builder.build(backend).unwrap().run(stopping).await
    });
    calm.block_on(async {
        let _engine = Engine::builder(stand.backend.clone()).start().await.unwrap();
        let mut flow = fixture.flow(&[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[])]);
        flow.executions.iter_mut().for_each(|spec| spec.max_lease_expiries = 1);
        let flow = fixture.submit(&flow).await;
        for id in flow.ids() {
            until("it has ended", async || fixture.describe(id).await.outcome.is_some()).await;
            assert_eq!(fixture.describe(id).await.outcome, Some(Outcome::Success));
        }
    });
    assert_eq!(runs.load(Ordering::SeqCst), 4, "each ran once");
    stop.cancel();
    busy.shutdown_background();
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_orderly_restart_costs_no_attempt() {
    let backend = Arc::new(EmbeddedBackend::new());
    let engine = Engine::builder(backend.clone()).sweep_interval(Duration::from_millis(50)).start().await.unwrap();
    let fixture = Fixture::new(backend.clone());
    let spec = ExecutionSpec::new("an hour's work").lane(fixture.lane.clone());
    let solo = ExecutionSubmission::new(fixture.namespace.clone(), spec.max_lease_expiries(1));
    let id = fixture.backend.submit_execution(&solo).await.unwrap().execution_id;
    for restart in 1..=4 {
        let (tell, mut started) = mpsc::unbounded_channel();
        let handler = move |context: WorkContext| {
            tell.send(context.attempt()).unwrap();
            async move {
                context.cancelled().await;
                Err(Failure::retryable("shut down"))
            }
        };
        let builder = Worker::builder().lane(fixture.lane.clone()).lease(Duration::from_millis(500));
        let builder = builder.drain_grace(Duration::from_millis(100)).handler(handler);
        let stop = CancellationToken::new();
        let task = tokio::spawn(builder.build(backend.clone()).unwrap().run(stop.clone()));
        // At once, and not when the lease of the previous attempt has expired.
        assert_eq!(tokio::time::timeout(PATIENCE, started.recv()).await.unwrap(), Some(restart));
        sleep(Duration::from_millis(200)).await;
        stop.cancel();
        task.await.unwrap().unwrap();
        let left = fixture.describe(id).await;
        assert_eq!((left.outcome, left.failures), (None, 0), "after restart {restart}");
    }
    fixture.complete(id).await;
    engine.shutdown().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_retry_does_not_start_while_the_attempt_that_timed_out_still_runs() {
    let backend = Arc::new(EmbeddedBackend::new());
    let _engine = Engine::builder(backend.clone()).sweep_interval(Duration::from_millis(10)).start().await.unwrap();
    let fixture = Fixture::new(backend.clone());
    let spans: Arc<Mutex<Vec<(Instant, Instant)>>> = Arc::default();
    let noted = Arc::clone(&spans);
    let handler = move |_: WorkContext| {
        let began = Instant::now();
        // It ignores its cancellation and cannot be dropped.
        std::thread::sleep(Duration::from_millis(400));
        noted.lock().unwrap().push((began, Instant::now()));
        Ok(Bytes::new())
    };
    let builder = Worker::builder().lane(fixture.lane.clone()).cancel_grace(Duration::from_millis(20));
    let stop = CancellationToken::new();
    tokio::spawn(builder.handler_blocking(handler).build(backend.clone()).unwrap().run(stop.clone()));
    let mut flow = fixture.flow(&[("a", &[])]);
    let at_once = Backoff { initial: Duration::ZERO, max: Duration::ZERO };
    flow.executions[0] = flow.executions[0].clone().attempts(3, at_once);
    flow.executions[0].timeout = Some(Duration::from_millis(50));
    let id = fixture.submit(&flow).await.executions[0].execution_id;
    until("it has ended", async || fixture.describe(id).await.outcome.is_some()).await;
    assert_eq!(fixture.describe(id).await.reason.as_deref(), Some("attempts_exhausted"));
    let spans = spans.lock().unwrap().clone();
    assert_eq!(spans.len(), 3);
    assert!(spans.windows(2).all(|pair| pair[0].1 <= pair[1].0), "{spans:?}");
    stop.cancel();
}
