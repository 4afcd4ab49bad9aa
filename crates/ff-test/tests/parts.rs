//! The times of a flow that is submitted in parts, under a clock that moves when told.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use ff_core::{ExecutionId, FlowId, Partition, PartitionCount, PublicState};
use ff_embedded::{Clock, EmbeddedBackend, Value, VirtualClock};
use ff_script::keys;
use ff_test::Fixture;

const PARTITION: Partition = Partition::new(0);
/// When the first part is written, and when the flow starts (ms).
const WRITTEN: u64 = 1_000_000;
const STARTED: u64 = WRITTEN + 40_000;

/// A flow `a <- b`: `a` begins after 1 s and ends by 5 s, `b` begins after 2 s.
struct Parts {
    backend: Arc<EmbeddedBackend>,
    clock: VirtualClock,
    fixture: Fixture,
    flow: FlowId,
}

impl Parts {
    /// Written in one part and started, but not queued.
    fn started() -> Self {
        let clock = VirtualClock::at_millis(WRITTEN);
        let one = PartitionCount::new(1).unwrap();
        let builder = EmbeddedBackend::builder().partitions(one).clock(Clock::Virtual(clock.clone()));
        let backend = Arc::new(builder.build().unwrap());
        let fixture = Fixture::new(backend.clone());
        let flow = FlowId::from_idempotency_key(&fixture.namespace, "key");
        let this = Self { backend, clock, fixture, flow };
        let (a, b) = (this.uuid("a"), this.uuid("b"));
        let flow = flow.to_string();
        let mut args = vec!["10000 1000 4096", &flow, this.fixture.namespace.as_str(), "", "content", "0", "first"];
        let lane = this.fixture.lane.as_str();
        for (uuid, name, times, needs) in
            [(&a, "a", ["1000", "5000", "0"], ["0", "", &*b]), (&b, "b", ["2000", "0", "0"], ["1", &*a, ""])]
        {
            args.extend([uuid, name, lane, "0", "{}", "", "1", "0", "0", "3"]);
            args.extend(times);
            args.extend(needs);
            args.push("0");
        }
        let head = || keys::flow_core(PARTITION, this.flow);
        let cores = ["a", "b"].map(|name| this.member(name));
        let cores = cores.into_iter().flat_map(|id| [keys::execution_core(id), keys::execution_tags(id)]);
        assert_eq!(this.call("ff1_submit", std::iter::once(head()).chain(cores), &args), "ok");
        this.clock.set_millis(STARTED);
        let members = format!("{a},{b}");
        let args = [&*flow, this.fixture.namespace.as_str(), "", "content", &members];
        assert_eq!(this.call("ff1_start_flow", [head()], &args), "ok");
        this
    }

    fn member(&self, name: &str) -> ExecutionId {
        ExecutionId::member(self.flow, name, PartitionCount::new(1).unwrap())
    }

    fn uuid(&self, name: &str) -> String {
        self.member(name).uuid().to_string()
    }

    fn call(&self, function: &str, more: impl IntoIterator<Item = String>, args: &[&str]) -> String {
        let keys: Vec<_> = keys::partition_block(PARTITION).into_iter().chain(more).collect();
        match self.backend.host().call(function, &keys, args).unwrap() {
            Value::Array(mut items) => match items.remove(0) {
                Value::Bulk(text) => String::from_utf8(text.into_owned()).unwrap(),
                other => panic!("{other:?}"),
            },
            other => panic!("{other:?}"),
        }
    }

    fn enqueue(&self, name: &str) {
        assert_eq!(self.call("ff1_enqueue", [], &[&self.uuid(name)]), "ok");
    }

    /// The state of a member at this many milliseconds after the flow's start.
    async fn state(&self, name: &str, after: u64) -> PublicState {
        self.clock.set_millis(STARTED + after);
        self.fixture.sweep(PARTITION).await;
        self.fixture.state(self.member(name)).await
    }

    async fn both_wait_from_the_start_of_the_flow(&self) {
        assert_eq!(self.state("a", 999).await, PublicState::Delayed);
        assert_eq!(self.state("a", 1_000).await, PublicState::Waiting);
        self.fixture.complete(self.member("a")).await;
        assert_eq!(self.state("b", 1_999).await, PublicState::Delayed);
        assert_eq!(self.state("b", 2_000).await, PublicState::Waiting);
    }
}

#[tokio::test]
async fn delays_count_from_the_start_of_the_flow() {
    let parts = Parts::started();
    parts.enqueue("a");
    parts.enqueue("b");
    // A repetition counts nothing twice.
    parts.enqueue("a");
    parts.both_wait_from_the_start_of_the_flow().await;
}

#[tokio::test]
async fn deadlines_count_from_the_start_of_the_flow() {
    let parts = Parts::started();
    parts.enqueue("a");
    assert_eq!(parts.state("a", 4_999).await, PublicState::Waiting);
    assert_eq!(parts.state("a", 5_000).await, PublicState::Expired);
}

#[tokio::test]
async fn delays_count_from_the_start_of_the_flow_also_where_the_reconciler_queues_its_members() {
    let parts = Parts::started();
    parts.fixture.backend.reconcile(PARTITION, None, 100).await.unwrap();
    parts.both_wait_from_the_start_of_the_flow().await;
}

#[tokio::test]
async fn a_member_that_is_promoted_before_its_delay_was_put_right_waits_from_the_start_of_the_flow() {
    let parts = Parts::started();
    parts.enqueue("a");
    parts.both_wait_from_the_start_of_the_flow().await;
}
