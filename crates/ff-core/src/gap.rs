//! What cannot be delivered, as a value.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{EntryId, LogId};

/// Positions of one log that a subscription does not get, or that it got and that were undone.
///
/// The range is exact, and in positions: it may cover completions that the subscription's filter would have rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Gap {
    /// The log.
    pub log: LogId,
    /// The last position before the range; `None` when it begins with the log.
    pub after: Option<EntryId>,
    /// The last position of the range.
    pub through: EntryId,
    /// Why.
    pub cause: GapCause,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.after {
            Some(after) => write!(f, "{}: {} after {after} through {}", self.log, self.cause, self.through),
            None => write!(f, "{}: {} from the log's start through {}", self.log, self.cause, self.through),
        }
    }
}

/// Why positions are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum GapCause {
    /// Retention removed them before they were read.
    Trimmed,
    /// They were read, and the server undid them: a crash or a failover lost the log's tail. Should the server bring them
    /// back, they are delivered again.
    HistoryRewritten,
    /// They were read, and the log is another one now, that knows nothing of them. Should the server bring them back, they
    /// are delivered again.
    LogRecreated,
    /// The log holds an entry there that is no completion.
    Unreadable,
    /// They were announced, and the log tells otherwise of the first of them: somebody else than the library has published
    /// on the channel. What the log holds there comes after this gap.
    Forged,
    /// The subscription's queue was full, and it asked for the oldest to be dropped.
    Overflow,
}

impl GapCause {
    /// All of them.
    pub const ALL: [Self; 6] =
        [Self::Trimmed, Self::HistoryRewritten, Self::LogRecreated, Self::Unreadable, Self::Forged, Self::Overflow];

    /// The name, as in metrics and JSON.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Trimmed => "trimmed",
            Self::HistoryRewritten => "history_rewritten",
            Self::LogRecreated => "log_recreated",
            Self::Unreadable => "unreadable",
            Self::Forged => "forged",
            Self::Overflow => "overflow",
        }
    }

    /// Whether the positions of such a gap had been delivered before.
    #[must_use]
    pub const fn is_undone(self) -> bool {
        matches!(self, Self::HistoryRewritten | Self::LogRecreated | Self::Forged)
    }
}

impl fmt::Display for GapCause {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}
