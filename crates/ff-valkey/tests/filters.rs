//! Filters: no event of another filter arrives, none is missing, and the cost on the server is bounded.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod common;

use std::{collections::HashMap, num::NonZeroUsize, time::Duration};

use common::{Checker, Writer, bare, calls, eventually, flow_in, namespace, number, partitions, stays_silent};
use ff_core::{
    CompletionBackend, CompletionStream, ExecutionId, Frame, ScannerFilter, Start, SubscribeBackend, SubscribeOptions,
    Subscription, Tags,
};
use ff_testserver::TestServer;
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use futures::StreamExt;

const CHANNEL: &str = "ff:dag:completions";

async fn backend(server: &TestServer, credentials: &str) -> ValkeyBackend {
    let url = format!("redis://{credentials}127.0.0.1:{}", server.port());
    let config = ValkeyConfig::from_url(&url).unwrap().partition_count(partitions());
    ValkeyBackend::connect_with(config).await.unwrap()
}

fn of(name: &str) -> ScannerFilter {
    ScannerFilter::new().namespace(namespace(name))
}

fn tagged(value: &str) -> ScannerFilter {
    ScannerFilter::new().instance_tag("instance", value)
}

fn reads(calls: &HashMap<String, u64>) -> u64 {
    const READING: [&str; 12] = [
        "hget",
        "hmget",
        "hgetall",
        "hexists",
        "hkeys",
        "hvals",
        "get",
        "mget",
        "exists",
        "xrange",
        "xrevrange",
        "fcall_ro",
    ];
    READING.iter().filter_map(|name| calls.get(*name)).sum()
}

async fn next(stream: &mut CompletionStream) -> ExecutionId {
    tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("an event").unwrap().execution_id
}

/// An execution as the library stores it.
async fn stored(server: &TestServer, ns: &str, tag: Option<&str>) -> (ExecutionId, String) {
    let flow = flow_in(2);
    let id = ExecutionId::member(flow, "x", partitions());
    let key = |part: &str| format!("ff:exec:{}:{id}:{part}", id.partition());
    server.command(&["HSET", &key("core"), "namespace", ns]).await.unwrap();
    if let Some(tag) = tag {
        server.command(&["HSET", &key("tags"), "instance", tag]).await.unwrap();
    }
    (id, bare(id, flow))
}

#[tokio::test]
async fn filters_leak_and_lose_nothing_under_load_from_two_tenants() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server, "").await;
    let mut writer = Writer::new(&server).await;
    let mut a = backend.subscribe_completions_filtered(&of("a")).await.unwrap();
    let mut b = backend.subscribe_completions_filtered(&of("b")).await.unwrap();
    let mut blue = backend.subscribe_completions_filtered(&tagged("blue")).await.unwrap();
    let both = of("b").instance_tag("instance", "green");
    let mut green_b = backend.subscribe_completions_filtered(&both).await.unwrap();
    let mut all = backend.subscribe_completions().await.unwrap();
    server.command(&["CONFIG", "RESETSTAT"]).await.unwrap();
    let total = 20_000_u64;
    let writing = tokio::spawn(async move {
        let tags = ["blue", "green"].map(|value| Tags::new([("instance", value)]).unwrap());
        for n in 0..total / 10 {
            let (tenant, tag) = (n % 2, n / 2 % 2);
            let flow = flow_in(u16::try_from(n % 16).unwrap());
            let ns = if tenant == 0 { "a" } else { "b" };
            writer.end(flow, ns, &tags[usize::try_from(tag).unwrap()], 10).await;
        }
    });
    let collect = async |stream: &mut CompletionStream, count: u64, wanted: &dyn Fn(u64) -> bool| {
        let mut checker = Checker::default();
        while (checker.seen.len() as u64) < count {
            let event = tokio::time::timeout(Duration::from_secs(10), stream.next()).await.expect("an event").unwrap();
            assert!(wanted(number(&event) / 10), "{event:?}");
            checker.take(&event);
        }
    };
    tokio::join!(
        collect(&mut a, total / 2, &|n| n % 2 == 0),
        collect(&mut b, total / 2, &|n| n % 2 == 1),
        collect(&mut blue, total / 2, &|n| n / 2 % 2 == 0),
        collect(&mut green_b, total / 4, &|n| n % 2 == 1 && n / 2 % 2 == 1),
        collect(&mut all, total, &|_| true),
    );
    writing.await.unwrap();
    stays_silent(&mut a, Duration::from_millis(100)).await;
}

/// Ends executions of two namespaces, with several tags, in one log; the last one passes every filter here.
async fn end_all_kinds(writer: &mut Writer) -> Vec<(u64, &'static str, Option<&'static str>)> {
    let kinds = [("a", None), ("b", Some("blue")), ("a", Some("bluer")), ("b", None), ("a", Some("blue"))];
    let mut ended = Vec::new();
    for (namespace, tag) in kinds.into_iter().cycle().take(20 * kinds.len()) {
        ended.push((writer.next, namespace, tag));
        let tags = Tags::new(tag.map(|tag| ("instance", tag))).unwrap();
        writer.end(flow_in(2), namespace, &tags, 1).await;
    }
    ended
}

/// The numbers of the arriving completions, in order, up to this one.
async fn numbers_until(subscription: &mut Subscription, last: u64) -> Vec<u64> {
    let mut came = Vec::new();
    while came.last() != Some(&last) {
        let frame = tokio::time::timeout(Duration::from_secs(30), subscription.next()).await;
        match frame.expect("a frame").expect("a subscription does not end") {
            Frame::Completion(completion) => came.push(number(&completion)),
            Frame::Gap(gap) => panic!("{gap}"),
            _ => {}
        }
    }
    came
}

#[tokio::test]
async fn a_filter_decides_the_same_live_after_a_reconnect_in_a_catch_up_and_on_replay() {
    type Wanted = fn(&str, Option<&str>) -> bool;
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server, "").await;
    let mut writer = Writer::new(&server).await;
    let filters: [(ScannerFilter, Wanted); 4] = [
        (ScannerFilter::NOOP, |_, _| true),
        (of("a"), |namespace, _| namespace == "a"),
        (tagged("blue"), |_, tag| tag == Some("blue")),
        (of("a").instance_tag("instance", "blue"), |namespace, tag| (namespace, tag) == ("a", Some("blue"))),
    ];
    let subscribe = async |options: SubscribeOptions| backend.subscribe(&options).await.unwrap();
    let (mut live, mut slow) = (Vec::new(), Vec::new());
    for (filter, _) in &filters {
        let options = SubscribeOptions::new().filter(filter.clone());
        live.push(subscribe(options.clone()).await);
        slow.push(subscribe(options.capacity(NonZeroUsize::new(8).unwrap())).await);
    }
    let mut ended = Vec::new();
    let mut came = vec![Vec::new(); filters.len()];
    for round in 0..2 {
        if round == 1 {
            // Executions that end before it has subscribed again are read from the log.
            server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
        }
        ended.extend(end_all_kinds(&mut writer).await);
        for (came, live) in came.iter_mut().zip(&mut live) {
            came.extend(numbers_until(live, writer.next - 1).await);
        }
    }
    for ((((filter, wanted), came), live), mut slow) in filters.iter().zip(came).zip(live).zip(slow) {
        let expected: Vec<u64> = ended.iter().filter(|(_, ns, tag)| wanted(ns, *tag)).map(|(n, ..)| *n).collect();
        assert_eq!(came, expected, "live, {filter:?}");
        assert_eq!(live.stats().overflows, 0, "it was never behind");
        assert!(slow.stats().catching_up, "its queue was full long ago");
        assert_eq!(numbers_until(&mut slow, writer.next - 1).await, expected, "catching up, {filter:?}");
        let mut replay = subscribe(SubscribeOptions::new().filter(filter.clone()).start(Start::Earliest)).await;
        assert_eq!(numbers_until(&mut replay, writer.next - 1).await, expected, "replayed, {filter:?}");
    }
}

#[tokio::test]
async fn our_own_events_are_filtered_without_a_read() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server, "").await;
    let mut a = backend.subscribe_completions_filtered(&of("a")).await.unwrap();
    let mut blue = backend.subscribe_completions_filtered(&tagged("blue")).await.unwrap();
    let mut writer = Writer::new(&server).await;
    server.command(&["CONFIG", "RESETSTAT"]).await.unwrap();
    let tags = Tags::new([("instance", "blue")]).unwrap();
    let flow = flow_in(1);
    for _ in 0..200 {
        writer.end(flow, "a", &tags, 1).await;
    }
    Checker::default().take_until(&mut a, 200).await;
    Checker::default().take_until(&mut blue, 200).await;
    let calls = calls(&server).await;
    // One XREVRANGE per call belongs to the writer.
    assert_eq!((reads(&calls), calls["eval"], calls["xrevrange"]), (200, 200, 200), "{calls:?}");
}

#[tokio::test]
async fn unpositioned_events_cost_at_most_one_namespace_and_one_tag_read_for_all_subscriptions() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server, "").await;
    let mut all = backend.subscribe_completions().await.unwrap();
    let mut streams = Vec::new();
    for filter in [of("a"), of("a").instance_tag("instance", "blue"), of("b"), of("b").instance_tag("x", "y")] {
        for _ in 0..3 {
            streams.push(backend.subscribe_completions_filtered(&filter).await.unwrap());
        }
    }
    let cases = [
        (stored(&server, "a", Some("blue")).await, 2),
        // Once the namespace is known, no filter with a tag remains.
        (stored(&server, "c", Some("blue")).await, 1),
        // A missing hash is an answer.
        ((ExecutionId::member(flow_in(4), "y", partitions()), String::new()), 1),
    ];
    for ((id, text), most) in cases {
        let text = if text.is_empty() { bare(id, flow_in(4)) } else { text };
        server.command(&["CONFIG", "RESETSTAT"]).await.unwrap();
        server.command(&["PUBLISH", CHANNEL, &text]).await.unwrap();
        assert_eq!(next(&mut all).await, id);
        if most == 2 {
            for stream in &mut streams[..6] {
                assert_eq!(next(stream).await, id);
            }
        }
        eventually("nothing is held", async || backend.health().held == 0).await;
        tokio::time::sleep(Duration::from_millis(50)).await;
        let calls = calls(&server).await;
        assert_eq!(reads(&calls), most, "{calls:?}");
    }
    for stream in &mut streams {
        assert!(futures::FutureExt::now_or_never(stream.next()).is_none());
    }
}

#[tokio::test]
async fn an_unpositioned_event_without_filters_costs_no_read() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server, "").await;
    let mut all = backend.subscribe_completions().await.unwrap();
    let (id, text) = stored(&server, "a", None).await;
    server.command(&["CONFIG", "RESETSTAT"]).await.unwrap();
    server.command(&["PUBLISH", CHANNEL, &text]).await.unwrap();
    let event = tokio::time::timeout(Duration::from_secs(5), all.next()).await.unwrap().unwrap();
    assert!(event.execution_id == id && event.position.is_none() && event.dependents_pending);
    assert_eq!(reads(&calls(&server).await), 0);
}

#[tokio::test]
async fn a_failed_read_delays_its_event_and_positioned_ones_overtake_it() {
    let server = TestServer::start().await.unwrap();
    server.command(&["ACL", "SETUSER", "ann", "on", ">pw", "allkeys", "allchannels", "+@all"]).await.unwrap();
    let backend = backend(&server, "ann:pw@").await;
    let mut a = backend.subscribe_completions_filtered(&of("a")).await.unwrap();
    let mut b = backend.subscribe_completions_filtered(&of("b")).await.unwrap();
    let (id, text) = stored(&server, "a", None).await;
    server.command(&["ACL", "SETUSER", "ann", "-hget"]).await.unwrap();
    server.command(&["PUBLISH", CHANNEL, &text]).await.unwrap();
    eventually("it is held", async || backend.health().held == 1).await;
    let mut writer = Writer::new(&server).await;
    writer.end(flow_in(2), "a", &Tags::default(), 1).await;
    let event = tokio::time::timeout(Duration::from_secs(5), a.next()).await.unwrap().unwrap();
    assert!(event.position.is_some());
    stays_silent(&mut a, Duration::from_millis(300)).await;
    server.command(&["ACL", "SETUSER", "ann", "+hget"]).await.unwrap();
    assert_eq!(next(&mut a).await, id);
    stays_silent(&mut a, Duration::from_millis(100)).await;
    stays_silent(&mut b, Duration::from_millis(1)).await;
}

#[tokio::test]
async fn a_key_of_the_wrong_type_does_not_match_and_delays_nothing() {
    let server = TestServer::start().await.unwrap();
    let backend = backend(&server, "").await;
    let mut a = backend.subscribe_completions_filtered(&of("a")).await.unwrap();
    let forged = ExecutionId::member(flow_in(5), "forged", partitions());
    let key = format!("ff:exec:{}:{forged}:core", forged.partition());
    server.command(&["SET", &key, "x"]).await.unwrap();
    server.command(&["PUBLISH", CHANNEL, &bare(forged, flow_in(5))]).await.unwrap();
    let (id, text) = stored(&server, "a", None).await;
    server.command(&["PUBLISH", CHANNEL, &text]).await.unwrap();
    assert_eq!(next(&mut a).await, id);
}
