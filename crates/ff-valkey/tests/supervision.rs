//! The effects of an internal task that ends, as users see them: a metrics recorder that panics ends one.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

mod common;

use std::{
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use common::partitions;
use ff_core::{
    CompletionBackend, LaneId, SubscribeBackend, SubscribeOptions,
    backend::{MaintenanceBackend, WorkBackend},
};
use ff_testserver::TestServer;
use ff_valkey::{ValkeyBackend, ValkeyConfig, telemetry};
use futures::StreamExt;
use metrics::{Counter, Gauge, Histogram, Key, KeyName, Metadata, Recorder, SharedString, Unit};

const PATIENCE: Duration = Duration::from_secs(30);

static PANICS: AtomicBool = AtomicBool::new(false);

/// A user's metrics recorder with a fault.
struct Faulty;

impl Recorder for Faulty {
    fn describe_counter(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_gauge(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}
    fn describe_histogram(&self, _: KeyName, _: Option<Unit>, _: SharedString) {}

    fn register_counter(&self, _: &Key, _: &Metadata<'_>) -> Counter {
        Counter::noop()
    }

    fn register_gauge(&self, key: &Key, _: &Metadata<'_>) -> Gauge {
        assert!(key.name() != telemetry::COMPLETE_AS_OF || !PANICS.load(Ordering::Relaxed), "injected");
        Gauge::noop()
    }

    fn register_histogram(&self, _: &Key, _: &Metadata<'_>) -> Histogram {
        Histogram::noop()
    }
}

#[tokio::test]
async fn when_an_internal_task_has_ended_health_names_it_and_waits_end() {
    metrics::set_global_recorder(Faulty).unwrap();
    let server = TestServer::start().await.unwrap();
    let config = ValkeyConfig::from_url(server.url()).unwrap().partition_count(partitions());
    let backend = ValkeyBackend::connect_with(config).await.unwrap();
    let mut plain = backend.subscribe_completions().await.unwrap();
    let mut framed = backend.subscribe(&SubscribeOptions::new()).await.unwrap();
    assert!(backend.health().ended_tasks.is_empty());
    PANICS.store(true, Ordering::Relaxed);
    let ended = async {
        while plain.next().await.is_some() {}
        while framed.next().await.is_some() {}
    };
    tokio::time::timeout(PATIENCE, ended).await.expect("subscriptions end");
    assert_eq!(backend.health().ended_tasks, ["checkpoints"]);
    let refused = backend.subscribe(&SubscribeOptions::new()).await.map(drop).unwrap_err();
    assert!(refused.to_string().contains("`checkpoints` has ended"), "{refused}");
    assert!(backend.work_signals(&LaneId::default_lane()).await.is_err());
    assert!(backend.timer_signals().await.is_err());
}
