//! The record of one subscription.

use std::collections::BTreeMap;

use ff_core::{Cursor, EntryId, Frame, Gap, LogId, Overflow, ScannerFilter, Scope, SubscribeOptions};

use super::End;

/// One item that a subscription received of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A completion.
    Event {
        /// Its position.
        entry: EntryId,
        /// The end that it reports.
        end: End,
    },
    /// A gap.
    Gap(Gap),
}

/// The frames of one subscription, from its start to the end of all logs. For a resumed one, the frames delivered
/// before the cursor and those after it.
#[derive(Debug, Clone)]
pub struct Record {
    name: String,
    pub(super) filter: ScannerFilter,
    scopes: &'static [Scope],
    pub(super) may_drop: bool,
    start: Cursor,
    logs: BTreeMap<LogId, Vec<Seen>>,
}

impl Record {
    /// The empty record of a subscription with these options that starts at `start`.
    #[must_use]
    pub fn new(name: impl Into<String>, options: &SubscribeOptions, start: Cursor) -> Self {
        Self {
            name: name.into(),
            filter: options.filter.clone(),
            scopes: options.scope.logs(),
            may_drop: options.overflow == Overflow::DropOldest,
            start,
            logs: BTreeMap::new(),
        }
    }

    /// Adds a frame.
    pub fn take(&mut self, frame: &Frame) {
        match frame {
            Frame::Completion(completion) => {
                // An event without a position comes from another publisher, and the guarantees do not cover it.
                let Some(position) = completion.position else { return };
                let end = End { execution: completion.execution_id, generation: completion.generation };
                self.saw(position.log, Seen::Event { entry: position.entry, end });
            }
            Frame::Gap(gap) => self.saw(gap.log, Seen::Gap(*gap)),
            _ => {}
        }
    }

    /// Adds one item.
    pub fn saw(&mut self, log: LogId, seen: Seen) {
        self.logs.entry(log).or_default().push(seen);
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The logs with items.
    pub fn logs(&self) -> impl Iterator<Item = LogId> + '_ {
        self.logs.keys().copied()
    }

    /// The items of a log.
    #[must_use]
    pub fn seen(&self, log: LogId) -> &[Seen] {
        self.logs.get(&log).map_or(&[], Vec::as_slice)
    }

    /// Whether its scope includes a log.
    #[must_use]
    pub fn is_about(&self, log: LogId) -> bool {
        self.scopes.contains(&log.scope)
    }

    /// The last entry of a log before it began.
    pub(super) fn start(&self, log: LogId) -> Option<EntryId> {
        self.start.position(log)
    }
}
