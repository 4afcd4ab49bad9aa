//! No call blocks the server for long: every function of the library at its limits, on a real server.
//!
//! `cargo test -p ff-test --test bounds -- --nocapture` prints the table.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeMap, fmt::Write as _, sync::Arc, time::Duration};

use bytes::Bytes;
use ff_conformance::Fixture;
use ff_core::{
    EngineBackend, EngineId, ExecutionSpec, ExecutionSubmission, Failure, FlowSubmission, Frame, Lease, LogId,
    Namespace, Partition, PartitionCount, Scope, Start, SubmittedFlow, SubscribeOptions, SweepPolicy, Tags, limits,
};
use ff_script::{keys, operations::LogPolicy};
use ff_testserver::{Reply, TestServer};
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use futures::StreamExt;

/// How long a call may block the server. On an idle machine the longest take about two milliseconds; the limit allows
/// for slow and busy machines.
const CEILING: Duration = Duration::from_millis(20);
/// A call that other programs interrupted is not slow every time, so the fastest of these rounds counts.
const TURNS: usize = 3;
const LEASE: Duration = Duration::from_secs(600);
const P0: Partition = Partition::new(0);

/// Function and scenario -> the longest that one call took.
type Table = BTreeMap<(String, &'static str), Duration>;

struct Stage {
    server: TestServer,
    fixture: Fixture,
    longest: Table,
}

impl Stage {
    async fn start() -> Self {
        let server = TestServer::start().await.unwrap();
        let count = PartitionCount::new(1).unwrap();
        let slowlog = ["CONFIG", "SET", "slowlog-log-slower-than", "0", "slowlog-max-len", "100000"];
        server.command(&slowlog).await.unwrap();
        let config = ValkeyConfig::from_url(server.url()).unwrap().partition_count(count);
        let backend: Arc<dyn EngineBackend> = Arc::new(ValkeyBackend::connect_with(config).await.unwrap());
        let mut stage = Self { server, fixture: Fixture::new(backend), longest: Table::new() };
        stage.note("connect").await;
        stage
    }

    async fn command(&self, args: &[&str]) -> Reply {
        let reply = self.server.command(args).await.unwrap();
        assert!(!reply.is_error(), "{args:?}: {}", reply.text());
        reply
    }

    /// Assigns the calls since the last note to this scenario.
    async fn note(&mut self, scenario: &'static str) {
        for entry in self.command(&["SLOWLOG", "GET", "-1"]).await.items() {
            let (micros, args) = (entry.items()[2].int().unwrap(), entry.items()[3].items());
            let name = args[0].text().to_uppercase();
            if !name.starts_with("FCALL") {
                continue;
            }
            let name = args[1].text();
            let took = Duration::from_micros(u64::try_from(micros).unwrap());
            let longest = self.longest.entry((name, scenario)).or_default();
            *longest = took.max(*longest);
        }
        self.command(&["SLOWLOG", "RESET"]).await;
    }

    fn backend(&self) -> &dyn EngineBackend {
        &*self.fixture.backend
    }

    fn spec(&self, name: impl Into<String>) -> ExecutionSpec {
        let long = "v".repeat(200);
        let tags = Tags::new((0..4).map(|n| (format!("key{n}"), long.clone()))).unwrap();
        self.fixture.spec(&name.into()).tags(tags)
    }

    async fn submit(&self, specs: impl IntoIterator<Item = ExecutionSpec>) -> SubmittedFlow {
        let flow = FlowSubmission::new(self.fixture.namespace.clone());
        self.fixture.submit(&specs.into_iter().fold(flow, FlowSubmission::execution)).await
    }

    /// A member that all others need, and the others.
    async fn submit_fan(&self, spec: impl Fn(ExecutionSpec) -> ExecutionSpec) -> SubmittedFlow {
        let others = (1..limits::MEMBERS).map(|n| spec(self.spec(n.to_string()).needs(["root"])));
        self.submit(std::iter::once(self.spec("root")).chain(others)).await
    }

    async fn claim_all(&self) -> Vec<ff_core::ClaimedExecution> {
        let mut all = Vec::new();
        loop {
            let some = self.fixture.claim_some(P0, limits::CLAIM_BATCH as u32, LEASE).await;
            if some.is_empty() {
                return all;
            }
            all.extend(some);
        }
    }

    async fn sweep_all(&self, retention: Duration) {
        let policy = SweepPolicy::retention(retention);
        while self.backend().sweep(&[P0], &policy).await.remove(0).unwrap().more {}
    }

    async fn reconcile_all(&self) {
        let mut cursor = None;
        loop {
            cursor = self.backend().reconcile(P0, cursor, 128).await.unwrap().next;
            if cursor.is_none() {
                return;
            }
        }
    }

    /// Makes completed ends look as if their calls had stopped before the log entries.
    async fn interrupt_ends(&self, leases: &[Lease]) {
        for lease in leases {
            let (id, flow) = (lease.execution_id, lease.flow_id.unwrap());
            self.command(&["HDEL", &keys::execution_core(id), "log_pos", "log_expected"]).await;
            self.command(&["ZADD", &format!("ff:part:{P0}:open"), "0", &format!("{}{flow}", id.uuid())]).await;
        }
        self.command(&["SLOWLOG", "RESET"]).await;
    }

    async fn clear(&self) {
        self.command(&["FLUSHALL"]).await;
        self.backend().verify_deployment().await.unwrap();
        self.command(&["SLOWLOG", "RESET"]).await;
    }
}

/// The functions that the library registers.
fn functions() -> impl Iterator<Item = &'static str> {
    let quoted = |text: &'static str| text.split('\'').next().unwrap();
    ff_script::SOURCE.match_indices("'ff1_").map(move |(at, _)| quoted(&ff_script::SOURCE[at + 1..]))
}

fn big() -> Bytes {
    Bytes::from(vec![b'x'; limits::PAYLOAD_BYTES])
}

async fn many_members(stage: &mut Stage) {
    let flow = stage.submit((0..limits::MEMBERS).map(|n| stage.spec(n.to_string()))).await;
    stage.note("submit 1,000 members").await;
    stage.backend().describe_flow(flow.flow_id).await.unwrap();
    stage.note("describe 1,000 members").await;
    let claimed = stage.claim_all().await;
    stage.note("claim 128 at a time").await;
    let leases: Vec<_> = claimed.iter().map(|claimed| claimed.lease).collect();
    stage.backend().renew(&leases, LEASE).await.unwrap();
    stage.note("renew 1,000").await;
    stage.backend().release(&leases).await.unwrap();
    stage.note("release 1,000").await;
    stage.claim_all().await;
    stage.backend().cancel_flow(flow.flow_id, "enough").await.unwrap();
    stage.note("cancel 1,000 members that run").await;
    stage.sweep_all(Duration::ZERO).await;
    stage.note("delete 1,000 members").await;
    stage.clear().await;
}

async fn large_payloads(stage: &mut Stage) {
    stage.submit((0..16).map(|n| stage.spec(n.to_string()).payload(big()))).await;
    stage.note("submit 16 payloads of 1 MiB").await;
    for _ in 0..2 {
        stage.submit((0..16).map(|n| stage.spec(n.to_string()).payload(big()))).await;
    }
    let solo = ExecutionSubmission::new(Namespace::default_namespace(), stage.spec("solo").payload(big()));
    let solo = stage.backend().submit_execution(&solo).await.unwrap();
    stage.note("submit a solo payload of 1 MiB").await;
    let claimed = stage.claim_all().await;
    assert_eq!(claimed.len(), 49);
    assert!(claimed.iter().all(|claimed| claimed.payload == big()));
    stage.note("claim payloads of 1 MiB").await;
    for claimed in claimed {
        stage.backend().complete(&claimed.lease, big()).await.unwrap();
    }
    stage.note("complete with 1 MiB").await;
    assert_eq!(stage.backend().describe_execution(solo.execution_id).await.unwrap().result, Some(big()));
    stage.note("describe a result of 1 MiB").await;
    stage.sweep_all(Duration::ZERO).await;
    stage.note("delete results of 1 MiB").await;
    stage.clear().await;
}

/// Tags of the largest size, whose quotation marks are longer in JSON.
fn longest_tags() -> Tags {
    Tags::new((0..32).map(|n| (format!("{n:0>128}"), "\"".repeat(256)))).unwrap()
}

async fn long_tags(stage: &mut Stage) {
    let soon = Duration::from_millis(1);
    let spec = |n: usize| stage.spec(n.to_string()).tags(longest_tags());
    let expiring = (200..300).map(|n| spec(n).delay(LEASE).deadline(soon));
    let flow = stage.submit((0..200).map(spec).chain(expiring)).await;
    stage.note("submit the longest tags").await;
    let leases: Vec<_> = stage.claim_all().await.iter().map(|claimed| claimed.lease).collect();
    assert_eq!(leases.len(), 200);
    stage.note("claim the longest tags").await;
    stage.backend().renew(&leases, LEASE).await.unwrap();
    stage.note("renew leases with the longest tags").await;
    stage.sweep_all(limits::DURATION).await;
    stage.note("sweep deadlines with the longest tags").await;
    stage.reconcile_all().await;
    stage.backend().release(&leases).await.unwrap();
    stage.note("release and reconcile the longest tags").await;
    stage.backend().cancel_flow(flow.flow_id, "enough").await.unwrap();
    stage.note("cancel the longest tags").await;
    stage.sweep_all(Duration::ZERO).await;
    stage.note("delete the longest tags").await;
    stage.clear().await;
}

async fn long_events(stage: &mut Stage) {
    let policy = LogPolicy { inline_result_bytes: limits::INLINE_RESULT_BYTES as u64, ..LogPolicy::default() };
    let config = ValkeyConfig::from_url(stage.server.url()).unwrap().partition_count(PartitionCount::new(1).unwrap());
    let backend: Arc<dyn EngineBackend> =
        Arc::new(ValkeyBackend::connect_with(config.log_policy(policy)).await.unwrap());
    stage.submit((0..100).map(|n| stage.spec(n.to_string()))).await;
    for claimed in stage.claim_all().await {
        let result = big().slice(..limits::INLINE_RESULT_BYTES);
        backend.complete(&claimed.lease, result).await.unwrap();
    }
    stage.note("complete with the longest result in the event").await;
    stage.sweep_all(Duration::ZERO).await;
    stage.note("delete events with the longest results").await;
    stage.clear().await;
}

async fn interrupted_ends(stage: &mut Stage) {
    // The longest result that is part of its event, and the longest possible one.
    for (scenario, bytes) in [
        ("complete interrupted ends with 4 KiB each", 4_096),
        ("complete interrupted ends with 1 MiB each", limits::PAYLOAD_BYTES),
    ] {
        stage.submit((0..48).map(|n| stage.spec(n.to_string()))).await;
        let leases: Vec<_> = stage.claim_all().await.iter().map(|claimed| claimed.lease).collect();
        for lease in &leases {
            stage.backend().complete(lease, big().slice(..bytes)).await.unwrap();
        }
        stage.interrupt_ends(&leases).await;
        stage.reconcile_all().await;
        stage.note(scenario).await;
        let log = keys::completion_log(LogId { partition: P0, scope: Scope::Flows });
        assert_eq!(stage.command(&["XLEN", &log]).await.int(), Some(96), "all were completed");
        stage.clear().await;
    }
}

async fn ends_together(stage: &mut Stage) {
    stage.submit((0..limits::MEMBERS).map(|n| stage.spec(n.to_string()))).await;
    let claimed = stage.claim_all().await;
    let ended: Vec<_> = claimed.iter().map(|claimed| (claimed.lease, big().slice(..4096))).collect();
    stage.command(&["SLOWLOG", "RESET"]).await;
    for outcome in stage.backend().complete_many(&ended).await {
        outcome.unwrap();
    }
    stage.note("complete 1,000 together").await;
    stage.clear().await;
}

async fn fan_out(stage: &mut Stage) {
    stage.submit_fan(|spec| spec).await;
    let root = stage.claim_all().await.remove(0);
    stage.command(&["SLOWLOG", "RESET"]).await;
    stage.backend().complete(&root.lease, Bytes::new()).await.unwrap();
    stage.note("complete what 999 need").await;
    stage.fixture.resolve_all(P0).await;
    stage.note("promote 999").await;
    stage.clear().await;
    stage.submit_fan(|spec| spec).await;
    let root = stage.claim_all().await.remove(0);
    stage.command(&["SLOWLOG", "RESET"]).await;
    stage.backend().fail(&root.lease, &Failure::permanent("broken")).await.unwrap();
    stage.note("fail what 999 need").await;
    stage.fixture.resolve_all(P0).await;
    stage.note("skip 999").await;
    stage.clear().await;
    let chain = |n: usize| if n == 0 { vec![] } else { vec![(n - 1).to_string()] };
    stage.submit((0..limits::MEMBERS).map(|n| stage.spec(n.to_string()).needs(chain(n)))).await;
    let root = stage.claim_all().await.remove(0);
    stage.command(&["SLOWLOG", "RESET"]).await;
    stage.backend().cancel_execution(root.lease.execution_id, "enough").await.unwrap();
    stage.note("cancel the head of a chain").await;
    stage.sweep_all(limits::DURATION).await;
    stage.note("skip a chain").await;
    stage.clear().await;
}

async fn joins(stage: &mut Stage) {
    let half = limits::MEMBERS / 2;
    let sources: Vec<String> = (0..half).map(|n| format!("s{n}")).collect();
    let specs = sources.iter().map(|name| stage.spec(name));
    let joins = (0..100).map(|n| stage.spec(format!("j{n}")).needs(sources.iter().map(String::as_str)));
    stage.submit(specs.chain(joins)).await;
    stage.note("submit 100 members with 500 needs").await;
    stage.reconcile_all().await;
    stage.note("reconcile members with 500 needs").await;
    let claimed = stage.claim_all().await;
    stage.command(&["SLOWLOG", "RESET"]).await;
    for claimed in &claimed {
        stage.backend().complete(&claimed.lease, Bytes::new()).await.unwrap();
    }
    stage.note("complete what 100 of 500 needs need").await;
    stage.clear().await;
}

async fn timers(stage: &mut Stage) {
    let soon = Duration::from_millis(1);
    stage.submit((0..limits::MEMBERS).map(|n| stage.spec(n.to_string()).delay(soon))).await;
    stage.submit((0..limits::MEMBERS).map(|n| stage.spec(n.to_string()).delay(LEASE).deadline(soon))).await;
    stage.sweep_all(limits::DURATION).await;
    stage.note("sweep 1,000 delays and 1,000 deadlines").await;
    while !stage.fixture.claim_some(P0, 128, soon).await.is_empty() {}
    stage.sweep_all(limits::DURATION).await;
    stage.note("sweep 1,000 leases").await;
    stage.clear().await;
}

async fn repairs(stage: &mut Stage) {
    let flow = stage.submit((0..limits::MEMBERS).map(|n| stage.spec(n.to_string()))).await;
    for index in ["ready", "open"] {
        assert_eq!(stage.command(&["ZCARD", &format!("ff:part:{P0}:{index}")]).await.int(), Some(1_000));
    }
    stage.command(&["DEL", "ff:part:{fp:0}:ready"]).await;
    stage.reconcile_all().await;
    stage.note("put 1,000 back into the queue").await;
    for id in flow.ids() {
        stage.command(&["DEL", &keys::execution_core(id)]).await;
    }
    stage.command(&["SLOWLOG", "RESET"]).await;
    stage.reconcile_all().await;
    stage.note("settle 1,000 lost members").await;
    stage.clear().await;
}

async fn small_calls(stage: &mut Stage) {
    stage.backend().await_work(&stage.fixture.lane, &[P0]).await.unwrap();
    let mut subscription = stage.backend().subscribe(&SubscribeOptions::new().start(Start::Earliest)).await.unwrap();
    stage.fixture.end_one().await;
    while !matches!(subscription.next().await.unwrap(), Frame::Completion(_)) {}
    // The calls of a subscription at intervals, and when it is behind.
    stage.command(&["FCALL_RO", "ff1_appended", "1", keys::DEPLOYMENT, "", "flows"]).await;
    let logs = [Scope::Flows, Scope::Solo].map(|scope| keys::completion_log(LogId { partition: P0, scope }));
    stage.command(&["FCALL_RO", "ff1_heads", "2", &logs[0], &logs[1], "-", "-"]).await;
    for engine in 0..1_000 {
        let engine = EngineId::new(&format!("engine-{engine}")).unwrap();
        stage.backend().note_engine(&engine, limits::ENGINE_STAY).await.unwrap();
    }
    stage.note("small calls").await;
    stage.clear().await;
}

async fn every_scenario() -> Table {
    let mut stage = Stage::start().await;
    many_members(&mut stage).await;
    large_payloads(&mut stage).await;
    long_tags(&mut stage).await;
    long_events(&mut stage).await;
    interrupted_ends(&mut stage).await;
    ends_together(&mut stage).await;
    fan_out(&mut stage).await;
    joins(&mut stage).await;
    timers(&mut stage).await;
    repairs(&mut stage).await;
    small_calls(&mut stage).await;
    stage.longest
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_claim_counts_the_bytes_of_tags() {
    let stage = Stage::start().await;
    stage.submit((0..40).map(|n| stage.spec(n.to_string()).tags(longest_tags()))).await;
    let claimed = stage.fixture.claim_some(P0, 40, LEASE).await.len();
    assert!((8..16).contains(&claimed), "{claimed} executions with 20 KiB of tags each");
    assert_eq!(claimed + stage.claim_all().await.len(), 40);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn completions_together_count_the_bytes_of_tags() {
    let stage = Stage::start().await;
    stage.submit((0..40).map(|n| stage.spec(n.to_string()).tags(longest_tags()))).await;
    let ended: Vec<_> = stage.claim_all().await.iter().map(|claimed| (claimed.lease, Bytes::new())).collect();
    stage.command(&["CONFIG", "RESETSTAT"]).await;
    for outcome in stage.backend().complete_many(&ended).await {
        outcome.unwrap();
    }
    let stats = stage.command(&["INFO", "commandstats"]).await.text();
    let calls = stats.split_once("cmdstat_fcall:calls=").unwrap().1.split_once(',').unwrap().0;
    assert!(calls.parse::<u32>().unwrap() >= 10, "{calls} calls for 40 executions with 20 KiB of tags each");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_sweep_reads_few_long_events() {
    let stage = Stage::start().await;
    stage.submit((0..40).map(|n| stage.spec(n.to_string()).tags(longest_tags()))).await;
    for claimed in stage.claim_all().await {
        stage.backend().complete(&claimed.lease, Bytes::new()).await.unwrap();
    }
    // Zero retention does not include entries of the current millisecond.
    tokio::time::sleep(Duration::from_millis(5)).await;
    stage.backend().sweep(&[P0], &SweepPolicy::retention(Duration::ZERO)).await.remove(0).unwrap();
    let log = keys::completion_log(LogId { partition: P0, scope: Scope::Flows });
    let left = stage.command(&["XLEN", &log]).await.int().unwrap();
    assert!((30..40).contains(&left), "{left} entries are left");
    stage.sweep_all(Duration::ZERO).await;
    assert_eq!(stage.command(&["XLEN", &log]).await.int(), Some(0));
}

fn slow(table: &Table) -> Vec<(&(String, &'static str), &Duration)> {
    table.iter().filter(|(_, took)| **took > CEILING).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn no_call_at_its_limits_blocks_the_server_for_long() {
    let mut least = every_scenario().await;
    for _ in 1..TURNS {
        if slow(&least).is_empty() {
            break;
        }
        for (call, took) in every_scenario().await {
            let least = least.entry(call).or_insert(took);
            *least = (*least).min(took);
        }
    }
    let mut table = String::new();
    for ((function, scenario), took) in &least {
        writeln!(table, "| `{function}` | {scenario} | {:.2} ms |", took.as_secs_f64() * 1_000.0).unwrap();
    }
    println!("{table}");
    let is_called = |name: &str| least.keys().any(|(function, _)| function == name);
    let missing: Vec<_> = functions().filter(|name| !is_called(name)).collect();
    assert!(missing.is_empty(), "no scenario calls {missing:?}");
    assert!(slow(&least).is_empty(), "longer than {CEILING:?}: {:?}", slow(&least));
}
