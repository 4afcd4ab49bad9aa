//! What can go wrong, by kind. Whether a retry can help is a method, not a guess.

use std::time::Duration;

/// The error of every fallible call of FlowFabric.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum EngineError {
    /// The backend does not offer this operation at all.
    #[error("{op} is not available on this backend")]
    Unavailable {
        /// The operation, as the trait names it.
        op: &'static str,
    },
    /// The thing named does not exist (or its retention has passed).
    #[error("{what} does not exist")]
    NotFound {
        /// Kind and identity, for example `execution {fp:7}:0192…`.
        what: String,
    },
    /// The caller's input is refused; nothing was written.
    #[error("{what}: {reason}")]
    InvalidInput {
        /// The input as it was given.
        what: String,
        /// Why it is refused and what would be accepted.
        reason: String,
    },
    /// The server refuses the credentials, or the user lacks a permission.
    #[error("{op} is not permitted: {reason}")]
    PermissionDenied {
        /// What was attempted.
        op: String,
        /// The server's answer and what would grant it.
        reason: String,
    },
    /// The data is being moved or another caller is ahead; the same call later can succeed.
    #[error("{op}: the data is busy: {reason}")]
    Contention {
        /// What was attempted.
        op: String,
        /// The server's answer.
        reason: String,
    },
    /// What exists already contradicts the request (an idempotency key with other content, another partition count).
    #[error("{what}: {reason}")]
    Conflict {
        /// The thing that exists.
        what: String,
        /// In what it differs, and the fix.
        reason: String,
    },
    /// The execution is in a state that does not allow this.
    #[error("{what}: {conflict}")]
    State {
        /// The execution or flow.
        what: String,
        /// Which rule refused.
        conflict: StateConflict,
    },
    /// A configured or server-side limit is reached.
    #[error("{resource} is exhausted: {reason}")]
    ResourceExhausted {
        /// The resource, for example `subscriptions`.
        resource: &'static str,
        /// The limit, and how to raise it.
        reason: String,
    },
    /// No answer within the time allowed. The call may or may not have been executed.
    #[error("{op} was not answered within {after:?}")]
    Timeout {
        /// What was attempted.
        op: String,
        /// The time waited.
        after: Duration,
    },
    /// The connection or the server failed. The call may or may not have been executed.
    #[error("{op}: {source}")]
    Transport {
        /// What was attempted.
        op: String,
        /// The client's own error.
        source: Box<dyn std::error::Error + Send + Sync>,
    },
}

/// The rule of the state machine that refused a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum StateConflict {
    /// Another attempt owns the execution now, or its lease has been taken back: the caller must stop working on it.
    #[error("the lease is no longer held; another attempt may be running")]
    LeaseLost,
    /// The execution has ended in another way than the call asks for.
    #[error("it has ended already")]
    AlreadyTerminal,
}

impl EngineError {
    /// Whether the same call, made later, can succeed without the caller changing anything.
    ///
    /// True for contention, timeouts and transport failures. After those a call *may* have been executed: repeat only
    /// calls that are idempotent (all terminal calls by the owner of a lease are, and submissions with an id or key).
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Contention { .. } | Self::Timeout { .. } | Self::Transport { .. })
    }

    /// Whether the caller lost the lease it named and must stop working on the execution.
    #[must_use]
    pub fn is_lease_lost(&self) -> bool {
        matches!(self, Self::State { conflict: StateConflict::LeaseLost, .. })
    }

    /// Builds [`EngineError::InvalidInput`].
    pub fn invalid(what: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::InvalidInput { what: what.into(), reason: reason.into() }
    }

    /// Builds [`EngineError::Transport`] from a client's error.
    pub fn transport(op: impl Into<String>, source: impl Into<Box<dyn std::error::Error + Send + Sync>>) -> Self {
        Self::Transport { op: op.into(), source: source.into() }
    }
}

/// At most 80 characters of what was given, so that a message stays a line.
pub(crate) fn shown(text: &str) -> String {
    let mut short: String = text.chars().take(80).flat_map(char::escape_debug).collect();
    if text.chars().count() > 80 {
        short.push('…');
    }
    short
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_errors_that_time_can_heal_are_retryable() {
        assert!(EngineError::transport("claim", "connection reset").is_retryable());
        assert!(EngineError::Timeout { op: "claim".into(), after: Duration::from_secs(1) }.is_retryable());
        assert!(EngineError::Contention { op: "claim".into(), reason: "TRYAGAIN".into() }.is_retryable());
        assert!(!EngineError::invalid("id `x`", "malformed").is_retryable());
        assert!(!EngineError::Unavailable { op: "subscribe_completions_filtered" }.is_retryable());
    }

    #[test]
    fn a_message_names_the_input_and_the_reason() {
        let error = EngineError::invalid("execution id `7`", "expected `{fp:N}:<uuid>`");
        assert_eq!(error.to_string(), "execution id `7`: expected `{fp:N}:<uuid>`");
    }
}
