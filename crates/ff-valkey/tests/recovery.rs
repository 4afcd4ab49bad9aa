//! What becomes of a subscription when connections and logs fail under it, on a real server.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod common;

use std::{
    num::NonZeroUsize,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::Duration,
};

use common::{Writer, flow_in, number, partitions};
use ff_core::{
    Cursor, EntryId, FlowId, Frame, Gap, GapCause, LogId, Partition, Scope, Start, SubscribeBackend, SubscribeOptions,
    Subscription, Tags,
};
use ff_testserver::TestServer;
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use futures::StreamExt;
use tokio::{
    io::copy,
    net::{TcpListener, TcpStream},
};

/// Far longer than anything here takes.
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

/// What comes next, other than checkpoints and the news of having caught up.
async fn next(subscription: &mut Subscription) -> Frame {
    loop {
        let frame = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("something comes").unwrap();
        if matches!(frame, Frame::Completion(_) | Frame::Gap(_)) {
            return frame;
        }
    }
}

/// The numbers of the next `count` completions, among which is no gap.
async fn numbers(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        match next(subscription).await {
            Frame::Completion(completion) => numbers.push(number(&completion)),
            other => panic!("no completion: {other:?}"),
        }
    }
    numbers
}

async fn gap(subscription: &mut Subscription) -> Gap {
    match next(subscription).await {
        Frame::Gap(gap) => gap,
        other => panic!("no gap: {other:?}"),
    }
}

fn entry(epoch: u64, seq: u64) -> EntryId {
    EntryId { epoch, seq }
}

/// Stands between a backend and its server.
struct Proxy {
    port: u16,
    /// Connections of an earlier age forward nothing any more, and are not closed.
    age: Arc<AtomicU64>,
}

impl Proxy {
    async fn open(to: u16) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let port = listener.local_addr().unwrap().port();
        let age = Arc::new(AtomicU64::new(0));
        let now = age.clone();
        tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                let server = TcpStream::connect(("127.0.0.1", to)).await.unwrap();
                tokio::spawn(forward(client, server, now.clone()));
            }
        });
        Self { port, age }
    }

    /// From now on nothing passes over the connections that there are.
    fn swallow(&self) {
        self.age.fetch_add(1, Ordering::SeqCst);
    }
}

async fn forward(client: TcpStream, server: TcpStream, now: Arc<AtomicU64>) {
    let age = now.load(Ordering::SeqCst);
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let silence = async {
        while now.load(Ordering::SeqCst) == age {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    };
    tokio::select! {
        _ = copy(&mut from_client, &mut to_server) => {}
        _ = copy(&mut from_server, &mut to_client) => {}
        // Both ends stay open, and nobody reads them.
        () = silence => std::future::pending().await,
    }
}

#[tokio::test]
async fn connections_that_have_gone_silent_are_replaced_and_nothing_is_lost() {
    let server = TestServer::start().await.unwrap();
    let proxy = Proxy::open(server.port()).await;
    let mut stage = Stage::over(server, &format!("redis://127.0.0.1:{}", proxy.port)).await;
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
