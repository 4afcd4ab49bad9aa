//! Subscriptions: each reads the logs at its own pace, from a cursor of its own.
//!
//! There is no queue to overflow and no push to lose: a subscription is woken when a log was appended to, and reads
//! after its cursors. Who reads slowly delays nobody and holds no more than one page; what a log has trimmed meanwhile
//! is a warning and a metric, as with a server.

use std::{
    collections::VecDeque,
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use bytes::Bytes;
use ff_core::{
    CompletionPayload, CompletionStream, EngineError, EntryId, LogCursor, LogId, Partition, PartitionCount,
    ScannerFilter, Scope, Verdict,
};
use ff_script::{keys, wire};
use futures::stream;
use rustc_hash::FxHashMap;

use crate::{
    host::EmbeddedHost,
    keyspace::{Keyspace, Stream},
    telemetry,
};

/// Entries that a subscription reads at once.
const PAGE: usize = 256;

/// The logs of a deployment, by number and by key.
#[derive(Debug)]
pub(crate) struct Logs {
    names: Vec<(LogId, Box<[u8]>)>,
    numbers: FxHashMap<Box<[u8]>, usize>,
}

impl Logs {
    /// Those of flows, which subscriptions are about.
    pub(crate) fn of_flows(partitions: PartitionCount) -> Self {
        let name = |partition: Partition| {
            let log = LogId { partition, scope: Scope::Flows };
            (log, keys::completion_log(log).into_bytes().into_boxed_slice())
        };
        let names: Vec<_> = partitions.partitions().map(name).collect();
        let numbers = names.iter().enumerate().map(|(number, (_, key))| (key.clone(), number)).collect();
        Self { names, numbers }
    }
}

/// How far a subscription has come in one log.
#[derive(Debug, Default, Clone)]
struct Place {
    /// Which stream it read; one that was deleted and made anew is another.
    stamp: u64,
    /// The entries appended up to here have been seen.
    serial: u64,
    cursor: LogCursor,
}

impl Place {
    fn at_the_end_of(stream: &Stream) -> Self {
        let empty = EntryId { epoch: 0, seq: 0 };
        let generated = Some(stream.last_id()).filter(|id| *id != empty);
        let last = stream.iter().next_back().map(|entry| entry.id).or(generated);
        Self { stamp: stream.stamp(), serial: stream.appended(), cursor: LogCursor::after(last) }
    }
}

/// An entry as it was found, to be decoded when the keys are no longer locked.
struct Found {
    log: usize,
    id: EntryId,
    fields: Box<[(Bytes, Bytes)]>,
}

/// A place among the subscriptions; dropping it gives the place back.
struct Membership(Arc<AtomicUsize>);

impl Membership {
    fn take(subscriptions: &Arc<AtomicUsize>, max: usize) -> Result<Self, EngineError> {
        let one_more = |count: usize| (count < max).then_some(count + 1);
        match subscriptions.fetch_update(Ordering::Relaxed, Ordering::Relaxed, one_more) {
            Ok(before) => {
                telemetry::level(telemetry::SUBSCRIPTIONS, before + 1);
                Ok(Self(subscriptions.clone()))
            }
            Err(count) => {
                let reason = format!("there are {count} of them; raise max_subscriptions or drop some");
                Err(EngineError::ResourceExhausted { resource: "subscriptions", reason })
            }
        }
    }
}

impl Drop for Membership {
    fn drop(&mut self) {
        telemetry::level(telemetry::SUBSCRIPTIONS, self.0.fetch_sub(1, Ordering::Relaxed) - 1);
    }
}

struct Subscription {
    host: Arc<EmbeddedHost>,
    logs: Arc<Logs>,
    filter: ScannerFilter,
    places: Vec<Place>,
    /// How many appends of the feed have been looked at.
    seen: u64,
    /// Logs with entries that were not read yet, and for each log whether it is among them.
    unread: VecDeque<usize>,
    is_unread: Vec<bool>,
    /// Read and passed by the filter.
    ready: VecDeque<CompletionPayload>,
    _membership: Membership,
}

/// Subscribes: everything committed after this returns arrives.
pub(crate) fn subscribe(
    host: &Arc<EmbeddedHost>,
    logs: &Arc<Logs>,
    filter: &ScannerFilter,
    max: usize,
) -> Result<CompletionStream, EngineError> {
    let membership = Membership::take(host.switchboard().subscriptions(), max)?;
    let appends = host.switchboard().appends();
    let (places, seen) = host.read(|keys, feed| {
        let place = |(_, key): &(LogId, Box<[u8]>)| stream(keys, key).map(Place::at_the_end_of).unwrap_or_default();
        (logs.names.iter().map(place).collect(), feed.head())
    });
    let subscription = Subscription {
        host: host.clone(),
        logs: logs.clone(),
        filter: filter.clone(),
        places,
        seen,
        unread: VecDeque::new(),
        is_unread: vec![false; logs.names.len()],
        ready: VecDeque::new(),
        _membership: membership,
    };
    Ok(Box::pin(stream::unfold((subscription, appends), |(mut subscription, mut appends)| async move {
        loop {
            // Marked as seen before the look, so that an append in between is seen at the next turn.
            appends.borrow_and_update();
            if let Some(completion) = subscription.next() {
                return Some((completion, (subscription, appends)));
            }
            // The sender lives in the host, which this subscription holds.
            if appends.changed().await.is_err() {
                return None;
            }
        }
    })))
}

/// A log, unless its key holds something else, which then is somebody else's.
fn stream<'a>(keys: &'a Keyspace, key: &[u8]) -> Option<&'a Stream> {
    keys.get::<Stream>(key).ok().flatten()
}

impl Subscription {
    /// The next completion, if there is one.
    fn next(&mut self) -> Option<CompletionPayload> {
        while self.ready.is_empty() {
            let page = self.read_page();
            if page.is_empty() {
                return None;
            }
            for found in page {
                self.take(found);
            }
        }
        telemetry::count(telemetry::DELIVERED, 1);
        self.ready.pop_front()
    }

    fn read_page(&mut self) -> Vec<Found> {
        let host = self.host.clone();
        host.read(|keys, feed| {
            match feed.after(self.seen) {
                Some(appended) => {
                    for number in appended.filter_map(|key| self.logs.numbers.get(key)) {
                        mark(&mut self.unread, &mut self.is_unread, *number);
                    }
                }
                None => (0..self.places.len()).for_each(|log| mark(&mut self.unread, &mut self.is_unread, log)),
            }
            self.seen = feed.head();
            let mut page = Vec::new();
            while let Some(log) = self.unread.front().copied().filter(|_| page.len() < PAGE) {
                if !self.read_log(keys, log, &mut page) {
                    self.unread.pop_front();
                    self.is_unread[log] = false;
                }
            }
            page
        })
    }

    /// Reads one log as far as the page reaches; returns whether there is more.
    fn read_log(&mut self, keys: &Keyspace, log: usize, page: &mut Vec<Found>) -> bool {
        let Some(stream) = stream(keys, &self.logs.names[log].1) else { return false };
        let place = &mut self.places[log];
        if place.stamp != stream.stamp() {
            place.stamp = stream.stamp();
            place.serial = 0;
        }
        let mut entries = stream.after(place.serial);
        for entry in entries.by_ref().take(PAGE - page.len()) {
            place.serial = entry.serial;
            page.push(Found { log, id: entry.id, fields: entry.fields.clone() });
        }
        entries.next().is_some()
    }

    fn take(&mut self, found: Found) {
        let (log, _) = self.logs.names[found.log];
        let decoded = wire::decode_entry(log, found.id, &found.fields);
        let prev = match &decoded {
            Ok(decoded) => decoded.prev,
            Err(_) => wire::predecessor(&found.fields).ok().flatten(),
        };
        let cursor = &mut self.places[found.log].cursor;
        if cursor.judge(found.id, prev) != Verdict::Deliver {
            tracing::warn!(%log, after = ?cursor.last(), next = %found.id, "the log no longer holds what lies between");
            telemetry::count_gap();
        }
        cursor.advance(found.id);
        match decoded {
            Err(error) => {
                tracing::warn!(%log, entry = %found.id, %error, "unreadable log entry");
                telemetry::count(telemetry::MALFORMED, 1);
            }
            Ok(decoded) if self.filter.matches_completion(&decoded.payload) => self.ready.push_back(decoded.payload),
            Ok(_) => telemetry::count(telemetry::FILTERED, 1),
        }
    }
}

fn mark(unread: &mut VecDeque<usize>, is_unread: &mut [bool], log: usize) {
    if !std::mem::replace(&mut is_unread[log], true) {
        unread.push_back(log);
    }
}
