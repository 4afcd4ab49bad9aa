//! A writer that acts on the server as the library does, and a reader that checks the deliveries.
#![allow(dead_code, reason = "each test program uses its part")]

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use ff_core::{
    CompletionPayload, CompletionStream, EngineError, ExecutionId, ExecutionSpec, FlowId, FlowSubmission, Frame, Gap,
    Namespace, Partition, PartitionCount, SubmitBackend, Subscription, Tags,
};
use ff_testserver::{RawClient, Reply, TestServer};
use ff_valkey::ValkeyBackend;
use futures::StreamExt;
use serde_json::json;

pub(crate) const PARTITIONS: u16 = 16;
/// Far longer than any step of these tests takes.
const PATIENCE: Duration = Duration::from_secs(30);

/// Appends to a log and publishes, as the one routine of the library does. ARGV: the epoch, `publish` or `silent`, and
/// events without a position.
const APPEND: &str = r"
local last = redis.call('XREVRANGE', KEYS[1], '+', '-', 'COUNT', 1)
local previous = last[1] and last[1][1] or 'none'
for i = 3, #ARGV do
  local fields = {'e', ARGV[i]}
  local extra = ''
  if previous == 'none' or string.match(previous, '^(%d+)-') ~= ARGV[1] then
    fields[3], fields[4] = 'prev', previous
    redis.call('HSET', KEYS[2], ARGV[1], previous)
    extra = ',\34prev\34:\34' .. previous .. '\34'
  end
  previous = redis.call('XADD', KEYS[1], 'MAXLEN', '~', '10000', ARGV[1] .. '-*', unpack(fields))
  if ARGV[2] == 'publish' then
    local body = string.sub(ARGV[i], 1, -2) .. extra .. ',\34pos\34:\34' .. previous .. '\34}'
    redis.call('PUBLISH', 'ff:dag:completions', body)
  end
end
return previous
";

pub(crate) fn partitions() -> PartitionCount {
    PartitionCount::new(PARTITIONS).unwrap()
}

pub(crate) fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

/// The number that a [`Writer`] assigned to this event.
pub(crate) fn number(event: &CompletionPayload) -> u64 {
    u64::from(event.attempt)
}

/// Ends executions. Each event carries a number, counted from 0 over all flows of this writer.
pub(crate) struct Writer {
    client: RawClient,
    pub(crate) epoch: u64,
    pub(crate) next: u64,
    pub(crate) silent: bool,
}

impl Writer {
    pub(crate) async fn new(server: &TestServer) -> Self {
        Self { client: server.client().await.unwrap(), epoch: 1_000, next: 0, silent: false }
    }

    /// A process that continues with number `next` where another one stopped.
    pub(crate) async fn successor(server: &TestServer, next: u64) -> Self {
        Self { next, epoch: 2_000, ..Self::new(server).await }
    }

    pub(crate) async fn command(&mut self, args: &[&str]) -> Reply {
        self.client.command(args).await.unwrap()
    }

    /// Ends `count` executions of one flow in one atomic call.
    pub(crate) async fn end(&mut self, flow: FlowId, namespace: &str, tags: &Tags, count: u64) {
        let partition = flow.partition(partitions());
        let events: Vec<String> = (self.next..self.next + count).map(|n| event(flow, n, namespace, tags)).collect();
        self.next += count;
        let log = format!("ff:part:{partition}:completions");
        let epochs = format!("{log}:epochs");
        let epoch = self.epoch.to_string();
        let how = if self.silent { "silent" } else { "publish" };
        let mut args: Vec<&str> = vec!["EVAL", APPEND, "2", &log, &epochs, &epoch, how];
        args.extend(events.iter().map(String::as_str));
        let reply = self.client.command(&args).await.unwrap();
        assert!(!reply.is_error(), "{reply}");
    }

    /// Ends one execution of each of `flows` in turn, until `count` are ended.
    pub(crate) async fn end_many(&mut self, flows: &[FlowId], count: u64) {
        let tags = Tags::default();
        for n in 0..count {
            let flow = flows[usize::try_from(n).unwrap() % flows.len()];
            self.end(flow, "a", &tags, 1).await;
        }
    }
}

pub(crate) fn event(flow: FlowId, number: u64, namespace: &str, tags: &Tags) -> String {
    let execution = ExecutionId::member(flow, &number.to_string(), partitions());
    json!({
        "execution_id": execution, "flow_id": flow, "outcome": "success", "at": 1, "ns": namespace,
        "lane": "default", "attempt": number, "gen": 0, "tags": tags,
    })
    .to_string()
}

pub(crate) fn bare(execution: ExecutionId, flow: FlowId) -> String {
    json!({"execution_id": execution, "flow_id": flow, "outcome": "success"}).to_string()
}

pub(crate) fn flows(count: usize) -> Vec<FlowId> {
    (0..count).map(|_| FlowId::generate()).collect()
}

pub(crate) fn flow_in(partition: u16) -> FlowId {
    std::iter::repeat_with(FlowId::generate)
        .find(|flow| flow.partition(partitions()) == Partition::new(partition))
        .unwrap()
}

/// Checks that every number arrives once, and in the order of each log.
#[derive(Default)]
pub(crate) struct Checker {
    pub(crate) seen: BTreeSet<u64>,
    last: HashMap<Partition, u64>,
}

impl Checker {
    pub(crate) fn take(&mut self, event: &CompletionPayload) {
        let n = number(event);
        assert!(self.seen.insert(n), "{n} arrived twice");
        if let Some(before) = self.last.insert(event.execution_id.partition(), n) {
            assert!(before < n, "{n} arrived after {before} of the same log");
        }
    }

    /// Takes events until `count` are seen; fails when none arrives for ten seconds.
    pub(crate) async fn take_until(&mut self, stream: &mut CompletionStream, count: usize) {
        while self.seen.len() < count {
            let event = tokio::time::timeout(Duration::from_secs(10), stream.next()).await;
            let Ok(event) = event else {
                let missing: Vec<u64> = (0..count as u64).filter(|n| !self.seen.contains(n)).take(10).collect();
                panic!("{} of {count} arrived; missing: {missing:?} and more", self.seen.len());
            };
            self.take(&event.expect("a stream never ends"));
        }
    }
}

/// The next frame, other than checkpoints and the notice of having caught up.
pub(crate) async fn next(subscription: &mut Subscription) -> Frame {
    loop {
        let frame = tokio::time::timeout(PATIENCE, subscription.next()).await.expect("something comes").unwrap();
        if matches!(frame, Frame::Completion(_) | Frame::Gap(_)) {
            return frame;
        }
    }
}

/// The numbers of the next `count` completions, without a gap among them.
pub(crate) async fn numbers(subscription: &mut Subscription, count: usize) -> Vec<u64> {
    let mut numbers = Vec::new();
    while numbers.len() < count {
        match next(subscription).await {
            Frame::Completion(completion) => numbers.push(number(&completion)),
            other => panic!("not a completion: {other:?}"),
        }
    }
    numbers
}

pub(crate) async fn gap(subscription: &mut Subscription) -> Gap {
    match next(subscription).await {
        Frame::Gap(gap) => gap,
        other => panic!("not a gap: {other:?}"),
    }
}

/// Fails if a frame arrives within the time.
pub(crate) async fn stays_silent(stream: &mut CompletionStream, time: Duration) {
    let event = tokio::time::timeout(time, stream.next()).await;
    assert!(event.is_err(), "{event:?}");
}

/// Submits a flow of one.
pub(crate) async fn submit(backend: &ValkeyBackend) -> Result<(), EngineError> {
    let flow = FlowSubmission::new(namespace("a")).execution(ExecutionSpec::new("only"));
    backend.submit_flow(&flow).await.map(drop)
}

/// How often each command was called since the last reset.
pub(crate) async fn calls(server: &TestServer) -> HashMap<String, u64> {
    let info = server.command(&["INFO", "commandstats"]).await.unwrap().text();
    let parse = |line: &str| {
        let (name, rest) = line.strip_prefix("cmdstat_")?.split_once(":calls=")?;
        Some((name.to_owned(), rest.split(',').next()?.parse().ok()?))
    };
    info.lines().filter_map(parse).collect()
}

/// Waits until the condition holds.
pub(crate) async fn eventually(what: &str, mut holds: impl AsyncFnMut() -> bool) {
    for _ in 0..1_000 {
        if holds().await {
            return;
        }
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
    panic!("never: {what}");
}
