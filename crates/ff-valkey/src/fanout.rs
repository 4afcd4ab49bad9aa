//! From one event to many queues. Pure: no socket, no clock, no waiting.
//!
//! # States of a subscription
//!
//! ```text
//! Live --its queue is full--> CatchingUp --its vector meets the hub's, or the ring holds the rest--> Live
//! ```
//!
//! A live subscription has no vector of its own: it stands where the hub stands. The event that finds its queue full
//! freezes a copy of the hub's vector as it was before that event; from then on the hub leaves the subscription alone
//! and it reads the log itself, at its own pace. The copy is made once per event, however many queues were full.
//!
//! Subscriptions are grouped by filter, and groups by the namespace that their filter names, so that an event is
//! matched once per distinct filter and only against filters that can want it.

use std::{
    collections::{BTreeMap, HashMap},
    sync::Arc,
};

use ff_core::{CompletionPayload, EntryId, LogCursor, LogId, Namespace, ScannerFilter};
use tokio::{
    sync::mpsc::{Sender, error::TrySendError},
    task::AbortHandle,
};

use crate::{reading::GapCause, ring::Ring, telemetry, vector::Deliver};

/// One subscription of this process. Numbers only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SubscriptionId(u64);

/// What a queue carries.
pub(crate) type Queued = Arc<CompletionPayload>;

/// A subscription whose queue was full.
#[derive(Debug)]
pub(crate) struct Lagged {
    pub(crate) id: SubscriptionId,
    pub(crate) filter: ScannerFilter,
    pub(crate) queue: Sender<Queued>,
    /// Up to where it has everything.
    pub(crate) vector: Arc<[LogCursor]>,
}

#[derive(Debug)]
struct Subscription {
    queue: Sender<Queued>,
    state: State,
}

#[derive(Debug)]
enum State {
    Live,
    CatchingUp(Option<AbortHandle>),
}

#[derive(Debug)]
struct Group {
    filter: ScannerFilter,
    members: BTreeMap<SubscriptionId, Subscription>,
}

/// All subscriptions and the recent events.
#[derive(Debug, Default)]
pub(crate) struct Fanout {
    /// By the namespace that the filter names.
    groups: HashMap<Option<Namespace>, Vec<Group>>,
    filters: HashMap<SubscriptionId, ScannerFilter>,
    next: u64,
    lagging: usize,
    ring: Ring,
    newly_lagged: Vec<Lagged>,
    counts: Counts,
}

/// What has happened since it was last asked.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    delivered: u64,
    filtered: u64,
    duplicates: u64,
    trimmed: u64,
    rewritten: u64,
    unreadable: u64,
    unknown: u64,
    lagged: u64,
    dropped: u64,
}

impl Counts {
    pub(crate) fn emit(self) {
        telemetry::count(telemetry::DELIVERED, self.delivered);
        telemetry::count(telemetry::FILTERED, self.filtered);
        telemetry::count(telemetry::DUPLICATES, self.duplicates);
        telemetry::count_cause(telemetry::GAPS, "trimmed", self.trimmed);
        telemetry::count_cause(telemetry::GAPS, "rewritten", self.rewritten);
        telemetry::count(telemetry::MALFORMED, self.unreadable);
        telemetry::count(telemetry::UNKNOWN, self.unknown);
        telemetry::count(telemetry::LAGGED, self.lagged);
        telemetry::count_cause(telemetry::DROPPED, "queue", self.dropped);
    }
}

impl Fanout {
    /// Adds a live subscription: it gets what is delivered from now on.
    pub(crate) fn join(&mut self, filter: &ScannerFilter, queue: Sender<Queued>) -> SubscriptionId {
        let id = SubscriptionId(self.next);
        self.next += 1;
        let groups = self.groups.entry(filter.namespace.clone()).or_default();
        let at = groups.iter().position(|group| group.filter == *filter).unwrap_or_else(|| {
            groups.push(Group { filter: filter.clone(), members: BTreeMap::new() });
            groups.len() - 1
        });
        groups[at].members.insert(id, Subscription { queue, state: State::Live });
        self.filters.insert(id, filter.clone());
        id
    }

    /// Removes a subscription and ends its catching up.
    pub(crate) fn leave(&mut self, id: SubscriptionId) {
        let Some(filter) = self.filters.remove(&id) else { return };
        let Some(groups) = self.groups.get_mut(&filter.namespace) else { return };
        if let Some(at) = groups.iter().position(|group| group.filter == filter) {
            if let Some(gone) = groups[at].members.remove(&id)
                && let State::CatchingUp(task) = gone.state
            {
                self.lagging -= 1;
                if let Some(task) = task {
                    task.abort();
                }
            }
            if groups[at].members.is_empty() {
                groups.swap_remove(at);
            }
        }
        if groups.is_empty() {
            self.groups.remove(&filter.namespace);
        }
        if self.filters.is_empty() {
            self.ring.clear();
            self.filters.shrink_to_fit();
            self.groups.shrink_to_fit();
        }
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.filters.len()
    }

    pub(crate) fn lagging(&self) -> usize {
        self.lagging
    }

    /// The number of the next subscription: who has a smaller one is there already.
    pub(crate) const fn horizon(&self) -> SubscriptionId {
        SubscriptionId(self.next)
    }

    pub(crate) fn take_lagged(&mut self) -> Vec<Lagged> {
        std::mem::take(&mut self.newly_lagged)
    }

    pub(crate) fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Notes the task that catches up for a subscription; ends it if the subscription is gone.
    pub(crate) fn set_task(&mut self, id: SubscriptionId, task: AbortHandle) {
        match self.find(id) {
            Some(Subscription { state: State::CatchingUp(slot), .. }) => *slot = Some(task),
            _ => task.abort(),
        }
    }

    /// The subscription has everything that the hub has delivered.
    pub(crate) fn go_live(&mut self, id: SubscriptionId) {
        if let Some(subscription) = self.find(id)
            && matches!(subscription.state, State::CatchingUp(_))
        {
            subscription.state = State::Live;
            self.lagging -= 1;
        }
    }

    pub(crate) const fn ring(&self) -> &Ring {
        &self.ring
    }

    fn find(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        let filter = self.filters.get(&id)?;
        let groups = self.groups.get_mut(&filter.namespace)?;
        groups.iter_mut().find(|group| group.filter == *filter)?.members.get_mut(&id)
    }

    /// The filters of all subscriptions, each once.
    pub(crate) fn distinct_filters(&self) -> impl Iterator<Item = &ScannerFilter> {
        self.groups.values().flatten().map(|group| &group.filter)
    }

    /// Puts an event that stands in no log into the queues of those members of `wanted` groups that were there before
    /// `horizon`. A full queue loses it: nothing could bring it back later without endangering the order.
    pub(crate) fn deliver_bare(
        &mut self,
        event: &Queued,
        horizon: SubscriptionId,
        wanted: impl Fn(&ScannerFilter) -> bool,
    ) {
        for group in self.groups.values().flatten().filter(|group| wanted(&group.filter)) {
            for (_, member) in group.members.range(..horizon) {
                match member.queue.try_send(event.clone()) {
                    Ok(()) => self.counts.delivered += 1,
                    Err(TrySendError::Full(_)) => self.counts.dropped += 1,
                    Err(TrySendError::Closed(_)) => {}
                }
            }
        }
    }

    fn offer(&mut self, event: &Queued, before: &[LogCursor]) {
        let mut frozen: Option<Arc<[LogCursor]>> = None;
        let mut delivered = 0;
        let candidates = match &event.namespace {
            None => [self.groups.get_mut(&None), None],
            named => self.groups.get_disjoint_mut([&None, named]),
        };
        for group in candidates.into_iter().flatten().flatten() {
            if !group.filter.matches_completion(event) {
                continue;
            }
            for (id, member) in &mut group.members {
                if !matches!(member.state, State::Live) {
                    continue;
                }
                match member.queue.try_send(event.clone()) {
                    Ok(()) => delivered += 1,
                    Err(TrySendError::Closed(_)) => {}
                    Err(TrySendError::Full(_)) => {
                        member.state = State::CatchingUp(None);
                        self.lagging += 1;
                        self.counts.lagged += 1;
                        self.newly_lagged.push(Lagged {
                            id: *id,
                            filter: group.filter.clone(),
                            queue: member.queue.clone(),
                            vector: frozen.get_or_insert_with(|| before.into()).clone(),
                        });
                    }
                }
            }
        }
        self.counts.delivered += delivered;
        let live = (self.filters.len() - self.lagging) as u64;
        self.counts.filtered += live.saturating_sub(delivered);
    }
}

impl Deliver for Fanout {
    fn deliver(&mut self, event: &Arc<CompletionPayload>, before: &[LogCursor]) {
        if self.filters.is_empty() {
            return;
        }
        self.offer(event, before);
        if let Some(position) = event.position {
            let index = usize::from(position.log.partition.number());
            self.ring.push(index, before[index].last(), event.clone());
        }
    }

    fn gap(&mut self, log: LogId, cause: GapCause, after: Option<EntryId>, next: EntryId) {
        match cause {
            GapCause::Trimmed => self.counts.trimmed += 1,
            GapCause::Rewritten => self.counts.rewritten += 1,
        }
        warn_gap(log, cause, after, Some(next));
    }

    fn unreadable(&mut self, log: LogId, entry: EntryId) {
        self.counts.unreadable += 1;
        tracing::warn!(%log, %entry, "a log entry is no completion; it is left out");
    }

    fn duplicate(&mut self) {
        self.counts.duplicates += 1;
    }

    fn unknown(&mut self, log: LogId, entry: EntryId) {
        self.counts.unknown += 1;
        tracing::warn!(%log, %entry, "a completion was announced that its log does not hold; it is left out");
    }
}

pub(crate) fn warn_gap(log: LogId, cause: GapCause, after: Option<EntryId>, next: Option<EntryId>) {
    let shown = |entry: Option<EntryId>| entry.map_or_else(|| "-".to_owned(), |entry| entry.to_string());
    tracing::warn!(
        %log, cause = cause.as_str(), after = shown(after), next = shown(next),
        "the log does not hold what follows; completions are missing or were undone"
    );
}

#[cfg(test)]
#[path = "fanout_tests.rs"]
mod tests;
