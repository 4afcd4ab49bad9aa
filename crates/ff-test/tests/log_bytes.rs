//! The limit of the completion log in bytes, on a real server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ff_conformance::Fixture;
use ff_core::{
    Cursor, EntryId, ExecutionId, Frame, Gap, GapCause, LogId, Partition, PartitionCount, Scope, Start, SubmitBackend,
    SubscribeBackend, SubscribeOptions, backend::WorkBackend,
};
use ff_script::{
    keys,
    operations::{LogBytes, LogPolicy},
};
use ff_testserver::TestServer;
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use futures::StreamExt;

const LOG: LogId = LogId { partition: Partition::new(0), scope: Scope::Flows };
const LIMIT: u64 = 64 * 1024;
const PIECE: u64 = LIMIT / 16;
const RESULT: usize = 2_000;
/// A result with its event.
const ENTRY: u64 = RESULT as u64 + 400;
/// The bytes that the library counts for an entry beside event and result.
const OVERHEAD: u64 = 40;

struct Stage {
    server: TestServer,
    backend: Arc<ValkeyBackend>,
    fixture: Fixture,
}

async fn connect(server: &TestServer, policy: LogPolicy) -> Arc<ValkeyBackend> {
    let one = PartitionCount::new(1).unwrap();
    let config = ValkeyConfig::from_url(server.url()).unwrap().partition_count(one).log_policy(policy);
    Arc::new(ValkeyBackend::connect_with(config).await.unwrap())
}

fn policy() -> LogPolicy {
    LogPolicy { flow_bytes: LIMIT, ..LogPolicy::default() }
}

impl Stage {
    async fn open() -> Self {
        let server = TestServer::start().await.unwrap();
        let backend = connect(&server, policy()).await;
        Self { fixture: Fixture::new(backend.clone()), server, backend }
    }

    /// The same server, used by a program with another policy.
    async fn with(self, policy: LogPolicy) -> Self {
        let backend = connect(&self.server, policy).await;
        Self { fixture: Fixture::new(backend.clone()), backend, ..self }
    }

    /// Submits this many executions, and completes one after the other with an inline result.
    async fn end(&self, count: usize) {
        for id in self.submit(count).await {
            let claimed = self.fixture.claim(id).await;
            self.backend.complete(&claimed.lease, Bytes::from("r".repeat(RESULT))).await.unwrap();
        }
    }

    async fn submit(&self, count: usize) -> Vec<ExecutionId> {
        let flow = (0..count).fold(self.fixture.flow(&[]), |flow, n| flow.execution(self.fixture.spec(&n.to_string())));
        self.backend.submit_flow(&flow).await.unwrap().ids().collect()
    }

    async fn command(&self, args: &[&str]) -> ff_testserver::Reply {
        let reply = self.server.command(args).await.unwrap();
        assert!(!reply.is_error(), "{args:?}: {}", reply.text());
        reply
    }

    /// The log's entries, each with its bytes as the library counts them.
    async fn entries(&self) -> Vec<(EntryId, u64)> {
        let reply = self.command(&["XRANGE", &keys::completion_log(LOG), "-", "+"]).await;
        let entry = |entry: &ff_testserver::Reply| {
            let fields = entry.items()[1].items().chunks_exact(2);
            let counted = fields.filter(|pair| pair[0].text() != "prev").map(|pair| pair[1].text().len() as u64);
            (entry.items()[0].text().parse().unwrap(), counted.sum::<u64>() + OVERHEAD)
        };
        reply.items().iter().map(entry).collect()
    }

    async fn bytes(&self) -> u64 {
        self.entries().await.iter().map(|(_, bytes)| bytes).sum()
    }

    /// Ends this many executions. Returns the most entries that one append has trimmed.
    async fn most_trimmed(&self, count: usize) -> usize {
        let (mut before, mut most) = (self.entries().await.len(), 0);
        for _ in 0..count {
            self.end(1).await;
            let after = self.entries().await.len();
            most = most.max(before + 1 - after);
            before = after;
        }
        most
    }

    async fn reload(&self) {
        self.command(&["FUNCTION", "LOAD", "REPLACE", ff_script::SOURCE]).await;
    }

    /// The next gap and the completion behind it.
    async fn gap_after(&self, cursor: Cursor) -> (Gap, EntryId) {
        let mut resumed = self.backend.subscribe(&SubscribeOptions::new().start(Start::After(cursor))).await.unwrap();
        let mut gaps = Vec::new();
        loop {
            match tokio::time::timeout(Duration::from_secs(30), resumed.next()).await.unwrap().unwrap() {
                Frame::Gap(gap) => gaps.push(gap),
                Frame::Completion(completion) => {
                    assert_eq!(gaps.len(), 1, "{gaps:?}");
                    return (gaps[0], completion.position.unwrap().entry);
                }
                _ => {}
            }
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_log_keeps_at_least_its_limit_in_bytes_and_at_most_a_piece_and_an_entry_more() {
    let stage = Stage::open().await;
    let mut reached = false;
    for _ in 0..20 {
        stage.end(10).await;
        let bytes = stage.bytes().await;
        assert!(bytes <= LIMIT + PIECE + 2 * ENTRY, "{bytes}");
        assert!(!reached || bytes >= LIMIT, "{bytes}");
        reached |= bytes >= LIMIT;
    }
    assert!(reached);
    let memory = stage.command(&["MEMORY", "USAGE", &keys::completion_log(LOG), "SAMPLES", "0"]).await;
    let memory = u64::try_from(memory.int().unwrap()).unwrap();
    assert!(memory <= policy().most_memory(Scope::Flows), "{memory} of {}", policy().most_memory(Scope::Flows));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_cursor_before_entries_that_the_byte_limit_trimmed_gets_one_exact_gap() {
    let stage = Stage::open().await;
    let mut subscription = stage.backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    stage.end(3).await;
    for _ in 0..3 {
        while !matches!(subscription.next().await, Some(Frame::Completion(_))) {}
    }
    let cursor = subscription.close().await;
    let last = stage.entries().await.last().unwrap().0;
    stage.end(100).await;
    let first = stage.entries().await[0].0;
    let (gap, next) = stage.gap_after(cursor).await;
    let through = EntryId { epoch: first.epoch, seq: first.seq - 1 };
    assert_eq!(gap, Gap::new(LOG, Some(last), through, GapCause::Trimmed));
    assert_eq!(next, first);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_tenure_continues_the_saved_count_of_bytes() {
    let stage = Stage::open().await;
    let mut tenures = 0;
    for _ in 0..12 {
        stage.end(8).await;
        stage.reload().await;
        tenures += 1;
        let bytes = stage.bytes().await;
        // Each tenure leaves less than a quarter of a piece and one entry uncounted.
        assert!(bytes <= LIMIT + PIECE + 2 * ENTRY + tenures * (PIECE / 4 + ENTRY), "{bytes} after {tenures}");
    }
    stage.end(40).await;
    assert!(stage.bytes().await <= LIMIT + PIECE + 2 * ENTRY);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_new_tenure_trims_nothing_too_early() {
    let stage = Stage::open().await;
    stage.end(20).await;
    let all = stage.entries().await.len();
    stage.reload().await;
    stage.end(4).await;
    assert_eq!(stage.entries().await.len(), all + 4, "the limit was not reached");
    stage.end(60).await;
    let bytes = stage.bytes().await;
    assert!(bytes >= LIMIT, "{bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lost_tail_is_not_counted() {
    let stage = Stage::open().await;
    stage.end(10).await;
    let log = keys::completion_log(LOG);
    stage.command(&["COPY", &log, "backup"]).await;
    stage.end(20).await;
    // The earlier log, with later epochs and counts.
    stage.command(&["COPY", "backup", &log, "REPLACE"]).await;
    stage.end(14).await;
    let held = stage.entries().await;
    let bytes: u64 = held.iter().map(|(_, bytes)| bytes).sum();
    assert!(held.len() == 24 && bytes < LIMIT, "{} entries of {bytes} bytes", held.len());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_smaller_limit_is_applied_by_a_hundred_entries_per_append() {
    let stage = Stage::open().await.with(LogPolicy::default()).await;
    stage.end(250).await;
    let stage = stage.with(policy()).await;
    let most = stage.most_trimmed(40).await;
    assert!((50..=120).contains(&most), "{most} entries by one append");
    let bytes = stage.bytes().await;
    assert!((LIMIT..=LIMIT + PIECE + 2 * ENTRY).contains(&bytes), "{bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn entries_of_a_library_without_the_count_are_trimmed_by_a_hundred_per_append() {
    let stage = Stage::open().await.with(LogPolicy::default()).await;
    stage.end(250).await;
    stage.command(&["HDEL", &keys::log_epochs(LOG), LogBytes::FIELD]).await;
    stage.reload().await;
    let stage = stage.with(policy()).await;
    let most = stage.most_trimmed(40).await;
    assert!((50..=120).contains(&most), "{most} entries by one append");
    let bytes = stage.bytes().await;
    assert!((LIMIT..=LIMIT + PIECE + 2 * ENTRY).contains(&bytes), "{bytes}");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_program_without_a_byte_limit_appends_and_trims_nothing() {
    let stage = Stage::open().await;
    stage.end(40).await;
    let before = stage.entries().await[0].0;
    for id in stage.submit(8).await {
        let mut keys = keys::partition_block(id.partition());
        keys.push(keys::execution_core(id));
        let (count, uuid) = (keys.len().to_string(), id.uuid().to_string());
        let mut call = vec!["FCALL", "ff1_cancel_execution", &count];
        call.extend(keys.iter().map(String::as_str));
        let reason = "r".repeat(1_000);
        call.extend(["10000 1000 4096", &uuid, &reason]);
        stage.command(&call).await;
    }
    assert_eq!(stage.entries().await[0].0, before);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn further_numbers_of_later_programs_are_ignored() {
    let stage = Stage::open().await;
    let id = stage.submit(1).await[0];
    let mut keys = keys::partition_block(id.partition());
    keys.push(keys::execution_core(id));
    let (count, uuid) = (keys.len().to_string(), id.uuid().to_string());
    let mut call = vec!["FCALL", "ff1_cancel_execution", &count];
    call.extend(keys.iter().map(String::as_str));
    call.extend(["10000 1000 4096 65536 65536 7 8", &uuid, "enough"]);
    assert_eq!(stage.command(&call).await.items()[0].text(), "ok");
}
