//! The effects of a proxy on the connections through it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::time::Duration;

use ff_testserver::{Proxy, RawClient, TestServer};

async fn asked(client: &mut RawClient) -> Option<String> {
    let answer = tokio::time::timeout(Duration::from_millis(200), client.command(&["PING"])).await;
    answer.ok().map(|answer| answer.map_or_else(|error| error.to_string(), |reply| reply.text()))
}

#[tokio::test]
async fn swallowed_connections_stay_open_and_silent_while_new_ones_work() {
    let server = TestServer::start().await.unwrap();
    let proxy = Proxy::open(server.port()).await.unwrap();
    let mut old = RawClient::connect(proxy.port()).await.unwrap();
    assert_eq!(asked(&mut old).await.as_deref(), Some("PONG"));
    proxy.swallow();
    assert_eq!(asked(&mut old).await, None);
    let mut new = RawClient::connect(proxy.port()).await.unwrap();
    assert_eq!(asked(&mut new).await.as_deref(), Some("PONG"));
    proxy.cut();
    for client in [&mut old, &mut new] {
        assert!(client.receive().await.is_err());
    }
}

#[tokio::test]
async fn connections_can_be_redirected() {
    let (first, second) = (TestServer::start().await.unwrap(), TestServer::start().await.unwrap());
    second.command(&["SET", "name", "second"]).await.unwrap();
    let proxy = Proxy::open(first.port()).await.unwrap();
    let mut old = RawClient::connect(proxy.port()).await.unwrap();
    assert_eq!(old.command(&["GET", "name"]).await.unwrap().text(), "");
    proxy.lead_to(second.port());
    assert!(old.receive().await.is_err());
    let mut new = RawClient::connect(proxy.port()).await.unwrap();
    assert_eq!(new.command(&["GET", "name"]).await.unwrap().text(), "second");
}
