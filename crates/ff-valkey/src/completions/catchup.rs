//! A subscription that is behind reads the log on its own, at the pace of its consumer, and then goes live.
//!
//! It starts from a cursor, or from the hub's frontier before the event for which the queue had no capacity. It reads
//! up to the hub's frontier, never beyond. So it cannot overtake the hub, and it has everything once the two frontiers
//! are equal. Queue capacity is reserved before a request is sent, so pages go straight into the queue. No page waits
//! in memory for a consumer that does not poll, and nothing is read for such a consumer.
//!
//! While the pages of one round are decoded, the server prepares the next round. Its pages are requested in advance,
//! one round ahead at most, and only if the queue has capacity for them immediately. If the reading then continues
//! after another entry than the request assumed, the page is discarded and read again.
//!
//! By reading alone, the subscription would not reach the live end until the log is quiet. So it goes live when half of
//! the queue is free and the ring of recent events holds everything that is missing: these events are put into the
//! queue under the hub's lock. Half of the queue must be free, so that the subscription does not fall behind again at
//! the next event.
//!
//! # Where it and the hub differ in one log
//!
//! | the subscription | the log | what it does |
//! | --- | --- | --- |
//! | is behind | holds the entries between the two positions | takes them |
//! | is behind | no longer holds these entries | a gap, trimmed, up to the hub |
//! | is behind | has lost what the subscription has | a gap, rewritten; it goes back and reads on |
//! | is behind | does not know the hub's position | waits: the hub detects that on its own |
//! | is ahead of the hub's position | has lost what the subscription has | a gap, rewritten; it goes back |
//! | is ahead of the hub's position | has that entry | waits: the hub has not reached it yet |
//! | is behind | cannot be read | reads all other logs, and retries |
//! | has a completion that was found to be forged | holds another entry there | a gap, forged; it goes back |

use std::{
    collections::HashMap,
    pin::Pin,
    sync::Arc,
    time::{Duration, Instant},
};

use ff_core::{
    EngineError, EntryId, Gap, GapCause, LogId, Partition, SubscribeOptions,
    reader::{EpochEnds, LogCursor, LogItem, LogReader},
};
use futures::{
    FutureExt,
    future::{BoxFuture, MaybeDone, maybe_done},
};

use crate::{
    completions::{
        fanout::{Lagged, SubscriptionId, warn_gap},
        frontier::{cursors, readers},
        hub::{Hub, State},
        page::Page,
        queue::{Item, Queue, Room},
        source::{OfEach, PageRead},
    },
    net::backoff::Backoff,
    telemetry,
};

/// How many logs one subscription reads with one round trip, and the limit of entries for each log and for all of them.
const LOGS_AT_ONCE: usize = 16;
const PAGE: usize = 256;
const ENTRIES_AT_ONCE: usize = 2048;
/// Fewer entries than this are not requested in advance. The limit is 1 in tests: the property tests use small queues
/// and must cover requests in advance too.
const LEAST_AHEAD: usize = if cfg!(test) { 1 } else { 64 };
/// After how long a log that could not be read is tried again.
const TRY_AGAIN: Duration = Duration::from_secs(2);
/// How often the subscription reports its position.
const CHECKPOINTS: Duration = Duration::from_secs(1);

struct CatchUp {
    hub: Arc<Hub>,
    id: SubscriptionId,
    options: Arc<SubscribeOptions>,
    queue: Arc<Queue>,
    frontier: Vec<LogReader>,
    /// Its frontier when the hub stopped feeding it.
    left_at: Arc<[LogCursor]>,
    /// The number of forged completions that the subscription has taken into account, see [`CatchUp::take_back`].
    taken_back: u64,
    /// Logs that could not be read, and when to try again.
    unreadable: HashMap<usize, Instant>,
    /// The log with which the next round begins, so that every log has its turn.
    turn: usize,
    /// Pages that were requested in advance and not taken yet.
    asked: Option<Asked>,
    /// Whether the last round came near the hub's position in every log that it read: the ring may hold the rest.
    near: bool,
    waiting: Backoff,
    checkpoint_at: Instant,
}

/// The outcome of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PageOutcome {
    /// There may be more of the log.
    More,
    Done,
    /// The log's epochs must be looked up first.
    LookUp,
    /// The log holds nothing between the subscription's position and the hub's; its epochs show why.
    Nothing,
}

/// One log to read, and the hub's position in it.
struct Target {
    index: usize,
    read: PageRead,
    hub: LogCursor,
}

/// The reads under way, and the capacity reserved for them.
struct Asked {
    targets: Vec<Target>,
    /// Logs in which the subscription is ahead of the hub; they are not read.
    ahead: Vec<Target>,
    pages: Pin<Box<Pages>>,
    room: Room,
}

type Pages = MaybeDone<BoxFuture<'static, Result<OfEach<Page>, EngineError>>>;

/// Runs until the subscription is live or gone.
pub(crate) async fn run(hub: Arc<Hub>, lagged: Lagged) {
    let mut catch_up = CatchUp::new(hub, lagged);
    let mut backoff = Backoff::reconnect();
    let mut has_failed = false;
    loop {
        match catch_up.round().await {
            Ok(true) => return,
            Ok(false) => (backoff, has_failed) = (Backoff::reconnect(), false),
            Err(error) => {
                if !std::mem::replace(&mut has_failed, true) {
                    tracing::warn!(%error, id = ?catch_up.id, "catching up failed; it will be retried");
                }
                catch_up.asked = None;
                backoff.pause().await;
            }
        }
    }
}

impl CatchUp {
    fn new(hub: Arc<Hub>, lagged: Lagged) -> Self {
        let Lagged { id, options, queue, frontier, taken_back } = lagged;
        Self {
            frontier: readers(hub.scope(), &frontier),
            hub,
            id,
            options,
            queue,
            left_at: frontier,
            taken_back,
            unreadable: HashMap::new(),
            turn: 0,
            asked: None,
            near: true,
            waiting: Backoff::reconnect(),
            checkpoint_at: Instant::now(),
        }
    }

    /// Reads once. `true` when the subscription is live or gone.
    async fn round(&mut self) -> Result<bool, EngineError> {
        let asked = match self.asked.take() {
            Some(asked) => asked,
            None => {
                let room = self.queue.reserve(self.wanted()).await;
                let Some(asked) = self.join_or_ask(room) else { return Ok(true) };
                asked
            }
        };
        self.checkpoint();
        let Asked { targets, mut pages, mut room, ahead } = asked;
        pages.as_mut().await;
        let pages = pages.as_mut().take_output().unwrap_or_else(|| Ok(Vec::new()))?;
        let readable = |(target, page): (Target, _)| self.readable(target.index, page).map(|page| (target, page));
        let (targets, pages): (Vec<Target>, Vec<Page>) = targets.into_iter().zip(pages).filter_map(readable).unzip();
        let asks_anything = !targets.is_empty() || !ahead.is_empty();
        self.ask_ahead(&targets, &pages);
        let mut progress = false;
        let mut look_up = Vec::new();
        self.near = true;
        for (target, page) in targets.iter().zip(pages) {
            let taken = self.take(target, page, &mut room);
            self.near &= taken != PageOutcome::More;
            match taken {
                PageOutcome::More | PageOutcome::Done => progress = true,
                PageOutcome::LookUp | PageOutcome::Nothing => look_up.push((target, taken)),
            }
        }
        drop(room);
        let asked = look_up.iter().map(|(target, _)| *target).chain(&ahead).map(|target| target.read.log);
        let mut ends = self.epochs(asked.collect()).await?.into_iter();
        let mut empty = Vec::new();
        for ((target, taken), ends) in look_up.into_iter().zip(&mut ends) {
            let Some(ends) = self.readable(target.index, ends) else { continue };
            let rolled_back = self.resolve(target, &ends);
            progress |= rolled_back || taken == PageOutcome::LookUp;
            if !rolled_back && taken == PageOutcome::Nothing {
                empty.push(target);
            }
        }
        for (target, ends) in ahead.iter().zip(ends) {
            let Some(ends) = self.readable(target.index, ends) else { continue };
            progress |= self.resolve(target, &ends);
            self.frontier[target.index].restart();
        }
        progress |= self.pass_trimmed(&empty).await?;
        if progress {
            self.waiting = Backoff::reconnect();
        } else {
            self.asked = None;
            if asks_anything {
                self.hub.missed();
            }
            self.waiting.pause().await;
        }
        Ok(false)
    }

    /// The number of entries for which capacity is reserved before a read. It is half of the queue, because the
    /// subscription may go live when that much is free.
    fn wanted(&self) -> usize {
        (self.queue.capacity() / 2).clamp(1, ENTRIES_AT_ONCE)
    }

    /// Goes live if that is possible now (`None`), or sends the next reads.
    fn join_or_ask(&mut self, mut room: Room) -> Option<Asked> {
        let hub = self.hub.clone();
        let targets = hub.with_state(|state| {
            self.take_back(state);
            if self.join(state, &mut room) {
                return None;
            }
            Some(self.plan(state, room.left(), &HashMap::new()))
        })?;
        let (ahead, targets) = targets.into_iter().partition(|target| self.is_ahead(target));
        Some(self.ask(targets, ahead, room))
    }

    /// The result of reading a log, or `None` where the read failed.
    fn readable<T>(&mut self, index: usize, read: Result<T, EngineError>) -> Option<T> {
        match read {
            Ok(read) => {
                self.unreadable.remove(&index);
                Some(read)
            }
            Err(error) => {
                tracing::debug!(%error, id = ?self.id, "a log cannot be read; the others are not affected");
                self.unreadable.insert(index, Instant::now() + TRY_AGAIN);
                self.frontier[index].restart();
                None
            }
        }
    }

    /// Some completions that it received from the hub may have been found to be forged since. It goes back to the
    /// position before them.
    fn take_back(&mut self, state: &State) {
        let (forged, count) = state.fanout.taken_back(self.taken_back);
        for gap in forged {
            let index = usize::from(gap.log.partition.number());
            let left_at = &self.left_at[index];
            let had = left_at.last().is_some_and(|last| Some(last) != gap.after)
                && gap.after.is_none_or(|after| left_at.has(after));
            let last = self.frontier[index].cursor().last();
            let Some(through) = last.filter(|last| had && Some(*last) != gap.after) else { continue };
            self.pass(index, &Gap::new(gap.log, gap.after, through, gap.cause));
            Arc::make_mut(&mut self.left_at)[index] = self.cursor(index).clone();
        }
        self.taken_back = count;
    }

    /// Requests the entries that follow these pages, before the pages are decoded. Does so only if there are enough
    /// entries and the queue has capacity for them now.
    fn ask_ahead(&mut self, targets: &[Target], pages: &[Page]) {
        let count = (self.queue.capacity() / 4).min(ENTRIES_AT_ONCE);
        if count < LEAST_AHEAD {
            return;
        }
        let Some(room) = self.queue.try_reserve(count) else { return };
        // The entry up to which each of these logs is read, once the pages are taken. A log that turned out shorter has
        // its next turn later.
        let read = |(target, page): (&Target, &Page)| {
            let is_full = page.len() == target.read.limit;
            (target.index, if is_full { page.end() } else { target.read.up_to })
        };
        let read: HashMap<usize, Option<EntryId>> = targets.iter().zip(pages).map(read).collect();
        let (hub, turn) = (self.hub.clone(), self.turn);
        let mut targets = hub.with_state(|state| self.plan(state, count, &read));
        targets.retain(|target| !self.is_ahead(target));
        // A subscription that misses only a few entries should go live, and not follow the hub by reading.
        if targets.iter().map(|target| target.read.limit).sum::<usize>() < count {
            self.turn = turn;
            return;
        }
        let mut asked = self.ask(targets, Vec::new(), room);
        // Sent now, and awaited once these pages are processed.
        let _ = asked.pages.as_mut().now_or_never();
        self.asked = Some(asked);
    }

    fn ask(&self, targets: Vec<Target>, ahead: Vec<Target>, room: Room) -> Asked {
        let reads: Vec<PageRead> = targets.iter().map(|target| target.read).collect();
        let hub = self.hub.clone();
        let pages = async move {
            if reads.is_empty() {
                return Ok(Vec::new());
            }
            let _turn = hub.catch_up_turn().await;
            hub.source().pages(&reads).await
        };
        Asked { targets, ahead, room, pages: Box::pin(maybe_done(pages.boxed())) }
    }

    fn cursor(&self, index: usize) -> &LogCursor {
        self.frontier[index].cursor()
    }

    /// Whether the subscription is ahead of the hub's position.
    fn is_ahead(&self, target: &Target) -> bool {
        match target.hub.last() {
            Some(last) => self.cursor(target.index).has(last),
            None => true,
        }
    }

    /// Reports its position from time to time, even when the queue is full: a filtered subscription may receive nothing
    /// else for a long time.
    fn checkpoint(&mut self) {
        if self.checkpoint_at.elapsed() >= CHECKPOINTS {
            self.checkpoint_at = Instant::now();
            self.queue.push_always(Item::Checkpoint(cursors(&self.frontier)));
        }
    }

    /// The logs that this subscription wants and in which its position differs from the hub's, in the order of their
    /// turns.
    fn behind(&self, hub: &[LogReader]) -> Vec<usize> {
        let logs = hub.len();
        let turns = (0..logs).map(|offset| (self.turn + offset) % logs);
        let differs = |index: &usize| self.cursor(*index).last() != hub[*index].cursor().last();
        turns.filter(differs).filter(|index| self.concerns(*index)).collect()
    }

    fn concerns(&self, index: usize) -> bool {
        u16::try_from(index).is_ok_and(|number| self.options.concerns(Partition::new(number)))
    }

    /// Goes live if the ring holds everything that is missing and the queue has capacity for it.
    fn join(&self, state: &mut State, room: &mut Room) -> bool {
        let behind = self.behind(state.frontier.readers());
        if !self.near && !behind.is_empty() {
            return false;
        }
        let Some(recent) = state.fanout.ring().after(&behind, &self.frontier) else { return false };
        let recent: Vec<_> = recent.into_iter().filter(|event| self.options.wants(event)).cloned().collect();
        if recent.len() > room.left() {
            return false;
        }
        telemetry::count(telemetry::DELIVERED, recent.len() as u64);
        room.push_all(recent.into_iter().map(Item::Event));
        self.queue.push_always(Item::Checkpoint(state.frontier.snapshot()));
        // The rest is released before the next event arrives. Otherwise that event would find the queue full.
        room.give_back();
        state.fanout.go_live(self.id);
        true
    }

    /// Plans the next reads, at most `count` entries. Logs in `read` are already being fetched up to the given entry.
    fn plan(&mut self, state: &State, count: usize, read: &HashMap<usize, Option<EntryId>>) -> Vec<Target> {
        let hub = state.frontier.readers();
        let mut behind = self.behind(hub);
        let now = Instant::now();
        behind.retain(|index| self.unreadable.get(index).is_none_or(|again| *again <= now));
        let head = |index: usize| hub[index].cursor().last();
        let unread = |index: &usize| head(*index).map_or(0, |head| self.cursor(*index).unread(&[head]));
        self.queue.set_unread(behind.iter().map(unread).fold(0, u64::saturating_add));
        let mut left = count;
        let mut targets = Vec::new();
        for index in behind {
            let up_to = head(index);
            let after = read.get(&index).copied().unwrap_or_else(|| self.frontier[index].after());
            if read.contains_key(&index) && after == up_to {
                continue;
            }
            let limit = entries_between(after, up_to).min(left);
            left -= limit;
            targets.push(Target {
                index,
                read: PageRead { log: hub[index].log(), after, up_to, limit },
                hub: hub[index].cursor().clone(),
            });
            if left == 0 || targets.len() == LOGS_AT_ONCE {
                break;
            }
        }
        self.turn = targets.last().map_or(self.turn, |target| target.index + 1);
        targets
    }

    /// Takes a page of one log.
    fn take(&mut self, target: &Target, page: Page, room: &mut Room) -> PageOutcome {
        // Since the page was requested, the reading has moved to another position.
        let reader = &mut self.frontier[target.index];
        if reader.after() != target.read.after {
            return PageOutcome::More;
        }
        let len = page.len();
        let mut items = Vec::with_capacity(len);
        let mut follows = true;
        for shown in page {
            let Ok(read) = reader.read(shown) else {
                follows = false;
                break;
            };
            for item in read {
                match item {
                    LogItem::Event(entry, event) => {
                        items.extend(self.options.wants(&event).then_some(Item::Event(event)));
                        reader.advance(entry);
                    }
                    LogItem::Gap(gap) => {
                        items.push(declared(&gap));
                        reader.pass(&gap);
                    }
                }
            }
        }
        // The reserved capacity covers all entries that were requested.
        telemetry::count(telemetry::DELIVERED, room.push_all(items) as u64);
        if follows { self.end_of_page(target, len) } else { PageOutcome::LookUp }
    }

    /// What follows from a page with this many entries.
    fn end_of_page(&self, target: &Target, len: usize) -> PageOutcome {
        let Some(hub) = target.hub.last() else { return PageOutcome::Done };
        if self.cursor(target.index).last() == Some(hub) {
            return PageOutcome::Done;
        }
        if len == target.read.limit { PageOutcome::More } else { PageOutcome::Nothing }
    }

    /// Declares a gap for entries that were trimmed up to the hub's position. `empty` are logs that returned an empty
    /// page and whose epochs were looked up afterwards. Returns whether there was a gap.
    ///
    /// The empty page and the epochs together prove nothing: the two reads are not atomic, and the log may have lost or
    /// regained the entries in between. So one more atomic read must show that the log is empty, and which entry was
    /// its last. An epoch has one writer. So if the epochs contain both positions, the history up to the last entry
    /// never changes. If the log is not empty, only the hub can continue.
    async fn pass_trimmed(&mut self, empty: &[&Target]) -> Result<bool, EngineError> {
        let mut delivered = Vec::new();
        for target in empty {
            let reader = &mut self.frontier[target.index];
            let looked_up = reader.clone();
            // The epochs that were looked up are valid for this round only.
            reader.restart();
            let hub = target.hub.last().filter(|hub| looked_up.log_had(*hub) && reader.cursor().last() < Some(*hub));
            delivered.extend(hub.map(|hub| (*target, looked_up, hub)));
        }
        if delivered.is_empty() {
            return Ok(false);
        }
        let logs: Vec<LogId> = delivered.iter().map(|(target, ..)| target.read.log).collect();
        let ends = self.hub.source().emptied(&logs).await?;
        let mut passed = false;
        for ((target, looked_up, hub), end) in delivered.into_iter().zip(ends) {
            let Some(end) = self.readable(target.index, end).flatten() else { continue };
            if end < hub || !looked_up.log_had(EntryId { seq: 0, ..end }) {
                continue;
            }
            let cursor = self.cursor(target.index);
            let gap = Gap::new(target.read.log, cursor.last(), hub, GapCause::Trimmed);
            if cursor.is_earliest() {
                self.frontier[target.index].pass(&gap);
            } else {
                self.pass(target.index, &gap);
            }
            passed = true;
        }
        Ok(passed)
    }

    async fn epochs(&mut self, logs: Vec<LogId>) -> Result<OfEach<EpochEnds>, EngineError> {
        if logs.is_empty() { Ok(Vec::new()) } else { self.hub.source().epochs(&logs).await }
    }

    /// Takes the ends of a log's epochs. Returns whether the subscription had entries that the log has lost.
    fn resolve(&mut self, target: &Target, ends: &EpochEnds) -> bool {
        let gap = self.frontier[target.index].resolve(ends);
        if let Some(gap) = &gap {
            self.pass(target.index, gap);
        }
        gap.is_some()
    }

    /// Reports a gap, even when the queue is full, and moves past it.
    fn pass(&mut self, index: usize, gap: &Gap) {
        self.queue.push_always(declared(gap));
        self.frontier[index].pass(gap);
    }
}

/// The number of entries to request: the distance between the two ids, as far as their numbers show it, and at most one
/// page.
fn entries_between(after: Option<EntryId>, up_to: Option<EntryId>) -> usize {
    let Some(up_to) = up_to else { return PAGE };
    let unread = LogCursor::after(after).unread(&[up_to]);
    usize::try_from(unread).unwrap_or(PAGE).clamp(1, PAGE)
}

/// Reports a gap to operators. Returns the item for the subscription.
fn declared(gap: &Gap) -> Item {
    telemetry::count_cause(telemetry::GAPS, gap.cause.as_str(), 1);
    warn_gap(gap);
    Item::Gap(Arc::new(*gap))
}
