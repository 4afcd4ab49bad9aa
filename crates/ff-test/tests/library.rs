//! The library on a server: loaded when absent or older, kept when newer, brought back when lost.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use ff_conformance::Fixture;
use ff_core::{EngineError, PartitionCount, backend::MaintenanceBackend};
use ff_script::{
    SOURCE,
    assemble::VERSION,
    loader::{self, LibraryState},
};
use ff_testserver::TestServer;
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use support::Stand;

/// The library as another version of this project might have it.
fn library(version: u32, marker: &str) -> String {
    let ours = format!("version = '{VERSION}'");
    assert!(SOURCE.contains(&ours));
    let digest = loader::digest_of_source();
    SOURCE.replacen(&ours, &format!("version = '{version}'"), 1).replacen(digest, marker, 1)
}

async fn server_with(library: &str) -> TestServer {
    let server = TestServer::start().await.unwrap();
    let reply = server.command(&["FUNCTION", "LOAD", library]).await.unwrap();
    assert!(!reply.is_error(), "{}", reply.text());
    server
}

async fn version_on(server: &TestServer) -> (String, String) {
    let reply = server.command(&["FCALL", "ff1_version", "0"]).await.unwrap();
    (reply.items()[0].text(), reply.items()[1].text())
}

#[tokio::test]
async fn an_absent_library_is_loaded() {
    let stand = Stand::start().await;
    let (version, digest) = version_on(&stand.server).await;
    assert_eq!((version, digest.as_str()), (VERSION.to_string(), loader::digest_of_source()));
}

#[tokio::test]
async fn an_older_library_is_replaced() {
    let server = server_with(&library(VERSION - 1, "older")).await;
    ValkeyBackend::connect(server.url()).await.unwrap();
    assert_eq!(version_on(&server).await.1, loader::digest_of_source());
}

#[tokio::test]
async fn a_newer_library_stays_and_is_used() {
    let server = server_with(&library(VERSION + 1, "newer")).await;
    let backend = Arc::new(ValkeyBackend::connect(server.url()).await.unwrap());
    assert_eq!(version_on(&server).await, ((VERSION + 1).to_string(), "newer".to_owned()));
    Fixture::new(backend).end_one().await;
}

#[tokio::test]
async fn the_same_version_with_another_text_is_refused_with_both_digests() {
    let server = server_with(&library(VERSION, "altered")).await;
    let error = ValkeyBackend::connect(server.url()).await.unwrap_err();
    assert!(matches!(error, EngineError::Conflict { .. }));
    let message = error.to_string();
    assert!(message.contains("altered") && message.contains(loader::digest_of_source()), "{message}");
    assert_eq!(version_on(&server).await.1, "altered");
}

#[tokio::test]
async fn the_same_library_is_not_loaded_again() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    fixture.end_one().await;
    stand.command(&["CONFIG", "RESETSTAT"]).await;
    let second = ValkeyBackend::connect(stand.server.url()).await.unwrap();
    assert_eq!(loader::inspect(&**second.host()).await.unwrap(), LibraryState::Same);
    let stats = stand.command(&["INFO", "commandstats"]).await.text();
    assert!(!stats.contains("cmdstat_function|load"), "{stats}");
}

#[tokio::test]
async fn a_library_lost_while_running_is_loaded_again_by_the_next_call() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let mut stream = stand.backend.subscribe_completions().await.unwrap();
    let first = fixture.end_one().await;
    stand.command(&["FUNCTION", "FLUSH", "SYNC"]).await;
    let second = fixture.end_one().await;
    for id in [first, second] {
        assert_eq!(futures::StreamExt::next(&mut stream).await.unwrap().execution_id, id);
    }
}

#[tokio::test]
async fn a_partition_count_that_differs_from_the_recorded_one_is_refused_with_both() {
    let stand = Stand::start().await;
    let config = ValkeyConfig::from_url(stand.server.url()).unwrap();
    let other = config.partition_count(PartitionCount::new(64).unwrap());
    let error = ValkeyBackend::connect_with(other).await.unwrap_err().to_string();
    assert!(error.contains("64") && error.contains("256"), "{error}");
}

#[tokio::test]
async fn a_program_without_a_required_partition_count_joins_any_deployment() {
    let server = TestServer::start().await.unwrap();
    let config = ValkeyConfig::from_url(server.url()).unwrap();
    let few = config.clone().partition_count(PartitionCount::new(4).unwrap());
    ValkeyBackend::connect_with(few).await.unwrap();
    let joined: Arc<dyn ff_core::EngineBackend> = Arc::new(ValkeyBackend::connect_with(config).await.unwrap());
    assert_eq!(joined.partition_count().get(), 4);
    Fixture::new(joined).end_one().await;
}

#[tokio::test]
async fn a_flushed_deployment_is_recorded_again() {
    let stand = Stand::start().await;
    stand.command(&["FLUSHALL"]).await;
    stand.backend.verify_deployment().await.unwrap();
    let count = stand.command(&["HGET", ff_script::keys::DEPLOYMENT, "partition_count"]).await.text();
    assert_eq!(count, "256");
}

#[tokio::test]
async fn a_submission_beyond_the_servers_memory_writes_nothing_and_ends_are_still_recorded() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let claimed = fixture.claim(id).await;
    stand.command(&["CONFIG", "SET", "maxmemory", "1"]).await;
    let flow = fixture.flow(&[("b", &[])]).idempotency_key("k");
    let error = stand.backend.submit_flow(&flow).await.unwrap_err();
    assert!(matches!(error, EngineError::ResourceExhausted { .. }), "{error}");
    stand.backend.complete(&claimed.lease, "done".into()).await.unwrap();
    // Who ends work and who repairs can still join.
    let another = ValkeyBackend::connect(stand.server.url()).await.unwrap();
    another.verify_deployment().await.unwrap();
    another.reconcile(id.partition(), None, 10).await.unwrap();
    stand.command(&["CONFIG", "SET", "maxmemory", "0"]).await;
    let refused = ff_core::FlowId::from_idempotency_key(&fixture.namespace, "k");
    assert!(matches!(stand.backend.describe_flow(refused).await, Err(EngineError::NotFound { .. })));
    fixture.submit(&flow).await;
}

#[tokio::test]
async fn a_server_that_evicts_flows_is_refused_with_its_policy() {
    let server = TestServer::builder().arg("--maxmemory").arg("64mb").arg("--maxmemory-policy").arg("allkeys-lru");
    let server = server.build().await.unwrap();
    let error = ValkeyBackend::connect(server.url()).await.unwrap_err().to_string();
    assert!(error.contains("allkeys-lru") && error.contains("noeviction"), "{error}");
}
