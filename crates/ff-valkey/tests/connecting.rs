//! Connecting to a server, and clear errors if that fails.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod common;

use std::time::{Duration, Instant};

use bytes::Bytes;
use common::{Checker, Writer, eventually, flow_in, flows, partitions};
use ff_core::{
    CompletionBackend, EngineError, LaneId, Tags,
    backend::{WorkBackend, WorkSignal},
};
use ff_script::host::{Call, ScriptHost};
use ff_testserver::TestServer;
use ff_valkey::{ValkeyBackend, ValkeyConfig, ValkeyHost};
use futures::StreamExt;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
};

const QUICK: Duration = Duration::from_secs(2);

fn config(url: &str) -> ValkeyConfig {
    ValkeyConfig::from_url(url).unwrap().partition_count(partitions()).connect_timeout(QUICK)
}

async fn refusal(config: ValkeyConfig) -> EngineError {
    let started = Instant::now();
    let error = ValkeyBackend::connect_with(config).await.err().unwrap();
    assert!(started.elapsed() < QUICK + Duration::from_secs(1), "{:?}: {error}", started.elapsed());
    error
}

async fn receives(server: &TestServer, config: ValkeyConfig) {
    let backend = ValkeyBackend::connect_with(config).await.unwrap();
    let mut stream = backend.subscribe_completions().await.unwrap();
    Writer::new(server).await.end_many(&flows(2), 10).await;
    Checker::default().take_until(&mut stream, 10).await;
    assert!(backend.health().connected && backend.health().subscribed, "{backend:?}");
}

fn echo(args: &[&'static str], idempotent: bool) -> Call {
    let args = args.iter().map(|arg| Bytes::from_static(arg.as_bytes())).collect();
    Call { function: "test_echo", keys: vec!["{t}".into()], args, read_only: false, idempotent }
}

const LIBRARY: &str = "#!lua name=tests
redis.register_function('test_echo', function(keys, args) return args end)
redis.register_function('test_fail', function(keys, args) return redis.error_reply(args[1]) end)
redis.register_function('test_count', function(keys, args)
  redis.call('INCR', keys[1])
  local until_us = tonumber(args[1])
  local start = redis.call('TIME')
  repeat
    local now = redis.call('TIME')
  until (now[1] - start[1]) * 1000000 + now[2] - start[2] >= until_us
  return {'done'}
end)
";

#[tokio::test]
async fn a_missing_server_is_named_within_the_time() {
    let error = refusal(config("redis://127.0.0.1:1")).await;
    assert!(matches!(error, EngineError::Transport { .. }) && error.to_string().contains("127.0.0.1:1"), "{error}");
    let error = refusal(config("unix:///nowhere/valkey.sock")).await;
    assert!(error.to_string().contains("/nowhere/valkey.sock"), "{error}");
    assert!(error.to_string().ends_with("there is no such socket"), "{error}");
}

#[tokio::test]
async fn a_server_that_accepts_and_does_not_reply_is_a_timeout() {
    let silent = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let error = refusal(config(&format!("redis://{}", silent.local_addr().unwrap()))).await;
    assert!(error.is_retryable(), "{error}");
}

#[tokio::test]
async fn wrong_credentials_are_reported_as_such() {
    let server = TestServer::builder().password("right").build().await.unwrap();
    let port = server.port();
    for url in [format!("redis://:wrong@127.0.0.1:{port}"), format!("redis://ann:right@127.0.0.1:{port}")] {
        let error = refusal(config(&url)).await;
        assert!(matches!(error, EngineError::PermissionDenied { .. }), "{error}");
        assert!(!error.to_string().contains("right") && !error.to_string().contains(":wrong"), "{error}");
    }
    let error = refusal(config(&format!("redis://127.0.0.1:{port}"))).await;
    assert!(matches!(error, EngineError::PermissionDenied { .. }), "{error}");
    receives(&server, config(server.url())).await;
}

#[tokio::test]
async fn a_user_without_the_channel_sees_the_rule_and_can_subscribe_once_it_is_granted() {
    let server = TestServer::start().await.unwrap();
    let grant = ["ACL", "SETUSER", "ann", "on", ">secret", "+@all", "~*", "resetchannels"];
    server.command(&grant).await.unwrap();
    let backend =
        ValkeyBackend::connect_with(config(&format!("redis://ann:secret@127.0.0.1:{}", server.port()))).await.unwrap();
    let error = backend.subscribe_completions().await.err().unwrap();
    assert!(matches!(error, EngineError::PermissionDenied { .. }), "{error}");
    assert!(error.to_string().contains("ff:dag:completions") && error.to_string().contains("&ff:*"), "{error}");
    let left = server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.unwrap().text();
    assert!(left.is_empty() && !backend.health().subscribed, "{left}");

    server.command(&["ACL", "SETUSER", "ann", "&ff:*"]).await.unwrap();
    let mut stream = backend.subscribe_completions().await.unwrap();
    let mut writer = Writer::new(&server).await;
    writer.end(flow_in(1), "a", &Tags::default(), 1).await;
    let mut checker = Checker::default();
    checker.take_until(&mut stream, 1).await;

    // The server is stopped under an open stream: the stream neither ends nor fails, and has everything after the
    // restart.
    server.command(&["ACL", "SETUSER", "ann", "resetchannels"]).await.unwrap();
    writer.end(flow_in(1), "a", &Tags::default(), 5).await;
    eventually("health tells", async || !backend.health().subscribed && backend.health().last_error.is_some()).await;
    server.command(&["ACL", "SETUSER", "ann", "&ff:*"]).await.unwrap();
    checker.take_until(&mut stream, 6).await;
    eventually("health is well", async || backend.health().subscribed && backend.health().last_error.is_none()).await;
}

#[tokio::test]
async fn a_changed_password_does_not_end_the_stream() {
    let server = TestServer::start().await.unwrap();
    server.command(&["ACL", "SETUSER", "ann", "on", ">old", "allkeys", "allchannels", "+@all"]).await.unwrap();
    let backend =
        ValkeyBackend::connect_with(config(&format!("redis://ann:old@127.0.0.1:{}", server.port()))).await.unwrap();
    let mut stream = backend.subscribe_completions().await.unwrap();
    server.command(&["ACL", "SETUSER", "ann", "resetpass", ">new"]).await.unwrap();
    server.command(&["CLIENT", "KILL", "USER", "ann"]).await.unwrap();
    let mut writer = Writer::new(&server).await;
    writer.end(flow_in(1), "a", &Tags::default(), 3).await;
    eventually("health tells", async || {
        let health = backend.health();
        let refused = health.last_error.is_some_and(|text| text.contains("WRONGPASS"));
        refused && !health.connected && !health.subscribed
    })
    .await;
    server.command(&["ACL", "SETUSER", "ann", ">old"]).await.unwrap();
    Checker::default().take_until(&mut stream, 3).await;
}

#[tokio::test]
async fn a_unix_socket_serves_calls_and_completions() {
    let server = TestServer::builder().unix_socket().build().await.unwrap();
    let path = server.unix_socket().unwrap().display().to_string();
    receives(&server, config(&format!("unix://{path}"))).await;
}

#[tokio::test]
async fn tls_carries_calls_and_completions() {
    let server = TestServer::builder().tls().password("s3cret").build().await.unwrap();
    let tls = server.tls().unwrap();
    receives(&server, config(server.url()).ca_file(&tls.ca_cert)).await;
    let stranger = refusal(config(server.url())).await;
    assert!(stranger.to_string().contains("authority that is not trusted"), "{stranger}");
    assert!(stranger.to_string().contains("--ca") && !stranger.is_retryable(), "{stranger}");
}

#[tokio::test]
async fn the_client_certificate_is_presented_on_every_connection() {
    let server = TestServer::builder().tls_client_auth().build().await.unwrap();
    let tls = server.tls().unwrap();
    let trusting = config(server.url()).ca_file(&tls.ca_cert);
    let error = refusal(trusting.clone()).await.to_string();
    assert!(error.contains("127.0.0.1") && error.contains("--cert and --key"), "{error}");
    receives(&server, trusting.client_certificate(&tls.client_cert, &tls.client_key)).await;
}

#[tokio::test]
async fn a_plain_connection_to_a_tls_port_is_refused_within_the_time() {
    let server = TestServer::builder().tls().build().await.unwrap();
    let error = refusal(config(&format!("redis://127.0.0.1:{}", server.port()))).await;
    assert!(error.to_string().contains("write rediss://"), "{error}");
}

#[tokio::test]
async fn a_tls_server_that_closes_a_plain_connection_without_an_answer_is_recognised() {
    const HANDSHAKE: u8 = 0x16;
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (mut peer, _) = listener.accept().await.unwrap();
            if peer.read_u8().await.unwrap() == HANDSHAKE {
                peer.write_u8(HANDSHAKE).await.unwrap();
            }
            peer.shutdown().await.unwrap();
            // All that the client sends is read, so the connection ends without a reset.
            tokio::spawn(async move { while peer.read_u8().await.is_ok() {} });
        }
    });
    let error = refusal(config(&format!("redis://127.0.0.1:{port}"))).await;
    assert!(error.to_string().contains("write rediss://"), "{error}");
    server.abort();
}

#[tokio::test]
async fn a_server_of_another_protocol_is_named_as_such() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    let server = tokio::spawn(async move {
        loop {
            let (mut peer, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                while peer.read_u8().await.is_ok() {
                    peer.write_all(b"HTTP/1.1 400 Bad Request\r\n\r\n").await.unwrap_or_default();
                }
            });
        }
    });
    let error = refusal(config(&format!("redis://127.0.0.1:{port}"))).await.to_string();
    assert!(error.contains("does not speak the protocol of Valkey and Redis; check the port"), "{error}");
    server.abort();
}

#[tokio::test]
async fn tls_to_a_port_without_it_is_named_at_once() {
    let server = TestServer::start().await.unwrap();
    // Far more than needed: within the time limit only a probe of the server can find the reason.
    let patient = config(&format!("rediss://127.0.0.1:{}", server.port())).connect_timeout(10 * QUICK);
    let tls = TestServer::builder().tls().build().await.unwrap();
    let error = refusal(patient.ca_file(&tls.tls().unwrap().ca_cert)).await;
    assert!(error.to_string().contains("write redis://") && !error.is_retryable(), "{error}");
}

#[tokio::test]
async fn a_certificate_of_another_host_is_refused_until_that_host_is_named() {
    let server = TestServer::builder().tls().build().await.unwrap();
    let ca = &server.tls().unwrap().ca_cert;
    let by_name = config(server.url()).ca_file(ca);
    let error = refusal(by_name.clone().tls_server_name("not a name!")).await;
    assert!(error.to_string().contains("TLS server name `not a name!`: it is neither a host name"), "{error}");
    let error = refusal(by_name.clone().tls_server_name("db.example")).await;
    assert!(error.to_string().contains("for another host") && !error.is_retryable(), "{error}");
    assert!(error.to_string().contains("--tls-server-name") && error.to_string().contains("localhost"), "{error}");
    receives(&server, by_name.tls_server_name("localhost")).await;
}

#[tokio::test]
async fn a_server_without_functions_is_refused_with_the_versions_that_have_them() {
    let mut server = TestServer::builder();
    for command in ["FUNCTION", "FCALL", "FCALL_RO"] {
        server = server.arg("--rename-command").arg(command).arg("");
    }
    let server = server.build().await.unwrap();
    let error = refusal(config(server.url())).await;
    assert!(error.to_string().contains("Valkey 7.2") && error.to_string().contains("Redis 7.0"), "{error}");
    assert!(matches!(error, EngineError::InvalidInput { .. }), "{error}");
}

#[tokio::test]
async fn single_and_grouped_calls_are_answered_in_order() {
    let server = TestServer::start().await.unwrap();
    let host = ValkeyHost::connect(config(server.url())).await.unwrap();
    assert_eq!(host.probe(echo(&[], true)).await.unwrap(), None);
    host.load_library(LIBRARY).await.unwrap();
    assert_eq!(host.fcall(echo(&["a", "b"], true)).await.unwrap(), ["a", "b"]);
    assert_eq!(host.probe(echo(&["a"], true)).await.unwrap().unwrap(), ["a"]);
    let fail = Call { function: "test_fail", ..echo(&["TRYAGAIN later"], true) };
    let answers = host.fcall_many(vec![echo(&["1"], true), fail.clone(), echo(&["2"], false)]).await;
    assert_eq!(answers[0].as_ref().unwrap(), &["1"]);
    assert!(matches!(answers[1], Err(EngineError::Contention { .. })));
    assert_eq!(answers[2].as_ref().unwrap(), &["2"]);
    assert!(matches!(host.fcall(fail).await, Err(EngineError::Contention { .. })));
    let version = host.server_version().await.unwrap();
    assert!(version.name == "valkey" && version.version >= (7, 2, 0), "{version:?}");
}

#[tokio::test]
async fn a_call_that_must_not_run_twice_is_not_sent_again() {
    let server = TestServer::start().await.unwrap();
    let host = ValkeyHost::connect(config(server.url())).await.unwrap();
    host.load_library(LIBRARY).await.unwrap();
    // Busy for so long that the connection is lost during the call.
    let count =
        |idempotent| Call { function: "test_count", keys: vec!["{t}n".into()], ..echo(&["300000"], idempotent) };
    let killer = async {
        tokio::time::sleep(Duration::from_millis(100)).await;
        server.command(&["CLIENT", "KILL", "TYPE", "normal", "SKIPME", "yes"]).await.unwrap();
    };
    let (lost, ()) = tokio::join!(host.fcall(count(false)), killer);
    assert!(lost.as_ref().is_ok_and(|reply| reply == &["done"]) || lost.is_err_and(|error| error.is_retryable()));
    tokio::time::sleep(Duration::from_millis(500)).await;
    assert_eq!(server.command(&["GET", "{t}n"]).await.unwrap().text(), "1");
    // The connection has recovered for the next call.
    assert_eq!(host.fcall(echo(&["again"], false)).await.unwrap(), ["again"]);
}

#[tokio::test]
async fn a_stalled_server_is_a_timeout_that_names_the_call() {
    let server = TestServer::start().await.unwrap();
    let host = ValkeyHost::connect(config(server.url()).command_timeout(Duration::from_millis(200))).await.unwrap();
    host.load_library(LIBRARY).await.unwrap();
    server.pause().await.unwrap();
    let error = host.fcall(echo(&["a"], true)).await.unwrap_err();
    assert!(matches!(error, EngineError::Timeout { .. }) && error.to_string().contains("test_echo"), "{error}");
    let many = host.fcall_many(vec![echo(&["a"], true), echo(&["b"], true)]).await;
    assert!(many.len() == 2 && many.iter().all(|answer| matches!(answer, Err(EngineError::Timeout { .. }))));
    server.resume().await.unwrap();
}

#[tokio::test]
async fn work_signals_arrive_over_the_same_connection() {
    let server = TestServer::start().await.unwrap();
    let backend = ValkeyBackend::connect_with(config(server.url())).await.unwrap();
    let lane = LaneId::new("build").unwrap();
    let mut signals = backend.work_signals(&lane).await.unwrap();
    let _completions = backend.subscribe_completions().await.unwrap();
    let clients = server.command(&["CLIENT", "LIST", "TYPE", "pubsub"]).await.unwrap().text();
    assert_eq!(clients.lines().count(), 1, "{clients}");
    let channel = format!("ff:wake:{}", backend.listener());
    server.command(&["PUBLISH", &channel, "build 7"]).await.unwrap();
    let signal = tokio::time::timeout(QUICK, signals.next()).await.unwrap().unwrap();
    assert!(matches!(signal, WorkSignal::Ready(partition) if partition.number() == 7));
    server.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await.unwrap();
    assert_eq!(tokio::time::timeout(QUICK, signals.next()).await.unwrap().unwrap(), WorkSignal::Rescan);
}
