//! The link from an epoch to the entry before it.

use std::{fmt, str::FromStr};

use crate::{EngineError, EntryId};

/// What an epoch's first entry records about the log before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[allow(clippy::exhaustive_enums, reason = "complete by definition")]
pub enum Predecessor {
    /// The log had never held an entry.
    Start,
    /// The log's last entry was this one.
    Entry(EntryId),
}

impl fmt::Display for Predecessor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Start => f.write_str("none"),
            Self::Entry(entry) => entry.fmt(f),
        }
    }
}

impl FromStr for Predecessor {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        if text == "none" { Ok(Self::Start) } else { text.parse().map(Self::Entry) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_predecessor_survives_print_and_parse() {
        for predecessor in [Predecessor::Start, Predecessor::Entry(EntryId { epoch: 7, seq: 0 })] {
            assert_eq!(predecessor.to_string().parse::<Predecessor>().unwrap(), predecessor);
        }
    }
}
