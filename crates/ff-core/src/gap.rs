//! The gap: a range of positions that cannot be delivered.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{EntryId, LogId};

/// Positions of one log that are not delivered to a subscription, or that were delivered and then rolled back.
///
/// The range is exact and counts positions: it may cover completions that the subscription's filter would have
/// rejected.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[non_exhaustive]
pub struct Gap {
    /// The log.
    pub log: LogId,
    /// The last position before the range; `None` if the range begins with the log.
    pub after: Option<EntryId>,
    /// The last position of the range.
    pub through: EntryId,
    /// The cause.
    pub cause: GapCause,
}

impl Gap {
    /// The positions of `log` after `after` through `through`.
    #[must_use]
    pub const fn new(log: LogId, after: Option<EntryId>, through: EntryId, cause: GapCause) -> Self {
        Self { log, after, through, cause }
    }
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
    /// They were delivered, and the server then rolled them back: a crash or a failover lost the tail of the log. If
    /// the server restores them, they are delivered again.
    HistoryRewritten,
    /// They were delivered, but the log was deleted and recreated and has no record of them. If the server restores
    /// them, they are delivered again.
    LogRecreated,
    /// The log entry there is not a completion.
    Unreadable,
    /// They were announced, but the log contradicts the first of them: a program other than the library has published
    /// on the channel. The entries that the log holds there follow after this gap.
    Forged,
    /// The subscription's queue was full, and its policy is to drop the oldest frames.
    Overflow,
}

impl GapCause {
    /// All causes.
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
