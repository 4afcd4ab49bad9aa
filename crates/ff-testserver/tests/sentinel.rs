//! The guarantees of sentinels.
#![allow(clippy::unwrap_used, reason = "helpers of tests")]

use ff_testserver::{Error, Sentinels, TestServer};

async fn pair(password: Option<&str>) -> (TestServer, TestServer) {
    let mut builder = TestServer::builder().process();
    if let Some(password) = password {
        // The former primary follows the new one later, and then also needs the password.
        builder = builder.password(password).arg("--masterauth").arg(password);
    }
    let primary = builder.clone().build().await.unwrap();
    let replica = builder.replica_of(&primary).build().await.unwrap();
    primary.replicas_in_step(1).await.unwrap();
    (primary, replica)
}

async fn role(server: &TestServer) -> String {
    server.command(&["ROLE"]).await.unwrap().items()[0].text()
}

#[tokio::test]
async fn a_replica_is_promoted_when_the_primary_is_killed() {
    let (primary, replica) = pair(None).await;
    let sentinels = Sentinels::watching(&primary, "orders").count(3).start().await.unwrap();
    assert_eq!(sentinels.primary().await.unwrap(), primary.port());
    primary.kill().await.unwrap();
    assert_eq!(sentinels.promoted(&primary).await.unwrap(), replica.port());
    assert_eq!(role(&replica).await, "master");
    assert_eq!(sentinels.hosts().split(',').count(), 3);
}

#[tokio::test]
async fn a_failover_is_made_on_demand_over_passwords_and_the_former_primary_lives() {
    let (primary, replica) = pair(Some("pw")).await;
    let sentinels = Sentinels::watching(&primary, "orders").password("other").start().await.unwrap();
    assert_eq!(sentinels.failover().await.unwrap(), replica.port());
    assert_eq!((role(&replica).await, role(&primary).await), ("master".into(), "master".into()));
}

#[tokio::test]
async fn dropped_sentinels_are_gone() {
    let primary = TestServer::builder().process().build().await.unwrap();
    let sentinels = Sentinels::watching(&primary, "orders").start().await.unwrap();
    let port = sentinels.nodes()[0].port();
    drop(sentinels);
    assert!(std::net::TcpStream::connect(("127.0.0.1", port)).is_err());
}

#[tokio::test]
async fn a_failed_failover_reports_what_the_sentinels_saw() {
    let primary = TestServer::builder().process().build().await.unwrap();
    let sentinels = Sentinels::watching(&primary, "orders").start().await.unwrap();
    sentinels.nodes()[0].kill().await.unwrap();
    let error = sentinels.failover().await.unwrap_err();
    assert!(matches!(error, Error::Io { .. }), "{error:?}");
}
