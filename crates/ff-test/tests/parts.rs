//! A flow that is submitted in parts: its times, under a virtual clock, and programs that divide it differently.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::sync::Arc;

use ff_conformance::Fixture;
use ff_core::{ExecutionId, FlowId, Partition, PartitionCount, PublicState};
use ff_embedded::{Clock, EmbeddedBackend, Value, VirtualClock};
use ff_script::keys;

const PARTITION: Partition = Partition::new(0);
/// When the first part is written, and when the flow starts (ms).
const WRITTEN: u64 = 1_000_000;
const STARTED: u64 = WRITTEN + 40_000;

/// A flow that is submitted in parts.
struct Parts {
    backend: Arc<EmbeddedBackend>,
    clock: VirtualClock,
    fixture: Fixture,
    flow: FlowId,
}

impl Parts {
    fn none() -> Self {
        let clock = VirtualClock::at_millis(WRITTEN);
        let one = PartitionCount::new(1).unwrap();
        let builder = EmbeddedBackend::builder().partition_count(one).clock(Clock::Virtual(clock.clone()));
        let backend = Arc::new(builder.build().unwrap());
        let fixture = Fixture::new(backend.clone());
        let flow = FlowId::from_idempotency_key(&fixture.namespace, "key");
        Self { backend, clock, fixture, flow }
    }

    /// A flow `a <- b`: `a` begins after 1 s and ends by 5 s, `b` begins after 2 s. Written in one part and started,
    /// but not queued.
    fn started() -> Self {
        let this = Self::none();
        let (a, b) = (this.uuid("a"), this.uuid("b"));
        let members = [("a", ["1000", "5000", "0"], ["0", "", &*b]), ("b", ["2000", "0", "0"], ["1", &*a, ""])];
        assert_eq!(this.write("first", 0, &members), "ok");
        this.clock.set_millis(STARTED);
        assert_eq!(this.start(&["a", "b"]), "ok");
        this
    }

    /// Writes a part from the index `first` on: the name, the times, the needs and the dependents of each member.
    fn write(&self, part: &str, first: usize, members: &[(&str, [&str; 3], [&str; 3])]) -> String {
        let (flow, first) = (self.flow.to_string(), first.to_string());
        let mut args = vec!["10000 1000 4096", &*flow, self.fixture.namespace.as_str(), "", "content", &*first, part];
        let uuids: Vec<_> = members.iter().map(|(name, ..)| self.uuid(name)).collect();
        for (uuid, (name, times, needs)) in uuids.iter().zip(members) {
            args.extend([uuid.as_str(), name, self.fixture.lane.as_str(), "0", "{}", "", "1", "0", "0", "3"]);
            args.extend(times);
            args.extend(needs);
            args.push("0");
        }
        let cores = members.iter().map(|(name, ..)| self.member(name));
        let cores = cores.flat_map(|id| [keys::execution_core(id), keys::execution_tags(id)]);
        self.call("ff1_submit", std::iter::once(keys::flow_core(PARTITION, self.flow)).chain(cores), &args)
    }

    /// Writes a part of members without needs and times.
    fn write_plain(&self, part: &str, first: usize, names: &[&str]) -> String {
        let members: Vec<_> = names.iter().map(|name| (*name, ["0"; 3], ["0", "", ""])).collect();
        self.write(part, first, &members)
    }

    fn start(&self, names: &[&str]) -> String {
        let members: Vec<_> = names.iter().map(|name| self.uuid(name)).collect();
        let (flow, members) = (self.flow.to_string(), members.join(","));
        let args = [&*flow, self.fixture.namespace.as_str(), "", "content", &*members];
        self.call("ff1_start_flow", [keys::flow_core(PARTITION, self.flow)], &args)
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
async fn delays_count_from_the_start_of_the_flow_even_if_the_reconciler_queues_its_members() {
    let parts = Parts::started();
    parts.fixture.backend.reconcile(PARTITION, None, 100).await.unwrap();
    parts.both_wait_from_the_start_of_the_flow().await;
}

#[tokio::test]
async fn a_member_promoted_before_its_delay_was_corrected_waits_from_the_start_of_the_flow() {
    let parts = Parts::started();
    parts.enqueue("a");
    parts.both_wait_from_the_start_of_the_flow().await;
}

#[tokio::test]
async fn a_flow_that_two_programs_divide_differently_starts_once_one_has_written_all_members() {
    let parts = Parts::none();
    let names = ["a", "b", "c", "d"];
    assert_eq!(parts.write_plain("first", 0, &names[..2]), "ok");
    assert_eq!(parts.write_plain("further", 2, &names[2..]), "ok");
    // Another program divides the members differently.
    assert_eq!(parts.write_plain("first", 0, &names[..3]), "ok");
    assert_eq!(parts.start(&names), "restart", "a part was replaced, and its rest is not written yet");
    assert_eq!(parts.write_plain("further", 3, &names[3..]), "ok");
    assert_eq!(parts.start(&names), "ok");
    for name in names {
        parts.enqueue(name);
        parts.fixture.complete(parts.member(name)).await;
    }
}

#[tokio::test]
async fn overlapping_parts_do_not_hide_a_missing_member() {
    let parts = Parts::none();
    let names = ["a", "b", "c", "d"];
    assert_eq!(parts.write_plain("first", 0, &names[..2]), "ok");
    assert_eq!(parts.write_plain("further", 1, &names[1..3]), "ok");
    assert_eq!(parts.start(&names), "restart");
}
