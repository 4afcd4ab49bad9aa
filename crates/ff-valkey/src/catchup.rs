//! A subscription that is behind reads the log by itself, at the pace of whoever polls it, and goes live.
//!
//! It starts from a cursor, or from the hub's vector as it stood before the event that found no room, and reads up to
//! where the hub stands, never beyond: so it cannot overtake the hub, and once its vector is the hub's it has
//! everything. Room in the queue is reserved before anything is read, so what is read goes straight into it: no page
//! waits in memory for a reader that does not poll, and nothing is read for one.
//!
//! Meeting a live end by reading alone would take until the log is quiet. So when half of the queue is free and the
//! ring of recent events holds what is missing, that is put into the queue under the hub's lock and the subscription
//! is live. Half a queue of room keeps it from falling back at the next event.
//!
//! # Where it and the hub differ in one log
//!
//! | the subscription | the log | what it does |
//! | --- | --- | --- |
//! | is behind | holds what lies between | takes it |
//! | is behind | no longer holds what lies between | a gap, trimmed, up to the hub |
//! | is behind | has lost what the subscription has | a gap, rewritten; it goes back and reads on |
//! | is behind | does not know where the hub stands | waits: the hub finds that out itself |
//! | has passed where the hub stands | has lost what the subscription has | a gap, rewritten; it goes back |
//! | has passed where the hub stands | knows it | waits: the hub has yet to come there |

use std::{
    collections::HashMap,
    sync::Arc,
    time::{Duration, Instant},
};

use ff_core::{
    EngineError, Gap, GapCause, LogCursor, SubscribeOptions,
    reader::{LogReading, Step},
};

use crate::{
    backoff::Backoff,
    fanout::{Lagged, SubscriptionId, warn_gap},
    hub::{Hub, State},
    queue::{Item, Queue, Room},
    source::PageRead,
    telemetry,
    vector::Shown,
};

/// How many logs one subscription reads with one round trip, and at most how many entries of all of them.
const LOGS_AT_ONCE: usize = 16;
const ENTRIES_AT_ONCE: usize = 2048;
/// How often it tells how far it has come.
const CHECKPOINTS: Duration = Duration::from_secs(1);

struct CatchUp {
    hub: Arc<Hub>,
    id: SubscriptionId,
    options: Arc<SubscribeOptions>,
    framed: bool,
    queue: Arc<Queue>,
    vector: Vec<LogCursor>,
    /// Logs in the middle of a look-up.
    readings: HashMap<usize, LogReading>,
    /// Where the next round begins, so that every log has its turn.
    turn: usize,
    /// The last round came near the hub in all it read: what is missing may be recent.
    near: bool,
    waiting: Backoff,
    told: Instant,
}

/// What became of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Done,
    /// The log's epochs must be looked up first.
    LookUp,
    /// The log holds nothing between here and where the hub stands; its epochs tell why.
    Nothing,
}

/// One log to read, and where the hub stood in it.
struct Target {
    index: usize,
    read: PageRead,
    hub: LogCursor,
}

/// Runs until the subscription is live or gone.
pub(crate) async fn run(hub: Arc<Hub>, lagged: Lagged) {
    let mut catch_up = CatchUp::new(hub, lagged);
    let mut backoff = Backoff::reconnect();
    loop {
        match catch_up.round().await {
            Ok(true) => return,
            Ok(false) => backoff = Backoff::reconnect(),
            Err(error) => {
                tracing::warn!(%error, id = ?catch_up.id, "catching up from the log failed; trying again");
                backoff.pause().await;
            }
        }
    }
}

impl CatchUp {
    fn new(hub: Arc<Hub>, lagged: Lagged) -> Self {
        let Lagged { id, options, framed, queue, vector } = lagged;
        Self {
            hub,
            id,
            options,
            framed,
            queue,
            vector: vector.to_vec(),
            readings: HashMap::new(),
            turn: 0,
            near: true,
            waiting: Backoff::reconnect(),
            told: Instant::now(),
        }
    }

    /// Reads once. `true` when the subscription is live or gone.
    async fn round(&mut self) -> Result<bool, EngineError> {
        let wanted = (self.queue.capacity() / 2).clamp(1, ENTRIES_AT_ONCE);
        let mut room = self.queue.reserve(wanted).await;
        self.checkpoint();
        let hub = self.hub.clone();
        let Some(targets) = hub.with_state(|state| self.join_or_plan(state, wanted, &mut room)) else {
            return Ok(true);
        };
        let (ahead, behind): (Vec<Target>, Vec<Target>) = targets.into_iter().partition(|target| self.is_ahead(target));
        let mut progress = false;
        let mut look_up = Vec::new();
        self.near = true;
        for (target, page) in behind.iter().zip(self.pages(&behind).await?) {
            self.near &= page.len() < target.read.limit;
            match self.take(target, &page, &mut room) {
                Taken::Done => progress = true,
                taken => look_up.push((target, taken)),
            }
        }
        drop(room);
        for (target, taken) in look_up {
            let undone = self.look_up(target).await?;
            progress |= undone || taken == Taken::LookUp || self.is_trimmed_up_to_hub(target);
        }
        for target in &ahead {
            progress |= self.look_up(target).await?;
            self.readings.remove(&target.index);
        }
        if progress {
            self.waiting = Backoff::reconnect();
        } else {
            hub.missed();
            self.waiting.pause().await;
        }
        Ok(false)
    }

    async fn pages(&self, targets: &[Target]) -> Result<Vec<Vec<Shown>>, EngineError> {
        if targets.is_empty() {
            return Ok(Vec::new());
        }
        let reads: Vec<PageRead> = targets.iter().map(|target| target.read).collect();
        let _turn = self.hub.catch_up_turn().await;
        self.hub.source().pages(&reads).await
    }

    /// Whether the subscription has passed where the hub stood.
    fn is_ahead(&self, target: &Target) -> bool {
        match target.hub.last() {
            Some(last) => self.vector[target.index].has(last),
            None => true,
        }
    }

    /// Tells now and then how far it has come, room or not: whoever filters may see nothing else for long.
    fn checkpoint(&mut self) {
        if self.framed && self.told.elapsed() >= CHECKPOINTS {
            self.told = Instant::now();
            self.queue.push_always(Item::Checkpoint(self.vector.as_slice().into()));
        }
    }

    /// Goes live if that is possible now (`None`), or says what to read.
    fn join_or_plan(&mut self, state: &mut State, wanted: usize, room: &mut Room) -> Option<Vec<Target>> {
        let hub = state.vector.cursors();
        let logs = hub.len();
        let behind: Vec<usize> = (0..logs)
            .map(|offset| (self.turn + offset) % logs)
            .filter(|index| self.vector[*index].last() != hub[*index].last())
            .collect();
        let recent =
            if self.near || behind.is_empty() { state.fanout.ring().after(&behind, &self.vector) } else { None };
        if let Some(recent) = recent {
            let recent: Vec<_> = recent.into_iter().filter(|event| self.options.wants(event)).cloned().collect();
            if recent.len() <= wanted {
                telemetry::count(telemetry::DELIVERED, recent.len() as u64);
                for event in recent {
                    room.push(Item::Event(event));
                }
                if self.framed {
                    self.queue.push_always(Item::Checkpoint(state.vector.snapshot()));
                }
                state.fanout.go_live(self.id);
                return None;
            }
        }
        let unread = |index: &usize| hub[*index].last().map_or(0, |head| self.vector[*index].unread(&[head]));
        self.queue.set_unread(behind.iter().map(unread).fold(0, u64::saturating_add));
        let limit = (wanted / behind.len().clamp(1, LOGS_AT_ONCE)).max(1);
        let targets: Vec<Target> = behind
            .into_iter()
            .take(LOGS_AT_ONCE.min(wanted))
            .map(|index| {
                let after = self.readings.get(&index).map_or_else(|| self.vector[index].last(), LogReading::after);
                let read = PageRead { log: state.vector.log(index), after, up_to: hub[index].last(), limit };
                Target { index, read, hub: hub[index].clone() }
            })
            .collect();
        self.turn = targets.last().map_or(0, |target| target.index + 1);
        Some(targets)
    }

    /// Takes a page of one log.
    fn take(&mut self, target: &Target, page: &[Shown], room: &mut Room) -> Taken {
        let log = target.read.log;
        let cursor = &mut self.vector[target.index];
        let mut reading = self.readings.remove(&target.index).unwrap_or_else(|| LogReading::from(log, cursor));
        let mut delivered = 0;
        for shown in page {
            let before = cursor.last();
            match reading.step(cursor, shown.entry, shown.prev) {
                Step::Skip => {}
                Step::LookUp => {
                    self.readings.insert(target.index, reading);
                    telemetry::count(telemetry::DELIVERED, delivered);
                    return Taken::LookUp;
                }
                Step::Deliver(gap) => {
                    let after = gap.map_or(before, |gap| Some(gap.through));
                    gap.iter().for_each(|gap| tell(&self.queue, self.framed, gap));
                    let Some(event) = &shown.event else {
                        let gap = Gap { log, after, through: shown.entry, cause: GapCause::Unreadable };
                        tell(&self.queue, self.framed, &gap);
                        continue;
                    };
                    // There is as much room as entries were asked for.
                    if self.options.wants(event) && room.push(Item::Event(event.clone())) {
                        delivered += 1;
                    }
                }
            }
        }
        telemetry::count(telemetry::DELIVERED, delivered);
        let Some(hub) = target.hub.last() else { return Taken::Done };
        if page.len() == target.read.limit || cursor.last() == Some(hub) {
            self.readings.insert(target.index, reading);
            return Taken::Done;
        }
        self.readings.insert(target.index, reading);
        Taken::Nothing
    }

    /// Whether what lies up to where the hub stood was trimmed, which is declared then: a page showed nothing of it,
    /// and the log, whose epochs were looked up after that page, tells of it. The other way round it would prove
    /// nothing: the log may have lost it all in between.
    fn is_trimmed_up_to_hub(&mut self, target: &Target) -> bool {
        let Some(hub) = target.hub.last() else { return false };
        let cursor = &mut self.vector[target.index];
        let is_told = self.readings.remove(&target.index).is_some_and(|reading| reading.log_had(hub));
        // If not, only the hub can go on: the log lost where it stands, or it went back to before the subscription. Both
        // are in the log's history, in which epochs only grow.
        let is_trimmed = is_told && cursor.last() < Some(hub);
        if is_trimmed {
            if !cursor.is_earliest() {
                let gap = Gap { log: target.read.log, after: cursor.last(), through: hub, cause: GapCause::Trimmed };
                tell(&self.queue, self.framed, &gap);
            }
            cursor.advance(hub);
        }
        is_trimmed
    }

    /// Looks up a log's epochs. Returns whether the subscription had something that the log has lost.
    async fn look_up(&mut self, target: &Target) -> Result<bool, EngineError> {
        let ends = self.hub.source().epochs(target.read.log).await?;
        let cursor = &mut self.vector[target.index];
        let reading = self.readings.entry(target.index).or_insert_with(|| LogReading::from(target.read.log, cursor));
        let undone = reading.resolve(cursor, &ends);
        if let Some(gap) = &undone {
            tell(&self.queue, self.framed, gap);
        }
        Ok(undone.is_some())
    }
}

/// Says that completions are missing: to the subscription if it takes that, room or not, and to operators.
fn tell(queue: &Queue, framed: bool, gap: &Gap) {
    telemetry::count_cause(telemetry::GAPS, gap.cause.as_str(), 1);
    warn_gap(gap);
    if framed {
        queue.push_always(Item::Gap(Arc::new(*gap)));
    }
}
