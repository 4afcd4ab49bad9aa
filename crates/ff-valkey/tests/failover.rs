//! A primary that changes is found and followed, on real servers and sentinels.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod common;

use std::time::{Duration, Instant};

use common::{Writer, eventually, flow_in, gap, numbers, partitions, submit};
use ff_core::{
    EngineError, EntryId, FlowId, Gap, GapCause, LogId, Partition, Scope, SubscribeBackend, SubscribeOptions, Tags,
};
use ff_testserver::{Proxy, Sentinels, TestServer};
use ff_valkey::{ValkeyBackend, ValkeyConfig};

const PARTITION: u16 = 3;
const LOG: LogId = LogId { partition: Partition::new(PARTITION), scope: Scope::Flows };
const LOG_KEY: &str = "ff:part:{fp:3}:completions";
const SERVICE: &str = "orders";

/// A primary, its replica, and the sentinels that monitor both.
struct Stage {
    primary: TestServer,
    replica: TestServer,
    sentinels: Sentinels,
    flow: FlowId,
}

impl Stage {
    async fn open(sentinels: usize) -> Self {
        let (primary, replica) = pair().await;
        let sentinels = Sentinels::watching(&primary, SERVICE).count(sentinels).start().await.unwrap();
        Self { primary, replica, sentinels, flow: flow_in(PARTITION) }
    }

    fn url(&self) -> String {
        url(&self.sentinels.hosts())
    }

    async fn backend(&self) -> ValkeyBackend {
        connect(&self.url()).await.unwrap()
    }

    /// Ends executions on one server; they are numbered from `first`.
    async fn end(&self, on: &TestServer, epoch: u64, first: u64, count: u64) {
        let mut writer = Writer::new(on).await;
        (writer.epoch, writer.next) = (epoch, first);
        writer.end(self.flow, "a", &Tags::default(), count).await;
    }
}

async fn pair() -> (TestServer, TestServer) {
    let primary = TestServer::builder().process().build().await.unwrap();
    let replica = TestServer::builder().process().replica_of(&primary).build().await.unwrap();
    primary.replicas_in_step(1).await.unwrap();
    (primary, replica)
}

fn url(hosts: &str) -> String {
    format!("redis-sentinel://{hosts}/{SERVICE}")
}

async fn connect(url: &str) -> Result<ValkeyBackend, EngineError> {
    let config = ValkeyConfig::from_url(url)?.partition_count(partitions());
    ValkeyBackend::connect_with(config.connect_timeout(Duration::from_secs(2))).await
}

async fn refusal(url: &str) -> EngineError {
    let started = Instant::now();
    let error = connect(url).await.err().unwrap();
    assert!(started.elapsed() < Duration::from_secs(5), "{:?}: {error}", started.elapsed());
    error
}

async fn leads_to(backend: &ValkeyBackend, server: &TestServer) {
    let address = format!("127.0.0.1:{}", server.port());
    eventually("commands go to the new primary", async || backend.host().server() == address).await;
}

#[tokio::test]
async fn when_the_primary_dies_commands_and_subscriptions_continue_on_the_promoted_replica() {
    let stage = Stage::open(1).await;
    let backend = stage.backend().await;
    assert_eq!(backend.host().server(), format!("127.0.0.1:{}", stage.primary.port()));
    let mut subscription = backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    stage.end(&stage.primary, 1000, 0, 3).await;
    assert_eq!(numbers(&mut subscription, 3).await, [0, 1, 2]);
    stage.primary.replicas_in_step(1).await.unwrap();
    stage.primary.kill().await.unwrap();
    assert_eq!(stage.sentinels.promoted(&stage.primary).await.unwrap(), stage.replica.port());
    // Before the first subscription there: the event is only in the log.
    stage.end(&stage.replica, 2000, 3, 4).await;
    assert_eq!(numbers(&mut subscription, 4).await, [3, 4, 5, 6]);
    submit(&backend).await.unwrap();
    leads_to(&backend, &stage.replica).await;
    eventually("health is well", async || backend.health().connected && backend.health().subscribed).await;
}

#[tokio::test]
async fn a_primary_that_is_replaced_and_keeps_its_connections_is_left() {
    let stage = Stage::open(1).await;
    let backend = stage.backend().await;
    let mut subscription = backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    stage.end(&stage.primary, 1000, 0, 3).await;
    assert_eq!(numbers(&mut subscription, 3).await, [0, 1, 2]);
    stage.primary.replicas_in_step(1).await.unwrap();
    assert_eq!(stage.sentinels.failover().await.unwrap(), stage.replica.port());
    stage.end(&stage.replica, 2000, 3, 2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [3, 4]);
    leads_to(&backend, &stage.replica).await;
    submit(&backend).await.unwrap();
    let open = stage.replica.command(&["KEYS", "ff:part:*:open"]).await.unwrap();
    assert!(!open.items().is_empty(), "the submission went to the former primary");
}

#[tokio::test]
async fn a_tail_lost_in_a_promotion_is_declared_and_later_entries_are_delivered() {
    let stage = Stage::open(1).await;
    let backend = stage.backend().await;
    let mut subscription = backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    stage.end(&stage.primary, 1000, 0, 3).await;
    stage.primary.replicas_in_step(1).await.unwrap();
    // A port without a server: the replica keeps its data.
    stage.replica.command(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
    stage.end(&stage.primary, 1000, 3, 2).await;
    assert_eq!(numbers(&mut subscription, 5).await, [0, 1, 2, 3, 4]);
    stage.primary.kill().await.unwrap();
    stage.sentinels.promoted(&stage.primary).await.unwrap();
    let entry = |epoch, seq| EntryId { epoch, seq };
    let cause = GapCause::HistoryRewritten;
    let undone = Gap::new(LOG, Some(entry(1000, 2)), entry(1000, 4), cause);
    assert_eq!(gap(&mut subscription).await, undone);
    stage.end(&stage.replica, 2000, 5, 2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [5, 6]);
}

#[tokio::test]
async fn one_sentinel_of_three_is_enough_to_find_the_primary() {
    let stage = Stage::open(3).await;
    for node in &stage.sentinels.nodes()[..2] {
        node.kill().await.unwrap();
    }
    let backend = stage.backend().await;
    let mut subscription = backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    stage.end(&stage.primary, 1000, 0, 2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [0, 1]);
    submit(&backend).await.unwrap();
}

#[tokio::test]
async fn a_replica_that_a_sentinel_names_is_rejected() {
    let stage = Stage::open(1).await;
    let stale = Sentinels::watching(&stage.replica, SERVICE).start().await.unwrap();
    assert_eq!(stale.primary().await.unwrap(), stage.replica.port());
    let stale = stale.hosts();
    let backend = connect(&url(&format!("{stale},{}", stage.sentinels.hosts()))).await.unwrap();
    assert_eq!(backend.host().server(), format!("127.0.0.1:{}", stage.primary.port()));
    let error = refusal(&url(&stale)).await;
    assert!(error.is_retryable() && error.to_string().contains("which is a replica of"), "{error}");
}

#[tokio::test]
async fn a_service_that_no_sentinel_knows_is_refused_and_the_known_ones_are_named() {
    let stage = Stage::open(1).await;
    let error = refusal(&stage.url().replace(SERVICE, "oders")).await;
    assert!(matches!(error, EngineError::InvalidInput { .. }), "{error}");
    assert!(error.to_string().contains("`oders`") && error.to_string().contains("`orders`"), "{error}");
}

#[tokio::test]
async fn unreachable_sentinels_are_named() {
    let error = refusal("redis-sentinel://:secret@127.0.0.1:1,127.0.0.1:2/orders").await;
    assert!(matches!(error, EngineError::Transport { .. }), "{error}");
    let text = error.to_string();
    assert!(text.contains("127.0.0.1:1: ") && text.contains("127.0.0.1:2: ") && !text.contains("secret"), "{text}");
}

#[tokio::test]
async fn servers_and_sentinels_have_separate_passwords() {
    let primary = TestServer::builder().process().password("servers").build().await.unwrap();
    let sentinels = Sentinels::watching(&primary, SERVICE).password("sentinels").start().await.unwrap();
    let at = format!("127.0.0.1:{}/{SERVICE}", sentinels.nodes()[0].port());
    let backend = connect(&format!("valkey-sentinel://:servers@{at}?sentinelPass=sentinels")).await.unwrap();
    submit(&backend).await.unwrap();
    for (wrong, fix) in [
        (format!("redis-sentinel://:servers@{at}"), "sentinelPass="),
        (format!("redis-sentinel://:servers@{at}?sentinelPass=servers"), "sentinelPass="),
        (format!("redis-sentinel://:sentinels@{at}?sentinelPass=sentinels"), "user and password"),
    ] {
        let error = refusal(&wrong).await;
        assert!(matches!(error, EngineError::PermissionDenied { .. }) && error.to_string().contains(fix), "{error}");
        assert!(!error.to_string().contains(":servers") && !error.to_string().contains(":sentinels"), "{error}");
    }
}

#[tokio::test]
async fn a_user_of_the_sentinels_needs_three_commands_only() {
    let stage = Stage::open(1).await;
    let sentinel = &stage.sentinels.nodes()[0];
    let grant = ["get-master-addr-by-name", "master", "masters"].map(|question| format!("+sentinel|{question}"));
    let rules = [["ACL", "SETUSER", "ann", "on", ">pw", "-@all"].map(str::to_owned).to_vec(), grant.to_vec()].concat();
    assert!(!sentinel.command(&rules).await.unwrap().is_error());
    let backend = connect(&format!("{}?sentinelUser=ann&sentinelPass=pw", stage.url())).await.unwrap();
    submit(&backend).await.unwrap();
    let error = refusal(&format!("{}?sentinelUser=bob&sentinelPass=pw", stage.url())).await;
    assert!(matches!(error, EngineError::PermissionDenied { .. }), "{error}");
}

#[tokio::test]
async fn a_plain_address_that_leads_to_a_replica_is_refused_within_the_time() {
    let (primary, replica) = pair().await;
    let error = refusal(replica.url()).await;
    let follows = format!("replica of 127.0.0.1:{}", primary.port());
    assert!(error.is_retryable() && error.to_string().contains(&follows), "{error}");
}

#[tokio::test]
async fn a_demoted_server_behind_a_stable_address_is_rejected_and_calls_wait_for_the_primary() {
    let (former, promoted) = pair().await;
    let empty = TestServer::builder().process().build().await.unwrap();
    let proxy = Proxy::open(former.port()).await.unwrap();
    let backend = connect(&format!("redis://127.0.0.1:{}", proxy.port())).await.unwrap();
    let mut subscription = backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    let mut writer = Writer::new(&former).await;
    let flow = flow_in(PARTITION);
    writer.end(flow, "a", &Tags::default(), 3).await;
    assert_eq!(numbers(&mut subscription, 3).await, [0, 1, 2]);
    former.replicas_in_step(1).await.unwrap();
    promoted.command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    // Its log is deleted, and its connections stay open.
    former.command(&["REPLICAOF", "127.0.0.1", &empty.port().to_string()]).await.unwrap();
    eventually("the log is gone", async || former.command(&["EXISTS", LOG_KEY]).await.unwrap().text() == "0").await;
    eventually("health tells", async || {
        let health = backend.health();
        !health.connected && health.last_error.is_some_and(|error| error.contains("replica of"))
    })
    .await;
    // Heads are compared within this time.
    tokio::time::sleep(Duration::from_millis(2_500)).await;
    let (submitted, ()) = tokio::join!(submit(&backend), async { proxy.lead_to(promoted.port()) });
    submitted.unwrap();
    let mut writer = Writer::new(&promoted).await;
    (writer.epoch, writer.next) = (2000, 3);
    writer.end(flow, "a", &Tags::default(), 2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [3, 4]);
    eventually("health is well", async || backend.health().connected && backend.health().last_error.is_none()).await;
}
