//! An event stays readable whatever the core of its execution holds, on a real server.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use ff_core::{
    CompletionPayload, ExecutionId, ExecutionSpec, FlowSubmission, Frame, Namespace, PartitionCount, SubmitBackend,
    SubscribeBackend, SubscribeOptions, Subscription, Tags, limits,
};
use ff_script::keys;
use ff_testserver::TestServer;
use ff_valkey::{ValkeyBackend, ValkeyConfig};

/// More than a reader accepts.
const TOO_MUCH: usize = 9 << 20;

async fn stage() -> (TestServer, ValkeyBackend, Subscription) {
    let server = TestServer::start().await.unwrap();
    let config = ValkeyConfig::from_url(server.url()).unwrap().partition_count(PartitionCount::new(1).unwrap());
    let backend = ValkeyBackend::connect_with(config).await.unwrap();
    let subscription = backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    (server, backend, subscription)
}

async fn submit(backend: &ValkeyBackend) -> ExecutionId {
    let tags = Tags::new([("k", "v")]).unwrap();
    let flow = FlowSubmission::new(Namespace::default_namespace()).execution(ExecutionSpec::new("a").tags(tags));
    backend.submit_flow(&flow).await.unwrap().executions[0].execution_id
}

/// Cancels like a program that checks nothing.
async fn cancel(server: &TestServer, id: ExecutionId, reason: &str) {
    let mut keys = keys::partition_block(id.partition());
    keys.push(keys::execution_core(id));
    let (count, uuid) = (keys.len().to_string(), id.uuid().to_string());
    let mut call = vec!["FCALL", "ff1_cancel_execution", &count];
    call.extend(keys.iter().map(String::as_str));
    call.extend(["10000 1000 4096", &uuid, reason]);
    let reply = server.command(&call).await.unwrap();
    assert!(!reply.is_error(), "{}", reply.text());
}

async fn completion(subscription: &mut Subscription) -> CompletionPayload {
    use futures::StreamExt;
    loop {
        match tokio::time::timeout(Duration::from_secs(30), subscription.next()).await.unwrap().unwrap() {
            Frame::Completion(completion) => return completion,
            Frame::Gap(gap) => panic!("a gap: {gap}"),
            _ => {}
        }
    }
}

#[tokio::test]
async fn an_oversized_reason_is_cut_at_a_character_in_the_event() {
    let (server, backend, mut subscription) = stage().await;
    let id = submit(&backend).await;
    cancel(&server, id, &"ä".repeat(TOO_MUCH / 2)).await;
    let completion = completion(&mut subscription).await;
    let reason = completion.reason.unwrap();
    assert!(reason.chars().all(|c| c == 'ä') && reason.len() <= limits::REASON_BYTES, "{} bytes", reason.len());
    assert_eq!(completion.tags.get("k"), Some("v"));
}

#[tokio::test]
async fn oversized_tags_are_left_out_of_the_event() {
    let (server, backend, mut subscription) = stage().await;
    let id = submit(&backend).await;
    let tags = format!("{{\"k\":\"{}\"}}", "v".repeat(TOO_MUCH));
    server.command(&["HSET", &keys::execution_core(id), "tags_json", &tags]).await.unwrap();
    cancel(&server, id, "enough").await;
    let completion = completion(&mut subscription).await;
    assert_eq!((completion.execution_id, completion.reason.as_deref()), (id, Some("enough")));
    assert!(completion.tags.is_empty());
}
