//! What can go wrong, by kind. Whether a retry can help is a method, not a guess.

use std::{error::Error, sync::Arc, time::Duration};

/// The error of every fallible call of FlowFabric. A clone is cheap and keeps the cause.
///
/// | Variant | Retryable | May have run | What to do |
/// |---|---|---|---|
/// | [`Unavailable`](Self::Unavailable) | no | no | use another backend, or do without the operation |
/// | [`NotFound`](Self::NotFound) | no | no | check the id; ended executions are kept only for their retention |
/// | [`InvalidInput`](Self::InvalidInput) | no | no | correct the input |
/// | [`PermissionDenied`](Self::PermissionDenied) | no | no | grant what the reason names, or correct the credentials |
/// | [`Contention`](Self::Contention) | yes | no | call again after a pause |
/// | [`Conflict`](Self::Conflict) | no | no | use another key, or the settings that exist |
/// | [`State`](Self::State) | no | no | stop working on the execution |
/// | [`ResourceExhausted`](Self::ResourceExhausted) | no | no | raise the limit or free the resource |
/// | [`Timeout`](Self::Timeout) | yes | yes | call again if the call is idempotent; otherwise look first |
/// | [`Transport`](Self::Transport) | yes | yes | call again if the call is idempotent; otherwise look first |
/// | [`Protocol`](Self::Protocol) | no | yes | use versions that fit together, or repair the stored data |
/// | [`Ended`](Self::Ended) | no | no | subscribe again; if that is refused, connect again |
#[derive(Debug, Clone, thiserror::Error)]
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
    #[error("{op}: {cause}")]
    Transport {
        /// What was attempted.
        op: String,
        /// The client's own error. The message contains its text, so it is not the error's `source()` as well.
        cause: Arc<dyn Error + Send + Sync>,
    },
    /// This program cannot read the reply or the stored data, or the server cannot read what this program sent. The
    /// same call gets the same answer. The call may have been executed.
    #[error("{op}: {reason}")]
    Protocol {
        /// What was attempted.
        op: String,
        /// What cannot be read, and where.
        reason: String,
    },
    /// A subscription or an internal task that the call depends on has ended.
    #[error("{what} has ended")]
    Ended {
        /// What has ended, for example `the subscription`.
        what: String,
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
    /// True for contention, timeouts and transport failures. Where the call [may have been
    /// executed](Self::may_have_run), repeat it only if it is idempotent. All terminal calls by the owner of a lease
    /// are, and so are submissions with an id or key.
    #[must_use]
    pub fn is_retryable(&self) -> bool {
        matches!(self, Self::Contention { .. } | Self::Timeout { .. } | Self::Transport { .. })
    }

    /// Whether the server may have executed the call that failed.
    ///
    /// True for timeouts, transport failures and unreadable replies. False means that repeating the call is safe
    /// whether or not it is idempotent. An operation of several calls may have done a part before the one that failed.
    #[must_use]
    pub fn may_have_run(&self) -> bool {
        matches!(self, Self::Timeout { .. } | Self::Transport { .. } | Self::Protocol { .. })
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
    pub fn transport(op: impl Into<String>, cause: impl Into<Box<dyn Error + Send + Sync>>) -> Self {
        Self::Transport { op: op.into(), cause: Arc::from(cause.into()) }
    }

    /// Builds [`EngineError::Protocol`].
    pub fn protocol(op: impl Into<String>, reason: impl Into<String>) -> Self {
        Self::Protocol { op: op.into(), reason: reason.into() }
    }

    /// Builds [`EngineError::Ended`].
    pub fn ended(what: impl Into<String>) -> Self {
        Self::Ended { what: what.into() }
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
    fn every_variant_says_whether_a_retry_helps_and_whether_the_call_may_have_run() {
        let text = || "text".to_owned();
        let refused = EngineError::State { what: text(), conflict: StateConflict::LeaseLost };
        for (error, is_retryable, may_have_run) in [
            (EngineError::Unavailable { op: "subscribe" }, false, false),
            (EngineError::NotFound { what: text() }, false, false),
            (EngineError::invalid("id `x`", "malformed"), false, false),
            (EngineError::PermissionDenied { op: text(), reason: text() }, false, false),
            (EngineError::Contention { op: text(), reason: "TRYAGAIN".into() }, true, false),
            (EngineError::Conflict { what: text(), reason: text() }, false, false),
            (refused, false, false),
            (EngineError::ResourceExhausted { resource: "memory", reason: text() }, false, false),
            (EngineError::Timeout { op: text(), after: Duration::from_secs(1) }, true, true),
            (EngineError::transport("claim", "connection reset"), true, true),
            (EngineError::protocol("claim", "the reply is too short"), false, true),
            (EngineError::ended("the subscription"), false, false),
        ] {
            assert_eq!((error.is_retryable(), error.may_have_run()), (is_retryable, may_have_run), "{error:?}");
        }
    }

    #[test]
    fn a_clone_keeps_the_kind_the_message_and_the_cause() {
        let error = EngineError::transport("claim", std::io::Error::other("connection reset"));
        let clone = error.clone();
        assert_eq!(clone.to_string(), error.to_string());
        for error in [error, clone] {
            assert!(matches!(error, EngineError::Transport { cause, .. } if cause.is::<std::io::Error>()));
        }
    }

    #[test]
    fn a_report_of_the_error_and_its_sources_names_the_cause_once() {
        let error = EngineError::transport("claim", "connection reset");
        assert!(error.to_string().contains("connection reset") && error.source().is_none());
    }

    #[test]
    fn a_message_names_the_input_and_the_reason() {
        let error = EngineError::invalid("execution id `7`", "expected `{fp:N}:<uuid>`");
        assert_eq!(error.to_string(), "execution id `7`: expected `{fp:N}:<uuid>`");
    }
}
