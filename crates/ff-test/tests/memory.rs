//! The memory of a thousand subscriptions, and its release when they are dropped. The only test of its program, since
//! it counts all allocations of the program.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{alloc::System, time::Duration};

use ff_conformance::Fixture;
use ff_core::CompletionBackend;
use ff_valkey::ValkeyBackend;
use futures::StreamExt;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};
use support::Stand;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated - stats.bytes_deallocated
}

async fn subscriber_connections(stand: &Stand) -> usize {
    stand.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.text().lines().count()
}

/// Opens a thousand subscriptions, delivers a completion to each, and drops them.
async fn come_and_go(stand: &Stand, backend: &ValkeyBackend, fixture: &Fixture) {
    let subscribe = (0..1_000).map(|_| backend.subscribe_completions());
    let mut streams = futures::future::try_join_all(subscribe).await.unwrap();
    assert_eq!((backend.health().subscriptions, subscriber_connections(stand).await), (1_000, 1));
    let id = fixture.end_one().await;
    for stream in &mut streams {
        while stream.next().await.unwrap().execution_id != id {}
    }
    drop(streams);
    assert_eq!(backend.health().subscriptions, 0);
}

#[tokio::test]
async fn a_thousand_subscriptions_share_one_connection_and_free_their_memory() {
    let stand = Stand::start().await;
    let backend = ValkeyBackend::connect(stand.server.url()).await.unwrap();
    let fixture = Fixture::new(stand.backend.clone());
    // One-time allocations happen in the first round.
    come_and_go(&stand, &backend, &fixture).await;
    let before = allocated();
    for _ in 0..5 {
        come_and_go(&stand, &backend, &fixture).await;
    }
    let back = async {
        // Tasks of the client library end later.
        while allocated() > before + 256 * 1024 {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    };
    let waited = tokio::time::timeout(Duration::from_secs(30), back).await;
    assert!(waited.is_ok(), "{} bytes before, {} after five thousand subscriptions", before, allocated());
}
