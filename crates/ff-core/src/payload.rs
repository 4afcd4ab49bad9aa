//! A completion as a subscriber receives it.

use std::sync::Arc;

use bytes::Bytes;
use serde::Serialize;

use crate::{ExecutionId, FlowId, LaneId, Namespace, Outcome, Position, Tags};

/// One execution has ended. Cloning copies no text and no bytes.
///
/// Only the id, the flow and the outcome are always present: completions from another publisher carry only these three.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[non_exhaustive]
pub struct CompletionPayload {
    /// The execution that ended.
    pub execution_id: ExecutionId,
    /// The flow it is a member of.
    pub flow_id: Option<FlowId>,
    /// How it ended.
    pub outcome: Outcome,
    /// The execution's result, if it is UTF-8 and small enough to be part of the event (4 KiB by default).
    #[serde(serialize_with = "as_text", skip_serializing_if = "Option::is_none")]
    pub payload_bytes: Option<Bytes>,
    /// If the result is not part of the event, its length in bytes. `describe_execution` returns the result itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub result_len: Option<u64>,
    /// The server's clock at the commit, milliseconds since 1970-01-01 UTC.
    pub produced_at_ms: Option<u64>,
    /// The tenant.
    pub namespace: Option<Namespace>,
    /// The lane it was submitted to.
    pub lane: Option<LaneId>,
    /// The number of the attempt that ended it, from 1; 0 if it never ran.
    pub attempt: u32,
    /// 0 for the first run, one more for each replay.
    pub generation: u32,
    /// Why it did not succeed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub reason: Option<Arc<str>>,
    /// Its tags at the commit.
    #[serde(skip_serializing_if = "Tags::is_empty")]
    pub tags: Tags,
    /// Whether some dependents are not resolved yet. The call that ends an execution resolves only a bounded number of
    /// them; the dispatcher resolves the rest.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub dependents_pending: bool,
    /// Its position in the completion log; `None` if another publisher sent the completion.
    pub position: Option<Position>,
}

impl CompletionPayload {
    /// A completion with the three fields that every publisher sends; set the public fields for the rest.
    #[must_use]
    pub fn new(execution_id: ExecutionId, flow_id: Option<FlowId>, outcome: Outcome) -> Self {
        Self {
            execution_id,
            flow_id,
            outcome,
            payload_bytes: None,
            result_len: None,
            produced_at_ms: None,
            namespace: None,
            lane: None,
            attempt: 0,
            generation: 0,
            reason: None,
            tags: Tags::default(),
            dependents_pending: false,
            position: None,
        }
    }
}

fn as_text<S: serde::Serializer>(bytes: &Option<Bytes>, serializer: S) -> Result<S::Ok, S::Error> {
    match bytes {
        Some(bytes) => serializer.serialize_str(&String::from_utf8_lossy(bytes)),
        None => serializer.serialize_none(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::PartitionCount;

    #[test]
    fn cloning_copies_no_text() {
        let id = ExecutionId::generate_solo(PartitionCount::DEFAULT);
        let mut completion = CompletionPayload::new(id, None, Outcome::Failed);
        completion.reason = Some("boom".into());
        completion.payload_bytes = Some(Bytes::from_static(b"result"));
        let copy = completion.clone();
        assert!(std::ptr::eq(completion.reason.as_deref().unwrap(), copy.reason.as_deref().unwrap()));
        assert_eq!(completion.payload_bytes.unwrap().as_ptr(), copy.payload_bytes.unwrap().as_ptr());
    }
}
