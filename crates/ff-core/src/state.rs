//! The states of executions and flows, as enums.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::{EngineError, error::shown};

macro_rules! states {
    ($(#[$doc:meta])* $type:ident, $kind:literal { $($(#[$vdoc:meta])* $variant:ident = $text:literal,)+ }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
        #[serde(rename_all = "snake_case")]
        #[non_exhaustive]
        pub enum $type {
            $($(#[$vdoc])* $variant,)+
        }

        impl $type {
            /// Every state, in declaration order.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)+];

            /// Its word in stored data and on the wire.
            #[must_use]
            pub const fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $text,)+
                }
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.pad(self.as_str())
            }
        }

        impl FromStr for $type {
            type Err = EngineError;

            fn from_str(text: &str) -> Result<Self, EngineError> {
                Self::ALL.iter().copied().find(|state| state.as_str() == text).ok_or_else(|| {
                    let known: Vec<_> = Self::ALL.iter().map(|state| state.as_str()).collect();
                    EngineError::invalid(format!("{} `{}`", $kind, shown(text)), format!("expected one of {}", known.join(", ")))
                })
            }
        }
    };
}

states! {
    /// How an execution ended.
    Outcome, "outcome" {
        /// A worker completed it.
        Success = "success",
        /// A worker reported a permanent failure, or its attempts or leases are used up.
        Failed = "failed",
        /// It or its flow was cancelled.
        Cancelled = "cancelled",
        /// Its deadline passed.
        Expired = "expired",
        /// An execution that it needs did not succeed, so it can never run.
        Skipped = "skipped",
        /// A word that is unknown to this version (from another publisher or a newer library).
        Unknown = "unknown",
    }
}

impl Outcome {
    /// The outcome for a word on the wire; [`Outcome::Unknown`] for an unknown word.
    #[must_use]
    pub fn from_wire(word: &str) -> Self {
        Self::ALL.iter().copied().find(|outcome| outcome.as_str() == word).unwrap_or(Self::Unknown)
    }
}

states! {
    /// The coarse phase of an execution.
    LifecyclePhase, "lifecycle phase" {
        /// Accepted; waits for dependencies or for its start time.
        Submitted = "submitted",
        /// A worker may claim it.
        Runnable = "runnable",
        /// A worker holds its lease.
        Active = "active",
        /// It has ended.
        Terminal = "terminal",
    }
}

states! {
    /// The state of an execution as users read it.
    PublicState, "public state" {
        /// Waits for executions that it needs.
        Blocked = "blocked",
        /// Waits for its delay or its retry's backoff.
        Delayed = "delayed",
        /// Waits for a worker.
        Waiting = "waiting",
        /// A worker holds its lease.
        Active = "active",
        /// Ended with success.
        Success = "success",
        /// Ended as failed.
        Failed = "failed",
        /// Ended by cancellation.
        Cancelled = "cancelled",
        /// Ended by its deadline.
        Expired = "expired",
        /// Ended without running.
        Skipped = "skipped",
    }
}

impl PublicState {
    /// The outcome, if this is a terminal state.
    #[must_use]
    pub const fn outcome(self) -> Option<Outcome> {
        match self {
            Self::Success => Some(Outcome::Success),
            Self::Failed => Some(Outcome::Failed),
            Self::Cancelled => Some(Outcome::Cancelled),
            Self::Expired => Some(Outcome::Expired),
            Self::Skipped => Some(Outcome::Skipped),
            Self::Blocked | Self::Delayed | Self::Waiting | Self::Active => None,
        }
    }
}

states! {
    /// The state of a flow.
    FlowState, "flow state" {
        /// At least one member has not ended.
        Running = "running",
        /// All members ended, and none failed, expired or was cancelled.
        Success = "success",
        /// All members ended, none was cancelled, and at least one failed or expired.
        Failed = "failed",
        /// All members ended, and the flow or at least one member was cancelled.
        Cancelled = "cancelled",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_state_survives_print_and_parse() {
        for state in PublicState::ALL {
            assert_eq!(state.as_str().parse::<PublicState>().unwrap(), *state);
        }
        for phase in LifecyclePhase::ALL {
            assert_eq!(phase.as_str().parse::<LifecyclePhase>().unwrap(), *phase);
        }
        for state in FlowState::ALL {
            assert_eq!(state.as_str().parse::<FlowState>().unwrap(), *state);
        }
    }

    #[test]
    fn an_unrecognised_outcome_is_unknown_and_not_an_error() {
        assert_eq!(Outcome::from_wire("success"), Outcome::Success);
        assert_eq!(Outcome::from_wire("evaporated"), Outcome::Unknown);
    }

    #[test]
    fn an_unknown_state_is_refused_with_the_known_ones() {
        let error = "sleepy".parse::<PublicState>().unwrap_err().to_string();
        assert!(error.contains("`sleepy`") && error.contains("blocked, delayed"), "{error}");
    }
}
