//! The fuzz targets for a server's replies and messages, on the stable toolchain.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[macro_use]
#[path = "../../../fuzz/on_stable.rs"]
mod on_stable;

use bytes::Bytes;
use ff_core::{
    CompletionPayload, EntryId, ExecutionId, FlowId, LaneId, LogId, Namespace, Outcome, Partition, Position, Scope,
    Tags, reader::Predecessor,
};
use ff_script::wire::Decoded;
use ff_test::fuzz;
use proptest::prelude::*;
use uuid::Uuid;

targets! { wire_push log_entry ids replies }

const LOG: LogId = LogId { partition: Partition::new(7), scope: Scope::Flows };

prop_compose! {
    fn completion()(
        ids: (u128, u128),
        flow: bool,
        outcome in prop::sample::select(vec![Outcome::Success, Outcome::Failed, Outcome::Skipped, Outcome::Expired]),
        at in prop::option::of(0u64..=u64::from(u32::MAX) << 12),
        counts: (u32, u32),
        named: bool,
        result in prop::option::of(".*"),
        result_len in prop::option::of(0u64..1 << 40),
        reason in prop::option::of(".*"),
        tags in prop::collection::btree_map("[a-z\"\\\\é]{1,8}", "\\PC{0,16}", 0..4),
        pending: bool,
        entry: (u64, u64),
        prev in prop::option::of(prop::option::of(any::<(u64, u64)>())),
    ) -> Decoded {
        let id = |(epoch, seq)| EntryId { epoch, seq };
        let execution = ExecutionId::from_parts(LOG.partition, Uuid::from_u128(ids.0));
        let flow = flow.then(|| FlowId::from_uuid(Uuid::from_u128(ids.1)));
        let mut payload = CompletionPayload::new(execution, flow, outcome);
        payload.produced_at_ms = at;
        payload.attempt = counts.0;
        payload.generation = counts.1;
        payload.namespace = named.then(|| Namespace::new("team/a").unwrap());
        payload.lane = named.then(LaneId::default_lane);
        payload.payload_bytes = result.map(Bytes::from);
        payload.result_len = result_len;
        payload.reason = reason.map(Into::into);
        payload.tags = Tags::new(tags).unwrap();
        payload.dependents_pending = pending;
        payload.position = Some(Position { log: LOG, entry: id(entry) });
        Decoded { payload, prev: prev.map(|prev| prev.map_or(Predecessor::Start, |e| Predecessor::Entry(id(e)))) }
    }
}

proptest! {
    #[test]
    fn a_completion_of_any_content_survives_the_wire(decoded in completion()) {
        fuzz::survives_the_wire(LOG, decoded);
    }
}
