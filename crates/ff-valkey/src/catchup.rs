//! A subscription whose queue was full reads the log by itself, at the pace of whoever polls it, and goes live again.
//!
//! It starts from the hub's vector as it stood before the event that found no room, and reads up to where the hub
//! stands, never beyond: so it cannot overtake the hub, and once its vector is the hub's it has everything. Room in
//! the queue is reserved before anything is read, so what is read goes straight into it: no page waits in memory for a
//! reader that does not poll, and nothing is read for one.
//!
//! Meeting a live end by reading alone would take until the log is quiet. So when half of the queue is free and the
//! ring of recent events holds what is missing, that is put into the queue under the hub's lock and the subscription
//! is live. Half a queue of room keeps it from falling back at the next event.

use std::{collections::HashMap, sync::Arc};

use ff_core::{EngineError, LogCursor, ScannerFilter, Verdict};
use tokio::sync::mpsc::{PermitIterator, Sender};

use crate::{
    backoff::Backoff,
    fanout::{Lagged, Queued, SubscriptionId, warn_gap},
    hub::{Hub, State},
    reading::{GapCause, LogReading, Step},
    source::PageRead,
    telemetry,
    vector::Shown,
};

/// How many logs one subscription reads with one round trip, and at most how many entries of all of them.
const LOGS_AT_ONCE: usize = 16;
const ENTRIES_AT_ONCE: usize = 512;

struct CatchUp {
    hub: Arc<Hub>,
    id: SubscriptionId,
    filter: ScannerFilter,
    vector: Vec<LogCursor>,
    /// Logs in the middle of a look-up.
    readings: HashMap<usize, LogReading>,
    /// Where the next round begins, so that every log has its turn.
    turn: usize,
    /// The last round came near the hub in all it read: what is missing may be recent.
    near: bool,
    waiting: Backoff,
}

/// What became of a page.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Taken {
    Done,
    /// The log's epochs must be looked up first.
    LookUp,
    /// The subscription has what the hub does not have yet.
    Ahead,
}

/// One log to read, and where the hub stood in it.
struct Target {
    index: usize,
    read: PageRead,
    hub: LogCursor,
}

/// Runs until the subscription is live or gone.
pub(crate) async fn run(hub: Arc<Hub>, lagged: Lagged) {
    let Lagged { id, filter, queue, vector } = lagged;
    let mut catch_up = CatchUp::new(hub, id, filter, vector.to_vec());
    drop(vector);
    let mut backoff = Backoff::reconnect();
    loop {
        match catch_up.round(&queue).await {
            Ok(true) => return,
            Ok(false) => backoff = Backoff::reconnect(),
            Err(error) => {
                tracing::warn!(%error, ?id, "catching up from the log failed; trying again");
                backoff.pause().await;
            }
        }
    }
}

impl CatchUp {
    fn new(hub: Arc<Hub>, id: SubscriptionId, filter: ScannerFilter, vector: Vec<LogCursor>) -> Self {
        let waiting = Backoff::reconnect();
        Self { hub, id, filter, vector, readings: HashMap::new(), turn: 0, near: true, waiting }
    }

    /// Reads once. `true` when the subscription is live or gone.
    async fn round(&mut self, queue: &Sender<Queued>) -> Result<bool, EngineError> {
        let room = (queue.max_capacity() / 2).clamp(1, ENTRIES_AT_ONCE);
        let Ok(mut permits) = queue.reserve_many(room).await else { return Ok(true) };
        let hub = self.hub.clone();
        let Some(targets) = hub.with_state(|state| self.join_or_plan(state, room, &mut permits)) else {
            return Ok(true);
        };
        self.near = true;
        if targets.is_empty() {
            drop(permits);
            self.wait_for_hub().await;
            return Ok(false);
        }
        let reads: Vec<PageRead> = targets.iter().map(|target| target.read).collect();
        let pages = {
            let _turn = hub.catch_up_turn().await;
            hub.source().pages(&reads).await?
        };
        let mut look_up = Vec::new();
        let mut ahead = true;
        for (target, page) in targets.iter().zip(pages) {
            self.near &= page.len() < target.read.limit;
            let taken = self.take(target, &page, &mut permits);
            ahead &= taken == Taken::Ahead;
            if taken == Taken::LookUp {
                look_up.push(target.index);
            }
        }
        drop(permits);
        if ahead {
            self.wait_for_hub().await;
        } else {
            self.waiting = Backoff::reconnect();
        }
        for target in targets.iter().filter(|target| look_up.contains(&target.index)) {
            let ends = hub.source().epochs(target.read.log).await?;
            let cursor = &self.vector[target.index];
            self.readings.entry(target.index).or_insert_with(|| LogReading::from(cursor)).resolve(cursor, &ends);
        }
        Ok(false)
    }

    /// The subscription follows a history that the hub has yet to see: nothing may have been pushed of it.
    async fn wait_for_hub(&mut self) {
        self.hub.missed();
        self.waiting.pause().await;
    }

    /// Goes live if that is possible now (`None`), or says what to read.
    fn join_or_plan(
        &mut self,
        state: &mut State,
        room: usize,
        permits: &mut PermitIterator<'_, Queued>,
    ) -> Option<Vec<Target>> {
        let hub = state.vector.cursors();
        let logs = hub.len();
        let behind: Vec<usize> = (0..logs)
            .map(|offset| (self.turn + offset) % logs)
            .filter(|index| self.vector[*index].last() != hub[*index].last())
            .collect();
        let recent =
            if self.near || behind.is_empty() { state.fanout.ring().after(&behind, &self.vector) } else { None };
        if let Some(recent) = recent {
            let wanted: Vec<Queued> =
                recent.into_iter().filter(|event| self.filter.matches_completion(event)).cloned().collect();
            if wanted.len() <= room {
                telemetry::count(telemetry::DELIVERED, wanted.len() as u64);
                for (event, permit) in wanted.into_iter().zip(permits) {
                    permit.send(event);
                }
                state.fanout.go_live(self.id);
                return None;
            }
        }
        // After a rewrite it can have read on while the hub has yet to; the hub will come to it.
        let behind: Vec<usize> = behind
            .into_iter()
            .filter(|index| {
                hub[*index].last().is_none_or(|last| self.vector[*index].judge(last, None) != Verdict::Duplicate)
            })
            .collect();
        let limit = (room / behind.len().clamp(1, LOGS_AT_ONCE)).max(1);
        let targets: Vec<Target> = behind
            .into_iter()
            .take(LOGS_AT_ONCE.min(room))
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
    fn take(&mut self, target: &Target, page: &[Shown], permits: &mut PermitIterator<'_, Queued>) -> Taken {
        let cursor = &mut self.vector[target.index];
        let mut reading = self.readings.remove(&target.index).unwrap_or_else(|| LogReading::from(cursor));
        let log = target.read.log;
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
                    if let Some(cause) = gap {
                        telemetry::count_cause(telemetry::GAPS, cause.as_str(), 1);
                        warn_gap(log, cause, before, Some(shown.entry));
                    }
                    let event = shown.event.as_ref().filter(|event| self.filter.matches_completion(event));
                    // There are as many permits as entries were asked for.
                    if let Some((event, permit)) = event.and_then(|event| Some((event, permits.next()?))) {
                        permit.send(event.clone());
                        delivered += 1;
                    }
                }
            }
        }
        telemetry::count(telemetry::DELIVERED, delivered);
        let ended = page.len() < target.read.limit && cursor.last() != target.hub.last();
        let unresolved = target.hub.last().is_some_and(|last| ended && !reading.is_resolved_for(last));
        if !ended || unresolved {
            self.readings.insert(target.index, reading);
            return if unresolved { Taken::LookUp } else { Taken::Done };
        }
        // The log holds nothing between here and where the hub stands. But what is here, the hub must have had.
        if cursor.last().is_some_and(|last| target.hub.judge(last, None) != Verdict::Duplicate) {
            return Taken::Ahead;
        }
        telemetry::count_cause(telemetry::GAPS, GapCause::Trimmed.as_str(), 1);
        warn_gap(log, GapCause::Trimmed, cursor.last(), target.hub.last());
        *cursor = target.hub.clone();
        Taken::Done
    }
}
