//! Whole flows with workers and the engine on a real server, also under faults.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{
    collections::HashMap,
    sync::{
        Arc,
        atomic::{AtomicU32, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ff_conformance::Fixture;
use ff_core::{
    CompletionPayload, CompletionStream, EngineBackend, ExecutionId, Failure, FlowState, FlowSubmission, Outcome,
    PublicState, ScannerFilter, SubmittedFlow, Tags,
};
use ff_engine::{Engine, WorkContext, Worker};
use ff_script::keys;
use futures::StreamExt;
use support::Stand;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(120);

/// A worker on the fixture's lane with this handler, until the token is cancelled.
fn work<F>(fixture: &Fixture, backend: &Arc<dyn EngineBackend>, handler: F) -> CancellationToken
where
    F: Fn(WorkContext) -> Result<Bytes, Failure> + Send + Sync + 'static,
{
    let handler = Arc::new(handler);
    let run = move |context: WorkContext| {
        let handler = Arc::clone(&handler);
        async move { handler(context) }
    };
    let worker = Worker::builder().lane(fixture.lane.clone()).concurrency(32).handler(run).build(backend.clone());
    let stop = CancellationToken::new();
    tokio::spawn(worker.unwrap().run(stop.clone()));
    stop
}

async fn next(stream: &mut CompletionStream) -> CompletionPayload {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("no completion came").expect("streams do not end")
}

async fn take(stream: &mut CompletionStream, count: usize) -> Vec<ExecutionId> {
    let mut seen = Vec::new();
    while seen.len() < count {
        seen.push(next(stream).await.execution_id);
    }
    seen
}

/// `layers` layers of `width` members, each needing the whole layer before it.
fn layered(fixture: &Fixture, layers: usize, width: usize) -> FlowSubmission {
    let mut flow = FlowSubmission::new(fixture.namespace.clone());
    for layer in 0..layers {
        for member in 0..width {
            let needs = (0..if layer == 0 { 0 } else { width }).map(|need| format!("{}-{need}", layer - 1));
            flow = flow.execution(fixture.spec(&format!("{layer}-{member}")).needs(needs));
        }
    }
    flow
}

/// Waits until there is a subscriber, and disconnects all of them. Returns how many there were.
async fn kill_subscribers(stand: &Stand) -> i64 {
    loop {
        let killed = stand.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.int().unwrap();
        if killed > 0 {
            return killed;
        }
        tokio::task::yield_now().await;
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_execution_that_ends_right_after_a_subscription_is_announced_to_it_a_thousand_times() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let names: Vec<_> = (0..1_000).map(|n| n.to_string()).collect();
    let members: Vec<_> = names.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
    let flow = fixture.submit_members(&members).await;
    for (round, id) in flow.ids().enumerate() {
        let claimed = fixture.claim(id).await;
        // Every hundredth time the whole backend is new, with a connection that has yet to subscribe.
        let backend: Arc<dyn EngineBackend> = if round % 100 == 0 {
            Arc::new(ff_valkey::ValkeyBackend::connect(stand.server.url()).await.unwrap())
        } else {
            stand.backend.clone()
        };
        let mut stream = backend.subscribe_completions().await.unwrap();
        stand.backend.complete(&claimed.lease, Bytes::new()).await.unwrap();
        while next(&mut stream).await.execution_id != id {}
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_fan_out_and_fan_in_of_a_thousand_members_completes() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let _engine = Engine::builder(stand.backend.clone()).start().await.unwrap();
    let mut stream = stand.backend.subscribe_completions().await.unwrap();
    let _stop = work(&fixture, &stand.backend, |_| Ok(Bytes::new())).drop_guard();
    let mut flow = fixture.flow(&[("first", &[])]);
    for n in 0..998 {
        flow = flow.execution(fixture.spec(&n.to_string()).needs(["first"]));
    }
    flow = flow.execution(fixture.spec("last").needs((0..998).map(|n| n.to_string())));
    let submitted = fixture.submit(&flow).await;
    let seen = take(&mut stream, 1_000).await;
    assert_eq!(seen.first(), submitted.execution("first").as_ref());
    assert_eq!(seen.last(), submitted.execution("last").as_ref());
    let described = stand.backend.describe_flow(submitted.flow_id).await.unwrap();
    assert_eq!(described.state, FlowState::Success);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn killing_the_subscriber_ten_times_under_load_loses_nothing_and_repeats_nothing() {
    const FLOWS: usize = 40;
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let _engine = Engine::builder(stand.backend.clone()).start().await.unwrap();
    let mut stream = stand.backend.subscribe_completions().await.unwrap();
    let _stop = work(&fixture, &stand.backend, |_| Ok(Bytes::new())).drop_guard();
    let mut members = Vec::new();
    for _ in 0..FLOWS {
        let submitted = fixture.submit(&layered(&fixture, 5, 10)).await;
        members.extend(submitted.ids());
    }
    let mut times_seen: HashMap<ExecutionId, u32> = HashMap::new();
    let mut killed = 0;
    for received in 0..members.len() {
        if received % (members.len() / 10) == 0 {
            killed += kill_subscribers(&stand).await;
        }
        *times_seen.entry(next(&mut stream).await.execution_id).or_default() += 1;
    }
    assert!(killed >= 10, "{killed} connections were killed");
    assert!(members.iter().all(|id| times_seen.get(id) == Some(&1)), "lost or repeated: {times_seen:?}");
    // Nothing else is delivered: the next completion is that of a flow submitted now.
    let marker = fixture.submit(&fixture.flow(&[("marker", &[])])).await;
    assert_eq!(next(&mut stream).await.execution_id, marker.executions[0].execution_id);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_forged_completion_of_a_running_execution_changes_no_state() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let _engine = Engine::builder(stand.backend.clone()).start().await.unwrap();
    let mut stream = stand.backend.subscribe_completions().await.unwrap();
    let flow = fixture.submit_members(&[("parent", &[]), ("child", &["parent"])]).await;
    let (parent, child) = (flow.executions[0].execution_id, flow.executions[1].execution_id);
    let claimed = fixture.claim(parent).await;
    let forged = [("failed", ""), ("success", ""), ("failed", ",\"pos\":\"1-0\",\"prev\":\"none\",\"pending\":true")];
    for (outcome, more) in forged {
        let flow_id = flow.flow_id;
        let event =
            format!("{{\"execution_id\":\"{parent}\",\"flow_id\":\"{flow_id}\",\"outcome\":\"{outcome}\"{more}}}");
        stand.command(&["PUBLISH", keys::FLOW_CHANNEL, &event]).await;
    }
    // The dispatcher receives the same events in the same order: a real one behind them shows that it has handled them.
    for n in 0..3 {
        let other = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
        fixture.complete(other).await;
        while next(&mut stream).await.execution_id != other {}
        let partition = parent.partition();
        stand.backend.resolve_dependents(partition).await.unwrap();
        stand.backend.reconcile(partition, None, 100).await.unwrap();
        assert_eq!(fixture.state(parent).await, PublicState::Active, "round {n}");
        assert_eq!(fixture.state(child).await, PublicState::Blocked, "round {n}");
    }
    stand.backend.complete(&claimed.lease, Bytes::new()).await.unwrap();
    assert_eq!(fixture.state(child).await, PublicState::Waiting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn retries_skips_and_successes_end_a_flow_correctly() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let _engine = Engine::builder(stand.backend.clone()).start().await.unwrap();
    let mut stream = stand.backend.subscribe_completions().await.unwrap();
    let tries = Arc::new(AtomicU32::new(0));
    let counted = Arc::clone(&tries);
    let _stop = work(&fixture, &stand.backend, move |context| match context.name() {
        "flaky" if counted.fetch_add(1, Ordering::Relaxed) < 2 => Err(Failure::retryable("not yet")),
        "doomed" => panic!("a handler that panics"),
        name => Ok(name.to_owned().into()),
    })
    .drop_guard();
    let backoff = ff_core::Backoff { initial: Duration::from_millis(10), max: Duration::from_millis(10) };
    let flow = FlowSubmission::new(fixture.namespace.clone())
        .execution(fixture.spec("flaky").attempts(3, backoff))
        .execution(fixture.spec("after").needs(["flaky"]))
        .execution(fixture.spec("doomed"))
        .execution(fixture.spec("never").needs(["doomed", "flaky"]));
    let submitted = fixture.submit(&flow).await;
    let mut outcomes = HashMap::new();
    for _ in 0..4 {
        let seen = next(&mut stream).await;
        outcomes.insert(seen.execution_id, (seen.outcome, seen.attempt));
    }
    let of = |name: &str| outcomes[&submitted.execution(name).unwrap()];
    assert_eq!(of("flaky"), (Outcome::Success, 3));
    assert_eq!(of("after"), (Outcome::Success, 1));
    assert_eq!(of("doomed").0, Outcome::Failed);
    assert_eq!(of("never"), (Outcome::Skipped, 0));
    let doomed = fixture.describe(submitted.execution("doomed").unwrap()).await;
    assert!(doomed.last_error.unwrap().contains("a handler that panics"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn work_reaches_waiting_workers_of_several_processes_by_push_alone() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let mut stream = stand.backend.subscribe_completions().await.unwrap();
    // For the server each backend is a separate process. There is no sweep, and no rescan in time.
    let mut stops = Vec::new();
    for _ in 0..3 {
        let backend: Arc<dyn EngineBackend> =
            Arc::new(ff_valkey::ValkeyBackend::connect(stand.server.url()).await.unwrap());
        stops.push(work(&fixture, &backend, |_| Ok(Bytes::new())).drop_guard());
    }
    for _ in 0..20 {
        let submitted = fixture.submit(&layered(&fixture, 3, 4)).await;
        let mut seen = take(&mut stream, 12).await;
        let mut expected: Vec<_> = submitted.ids().collect();
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(seen, expected);
    }
}

/// A thousand members, every other one tagged.
async fn submit_flood(tenant: &Fixture) -> SubmittedFlow {
    let blue = Tags::new([("color", "blue")]).unwrap();
    let flow = (0..1_000).fold(FlowSubmission::new(tenant.namespace.clone()), |flow, n| {
        let spec = tenant.spec(&n.to_string());
        flow.execution(if n % 2 == 0 { spec.tags(blue.clone()) } else { spec })
    });
    tenant.submit(&flow).await
}

/// Ends a thousand members of each tenant, and counts the reading commands, including those of the library.
async fn flood(stand: &Stand, tenants: &[Fixture; 2]) -> ([SubmittedFlow; 2], u64) {
    let flows = [submit_flood(&tenants[0]).await, submit_flood(&tenants[1]).await];
    stand.command(&["CONFIG", "RESETSTAT"]).await;
    let cancel = |flow: &SubmittedFlow| stand.backend.cancel_flow(flow.flow_id, "enough");
    let (one, two) = tokio::join!(cancel(&flows[0]), cancel(&flows[1]));
    assert_eq!((one.unwrap().cancelled, two.unwrap().cancelled), (1_000, 1_000));
    (flows, stand.reading_commands().await)
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_tenants_under_load_see_all_of_their_own_completions_only_and_no_reads_are_needed() {
    let stand = Stand::start().await;
    let tenants = [Fixture::new(stand.backend.clone()), Fixture::new(stand.backend.clone())];
    let (_, unwatched) = flood(&stand, &tenants).await;
    let mut streams = Vec::new();
    for tenant in &tenants {
        let filter = ScannerFilter::new().namespace(tenant.namespace.clone());
        let tagged = filter.clone().instance_tag("color", "blue");
        for filter in [filter, tagged] {
            streams.push(stand.backend.subscribe_completions_filtered(&filter).await.unwrap());
        }
    }
    let (flows, _) = flood(&stand, &tenants).await;
    for (index, stream) in streams.iter_mut().enumerate() {
        let wanted = flows[index / 2].ids().step_by(1 + index % 2);
        let mut expected: Vec<_> = wanted.collect();
        let mut seen = take(stream, expected.len()).await;
        seen.sort_unstable();
        expected.sort_unstable();
        assert_eq!(seen, expected, "stream {index}");
    }
    // All reads for the filters have happened by now. A subscription may have read the log to catch up.
    assert_eq!(stand.reading_commands().await, unwatched, "the filters read something");
    for tenant in &tenants {
        tenant.end_one().await;
    }
    for (index, stream) in streams.iter_mut().enumerate().step_by(2) {
        let seen = next(stream).await;
        assert_eq!(seen.namespace.as_ref(), Some(&tenants[index / 2].namespace), "something came twice");
    }
}
