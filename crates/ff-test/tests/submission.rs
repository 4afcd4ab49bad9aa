//! A flow that is too large for one call is submitted in parts, and exists as a whole or not at all.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::sync::Arc;

use bytes::Bytes;
use ff_conformance::Fixture;
use ff_core::{EngineError, ExecutionId, FlowId, FlowSubmission, SubmittedFlow, SubmittedMember, limits};
use ff_embedded::EmbeddedBackend;
use ff_script::{keys, telemetry};
use metrics_exporter_prometheus::PrometheusBuilder;
use support::Stand;

/// More than one call writes.
const MANY: usize = 100;

/// A flow whose submission is interrupted between its parts.
struct Interrupted {
    stand: Stand,
    fixture: Fixture,
    id: FlowId,
}

impl Interrupted {
    /// The first part of a flow of the members `a` and `b <- a`, as a program with other content would write it.
    async fn after_the_first_part() -> Self {
        let stand = Stand::start().await;
        let fixture = Fixture::new(stand.backend.clone());
        let id = FlowId::from_idempotency_key(&fixture.namespace, "key");
        let this = Self { stand, fixture, id };
        assert_eq!(this.write_part("first", "another content").await, "ok");
        this
    }

    fn member(&self, name: &str) -> ExecutionId {
        ExecutionId::member(self.id, name, self.fixture.backend.partition_count())
    }

    fn partition(&self) -> ff_core::Partition {
        self.member("a").partition()
    }

    async fn write_part(&self, part: &str, fingerprint: &str) -> String {
        let (a, b) = (self.member("old-a"), self.member("old-b"));
        let mut keys = keys::partition_block(self.partition());
        keys.push(keys::flow_core(self.partition(), self.id));
        keys.extend([a, b].into_iter().flat_map(|id| [keys::execution_core(id), keys::execution_tags(id)]));
        let (flow, count) = (self.id.to_string(), keys.len().to_string());
        let (a, b) = (a.uuid().to_string(), b.uuid().to_string());
        let mut call = vec!["FCALL", "ff1_submit", &count];
        call.extend(keys.iter().map(String::as_str));
        call.extend(["10000 1000 4096", &flow, self.fixture.namespace.as_str(), "", fingerprint, "0", part]);
        let lane = self.fixture.lane.as_str();
        for (uuid, name, need_count, needs, dependents) in [(&a, "old-a", "0", "", &*b), (&b, "old-b", "1", &*a, "")] {
            call.extend([uuid, name, lane, "0", "{}", "", "1", "0", "0", "3", "0", "0", "0"]);
            call.extend([need_count, needs, dependents, "0"]);
        }
        self.stand.command(&call).await.text()
    }

    /// Lets the parts expire.
    async fn expire(&self) {
        let core = keys::flow_core(self.partition(), self.id);
        assert!(self.stand.command(&["PTTL", &core]).await.int().unwrap() > 0);
        self.stand.command(&["DEL", &core]).await;
    }

    async fn reconcile(&self) {
        let mut cursor = None;
        loop {
            cursor = self.stand.backend.reconcile(self.partition(), cursor, 100).await.unwrap().next;
            if cursor.is_none() {
                return;
            }
        }
    }

    async fn exists(&self, name: &str) -> bool {
        let key = keys::execution_core(self.member(name));
        self.stand.command(&["EXISTS", &key]).await.int() == Some(1)
    }

    async fn is_open(&self, name: &str) -> bool {
        let member = format!("{}{}", self.member(name).uuid(), self.id);
        let key = format!("ff:part:{}:open", self.partition());
        !self.stand.command(&["ZSCORE", &key, &member]).await.text().is_empty()
    }
}

fn many(fixture: &Fixture) -> FlowSubmission {
    let flow = FlowSubmission::new(fixture.namespace.clone()).idempotency_key("key");
    (0..MANY).fold(flow, |flow, n| flow.execution(fixture.spec(&n.to_string()).payload(n.to_string())))
}

async fn run_all(fixture: &Fixture, flow: &SubmittedFlow) {
    for member in &flow.executions {
        let claimed = fixture.claim(member.execution_id).await;
        assert_eq!((&claimed.name, claimed.payload.as_ref()), (&member.name, member.name.as_bytes()));
        fixture.backend.complete(&claimed.lease, Bytes::new()).await.unwrap();
    }
    let found = fixture.backend.describe_flow(flow.flow_id).await.unwrap();
    assert_eq!(found.state, ff_core::FlowState::Success);
    let names: Vec<_> =
        found.members.into_iter().map(|member| SubmittedMember::new(member.name, member.execution_id)).collect();
    assert_eq!(names, flow.executions);
}

#[tokio::test]
async fn a_flow_is_invisible_before_its_last_part_is_written() {
    let this = Interrupted::after_the_first_part().await;
    let backend = &this.stand.backend;
    let is_absent = |error: EngineError| assert!(matches!(error, EngineError::NotFound { .. }), "{error}");
    is_absent(backend.describe_flow(this.id).await.unwrap_err());
    is_absent(backend.describe_execution(this.member("old-a")).await.unwrap_err());
    is_absent(backend.cancel_flow(this.id, "enough").await.unwrap_err());
    is_absent(backend.cancel_execution(this.member("old-a"), "enough").await.unwrap_err());
    this.reconcile().await;
    assert!(this.fixture.claim_some(this.partition(), 9, limits::ENGINE_STAY).await.is_empty());
    assert!(this.exists("old-a").await, "the reconciler leaves what is being submitted alone");
}

#[tokio::test]
async fn a_submission_that_stops_between_its_parts_leaves_nothing() {
    let this = Interrupted::after_the_first_part().await;
    this.expire().await;
    this.reconcile().await;
    // The members are discarded from the roots on.
    this.reconcile().await;
    for name in ["old-a", "old-b"] {
        assert_eq!((this.exists(name).await, this.is_open(name).await), (false, false), "{name}");
    }
}

#[tokio::test]
async fn other_content_is_a_conflict_while_parts_are_kept() {
    let this = Interrupted::after_the_first_part().await;
    let refused = this.stand.backend.submit_flow(&many(&this.fixture)).await.unwrap_err();
    assert!(matches!(refused, EngineError::Conflict { .. }), "{refused}");
}

#[tokio::test]
async fn members_of_an_interrupted_submission_never_run_in_a_later_one_with_other_content() {
    let this = Interrupted::after_the_first_part().await;
    this.expire().await;
    let flow = this.fixture.submit(&many(&this.fixture)).await;
    this.reconcile().await;
    for name in ["old-a", "old-b"] {
        assert_eq!((this.exists(name).await, this.is_open(name).await), (false, false), "{name}");
    }
    run_all(&this.fixture, &flow).await;
}

#[tokio::test]
async fn parts_may_be_written_again_until_the_flow_is_started() {
    let this = Interrupted::after_the_first_part().await;
    assert_eq!(this.write_part("first", "another content").await, "ok");
    assert_eq!(this.write_part("further", "another content").await, "ok");
    this.expire().await;
    assert_eq!(this.write_part("further", "another content").await, "restart");
}

#[tokio::test]
async fn a_flow_with_existing_parts_can_be_accepted_as_a_whole() {
    let this = Interrupted::after_the_first_part().await;
    assert_eq!(this.write_part("whole", "yet another content").await, "conflict");
    assert_eq!(this.write_part("whole", "another content").await, "ok");
    let core = keys::flow_core(this.partition(), this.id);
    assert_eq!(this.stand.command(&["PTTL", &core]).await.int(), Some(-1));
    let fields = this.stand.command(&["HKEYS", &core]).await;
    assert!(!fields.items().iter().any(|field| field.text().starts_with("part:")), "{fields:?}");
    assert_eq!(this.write_part("further", "another content").await, "exists");
    for name in ["old-a", "old-b"] {
        this.fixture.complete(this.member(name)).await;
    }
    let found = this.stand.backend.describe_flow(this.id).await.unwrap();
    assert_eq!(found.state, ff_core::FlowState::Success);
}

#[tokio::test]
async fn a_flow_does_not_start_while_a_part_of_it_is_missing() {
    let this = Interrupted::after_the_first_part().await;
    let start = async |members: String| {
        let mut keys = keys::partition_block(this.partition());
        keys.push(keys::flow_core(this.partition(), this.id));
        let (flow, count) = (this.id.to_string(), keys.len().to_string());
        let mut call = vec!["FCALL", "ff1_start_flow", &count];
        call.extend(keys.iter().map(String::as_str));
        call.extend([&*flow, this.fixture.namespace.as_str(), "", "another content", &members]);
        this.stand.command(&call).await.text()
    };
    let written = ["old-a", "old-b"].map(|name| this.member(name).uuid().to_string()).join(",");
    assert_eq!(start(format!("{written},{}", this.member("c").uuid())).await, "restart");
    assert_eq!(start(written).await, "ok");
    let core = this.stand.command(&["HKEYS", &keys::flow_core(this.partition(), this.id)]).await.text();
    assert!(!core.contains("part:"), "{core}");
}

#[tokio::test]
async fn a_member_of_an_interrupted_submission_is_never_cancelled_with_a_later_flow() {
    let this = Interrupted::after_the_first_part().await;
    this.expire().await;
    let flow = this.fixture.submit(&many(&this.fixture)).await;
    let refused = this.stand.backend.cancel_execution(this.member("old-a"), "enough").await.unwrap_err();
    assert!(matches!(refused, EngineError::NotFound { .. }), "{refused}");
    this.stand.backend.cancel_flow(flow.flow_id, "enough").await.unwrap();
    this.reconcile().await;
    let log = ff_core::LogId { partition: this.partition(), scope: ff_core::Scope::Flows };
    assert_eq!(this.stand.command(&["XLEN", &keys::completion_log(log)]).await.int(), Some(MANY as i64));
}

#[tokio::test]
async fn only_members_of_an_existing_flow_are_queued() {
    let this = Interrupted::after_the_first_part().await;
    let keys = keys::partition_block(this.partition());
    let (uuid, count) = (this.member("old-a").uuid().to_string(), keys.len().to_string());
    let mut call = vec!["FCALL", "ff1_enqueue", &count];
    call.extend(keys.iter().map(String::as_str));
    call.push(&uuid);
    assert_eq!(this.stand.command(&call).await.text(), "ok");
    assert_eq!(this.stand.command(&["ZCARD", &keys[0]]).await.int(), Some(0));
}

#[tokio::test]
async fn a_part_without_an_expiry_gets_one_from_the_reconciler() {
    let this = Interrupted::after_the_first_part().await;
    let core = keys::flow_core(this.partition(), this.id);
    this.stand.command(&["PERSIST", &core]).await;
    this.reconcile().await;
    assert!(this.stand.command(&["PTTL", &core]).await.int().unwrap() > 0);
}

#[tokio::test]
async fn a_repeated_flow_in_parts_is_recognised_and_does_not_expire() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let flow = fixture.submit(&many(&fixture)).await;
    let core = keys::flow_core(flow.executions[0].execution_id.partition(), flow.flow_id);
    assert_eq!(stand.command(&["PTTL", &core]).await.int(), Some(-1));
    assert!(!flow.already_submitted);
    assert!(fixture.submit(&many(&fixture)).await.already_submitted);
    run_all(&fixture, &flow).await;
}

#[tokio::test]
async fn payloads_of_every_size_reach_their_workers() {
    let stand = Stand::start().await;
    let fixture = Fixture::new(stand.backend.clone());
    let sizes = [0, 1, (16 << 10) - 1, 16 << 10, (16 << 10) + 1, 300 << 10, limits::PAYLOAD_BYTES];
    let flow = sizes.iter().fold(FlowSubmission::new(fixture.namespace.clone()), |flow, size| {
        flow.execution(fixture.spec(&size.to_string()).payload(vec![b'x'; *size]))
    });
    for (size, id) in sizes.iter().zip(fixture.submit(&flow).await.ids()) {
        assert_eq!(fixture.claim(id).await.payload.len(), *size);
    }
}

/// Submits a flow in parts, then lets its core name a part that no program writes, and submits it again. `set` executes
/// HSET.
async fn in_parts_are_counted(fixture: &Fixture, set: impl AsyncFn(&[&str])) {
    let recorder = PrometheusBuilder::new().build_recorder();
    let counted = recorder.handle();
    let _recorder = metrics::set_default_local_recorder(&recorder);
    let is_counted = |name: &str, count: &str| counted.render().contains(&format!("\n{name} {count}\n"));
    let flow = fixture.submit(&many(fixture)).await;
    assert!(is_counted(telemetry::IN_PARTS, "1"), "{}", counted.render());
    assert!(fixture.submit(&many(fixture)).await.already_submitted);
    let core = keys::flow_core(flow.executions[0].execution_id.partition(), flow.flow_id);
    set(&["HSET", &core, "state", "submitting", "part:5000", "7"]).await;
    let refused = fixture.backend.submit_flow(&many(fixture)).await.unwrap_err();
    assert!(matches!(refused, EngineError::Contention { .. }), "{refused}");
    assert!(is_counted(telemetry::PARTS_DISCARDED, "3"), "{}", counted.render());
    assert!(is_counted(telemetry::IN_PARTS, "1"), "{}", counted.render());
}

#[tokio::test]
async fn flows_in_parts_and_parts_that_were_discarded_are_counted_on_a_server() {
    let stand = Stand::start().await;
    in_parts_are_counted(&Fixture::new(stand.backend.clone()), async |args| drop(stand.command(args).await)).await;
}

#[tokio::test]
async fn flows_in_parts_and_parts_that_were_discarded_are_counted_in_process() {
    let backend = Arc::new(EmbeddedBackend::new());
    let set = async |args: &[&str]| drop(backend.host().command(args).unwrap());
    in_parts_are_counted(&Fixture::new(backend.clone()), set).await;
}
