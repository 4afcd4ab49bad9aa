//! Delivers one event to many queues. Pure: no socket, no clock, no waiting.
//!
//! # States of a subscription
//!
//! ```text
//! Live --its queue is full--> CatchingUp --its frontier meets the hub's, or the ring holds the rest--> Live
//!  (it may also begin as CatchingUp, from a cursor or from the earliest entries)
//! ```
//!
//! A live subscription does not have its own frontier: it shares the hub's. The event that finds its queue full freezes
//! a copy of the hub's frontier as it was before that event. From then on the hub does not feed the subscription, which
//! reads the log on its own, at its own pace. The copy is made once per event, however many queues were full.
//! Subscriptions with the policy to drop the oldest, or to close, never catch up.
//!
//! Subscriptions are grouped by filter. Filters name exact values, so groups are found by the namespace and the tags of
//! an event, and filters that do not match are never visited. Subscriptions to certain executions are found by the
//! execution, and receive only the gaps in the logs of these executions.

use std::{
    collections::{BTreeMap, HashMap, VecDeque},
    sync::Arc,
};

use ff_core::{
    CompletionPayload, EntryId, ExecutionId, Gap, GapCause, LogId, Namespace, Overflow, ScannerFilter,
    SubscribeOptions,
    reader::{LogCursor, LogReader},
};
use tokio::task::AbortHandle;

use crate::{
    completions::{
        frontier::{Deliver, cursors},
        queue::{Item, Queue},
        ring::Ring,
    },
    net::quiet::Quiet,
    telemetry,
};

/// The id of a subscription of this process. Ids only grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct SubscriptionId(u64);

/// A subscription that reads the log from its frontier on.
#[derive(Debug)]
pub(crate) struct Lagged {
    pub(crate) id: SubscriptionId,
    pub(crate) options: Arc<SubscribeOptions>,
    pub(crate) queue: Arc<Queue>,
    /// The position up to which it has everything.
    pub(crate) frontier: Arc<[LogCursor]>,
    /// How many forged completions had been taken back by then.
    pub(crate) taken_back: u64,
}

#[derive(Debug)]
struct Subscription {
    options: Arc<SubscribeOptions>,
    queue: Arc<Queue>,
    state: State,
}

#[derive(Debug)]
enum State {
    Live,
    CatchingUp(Option<AbortHandle>),
    /// Its overflow policy closed it.
    Closed,
}

#[derive(Debug)]
struct Group {
    filter: ScannerFilter,
    members: BTreeMap<SubscriptionId, Subscription>,
}

/// The groups of one namespace, or of the filters without a namespace, by the tag that the filter names.
#[derive(Debug, Default)]
struct Groups {
    untagged: Option<Group>,
    tagged: HashMap<String, HashMap<String, Group>>,
}

impl Groups {
    fn get_mut(&mut self, filter: &ScannerFilter) -> Option<&mut Group> {
        match &filter.instance_tag {
            None => self.untagged.as_mut(),
            Some((key, value)) => self.tagged.get_mut(key)?.get_mut(value),
        }
    }

    fn get_or_add(&mut self, filter: &ScannerFilter) -> &mut Group {
        let new = || Group { filter: filter.clone(), members: BTreeMap::new() };
        match &filter.instance_tag {
            None => self.untagged.get_or_insert_with(new),
            Some((key, value)) => self.tagged.entry(key.clone()).or_default().entry(value.clone()).or_insert_with(new),
        }
    }

    fn remove(&mut self, filter: &ScannerFilter) {
        let Some((key, value)) = &filter.instance_tag else {
            self.untagged = None;
            return;
        };
        if let Some(values) = self.tagged.get_mut(key) {
            values.remove(value);
            if values.is_empty() {
                self.tagged.remove(key);
            }
        }
    }

    fn is_empty(&self) -> bool {
        self.untagged.is_none() && self.tagged.is_empty()
    }

    fn iter(&self) -> impl Iterator<Item = &Group> {
        self.untagged.iter().chain(self.tagged.values().flat_map(HashMap::values))
    }

    fn iter_mut(&mut self) -> impl Iterator<Item = &mut Group> {
        self.untagged.iter_mut().chain(self.tagged.values_mut().flat_map(HashMap::values_mut))
    }

    /// Visits the groups whose filter matches an event of this namespace.
    fn visit(&mut self, event: &CompletionPayload, mut visit: impl FnMut(&mut Group)) {
        if let Some(group) = &mut self.untagged {
            visit(group);
        }
        if self.tagged.is_empty() {
            return;
        }
        for (key, value) in event.tags.iter() {
            if let Some(group) = self.tagged.get_mut(key).and_then(|values| values.get_mut(value)) {
                visit(group);
            }
        }
    }
}

/// All subscriptions and the recent events.
#[derive(Debug, Default)]
pub(crate) struct Fanout {
    /// By the namespace that the filter names.
    groups: HashMap<Option<Namespace>, Groups>,
    /// Subscriptions to certain executions only.
    picking: BTreeMap<SubscriptionId, Subscription>,
    picked: HashMap<ExecutionId, Vec<SubscriptionId>>,
    options: HashMap<SubscriptionId, Arc<SubscribeOptions>>,
    next: u64,
    lagging: usize,
    ring: Ring,
    /// The latest forged completions that were taken back, for subscriptions that were already catching up with one of
    /// them delivered, and how many there have been in total.
    forged: VecDeque<Gap>,
    taken_back: u64,
    newly_lagged: Vec<Lagged>,
    counts: Counts,
}

/// How many taken-back forged completions are remembered.
const REMEMBERED_FORGED: usize = 64;

/// What has happened since the previous call.
#[derive(Debug, Default, Clone, Copy)]
pub(crate) struct Counts {
    delivered: u64,
    filtered: u64,
    duplicates: u64,
    gaps: [u64; GapCause::ALL.len()],
    unknown: u64,
    lagged: u64,
    dropped: u64,
}

impl Counts {
    pub(crate) fn emit(self) {
        telemetry::count(telemetry::DELIVERED, self.delivered);
        telemetry::count(telemetry::FILTERED, self.filtered);
        telemetry::count(telemetry::DUPLICATES, self.duplicates);
        for (cause, count) in GapCause::ALL.iter().zip(self.gaps) {
            telemetry::count_cause(telemetry::GAPS, cause.as_str(), count);
        }
        telemetry::count(telemetry::MALFORMED, self.gaps[GapCause::Unreadable as usize]);
        telemetry::count(telemetry::UNKNOWN, self.unknown);
        telemetry::count(telemetry::LAGGED, self.lagged);
        telemetry::count_cause(telemetry::DROPPED, "queue", self.dropped);
    }
}

/// Where a subscription begins, and what it wants.
#[derive(Debug)]
pub(crate) struct Joining {
    pub(crate) options: Arc<SubscribeOptions>,
    pub(crate) queue: Arc<Queue>,
    /// The frontier from which it reads the log; the hub's frontier if none.
    pub(crate) from: Option<Arc<[LogCursor]>>,
}

impl Fanout {
    /// Adds a subscription: it receives what is delivered from now on, or reads from the log what it lacks.
    pub(crate) fn join(&mut self, joining: Joining) -> SubscriptionId {
        let Joining { options, queue, from } = joining;
        let id = SubscriptionId(self.next);
        self.next += 1;
        self.options.insert(id, options.clone());
        let mut subscription = Subscription { options: options.clone(), queue, state: State::Live };
        match from {
            Some(frontier) => {
                self.newly_lagged.push(subscription.lagged(id, frontier, self.taken_back));
                self.lagging += 1;
            }
            None => subscription.queue.push_always(Item::CaughtUp),
        }
        if let Some(only) = &options.only {
            for execution in &**only {
                self.picked.entry(*execution).or_default().push(id);
            }
            self.picking.insert(id, subscription);
            return id;
        }
        let groups = self.groups.entry(options.filter.namespace.clone()).or_default();
        groups.get_or_add(&options.filter).members.insert(id, subscription);
        id
    }

    /// Removes a subscription and aborts its catching up.
    pub(crate) fn leave(&mut self, id: SubscriptionId) {
        let Some(options) = self.options.remove(&id) else { return };
        let gone = match &options.only {
            Some(only) => self.leave_picked(id, &**only),
            None => self.leave_group(id, &options.filter),
        };
        if let Some(State::CatchingUp(task)) = gone.map(|gone| gone.state) {
            self.lagging -= 1;
            if let Some(task) = task {
                task.abort();
            }
        }
        if self.options.is_empty() {
            self.ring.clear();
            self.options.shrink_to_fit();
            self.groups.shrink_to_fit();
            self.picked.shrink_to_fit();
        }
    }

    fn leave_picked<'a>(
        &mut self,
        id: SubscriptionId,
        only: impl IntoIterator<Item = &'a ExecutionId>,
    ) -> Option<Subscription> {
        for execution in only {
            if let Some(waiting) = self.picked.get_mut(execution) {
                waiting.retain(|other| *other != id);
                if waiting.is_empty() {
                    self.picked.remove(execution);
                }
            }
        }
        self.picking.remove(&id)
    }

    fn leave_group(&mut self, id: SubscriptionId, filter: &ScannerFilter) -> Option<Subscription> {
        let groups = self.groups.get_mut(&filter.namespace)?;
        let group = groups.get_mut(filter)?;
        let gone = group.members.remove(&id);
        if group.members.is_empty() {
            groups.remove(filter);
        }
        if groups.is_empty() {
            self.groups.remove(&filter.namespace);
        }
        gone
    }

    pub(crate) fn subscriptions(&self) -> usize {
        self.options.len()
    }

    pub(crate) fn lagging(&self) -> usize {
        self.lagging
    }

    /// The id of the next subscription; every smaller id already exists.
    pub(crate) const fn horizon(&self) -> SubscriptionId {
        SubscriptionId(self.next)
    }

    pub(crate) fn take_lagged(&mut self) -> Vec<Lagged> {
        std::mem::take(&mut self.newly_lagged)
    }

    pub(crate) fn take_counts(&mut self) -> Counts {
        std::mem::take(&mut self.counts)
    }

    /// Stores the task that catches up for a subscription; aborts it if the subscription is gone.
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
            subscription.queue.set_catching_up(false);
            subscription.queue.push_always(Item::CaughtUp);
            self.lagging -= 1;
        }
    }

    /// The forged completions that were taken back after the first `since`, and the current total.
    pub(crate) fn taken_back(&self, since: u64) -> (impl Iterator<Item = &Gap>, u64) {
        let known = self.forged.len() as u64;
        let skipped = known.saturating_sub(self.taken_back - since);
        (self.forged.iter().skip(usize::try_from(skipped).unwrap_or(usize::MAX)), self.taken_back)
    }

    pub(crate) const fn ring(&self) -> &Ring {
        &self.ring
    }

    fn find(&mut self, id: SubscriptionId) -> Option<&mut Subscription> {
        let options = self.options.get(&id)?;
        if options.only.is_some() {
            return self.picking.get_mut(&id);
        }
        self.groups.get_mut(&options.filter.namespace)?.get_mut(&options.filter)?.members.get_mut(&id)
    }

    /// The filters of all subscriptions, each once.
    pub(crate) fn distinct_filters(&self) -> impl Iterator<Item = &ScannerFilter> {
        self.groups.values().flat_map(Groups::iter).map(|group| &group.filter)
    }

    /// Puts an event without a position into the queues of those members of `wanted` groups whose id is below
    /// `horizon`. A full queue loses it: a later delivery would endanger the order.
    pub(crate) fn deliver_bare(
        &mut self,
        event: &Arc<CompletionPayload>,
        horizon: SubscriptionId,
        wanted: impl Fn(&ScannerFilter) -> bool,
    ) {
        for group in self.groups.values().flat_map(Groups::iter).filter(|group| wanted(&group.filter)) {
            for (_, member) in group.members.range(..horizon) {
                if matches!(member.state, State::Closed) {
                    continue;
                }
                if member.queue.push(Item::Event(event.clone())) {
                    self.counts.delivered += 1;
                } else {
                    self.counts.dropped += 1;
                }
            }
        }
    }

    fn offer(&mut self, event: &Arc<CompletionPayload>, before: &[LogReader]) {
        let mut offering = Offering::new(before, self.taken_back);
        let candidates = match &event.namespace {
            None => [self.groups.get_mut(&None), None],
            named => self.groups.get_disjoint_mut([&None, named]),
        };
        for groups in candidates.into_iter().flatten() {
            groups.visit(event, |group| {
                for (id, member) in &mut group.members {
                    offering.offer(*id, member, || Item::Event(event.clone()));
                }
            });
        }
        for id in self.picked.get(&event.execution_id).into_iter().flatten() {
            if let Some(member) = self.picking.get_mut(id).filter(|member| member.options.wants(event)) {
                offering.offer(*id, member, || Item::Event(event.clone()));
            }
        }
        let delivered = offering.delivered;
        self.close_offering(offering.end());
        self.counts.delivered += delivered;
        let live = (self.options.len() - self.lagging) as u64;
        self.counts.filtered += live.saturating_sub(delivered);
    }

    fn close_offering(&mut self, newly_lagged: Vec<Lagged>) {
        self.lagging += newly_lagged.len();
        self.counts.lagged += newly_lagged.len() as u64;
        self.newly_lagged.extend(newly_lagged);
    }

    fn all(&mut self) -> impl Iterator<Item = (&SubscriptionId, &mut Subscription)> {
        let groups = self.groups.values_mut().flat_map(Groups::iter_mut);
        groups.flat_map(|group| &mut group.members).chain(&mut self.picking)
    }

    /// Ends all subscriptions: nothing more will be delivered.
    pub(crate) fn close(&mut self) {
        for (_, member) in self.all() {
            member.queue.close();
        }
    }

    /// How many completions wait for the subscriptions of each name; all subscriptions without a name count together.
    pub(crate) fn lags(&mut self) -> BTreeMap<Option<Arc<str>>, u64> {
        let mut lags = BTreeMap::new();
        for (_, member) in self.all() {
            *lags.entry(member.options.name.clone()).or_default() += member.queue.lag();
        }
        lags
    }

    /// Reports the hub's position to all live subscriptions.
    pub(crate) fn checkpoint(&mut self, frontier: &Arc<[LogCursor]>) {
        for (_, member) in self.all() {
            if matches!(member.state, State::Live) {
                // A subscription with a full queue gets the next checkpoint.
                member.queue.push(Item::Checkpoint(frontier.clone()));
            }
        }
    }
}

impl Subscription {
    /// Stops feeding the subscription, which reads on its own from `frontier`.
    fn lagged(&mut self, id: SubscriptionId, frontier: Arc<[LogCursor]>, taken_back: u64) -> Lagged {
        self.state = State::CatchingUp(None);
        self.queue.set_catching_up(true);
        Lagged { id, options: self.options.clone(), queue: self.queue.clone(), frontier, taken_back }
    }
}

/// One item on its way to several subscriptions.
struct Offering<'a> {
    before: &'a [LogReader],
    taken_back: u64,
    frozen: Option<Arc<[LogCursor]>>,
    delivered: u64,
    newly_lagged: Vec<Lagged>,
}

impl<'a> Offering<'a> {
    const fn new(before: &'a [LogReader], taken_back: u64) -> Self {
        Self { before, taken_back, frozen: None, delivered: 0, newly_lagged: Vec::new() }
    }

    fn offer(&mut self, id: SubscriptionId, member: &mut Subscription, item: impl Fn() -> Item) {
        if !matches!(member.state, State::Live) {
            return;
        }
        if member.queue.push(item()) {
            self.delivered += 1;
            return;
        }
        member.queue.note_overflow();
        match member.options.overflow {
            Overflow::DropOldest => {
                member.queue.push_dropping(item());
                self.delivered += 1;
            }
            Overflow::Close => {
                member.queue.close();
                member.state = State::Closed;
            }
            _ => {
                let frontier = self.frozen.get_or_insert_with(|| cursors(self.before)).clone();
                self.newly_lagged.push(member.lagged(id, frontier, self.taken_back));
            }
        }
    }

    fn end(self) -> Vec<Lagged> {
        self.newly_lagged
    }
}

impl Deliver for Fanout {
    fn deliver(&mut self, event: &Arc<CompletionPayload>, before: &[LogReader]) {
        if self.options.is_empty() {
            return;
        }
        self.offer(event, before);
        if let Some(position) = event.position {
            let index = usize::from(position.log.partition.number());
            self.ring.push(index, before[index].cursor().last(), event.clone());
        }
    }

    fn gap(&mut self, gap: &Gap, before: &[LogReader]) {
        self.counts.gaps[gap.cause as usize] += 1;
        warn_gap(gap);
        self.ring.forget(usize::from(gap.log.partition.number()));
        let shared = Arc::new(*gap);
        let mut offering = Offering::new(before, self.taken_back);
        let concerned = |member: &Subscription| member.options.concerns(gap.log.partition);
        for (id, member) in self.all().filter(|(_, member)| concerned(member)) {
            offering.offer(*id, member, || Item::Gap(shared.clone()));
        }
        self.close_offering(offering.end());
        if gap.cause == GapCause::Forged {
            if self.forged.len() == REMEMBERED_FORGED {
                self.forged.pop_front();
            }
            self.forged.push_back(*gap);
            self.taken_back += 1;
        }
    }

    fn duplicate(&mut self) {
        self.counts.duplicates += 1;
    }

    fn unknown(&mut self, log: LogId, entry: EntryId) {
        self.counts.unknown += 1;
        static LINES: Quiet = Quiet::new();
        if let Some(left_out) = LINES.turn() {
            tracing::warn!(%log, %entry, left_out, "an announced completion is not in its log; ignored");
        }
    }
}

pub(crate) fn warn_gap(gap: &Gap) {
    tracing::warn!(
        log = %gap.log, cause = gap.cause.as_str(), after = gap.after.map(tracing::field::display),
        through = %gap.through, "completions are missing or were rolled back"
    );
}

#[cfg(test)]
#[path = "fanout_tests.rs"]
mod tests;
