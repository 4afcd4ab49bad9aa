//! What becomes of a subscription when connections and logs fail under it, on a real server.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod common;

use std::num::NonZeroUsize;

use common::{Writer, eventually, flow_in, gap, next, number, numbers, partitions};
use ff_core::{
    ControlBackend, Cursor, EntryId, ExecutionSpec, FlowId, FlowSubmission, Frame, Gap, GapCause, LogId, Partition,
    Scope, Start, SubmitBackend, SubscribeBackend, SubscribeOptions, Subscription, Tags,
};
use ff_testserver::{Proxy, TestServer};
use ff_valkey::{ValkeyBackend, ValkeyConfig};

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
        let config = ValkeyConfig::from_url(url).unwrap().with_partition_count(partitions());
        let backend = ValkeyBackend::connect_with(config).await.unwrap();
        Self { writer: Writer::new(&server).await, server, backend, flow: flow_in(PARTITION) }
    }

    async fn end(&mut self, count: u64) {
        self.writer.end(self.flow, "a", &Tags::default(), count).await;
    }

    async fn subscribe(&self, options: SubscribeOptions) -> Subscription {
        self.backend.subscribe(&options).await.unwrap()
    }
}

fn entry(epoch: u64, seq: u64) -> EntryId {
    EntryId { epoch, seq }
}

#[tokio::test]
async fn connections_that_have_gone_silent_are_replaced_and_nothing_is_lost() {
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

#[tokio::test]
async fn what_was_never_pushed_is_found_by_comparing_heads() {
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
    let undone = Gap { log: LOG, after: Some(entry(1000, 2)), through: entry(1000, 4), cause };
    assert_eq!(gap(&mut subscription).await, undone);
    // The next writer's clock is behind, and its first entry follows what is left.
    stage.server.command(&["XTRIM", LOG_KEY, "MAXLEN", "3"]).await.unwrap();
    stage.writer.epoch = 2000;
    stage.end(2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [5, 6]);
}

#[tokio::test]
async fn a_server_that_was_emptied_is_declared_log_by_log_and_what_follows_is_delivered() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(4).await;
    numbers(&mut subscription, 4).await;
    stage.server.command(&["FLUSHALL"]).await.unwrap();
    let undone = Gap { log: LOG, after: None, through: entry(1000, 3), cause: GapCause::LogRecreated };
    assert_eq!(gap(&mut subscription).await, undone);
    stage.writer.epoch = 2000;
    stage.end(2).await;
    assert_eq!(numbers(&mut subscription, 2).await, [4, 5]);
}

#[tokio::test]
async fn what_is_trimmed_before_a_slow_reader_comes_to_it_is_one_exact_gap() {
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
    assert_eq!(trimmed, Gap { log: LOG, after, through: entry(1000, 49), cause: GapCause::Trimmed });
    assert_eq!(numbers(&mut subscription, 10).await, (50..60).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_cursor_of_a_history_that_was_undone_is_told_so_by_another_process() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(5).await;
    numbers(&mut subscription, 5).await;
    let cursor: Cursor = subscription.close().await.to_string().parse().unwrap();
    stage.server.command(&["XDEL", LOG_KEY, "1000-4"]).await.unwrap();
    stage.writer.epoch = 2000;
    stage.end(1).await;
    let config = ValkeyConfig::from_url(stage.server.url()).unwrap().with_partition_count(partitions());
    let other = ValkeyBackend::connect_with(config).await.unwrap();
    let mut resumed = other.subscribe(&SubscribeOptions::new().start(Start::After(cursor))).await.unwrap();
    let cause = GapCause::HistoryRewritten;
    let undone = Gap { log: LOG, after: Some(entry(1000, 3)), through: entry(1000, 4), cause };
    assert_eq!(gap(&mut resumed).await, undone);
    assert_eq!(numbers(&mut resumed, 1).await, [5]);
}

#[tokio::test]
async fn a_subscriber_killed_for_its_output_buffer_gets_the_rest_from_the_log() {
    let mut stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    let limit = ["CONFIG", "SET", "client-output-buffer-limit", "pubsub 16kb 8kb 1"];
    stage.server.command(&limit).await.unwrap();
    stage.end(2_000).await;
    let stats = stage.server.command(&["INFO", "stats"]).await.unwrap().text();
    assert!(!stats.contains("client_output_buffer_limit_disconnections:0"), "{stats}");
    assert_eq!(numbers(&mut subscription, 2_000).await, (0..2_000).collect::<Vec<_>>());
}

#[tokio::test]
async fn a_server_that_is_still_loading_is_waited_for() {
    // Each key takes it a millisecond to load, and now and then it looks after its clients.
    let slowly = ["--key-load-delay", "1000", "--loading-process-events-interval-bytes", "1024"];
    let builder = slowly.iter().fold(TestServer::builder().process().persistent(), |builder, arg| builder.arg(*arg));
    let server = builder.build().await.unwrap();
    let fill = "for i = 1, 1000 do redis.call('SET', 'key' .. i, string.rep('x', 1000)) end";
    server.command(&["EVAL", fill, "0"]).await.unwrap();
    server.command(&["BGREWRITEAOF"]).await.unwrap();
    eventually("the file is rewritten", async || {
        let info = server.command(&["INFO", "persistence"]).await.unwrap().text();
        info.contains("aof_rewrite_in_progress:0") && info.contains("aof_rewrite_scheduled:0")
    })
    .await;
    let url = server.url().to_owned();
    let mut stage = Stage::over(server, &url).await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.end(5).await;
    numbers(&mut subscription, 5).await;
    stage.server.kill().await.unwrap();
    let loads = eventually("the server says that it loads", async || {
        let Ok(mut client) = stage.server.client().await else { return false };
        client.command(&["GET", "anything"]).await.is_ok_and(|reply| reply.text().starts_with("LOADING"))
    });
    let (restarted, ()) = futures::join!(stage.server.restart(), loads);
    restarted.unwrap();
    stage.writer = Writer::successor(&stage.server, 5).await;
    stage.end(3).await;
    assert_eq!(numbers(&mut subscription, 3).await, [5, 6, 7]);
}

#[tokio::test]
async fn a_lost_library_is_loaded_again_by_the_call_that_finds_it_missing() {
    let stage = Stage::open().await;
    let mut subscription = stage.subscribe(SubscribeOptions::new()).await;
    stage.server.command(&["FUNCTION", "FLUSH"]).await.unwrap();
    let namespace = common::namespace("a");
    let flow = FlowSubmission::new(namespace).idempotency_key("once").execution(ExecutionSpec::new("only"));
    stage.backend.submit_flow(&flow).await.unwrap();
    stage.server.command(&["FUNCTION", "FLUSH"]).await.unwrap();
    stage.backend.cancel_flow(flow.flow_id(), "enough").await.unwrap();
    let Frame::Completion(ended) = next(&mut subscription).await else { panic!("a completion comes") };
    assert_eq!(ended.flow_id, Some(flow.flow_id()));
}
