//! Users and passwords: any text works, none is executed as a command, none is shown.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod common;

use common::{Checker, Writer, flows, partitions};
use ff_core::CompletionBackend;
use ff_testserver::TestServer;
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use proptest::{
    prelude::*,
    strategy::ValueTree,
    test_runner::{Config, TestRunner},
};

/// Texts as people and password generators choose them, and unusual ones.
fn secrets() -> impl Strategy<Value = String> {
    prop_oneof![
        Just("correct horse battery".to_owned()),
        Just("x\r\nSET injected yes\r\n".to_owned()),
        Just("\"quoted\\x41\" 'and' not".to_owned()),
        Just("100% @ /?#[]:&=+,;$!*~()".to_owned()),
        "[ -~]{1,40}",
        "\\PC{1,20}",
        "[\\x01-\\x1f\u{7f}-\u{9f}]{1,10}",
    ]
}

fn encoded(secret: &str) -> String {
    secret.bytes().map(|byte| format!("%{byte:02X}")).collect()
}

fn some<T>(count: usize, strategy: impl Strategy<Value = T>) -> Vec<T> {
    let mut runner = TestRunner::new(Config::default());
    (0..count).map(|_| strategy.new_tree(&mut runner).unwrap().current()).collect()
}

async fn receives(server: &TestServer, config: ValkeyConfig) {
    let backend = ValkeyBackend::connect_with(config.partition_count(partitions())).await.unwrap();
    let mut stream = backend.subscribe_completions().await.unwrap();
    Writer::new(server).await.end_many(&flows(2), 4).await;
    Checker::default().take_until(&mut stream, 4).await;
    // Again after a reconnect, which authenticates automatically.
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
    server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await.unwrap();
    let mut checker = Checker::default();
    Writer::new(server).await.end_many(&flows(2), 4).await;
    checker.take_until(&mut stream, 4).await;
}

#[tokio::test]
async fn a_password_of_any_text_is_accepted_on_every_connection() {
    let server = TestServer::start().await.unwrap();
    let injecting = "x\r\nSET injected yes\r\n".to_owned();
    for secret in [vec![injecting, "correct horse battery".to_owned()], some(6, secrets())].concat() {
        let grant = ["ACL", "SETUSER", "ann", "reset", "on", "allkeys", "allchannels", "+@all"];
        let password = format!(">{secret}");
        let grant: Vec<&str> = grant.into_iter().chain([password.as_str()]).collect();
        assert!(!server.command(&grant).await.unwrap().is_error(), "{secret:?}");
        let url = format!("redis://ann:{}@127.0.0.1:{}", encoded(&secret), server.port());
        receives(&server, ValkeyConfig::from_url(&url).unwrap()).await;
        server.command(&["FLUSHALL"]).await.unwrap();
    }
}

#[tokio::test]
async fn a_wrong_password_runs_no_command_and_is_not_shown() {
    let server = TestServer::builder().password("right").build().await.unwrap();
    for secret in [vec!["x\r\nSET injected yes\r\n".to_owned()], some(20, secrets())].concat() {
        for url in ["redis://", "redis://ann"] {
            let url = format!("{url}:{}@127.0.0.1:{}", encoded(&secret), server.port());
            let error = ValkeyBackend::connect(&url).await.err().unwrap().to_string();
            assert!(error.contains("WRONGPASS"), "{secret:?}: {error}");
            let shown = secret.chars().count() > 3 && error.contains(&secret);
            assert!(!shown, "{secret:?}: {error}");
        }
    }
    assert_eq!(server.command(&["EXISTS", "injected"]).await.unwrap().int(), Some(0));
}

#[tokio::test]
async fn a_user_without_a_password_is_sent_to_the_server() {
    let server = TestServer::start().await.unwrap();
    let grant = ["ACL", "SETUSER", "ann", "on", "nopass", "allkeys", "allchannels", "+@all"];
    server.command(&grant).await.unwrap();
    server.command(&["ACL", "SETUSER", "default", "off"]).await.unwrap();
    let url = format!("redis://ann@127.0.0.1:{}", server.port());
    ValkeyBackend::connect(&url).await.unwrap();
}

#[tokio::test]
async fn arguments_in_a_servers_error_are_cut_off() {
    let server = TestServer::builder().arg("--rename-command").arg("AUTH").arg("").build().await.unwrap();
    let url = format!("redis://ann:secret@127.0.0.1:{}", server.port());
    let error = ValkeyBackend::connect(&url).await.err().unwrap().to_string();
    assert!(error.contains("unknown command") && !error.contains("secret"), "{error}");
}

#[tokio::test]
async fn a_password_that_is_too_long_for_a_server_is_refused_by_its_length() {
    let url = format!("redis://:{}@127.0.0.1:1", "x".repeat(20_000));
    let error = ValkeyBackend::connect(&url).await.err().unwrap().to_string();
    assert!(error.contains("password") && error.contains("16384") && !error.contains("xxx"), "{error}");
}

proptest! {
    /// Any combination of URL parts, truncated anywhere, and with or without encoding.
    #[test]
    fn no_part_of_a_malformed_url_is_shown(
        scheme in prop::sample::select(vec![
            "redis://", "rediss://", "valkey://", "redis-sentinel://", "unix://", "http://", "redis:", "", "TVWXYZ://",
            "TV WXYZQ://", "\"redis://", "1redis://", "://",
        ]),
        user in prop::sample::select(vec!["", "Zann"]),
        secret in "[Q-Z]{2}[ -~]{0,12}[Q-Z]{6}",
        rest in prop::sample::select(vec![
            "", "@", "@Q", "@Q:port", "@Q:99999", "@Q,R", "@Q,R/", "@Q/3", "@Q/0#x", "@Q?Z=1", "@Q?pass=Z&x=1", "/Z@Q",
        ]),
    ) {
        let url = format!("{scheme}{user}:{secret}{rest}");
        if let Err(error) = ValkeyConfig::from_url(&url) {
            let text = error.to_string();
            // The program's own texts are lower case, except those removed here.
            let ours = ["URL `", "UTF-8", "TLS", "sentinelUser"].iter().fold(text.clone(), |text, word| text.replace(word, ""));
            prop_assert!(!ours.contains(|c: char| ('Q'..='Z').contains(&c)), "{url}: {text}");
            // Parsers write a scheme in lower case. No text of the program has so many letters from q to z in a row.
            let in_a_row = |c: char| ('q'..='z').contains(&c);
            let long = text.to_lowercase().split(|c| !in_a_row(c)).any(|row| row.len() >= 5);
            prop_assert!(!long, "{url}: {text}");
        }
    }
}
