//! Timers fire on time, and the engines of a deployment divide the partitions.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use ff_conformance::Fixture;
use ff_core::{
    Backoff, EngineBackend, EngineId, ExecutionSpec, ExecutionSubmission, Failure, Outcome, PartitionCount,
    PublicState, backend::MaintenanceBackend,
};
use ff_embedded::EmbeddedBackend;
use ff_engine::{Engine, WorkContext, Worker};
use ff_engine::{WaitExt, WaitOptions};
use ff_script::keys;
use support::Stand;
use tokio::time::{Instant, sleep};
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const MILLISECOND: Duration = Duration::from_millis(1);

/// Ten retries, 50 ms apart each, by workers and an engine with their defaults.
async fn ten_retries(backend: Arc<dyn EngineBackend>) -> Duration {
    let fixture = Fixture::new(backend.clone());
    let _engine = Engine::builder(backend.clone()).start().await.unwrap();
    let failing = |_: WorkContext| async { Err(Failure::retryable("flaky")) };
    let worker = Worker::builder().lane(fixture.lane.clone()).handler(failing).build(backend.clone()).unwrap();
    let stop = CancellationToken::new();
    let _stop = stop.clone().drop_guard();
    tokio::spawn(worker.run(stop));
    let backoff = Backoff { initial: 50 * MILLISECOND, max: 50 * MILLISECOND };
    let solo = ExecutionSubmission::new(fixture.namespace.clone(), fixture.spec("a").attempts(11, backoff));
    let began = Instant::now();
    let id = backend.submit_execution(&solo).await.unwrap().execution_id;
    let ended = backend.wait_for(id, &WaitOptions::within(PATIENCE)).await.unwrap();
    assert_eq!(ended.outcome, Some(Outcome::Failed));
    began.elapsed()
}

/// Generous for a busy machine, but less than the second that a regular sweep would add each time.
const TEN_RETRIES: std::ops::Range<Duration> = Duration::from_millis(400)..Duration::from_millis(2_500);

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_retries_take_as_long_as_their_backoffs_on_a_server() {
    let stand = Stand::start().await;
    let took = ten_retries(stand.backend.clone()).await;
    assert!(TEN_RETRIES.contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn ten_retries_take_as_long_as_their_backoffs_in_process() {
    let took = ten_retries(Arc::new(EmbeddedBackend::new())).await;
    assert!(TEN_RETRIES.contains(&took), "{took:?}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_burst_of_retries_in_one_partition_is_announced_a_few_times() {
    const MEMBERS: usize = 100;
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let backoff = Backoff { initial: Duration::from_secs(5), max: Duration::from_secs(5) };
    let names: Vec<_> = (0..MEMBERS).map(|n| n.to_string()).collect();
    let members: Vec<_> = names.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
    let mut flow = fixture.flow(&members);
    flow.executions.iter_mut().for_each(|spec| *spec = spec.clone().attempts(2, backoff));
    let submitted = fixture.submit(&flow).await;
    let mut listener = stand.server.client().await.unwrap();
    listener.command(&["SUBSCRIBE", keys::TIMERS_CHANNEL]).await.unwrap();
    for id in submitted.ids() {
        let claimed = fixture.claim(id).await;
        stand.backend.fail(&claimed.lease, &Failure::retryable("together")).await.unwrap();
    }
    stand.command(&["PUBLISH", keys::TIMERS_CHANNEL, "end"]).await;
    let mut announced = 0;
    while listener.receive().await.unwrap().items()[2].text() != "end" {
        announced += 1;
    }
    // Each must be earlier than the previous one: about the number of records in a random order.
    assert!((1..=20).contains(&announced), "{announced}");
}

/// Engines of several processes on one deployment; the shared host replaces a server.
async fn engines(count: usize) -> (EmbeddedBackend, Vec<Engine>) {
    let partitions = PartitionCount::new(32).unwrap();
    let first = EmbeddedBackend::builder().partition_count(partitions).build().unwrap();
    let mut engines = Vec::new();
    for number in 0..count {
        let backend = EmbeddedBackend::builder().host(first.host().clone()).build().unwrap();
        let id = EngineId::new(&format!("engine-{number}")).unwrap();
        engines.push(Engine::builder(Arc::new(backend)).id(id).start().await.unwrap());
    }
    (first, engines)
}

async fn until(what: &str, holds: impl Fn() -> bool) {
    let waiting = async {
        while !holds() {
            sleep(MILLISECOND).await;
        }
    };
    assert!(tokio::time::timeout(PATIENCE, waiting).await.is_ok(), "it never came to that: {what}");
}

/// Whether each partition is served by exactly one of the engines, and each engine serves some.
fn is_shared(backend: &EmbeddedBackend, engines: &[Engine]) -> bool {
    let partitions = || backend.partition_count().partitions();
    let once = partitions().all(|partition| engines.iter().filter(|engine| engine.serves(partition)).count() == 1);
    once && engines.iter().all(|engine| partitions().any(|partition| engine.serves(partition)))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn engines_share_the_partitions_and_take_over_at_once_from_one_that_stops() {
    let (backend, mut engines) = engines(3).await;
    until("the partitions are shared", || is_shared(&backend, &engines)).await;
    assert_eq!(engines[0].engines(), 3);
    let began = Instant::now();
    engines.pop().unwrap().shutdown().await;
    until("the partitions are taken over", || is_shared(&backend, &engines)).await;
    assert!(began.elapsed() < Duration::from_secs(2), "{:?}: that was the next note", began.elapsed());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn timers_in_the_partitions_of_a_crashed_engine_are_served_once_it_is_gone() {
    let stays = Duration::from_secs(2);
    let (backend, engines) = engines(1).await;
    let crashed = EngineId::new("crashed").unwrap();
    backend.note_engine(&crashed, stays).await.unwrap();
    let noted = Instant::now();
    until("the engine leaves some to the other", || {
        backend.partition_count().partitions().any(|partition| !engines[0].serves(partition))
    })
    .await;
    let backend: Arc<dyn EngineBackend> = Arc::new(backend);
    let mut delayed = Vec::new();
    for number in 0..64 {
        let spec = ExecutionSpec::new(number.to_string()).delay(MILLISECOND);
        let submission = ExecutionSubmission::new(ff_core::Namespace::default_namespace(), spec);
        delayed.push(backend.submit_execution(&submission).await.unwrap().execution_id);
    }
    for id in delayed {
        while backend.describe_execution(id).await.unwrap().state != PublicState::Waiting {
            assert!(noted.elapsed() < stays + PATIENCE, "{id} is served by nobody");
            sleep(MILLISECOND).await;
        }
    }
    assert!(noted.elapsed() > stays, "before, its partitions were served by nobody");
}

#[test]
fn the_horizon_of_timers_is_the_same_in_lua_and_in_rust() {
    let line = format!("local HORIZON = {}\n", ff_core::limits::TIMER_HORIZON.as_millis());
    assert!(ff_script::SOURCE.contains(&line), "lua/lib/timers.lua lacks `{}`", line.trim());
    let line = format!("local LONGEST = {}\n", ff_core::limits::ENGINE_STAY.as_millis());
    assert!(ff_script::SOURCE.contains(&line), "lua/functions/engine.lua lacks `{}`", line.trim());
}
