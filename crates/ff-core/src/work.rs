//! Work as a worker sees it.

use std::time::Duration;

use bytes::Bytes;

use crate::{ExecutionId, FlowId, Namespace, Tags, limits};

/// The right to end one attempt of one execution. It becomes void when another attempt starts; calls with a void lease
/// are refused (fencing).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_structs, reason = "complete by definition")]
pub struct Lease {
    /// The execution.
    pub execution_id: ExecutionId,
    /// The flow it is a member of.
    pub flow_id: Option<FlowId>,
    /// The number of the attempt, from 1.
    pub attempt: u32,
    /// Grows with every claim; a lease with an older epoch is void.
    pub epoch: u64,
}

/// An execution that a worker has claimed.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct ClaimedExecution {
    /// The lease, which the worker needs to end the execution.
    pub lease: Lease,
    /// Its name within its flow.
    pub name: String,
    /// The tenant.
    pub namespace: Namespace,
    /// Its tags.
    pub tags: Tags,
    /// The payload that was submitted.
    pub payload: Bytes,
    /// The execution ends as failed after this many failed attempts.
    pub max_attempts: u32,
    /// The timeout of this attempt, from its claim.
    pub timeout: Option<Duration>,
    /// How many leases of this execution expired before a renewal confirmed that a worker had them. If it is not 0, the
    /// worker renews the lease once before it starts the handler. The lease is then confirmed, so its expiry counts if
    /// the execution crashes the worker.
    pub unconfirmed_leases: u32,
}

impl ClaimedExecution {
    /// A claimed execution with the fields that every execution has. For backends.
    #[must_use]
    pub fn new(lease: Lease, name: String, namespace: Namespace) -> Self {
        Self {
            lease,
            name,
            namespace,
            tags: Tags::default(),
            payload: Bytes::new(),
            max_attempts: 1,
            timeout: None,
            unconfirmed_leases: 0,
        }
    }
}

/// Why an attempt failed, and whether a further attempt can help.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub struct Failure {
    /// A text for people. It is cut at [`limits::REASON_BYTES`] when it is reported.
    pub reason: String,
    /// Whether a retry can help. If not, the execution ends as failed now.
    pub retryable: bool,
}

impl Failure {
    /// A failure for which a further attempt may succeed.
    #[must_use]
    pub fn retryable(reason: impl Into<String>) -> Self {
        Self { reason: cut(reason.into()), retryable: true }
    }

    /// A failure for which no further attempt can succeed.
    #[must_use]
    pub fn permanent(reason: impl Into<String>) -> Self {
        Self { reason: cut(reason.into()), retryable: false }
    }
}

fn cut(mut reason: String) -> String {
    reason.truncate(reason.floor_char_boundary(limits::REASON_BYTES));
    reason
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_overlong_reason_is_cut_at_a_character() {
        let failure = Failure::permanent("ä".repeat(limits::REASON_BYTES));
        assert!(failure.reason.len() <= limits::REASON_BYTES && failure.reason.ends_with('ä'));
    }
}
