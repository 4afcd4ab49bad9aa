//! What one subscription saw.

use std::collections::BTreeMap;

use ff_core::{Cursor, EntryId, Frame, Gap, LogId, Overflow, ScannerFilter, Scope, SubscribeOptions};

use super::End;

/// One thing that a subscription saw of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Seen {
    /// A completion.
    Event {
        /// Where.
        entry: EntryId,
        /// Of what.
        end: End,
    },
    /// A gap.
    Gap(Gap),
}

/// The frames of one subscription, from its start to the end of all logs; of one that was resumed from a cursor, those
/// that had been yielded before the cursor and those after it.
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
    /// Nothing yet of a subscription with these options that starts at `start`.
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

    /// Takes what a subscription yielded.
    pub fn take(&mut self, frame: &Frame) {
        match frame {
            Frame::Completion(completion) => {
                // What has no position is another publisher's, and outside the guarantees.
                let Some(position) = completion.position else { return };
                let end = End { execution: completion.execution_id, generation: completion.generation };
                self.saw(position.log, Seen::Event { entry: position.entry, end });
            }
            Frame::Gap(gap) => self.saw(gap.log, Seen::Gap(*gap)),
            _ => {}
        }
    }

    /// Notes one thing that it saw.
    pub fn saw(&mut self, log: LogId, seen: Seen) {
        self.logs.entry(log).or_default().push(seen);
    }

    /// Its name.
    #[must_use]
    pub fn name(&self) -> &str {
        &self.name
    }

    /// The logs of which it saw something.
    pub fn logs(&self) -> impl Iterator<Item = LogId> + '_ {
        self.logs.keys().copied()
    }

    /// What it saw of a log.
    #[must_use]
    pub fn seen(&self, log: LogId) -> &[Seen] {
        self.logs.get(&log).map_or(&[], Vec::as_slice)
    }

    /// Whether it is to get the completions of a log.
    #[must_use]
    pub fn is_about(&self, log: LogId) -> bool {
        self.scopes.contains(&log.scope)
    }

    /// The last entry of a log before it began.
    pub(super) fn start(&self, log: LogId) -> Option<EntryId> {
        self.start.position(log)
    }
}
