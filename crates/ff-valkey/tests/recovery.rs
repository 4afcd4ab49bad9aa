//! The behaviour of a subscription when connections and logs fail, on a real server.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod common;

use std::{
    num::NonZeroUsize,
    time::{Duration, Instant},
};

use bytes::Bytes;
use common::{Writer, calls, event, eventually, flow_in, gap, namespace, next, number, numbers, partitions, submit};
use ff_core::{
    ControlBackend, Cursor, EngineError, EntryId, ExecutionSpec, FlowId, FlowSubmission, Frame, Gap, GapCause, LaneId,
    LogId, Outcome, Partition, PartitionCount, Scope, Start, SubmitBackend, SubscribeBackend, SubscribeOptions,
    Subscription, Tags, WorkerId,
    backend::{ClaimRequest, WorkBackend},
};
use ff_script::permissions::Role;
use ff_testserver::{Proxy, TestServer};
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use futures::{FutureExt, StreamExt, stream::FuturesUnordered};

/// Far longer than any step of these tests takes.
const PATIENCE: Duration = Duration::from_secs(30);
const PARTITION: u16 = 3;
const LOG: LogId = LogId { partition: Partition::new(PARTITION), scope: Scope::Flows };
const LOG_KEY: &str = "ff:part:{fp:3}:completions";

struct Stage {
    server: TestServer,
    writer: Writer,
    backend: ValkeyBackend,
    flow: FlowId,
}

impl Stage {
    async fn open() -> Self {
        let server = TestServer::start().await.unwrap();
        let url = server.url().to_owned();
        Self::over(server, &url).await
    }

    async fn over(server: TestServer, url: &str) -> Self {
        let config = ValkeyConfig::from_url(url).unwrap().partition_count(partitions());
        let backend = ValkeyBackend::connect_with(config).await.unwrap();
        Self { writer: Writer::new(&server).await, server, backend, flow: flow_in(PARTITION) }
    }

    async fn end(&mut self, count: u64) {
        self.writer.end(self.flow, "a", &Tags::default(), count).await;
    }

    /// The server's ids of the subscribers' connections.
    async fn subscribers(&mut self) -> Vec<String> {
        let list = self.writer.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.text();
        list.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Subscription {
        self.backend.subscribe(&options).await.unwrap()
    }
}

fn entry(epoch: u64, seq: u64) -> EntryId {
    EntryId { epoch, seq }
}

#[tokio::test]
async fn silent_connections_are_replaced_and_nothing_is_lost() {
    let server = TestServer::start().await.unwrap();
    let proxy = Proxy::open(server.port()).await.unwrap();
    let mut stage = Stage::over(server, &format!("redis://127.0.0.1:{}", proxy.port())).await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(3).await;
    assert_eq!(numbers(&mut subscription, 3).await, [0, 1, 2]);
    proxy.swallow();
    stage.end(5).await;
    assert_eq!(numbers(&mut subscription, 5).await, [3, 4, 5, 6, 7]);
    stage.end(1).await;
    assert_eq!(numbers(&mut subscription, 1).await, [8]);
}

/// A backend behind a proxy that swallows everything from now on.
async fn behind_a_black_hole(command_timeout: Duration) -> (TestServer, Proxy, ValkeyBackend) {
    let server = TestServer::start().await.unwrap();
    let proxy = Proxy::open(server.port()).await.unwrap();
    let config = ValkeyConfig::from_url(&format!("redis://127.0.0.1:{}", proxy.port())).unwrap();
    let config = config.partition_count(partitions()).command_timeout(command_timeout);
    let backend = ValkeyBackend::connect_with(config).await.unwrap();
    proxy.swallow();
    (server, proxy, backend)
}

/// Descriptions may be large. Each that fails is followed by another.
#[tokio::test]
async fn a_silent_connection_is_replaced_while_large_replies_are_always_under_way() {
    let (_server, _proxy, backend) = behind_a_black_hole(Duration::from_secs(2)).await;
    let answered = async || {
        while !matches!(backend.describe_flow(FlowId::generate()).await, Err(EngineError::NotFound { .. })) {}
    };
    let mut any: FuturesUnordered<_> = (0..4).map(|_| answered()).collect();
    tokio::time::timeout(PATIENCE, any.next()).await.expect("a call is answered again");
}

#[tokio::test]
async fn a_silent_connection_is_replaced_also_where_the_command_timeout_is_short() {
    let (_server, _proxy, backend) = behind_a_black_hole(Duration::from_millis(300)).await;
    let accepted = async { while submit(&backend).await.is_err() {} };
    tokio::time::timeout(PATIENCE, accepted).await.expect("a call is answered again");
}

/// The server's ids of the clients' connections.
async fn connections(server: &TestServer) -> Vec<String> {
    let list = server.command(&["CLIENT", "LIST"]).await.unwrap().text();
    list.lines().filter_map(|line| line.split(' ').next()).map(str::to_owned).collect()
}

/// Fails if one of the backend's connections was closed meanwhile. The connection of this query is not among them.
async fn assert_kept(before: &[String], server: &TestServer) {
    let after = connections(server).await;
    let lost = before.iter().filter(|id| !after.contains(id)).count();
    assert!(lost <= 1, "of {before:?} are left {after:?}");
}

async fn patient(url: &str, partitions: PartitionCount) -> ValkeyBackend {
    let config = ValkeyConfig::from_url(url).unwrap().partition_count(partitions);
    ValkeyBackend::connect_with(config.command_timeout(PATIENCE)).await.unwrap()
}

#[tokio::test]
async fn a_server_that_stalls_within_the_timeout_is_waited_for() {
    let server = TestServer::builder().process().build().await.unwrap();
    let backend = patient(server.url(), partitions()).await;
    let _subscription = backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    let before = connections(&server).await;
    server.pause().await.unwrap();
    let resumed = async {
        tokio::time::sleep(Duration::from_millis(3_500)).await;
        server.resume().await.unwrap();
    };
    let (submitted, ()) = tokio::join!(submit(&backend), resumed);
    submitted.unwrap();
    assert_kept(&before, &server).await;
    assert!(backend.health().connected && backend.health().subscribed);
}

#[tokio::test]
async fn round_trips_of_more_than_two_seconds_work_where_the_command_timeout_allows_them() {
    let server = TestServer::start().await.unwrap();
    let proxy = Proxy::open(server.port()).await.unwrap();
    let backend = patient(&format!("redis://127.0.0.1:{}", proxy.port()), partitions()).await;
    let _subscription = backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    let before = connections(&server).await;
    proxy.delay(Duration::from_millis(1_200));
    for _ in 0..2 {
        submit(&backend).await.unwrap();
    }
    assert_kept(&before, &server).await;
}

#[tokio::test]
async fn slow_replies_are_waited_for() {
    let server = TestServer::start().await.unwrap();
    let proxy = Proxy::open(server.port()).await.unwrap();
    let one = PartitionCount::new(1).unwrap();
    let backend = patient(&format!("redis://127.0.0.1:{}", proxy.port()), one).await;
    let payload = Bytes::from(vec![b'x'; 1 << 20]);
    for _ in 0..8 {
        let flow = FlowSubmission::new(namespace("a")).execution(ExecutionSpec::new("a").payload(payload.clone()));
        backend.submit_flow(&flow).await.unwrap();
    }
    let before = connections(&server).await;
    // More than three seconds in total.
    proxy.throttle(2_500_000);
    let request = ClaimRequest::new(WorkerId::new("w").unwrap(), LaneId::default_lane(), Partition::new(0))
        .max(8)
        .lease(Duration::from_secs(60));
    let mut claimed = 0;
    while claimed < 8 {
        let claim = backend.claim(&request).await.unwrap();
        assert!(claim.executions.iter().all(|execution| execution.payload == payload));
        claimed += claim.executions.len();
    }
    assert_kept(&before, &server).await;
}

#[tokio::test]
#[cfg_attr(not(target_os = "linux"), ignore = "other systems end such a connection only after minutes")]
async fn a_connection_that_accepts_no_more_writes_is_replaced() {
    let server = TestServer::start().await.unwrap();
    let proxy = Proxy::open(server.port()).await.unwrap();
    let stage = Stage::over(server, &format!("redis://127.0.0.1:{}", proxy.port())).await;
    proxy.swallow();
    // More than all buffers in transit hold, so that the client blocks on a write.
    let payload = Bytes::from(vec![b'x'; 1 << 20]);
    let flow = FlowSubmission::new(namespace("a")).execution(ExecutionSpec::new("a").payload(payload));
    let mut flood: FuturesUnordered<_> = (0..32).map(|_| stage.backend.submit_flow(&flow)).collect();
    let flooded = async { while flood.next().await.is_some() {} };
    tokio::time::timeout(PATIENCE, flooded).await.expect("calls end");
    submit(&stage.backend).await.unwrap();
}

#[tokio::test]
async fn killed_connections_are_re_established_and_nothing_is_lost() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    for round in 0..3 {
        stage.end(2).await;
        for kind in ["pubsub", "normal"] {
            stage.writer.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
        }
        stage.end(2).await;
        let first = round * 4;
        assert_eq!(numbers(&mut subscription, 4).await, (first..first + 4).collect::<Vec<_>>());
    }
    submit(&stage.backend).await.unwrap();
}

#[tokio::test]
async fn a_connection_killed_for_its_full_output_buffer_loses_nothing() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.writer.command(&["CONFIG", "SET", "client-output-buffer-limit", "pubsub 16384 0 0"]).await;
    // From one call, so that the server sends nothing in between.
    stage.end(1_000).await;
    let killed = stage.writer.command(&["INFO", "stats"]).await.text();
    assert!(!killed.contains("client_output_buffer_limit_disconnections:0"), "{killed}");
    assert_eq!(numbers(&mut subscription, 1_000).await, (0..1_000).collect::<Vec<_>>());
    stage.end(1).await;
    assert_eq!(numbers(&mut subscription, 1).await, [1_000]);
}

#[tokio::test]
async fn a_server_that_is_loading_is_waited_for() {
    let slow = TestServer::builder().persistent().arg("--key-load-delay").arg("500");
    let server = slow.build().await.unwrap();
    let url = server.url().to_owned();
    let mut stage = Stage::over(server, &url).await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(3).await;
    numbers(&mut subscription, 3).await;
    let fill = "for i = 1, 5000 do redis.call('SET', 'filler:' .. i, i) end";
    stage.writer.command(&["EVAL", fill, "0"]).await;
    let loading = async {
        loop {
            let answer = stage.server.command(&["PING"]).await;
            if answer.is_ok_and(|answer| answer.text().starts_with("LOADING")) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
    };
    let (restarted, ()) =
        tokio::join!(stage.server.restart(), tokio::time::timeout(PATIENCE, loading).map(Result::unwrap));
    restarted.unwrap();
    submit(&stage.backend).await.unwrap();
    stage.writer = Writer::successor(&stage.server, 3).await;
    stage.end(2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [3, 4]);
}

#[tokio::test]
async fn a_call_that_a_replica_refuses_waits_until_the_server_is_a_primary_again() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(2).await;
    numbers(&mut subscription, 2).await;
    // A port without a server: the server keeps its data.
    stage.writer.command(&["REPLICAOF", "127.0.0.1", "1"]).await;
    let again = async {
        eventually("health tells", async || !stage.backend.health().connected).await;
        stage.server.command(&["REPLICAOF", "NO", "ONE"]).await.unwrap();
    };
    let (submitted, ()) = tokio::join!(submit(&stage.backend), again);
    submitted.unwrap();
    stage.end(2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [2, 3]);
    eventually("health is well", async || stage.backend.health().connected).await;
}

#[tokio::test]
async fn a_password_that_becomes_required_is_reported_and_does_not_end_the_subscription() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.writer.command(&["CONFIG", "SET", "requirepass", "new"]).await;
    for kind in ["pubsub", "normal"] {
        stage.writer.command(&["CLIENT", "KILL", "TYPE", kind, "SKIPME", "yes"]).await;
    }
    stage.end(3).await;
    let refused = |error: Option<String>| error.is_some_and(|error| error.contains("NOAUTH"));
    eventually("health tells", async || refused(stage.backend.health().last_error)).await;
    stage.writer.command(&["CONFIG", "SET", "requirepass", ""]).await;
    assert_eq!(numbers(&mut subscription, 3).await, [0, 1, 2]);
    eventually("health is well", async || stage.backend.health().last_error.is_none()).await;
}

#[tokio::test]
async fn a_lost_library_is_loaded_again_under_an_open_subscription() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(1).await;
    stage.writer.command(&["FUNCTION", "FLUSH", "SYNC"]).await;
    submit(&stage.backend).await.unwrap();
    stage.end(1).await;
    assert_eq!(numbers(&mut subscription, 2).await, [0, 1]);
}

#[tokio::test]
async fn a_connection_that_is_alive_and_delivers_nothing_is_re_established() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    let deaf = stage.subscribers().await;
    stage.writer.silent = true;
    stage.end(1).await;
    assert_eq!(numbers(&mut subscription, 1).await, [0]);
    let mut reconnected = false;
    for _ in 0..1_000 {
        let now = stage.subscribers().await;
        reconnected = !now.is_empty() && now != deaf;
        if reconnected {
            break;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    assert!(reconnected, "the connection was not replaced");
    stage.writer.silent = false;
    stage.end(1).await;
    assert_eq!(numbers(&mut subscription, 1).await, [1]);
}

#[tokio::test]
async fn entries_that_were_never_pushed_are_found_by_comparing_heads() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(1).await;
    stage.writer.silent = true;
    stage.end(3).await;
    assert_eq!(numbers(&mut subscription, 4).await, [0, 1, 2, 3]);
    stage.writer.silent = false;
    stage.end(2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [4, 5]);
}

#[tokio::test]
async fn a_lost_tail_is_declared_although_nothing_was_appended_since() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(5).await;
    numbers(&mut subscription, 5).await;
    stage.server.command(&["XDEL", LOG_KEY, "1000-3", "1000-4"]).await.unwrap();
    let cause = GapCause::HistoryRewritten;
    let undone = Gap::new(LOG, Some(entry(1000, 2)), entry(1000, 4), cause);
    assert_eq!(gap(&mut subscription).await, undone);
    // The next writer's clock is behind, and its first entry follows the remaining ones.
    stage.server.command(&["XTRIM", LOG_KEY, "MAXLEN", "3"]).await.unwrap();
    stage.writer.epoch = 2000;
    stage.end(2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [5, 6]);
}

#[tokio::test]
async fn an_emptied_server_is_declared_log_by_log_and_later_entries_are_delivered() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(4).await;
    numbers(&mut subscription, 4).await;
    stage.server.command(&["FLUSHALL"]).await.unwrap();
    let undone = Gap::new(LOG, None, entry(1000, 3), GapCause::LogRecreated);
    assert_eq!(gap(&mut subscription).await, undone);
    stage.writer.epoch = 2000;
    stage.end(2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [4, 5]);
}

#[tokio::test]
async fn entries_trimmed_before_a_slow_reader_reaches_them_are_one_exact_gap() {
    let mut stage = Stage::open().await;
    let capacity = NonZeroUsize::new(4).unwrap();
    let mut subscription = stage.subscribe(SubscribeOptions::new().capacity(capacity)).await;
    let mut quick = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(60).await;
    numbers(&mut quick, 60).await;
    stage.server.command(&["XTRIM", LOG_KEY, "MINID", "=", "1000-50"]).await.unwrap();
    let mut seen = 0;
    let trimmed = loop {
        match next(&mut subscription).await {
            Frame::Completion(completion) => {
                assert_eq!(number(&completion), seen);
                seen += 1;
            }
            Frame::Gap(gap) => break gap,
            _ => {}
        }
    };
    let after = Some(entry(1000, seen - 1));
    assert_eq!(trimmed, Gap::new(LOG, after, entry(1000, 49), GapCause::Trimmed));
    assert_eq!(numbers(&mut subscription, 10).await, (50..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn another_process_declares_the_rollback_to_a_cursor_of_the_old_history() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(5).await;
    numbers(&mut subscription, 5).await;
    let cursor: Cursor = subscription.close().await.to_string().parse().unwrap();
    stage.server.command(&["XDEL", LOG_KEY, "1000-4"]).await.unwrap();
    stage.writer.epoch = 2000;
    stage.end(1).await;
    let config = ValkeyConfig::from_url(stage.server.url()).unwrap().partition_count(partitions());
    let other = ValkeyBackend::connect_with(config).await.unwrap();
    let mut resumed = other.subscribe(&SubscribeOptions::new().start(Start::After(cursor))).await.unwrap();
    let cause = GapCause::HistoryRewritten;
    let undone = Gap::new(LOG, Some(entry(1000, 3)), entry(1000, 4), cause);
    assert_eq!(gap(&mut resumed).await, undone);
    assert_eq!(numbers(&mut resumed, 1).await, [5]);
}

#[tokio::test]
async fn a_forged_completion_at_the_next_position_is_retracted_and_the_true_one_is_delivered() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(2).await;
    numbers(&mut subscription, 2).await;
    let forged = event(stage.flow, 77, "a", &Tags::default());
    let forged = format!("{},\"pos\":\"1000-2\"}}", &forged[..forged.len() - 1]);
    stage.writer.command(&["PUBLISH", "ff:dag:completions", &forged]).await;
    assert_eq!(numbers(&mut subscription, 1).await, [77]);
    stage.end(2).await;
    let taken_back = gap(&mut subscription).await;
    assert_eq!((taken_back.cause, taken_back.after), (GapCause::Forged, Some(entry(1000, 1))));
    // Both true completions arrive, whether the second one was delivered before or not.
    let rest = numbers(&mut subscription, 2).await;
    assert_eq!(rest, [2, 3]);
}

#[tokio::test]
async fn a_forged_outcome_of_the_execution_that_ends_next_is_retracted() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(2).await;
    numbers(&mut subscription, 2).await;
    let forged = event(stage.flow, 2, "a", &Tags::default()).replace("success", "failed");
    let forged = format!("{},\"pos\":\"1000-2\"}}", &forged[..forged.len() - 1]);
    stage.writer.command(&["PUBLISH", "ff:dag:completions", &forged]).await;
    assert_eq!(numbers(&mut subscription, 1).await, [2]);
    stage.end(1).await;
    let taken_back = gap(&mut subscription).await;
    assert_eq!(taken_back, Gap::new(LOG, Some(entry(1000, 1)), entry(1000, 2), GapCause::Forged));
    let Frame::Completion(ended) = subscription.next().await.unwrap() else { panic!("a completion follows") };
    assert_eq!((number(&ended), ended.outcome), (2, Outcome::Success));
}

#[tokio::test]
async fn a_forged_completion_without_a_successor_is_declared_as_rolled_back() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(2).await;
    numbers(&mut subscription, 2).await;
    let forged = event(stage.flow, 77, "a", &Tags::default());
    let forged = format!("{},\"pos\":\"1000-2\"}}", &forged[..forged.len() - 1]);
    stage.writer.command(&["PUBLISH", "ff:dag:completions", &forged]).await;
    assert_eq!(numbers(&mut subscription, 1).await, [77]);
    let cause = GapCause::HistoryRewritten;
    let undone = Gap::new(LOG, Some(entry(1000, 1)), entry(1000, 2), cause);
    assert_eq!(gap(&mut subscription).await, undone);
}

#[tokio::test]
async fn an_unreadable_log_stops_no_other_and_health_names_it() {
    let mut stage = Stage::open().await;
    let mut live = stage.subscribe(SubscribeOptions::new()).await;
    let bad = LogId { partition: Partition::new(5), ..LOG };
    stage.writer.command(&["SET", "ff:part:{fp:5}:completions", "x"]).await;
    let config = ValkeyConfig::from_url(stage.server.url()).unwrap().partition_count(partitions());
    let fresh = ValkeyBackend::connect_with(config).await.unwrap();
    let mut late = fresh.subscribe(&SubscribeOptions::new()).await.unwrap();
    let named =
        |backend: &ValkeyBackend| backend.health().unreadable_logs.iter().map(|(log, _)| *log).collect::<Vec<_>>();
    assert_eq!(named(&fresh), [bad]);
    stage.writer.silent = true;
    stage.end(3).await;
    assert_eq!(numbers(&mut live, 3).await, [0, 1, 2]);
    assert_eq!(numbers(&mut late, 3).await, [0, 1, 2]);
    eventually("health names the log", async || named(&stage.backend) == [bad]).await;
    stage.writer.command(&["DEL", "ff:part:{fp:5}:completions"]).await;
    stage.flow = flow_in(5);
    stage.writer.silent = false;
    stage.end(1).await;
    for subscription in [&mut live, &mut late] {
        assert_eq!(numbers(subscription, 1).await, [3]);
    }
    eventually("health is well", async || named(&stage.backend).is_empty() && named(&fresh).is_empty()).await;
}

#[tokio::test]
async fn the_lag_includes_the_other_logs_if_one_or_its_epochs_cannot_be_read() {
    let mut stage = Stage::open().await;
    let subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(3).await;
    let bad = LogId { partition: Partition::new(5), ..LOG };
    stage.writer.command(&["SET", "ff:part:{fp:5}:completions", "x"]).await;
    let lag = subscription.lag().await.unwrap();
    assert_eq!((lag.events, lag.unreadable.len()), (3, 1), "{lag:?}");
    assert!(lag.unreadable[0].0 == bad && lag.unreadable[0].1.contains("WRONGTYPE"), "{lag:?}");
    // A log that is behind, and a key of another type instead of its epochs.
    stage.writer.command(&["SET", "ff:part:{fp:3}:completions:epochs", "x"]).await;
    let lag = subscription.lag().await.unwrap();
    let named: Vec<_> = lag.unreadable.iter().map(|(log, _)| *log).collect();
    assert_eq!((lag.events, named), (0, vec![bad, LOG]), "{lag:?}");
}

#[tokio::test]
async fn the_sizes_of_the_other_logs_are_reported_if_one_cannot_be_read() {
    let mut stage = Stage::open().await;
    stage.end(3).await;
    let bad = LogId { partition: Partition::new(5), ..LOG };
    stage.writer.command(&["SET", "ff:part:{fp:5}:completions", "x"]).await;
    let found = stage.backend.host().log_sizes(partitions()).await.unwrap();
    assert_eq!(found.sizes.iter().map(|size| (size.log, size.entries)).collect::<Vec<_>>(), [(LOG, 3)]);
    assert!(found.unreadable.len() == 1 && found.unreadable[0].0 == bad, "{found:?}");
}

#[tokio::test]
async fn entries_that_the_library_could_not_announce_arrive_within_two_seconds() {
    let stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    let mute = ["ACL", "SETUSER", "mute", "on", ">pw", "~*", "+@all", "resetchannels"];
    assert!(!stage.server.command(&mute).await.unwrap().is_error());
    let url = format!("redis://mute:pw@127.0.0.1:{}", stage.server.port());
    let config = ValkeyConfig::from_url(&url).unwrap().partition_count(partitions());
    let mute = ValkeyBackend::connect_with(config).await.unwrap();
    let flow = FlowSubmission::new(namespace("a")).execution(ExecutionSpec::new("only"));
    for _ in 0..3 {
        let id = mute.submit_flow(&flow).await.unwrap().executions[0].execution_id;
        mute.cancel_execution(id, "of no use").await.unwrap();
        let ended = Instant::now();
        let Frame::Completion(found) = next(&mut subscription).await else { panic!("no completion") };
        assert_eq!(found.execution_id, id);
        // Two seconds, plus the transit time.
        assert!(ended.elapsed() < Duration::from_secs(3), "{:?}", ended.elapsed());
    }
}

#[tokio::test]
async fn a_user_who_may_not_call_the_comparison_functions_still_gets_entries_that_were_not_pushed() {
    let mut stage = Stage::open().await;
    let rules = Role::Subscriber.acl_rules();
    let mut old = vec!["ACL", "SETUSER", "old", "on", ">pw", "resetkeys", "resetchannels", "-@all"];
    let rules = rules.iter().filter(|rule| !rule.ends_with("|ff1_heads") && !rule.ends_with("|ff1_appended"));
    old.extend(rules.map(String::as_str));
    assert!(!stage.server.command(&old).await.unwrap().is_error());
    let url = format!("redis://old:pw@127.0.0.1:{}", stage.server.port());
    let config = ValkeyConfig::from_url(&url).unwrap().partition_count(partitions());
    let old = ValkeyBackend::connect_with(config).await.unwrap();
    let mut subscription = old.subscribe(&SubscribeOptions::new()).await.unwrap();
    stage.writer.silent = true;
    stage.end(2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [0, 1]);
}

#[tokio::test]
async fn an_idle_process_receives_at_most_ten_kilobytes_a_second() {
    let server = TestServer::start().await.unwrap();
    let config = ValkeyConfig::from_url(server.url()).unwrap().partition_count(PartitionCount::DEFAULT);
    let backend = ValkeyBackend::connect_with(config).await.unwrap();
    // The newest entry of each log is a large one.
    for number in 0..256 {
        let event = format!("{{\"x\":\"{}\"}}", "x".repeat(4096));
        let log = format!("ff:part:{{fp:{number}}}:completions");
        assert!(!server.command(&["XADD", &log, "1000-0", "prev", "none", "e", &event]).await.unwrap().is_error());
    }
    let _subscription = backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    let sent = async || {
        let stats = server.command(&["INFO", "stats"]).await.unwrap().text();
        let line = stats.lines().find_map(|line| line.strip_prefix("total_net_output_bytes:")).unwrap();
        line.trim().parse::<u64>().unwrap()
    };
    let compared = async || calls(&server).await.get("fcall_ro").copied().unwrap_or(0);
    // The first comparison covers all logs.
    eventually("all logs were compared", async || compared().await > 256).await;
    server.command(&["CONFIG", "RESETSTAT"]).await.unwrap();
    let begin = Instant::now();
    tokio::time::sleep(Duration::from_secs(8)).await;
    let rate = sent().await as f64 / begin.elapsed().as_secs_f64();
    println!("{rate} bytes a second, {:?}", calls(&server).await);
    assert!(rate < 10_000.0, "{rate} bytes a second");
}
