//! A completion log as a server keeps it, with what can happen to it, for tests of what reads it.

use std::{collections::BTreeSet, sync::Arc};

use ff_core::{CompletionPayload, EntryId, ExecutionId, LogId, Namespace, Outcome, Position, Predecessor};
use uuid::Uuid;

use crate::vector::Shown;

/// A log as a server keeps it, with everything that can happen to it.
#[derive(Debug)]
pub(crate) struct Server {
    log: LogId,
    /// All entries of the history as it stands; the first `trimmed` are no longer there.
    history: Vec<(EntryId, Option<Predecessor>, u64)>,
    trimmed: usize,
    epochs: Vec<(u64, Predecessor)>,
    /// Epochs of all processes that ever wrote: no two share one.
    used: BTreeSet<u64>,
    next: u64,
    step: u64,
}

impl Server {
    pub(crate) fn of(log: LogId) -> Self {
        Self::numbered(log, 0, 1)
    }

    /// Numbers its events from `first` on by `step`.
    pub(crate) fn numbered(log: LogId, first: u64, step: u64) -> Self {
        let (history, epochs, used) = Default::default();
        Self { log, history, trimmed: 0, epochs, used, next: first, step }
    }

    pub(crate) const fn next(&self) -> u64 {
        self.next
    }

    /// The numbers of the entries that are there.
    pub(crate) fn numbers(&self) -> impl Iterator<Item = u64> {
        self.entries().iter().map(|(.., number)| *number)
    }

    pub(crate) fn trim(&mut self, count: usize) {
        self.trimmed = self.history.len().min(self.trimmed + count);
    }

    fn entries(&self) -> &[(EntryId, Option<Predecessor>, u64)] {
        &self.history[self.trimmed..]
    }

    pub(crate) fn head(&self) -> Option<EntryId> {
        self.entries().last().map(|(id, ..)| *id)
    }

    pub(crate) fn append(&mut self) -> Shown {
        let last = self.history.last().map(|(id, ..)| *id);
        let epoch = self.epochs.last().map(|(epoch, _)| *epoch);
        match (last, epoch) {
            (Some(last), Some(epoch)) if last.epoch == epoch => self.add(EntryId { epoch, seq: last.seq + 1 }, None),
            _ => self.begin_epoch(10),
        }
    }

    fn add(&mut self, entry: EntryId, prev: Option<Predecessor>) -> Shown {
        let number = self.next;
        self.next += self.step;
        self.history.push((entry, prev, number));
        Shown { entry, prev, event: Some(event(self.log, Some(entry), number)) }
    }

    /// Begins an epoch with the first number from `from` on that is free.
    fn begin_epoch(&mut self, from: u64) -> Shown {
        let last = self.history.last().map(|(id, ..)| *id);
        let floor = last.map_or(from, |last| from.max(last.epoch + 1));
        let epoch = (floor..).find(|epoch| !self.used.contains(epoch)).unwrap();
        self.used.insert(epoch);
        let prev = last.map_or(Predecessor::Start, Predecessor::Entry);
        self.epochs.push((epoch, prev));
        self.add(EntryId { epoch, seq: 0 }, Some(prev))
    }

    /// Another process takes over: in order, or one that had not seen the last `lost` entries and whose clock may be
    /// behind.
    pub(crate) fn take_over(&mut self, lost: usize, behind: bool) -> Shown {
        self.history.truncate(self.history.len().saturating_sub(lost));
        self.trimmed = self.trimmed.min(self.history.len());
        let last = self.history.last().map(|(id, ..)| *id);
        self.epochs.retain(|(epoch, _)| last.is_some_and(|last| *epoch <= last.epoch));
        let newest = self.used.last().copied().unwrap_or(0);
        self.begin_epoch(if behind { 1 } else { newest + 10 })
    }

    pub(crate) fn page(&self, after: Option<EntryId>, up_to: Option<EntryId>, limit: usize) -> Vec<Shown> {
        let within = |id: EntryId| after.is_none_or(|after| id > after) && up_to.is_none_or(|up_to| id <= up_to);
        let page = self.entries().iter().filter(|(id, ..)| within(*id)).take(limit);
        page.map(|(id, prev, n)| Shown { entry: *id, prev: *prev, event: Some(event(self.log, Some(*id), *n)) })
            .collect()
    }

    pub(crate) fn ends(&self) -> Vec<EntryId> {
        crate::reading::epoch_ends(&self.epochs, self.head())
    }
}

/// The completion with this number; odd ones are of namespace `a`, even ones of `b`.
pub(crate) fn event(log: LogId, entry: Option<EntryId>, number: u64) -> Arc<CompletionPayload> {
    let id = ExecutionId::from_parts(log.partition, Uuid::from_u128(u128::from(number)));
    let mut event = CompletionPayload::new(id, None, Outcome::Success);
    event.position = entry.map(|entry| Position { log, entry });
    event.namespace = Namespace::new(if number % 2 == 1 { "a" } else { "b" }).ok();
    Arc::new(event)
}

pub(crate) fn number(event: &CompletionPayload) -> u64 {
    u64::try_from(event.execution_id.uuid().as_u128()).unwrap()
}
