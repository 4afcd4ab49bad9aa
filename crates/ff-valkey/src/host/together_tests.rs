//! Answers of a group whose connection is lost in between, on two real servers behind one address.

use ff_core::{ExecutionId, FlowId, PartitionCount};
use ff_testserver::{Proxy, TestServer};

use super::*;
use crate::{
    ValkeyConfig,
    completions::unpositioned::{Attributes, ServerAttributes},
    net::value,
};

const KEY: &str = "ff:who";

/// Two servers that answer differently, and a host whose address leads to the first one.
struct Stage {
    former: TestServer,
    next: TestServer,
    proxy: Proxy,
    host: ValkeyHost,
}

impl Stage {
    async fn open() -> Self {
        let (former, next) = (TestServer::start().await.unwrap(), TestServer::start().await.unwrap());
        former.command(&["SET", KEY, "the former"]).await.unwrap();
        next.command(&["SET", KEY, "the next"]).await.unwrap();
        let proxy = Proxy::open(former.port()).await.unwrap();
        let config = ValkeyConfig::from_url(&format!("redis://127.0.0.1:{}", proxy.port())).unwrap();
        Self { former, next, proxy, host: ValkeyHost::connect(config).await.unwrap() }
    }

    /// After this many answers the address leads to the next server.
    fn cut_after(&self, answers: usize) {
        self.proxy.cut_after("the former", answers, self.next.port());
    }
}

fn questions(count: usize) -> Vec<Question> {
    vec![("GET", vec![KEY.into()]); count]
}

fn said(answers: Vec<Value>) -> Vec<String> {
    let text = |answer| String::from_utf8(value::string(answer).unwrap().into()).unwrap();
    answers.into_iter().map(text).collect()
}

/// The result of asking again until there is an answer.
async fn eventually(host: &ValkeyHost) -> Vec<String> {
    loop {
        if let Ok(answers) = Together::new(host, "asking again").ask_all(questions(3)).await {
            return said(answers);
        }
        tokio::time::sleep(std::time::Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn replies_of_two_servers_fail_together_and_the_whole_group_is_sent_again() {
    let stage = Stage::open().await;
    stage.cut_after(2);
    let asked = Together::new(&stage.host, "asking").ask_all(questions(4)).await;
    let error = asked.map(said).expect_err("one group of answers of two servers");
    assert!(error.is_retryable(), "{error}");
    assert_eq!(eventually(&stage.host).await, ["the next"; 3]);
}

#[tokio::test]
async fn replies_that_are_taken_as_they_arrive_fail_together_too() {
    let stage = Stage::open().await;
    stage.cut_after(2);
    let asked = Together::new(&stage.host, "asking").ask_raw(questions(4)).await;
    assert!(asked.expect_err("one group of answers of two servers").is_retryable());
}

#[tokio::test]
async fn groups_that_are_sent_one_after_the_other_are_answered_by_one_server() {
    let stage = Stage::open().await;
    let together = Together::new(&stage.host, "asking");
    assert_eq!(said(together.ask_all(questions(2)).await.unwrap()), ["the former"; 2]);
    stage.proxy.lead_to(stage.next.port());
    assert_eq!(eventually(&stage.host).await, ["the next"; 3]);
    assert!(together.ask_all(questions(2)).await.unwrap_err().is_retryable());
}

#[tokio::test]
async fn a_missing_namespace_on_a_replica_is_not_a_reply() {
    let stage = Stage::open().await;
    // A port without a server.
    stage.former.command(&["REPLICAOF", "127.0.0.1", "1"]).await.unwrap();
    let execution = ExecutionId::member(FlowId::generate(), "a", PartitionCount::new(16).unwrap());
    let attributes = ServerAttributes(std::sync::Arc::new(stage.host));
    let answer = attributes.namespaces(&[execution]).await.pop().unwrap();
    assert!(answer.expect_err("only a primary is accepted").is_retryable());
}
