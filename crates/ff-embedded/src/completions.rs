//! Subscriptions: each reads the logs at its own pace, from its own cursor.
//!
//! There is no queue that could overflow and no push that could be lost: a subscription is woken when a log was
//! appended to, and reads after its cursors. A subscription to certain executions is woken when one of them ends, and
//! has positions only in the logs in which they end, so ten thousand waits cost one look-up per append. A slow reader
//! delays nobody and holds at most one page. The reading rules are those of a server's subscriptions
//! ([`ff_core::reader`]), and entries that a log no longer holds are a gap as there.

mod frames;
mod membership;

use std::{
    collections::{BTreeSet, VecDeque},
    pin::Pin,
    sync::{
        Arc, Mutex, MutexGuard, PoisonError,
        atomic::{AtomicUsize, Ordering},
    },
    task::{Context, Poll},
};

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::{
    CompletionPayload, Cursor, EngineError, EntryId, ExecutionId, Frame, Gap, GapCause, Lag, LogId, Overflow,
    Partition, PartitionCount, Scope, Start, SubscribeOptions, SubscriptionScope, SubscriptionStats, SweepPolicy,
    backend::{LagProbe, SubscriptionSource},
    reader::{EpochEnds, LogCursor, LogEntry, LogFacts, LogItem, LogItems, LogReader},
};
use ff_script::{keys, operations::LogPolicy, wire};
use futures::{
    Stream as Futures,
    stream::{self, BoxStream, FusedStream},
};
use rustc_hash::FxHashMap;
use tokio::sync::watch;

use crate::{
    host::EmbeddedHost,
    keyspace::{Entry, Hash, Keyspace, Stream},
    listeners::{Picking, Switchboard},
    telemetry,
};

use frames::EmbeddedLag;
pub(crate) use frames::Frames;
use membership::Membership;

/// Entries that a subscription reads at once.
const PAGE: usize = 256;
/// Entries that a subscription drops at once.
const DROPPED_AT_ONCE: usize = 65_536;

/// The logs of a deployment, by number and by key: those of flows, then those of solo executions.
#[derive(Debug)]
pub(crate) struct Logs {
    names: Vec<(LogId, Box<[u8]>)>,
    numbers: FxHashMap<Box<[u8]>, usize>,
    policy: LogPolicy,
}

impl Logs {
    pub(crate) fn new(partitions: PartitionCount, policy: LogPolicy) -> Self {
        let name = |log: LogId| (log, keys::completion_log(log).into_bytes().into_boxed_slice());
        let of = |scope| partitions.partitions().map(move |partition: Partition| name(LogId { partition, scope }));
        let names: Vec<_> = of(Scope::Flows).chain(of(Scope::Solo)).collect();
        let numbers = names.iter().enumerate().map(|(number, (_, key))| (key.clone(), number)).collect();
        Self { names, numbers, policy }
    }

    /// The logs that a subscription of this scope reads.
    fn of(&self, scope: SubscriptionScope) -> &[(LogId, Box<[u8]>)] {
        &self.names[..self.names.len() / 2 * scope.logs().len()]
    }

    /// The numbers of the logs that a subscription needs.
    fn concerned(&self, options: &SubscribeOptions) -> Vec<usize> {
        let names = self.of(options.scope).iter().enumerate();
        names.filter(|(_, (log, _))| options.concerns(log.partition)).map(|(number, _)| number).collect()
    }

    /// The cursor of a subscription of this scope at these positions. For a log that the subscription does not need,
    /// any position is valid; the end is used.
    fn cursor(&self, host: &EmbeddedHost, scope: SubscriptionScope, cursors: &Cursors) -> Cursor {
        let names = self.of(scope);
        let all: Vec<LogCursor> = if cursors.len() == names.len() {
            (0..names.len()).filter_map(|number| cursors.get(&number).cloned()).collect()
        } else {
            let end = |keys: &Keyspace, number: usize| LogCursor::at_end(&ends(keys, &names[number]));
            let place = |keys: &Keyspace, number| cursors.get(&number).cloned().unwrap_or_else(|| end(keys, number));
            host.read(|keys, _| (0..names.len()).map(|number| place(keys, number)).collect())
        };
        let (flows, solo) = all.split_at(self.names.len() / 2);
        Cursor::new(flows.into(), (!solo.is_empty()).then(|| solo.into()))
    }
}

/// The positions of a subscription, by the numbers of the logs that it needs.
type Cursors = FxHashMap<usize, LogCursor>;

/// A log; `None` if its key has another type and so belongs to another program.
fn stream<'a>(keys: &'a Keyspace, key: &[u8]) -> Option<&'a Stream> {
    keys.get::<Stream>(key).ok().flatten()
}

/// The ends of a log's epochs, newest first.
fn ends(keys: &Keyspace, (log, key): &(LogId, Box<[u8]>)) -> EpochEnds {
    let empty = EntryId { epoch: 0, seq: 0 };
    let last = stream(keys, key).and_then(|stream| {
        let head = stream.iter().next_back().map(|entry| entry.id);
        head.or_else(|| Some(stream.last_id()).filter(|id| *id != empty))
    });
    let epochs = keys.get::<Hash>(keys::log_epochs(*log).as_bytes()).ok().flatten();
    let text = |bytes| std::str::from_utf8(bytes).ok();
    let epochs: Vec<_> = epochs
        .into_iter()
        .flat_map(Hash::iter)
        .filter_map(|(epoch, prev)| Some((text(epoch)?.parse().ok()?, text(prev)?.parse().ok()?)))
        .collect();
    if last.is_none() { EpochEnds::default() } else { EpochEnds::of(&epochs, last) }
}

/// How far a subscription has read one log. It may have yielded less.
#[derive(Debug)]
struct Place {
    /// The stamp of the stream that it read; a deleted and recreated stream has another one.
    stamp: u64,
    /// All entries appended up to this serial have been read.
    serial: u64,
    reader: LogReader,
    /// Whether the log is among those with unread entries.
    is_unread: bool,
}

impl Place {
    fn new(reader: LogReader, stream: Option<&Stream>) -> Self {
        let unread = stream.and_then(|stream| match reader.after() {
            Some(after) => stream.following(after),
            None => stream.iter().next(),
        });
        let serial = unread.map_or_else(|| stream.map_or(0, Stream::appended), |entry| entry.serial - 1);
        Self { stamp: stream.map_or(0, Stream::stamp), serial, reader, is_unread: false }
    }

    /// Records that the stream is not the one that was read before.
    fn turn_to(&mut self, stream: &Stream) {
        if self.stamp != stream.stamp() {
            (self.stamp, self.serial) = (stream.stamp(), 0);
        }
    }
}

/// What to do with an entry's event.
enum Event {
    Yield(CompletionPayload),
    /// The subscription does not want it.
    PassOver,
    /// It makes place for newer ones.
    Drop,
}

/// An entry as it was read, to be decoded after the lock on the keys is released.
struct Found {
    log: usize,
    id: EntryId,
    fields: Box<[(Bytes, Bytes)]>,
    /// It is dropped to make place for newer ones.
    is_dropped: bool,
}

/// A frame, and the position of the subscription in a log once the frame was yielded.
struct Ready {
    frame: Option<Frame>,
    moved: Option<(usize, LogCursor)>,
}

/// The statistics of a subscription.
#[derive(Debug)]
struct Shared {
    cursors: Cursors,
    stats: SubscriptionStats,
}

struct Reader {
    host: Arc<EmbeddedHost>,
    logs: Arc<Logs>,
    options: SubscribeOptions,
    /// The positions in the logs that it needs.
    places: FxHashMap<usize, Place>,
    /// How many appends of the feed it has processed.
    seen: u64,
    /// Logs with unread entries.
    unread: VecDeque<usize>,
    ready: VecDeque<Ready>,
    /// The last dropped range, before it is reported.
    dropped: Option<(usize, Gap)>,
    /// Whether the end of the logs must be reported when it is reached.
    behind: bool,
    /// Whether entries were skipped since the last reported cursor.
    passed_over: bool,
    ended: bool,
    shared: Arc<Mutex<Shared>>,
    _membership: Membership,
}

/// Subscribes: everything committed after this returns arrives.
pub(crate) fn subscribe(
    host: &Arc<EmbeddedHost>,
    logs: &Arc<Logs>,
    options: &SubscribeOptions,
    max: usize,
) -> Result<Frames, EngineError> {
    let membership = Membership::take(host.switchboard().subscriptions(), max)?;
    let wakes = Wakes::of(host.switchboard(), options);
    let numbers = logs.concerned(options);
    let names = logs.of(options.scope);
    let (Starts { cursors, mut places, ready }, seen) =
        host.read(|keys, feed| (starts(keys, names, &numbers, &options.start), feed.head()));
    let shared = Arc::new(Mutex::new(Shared { cursors, stats: SubscriptionStats::default() }));
    let mut unread = VecDeque::new();
    if !matches!(options.start, Start::Now) {
        numbers.iter().for_each(|number| mark(&mut unread, &mut places, *number));
    }
    let reader = Reader {
        host: host.clone(),
        logs: logs.clone(),
        options: options.clone(),
        unread,
        places,
        seen,
        ready,
        dropped: None,
        behind: true,
        passed_over: false,
        ended: false,
        shared: shared.clone(),
        _membership: membership,
    };
    let frames = stream::unfold((reader, wakes), |(mut reader, mut wakes)| async move {
        loop {
            // Marked as seen before the read, so that an append in between is seen at the next turn.
            wakes.mark_seen();
            if let Some(frame) = reader.next() {
                return Some((frame, (reader, wakes)));
            }
            if reader.ended || !wakes.next().await {
                return None;
            }
        }
    });
    let probe = Arc::new(EmbeddedLag { host: host.clone(), logs: logs.clone() });
    Ok(Frames { frames: Box::pin(frames), ended: false, scope: options.scope, shared, probe })
}

/// The start of a subscription.
#[derive(Default)]
struct Starts {
    /// Its position in each of its logs.
    cursors: Cursors,
    /// The gaps to report immediately: a cursor may belong to a history that the logs no longer contain.
    ready: VecDeque<Ready>,
    /// Its position behind these gaps.
    places: FxHashMap<usize, Place>,
}

fn starts(keys: &Keyspace, names: &[(LogId, Box<[u8]>)], numbers: &[usize], start: &Start) -> Starts {
    let mut starts = Starts::default();
    for number in numbers.iter().copied() {
        let name = &names[number];
        let stream = stream(keys, &name.1);
        let cursor = match start {
            Start::After(cursor) => {
                let of_scope = cursor.logs(name.0.scope);
                of_scope.map(|logs| logs[usize::from(name.0.partition.number())].clone()).unwrap_or_default()
            }
            Start::Earliest => LogCursor::earliest(),
            _ => LogCursor::at_end(&ends(keys, name)),
        };
        starts.cursors.insert(number, cursor.clone());
        let mut reader = LogReader::new(name.0, cursor);
        if let Some(gap) = reader.resolve(&ends(keys, name)) {
            telemetry::count_gap(gap.cause);
            reader.pass(&gap);
            starts
                .ready
                .push_back(Ready { frame: Some(Frame::Gap(gap)), moved: Some((number, reader.cursor().clone())) });
        }
        reader.restart();
        starts.places.insert(number, Place::new(reader, stream));
    }
    starts
}

/// The wake-up source of a subscription.
enum Wakes {
    /// Every append.
    Appends(watch::Receiver<u64>),
    /// The ends of certain executions.
    Ends(Picking),
}

impl Wakes {
    fn of(switchboard: &Arc<Switchboard>, options: &SubscribeOptions) -> Self {
        match &options.only {
            Some(only) => Self::Ends(switchboard.pick(only)),
            None => Self::Appends(switchboard.appends()),
        }
    }

    fn mark_seen(&mut self) {
        if let Self::Appends(appends) = self {
            appends.borrow_and_update();
        }
    }

    /// Waits for the next wake-up; `false` if none can come: the sender lives in the host, which a subscription holds.
    async fn next(&mut self) -> bool {
        match self {
            Self::Appends(appends) => appends.changed().await.is_ok(),
            Self::Ends(ends) => {
                ends.next().await;
                true
            }
        }
    }
}

impl Reader {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The next frame, if there is one.
    fn next(&mut self) -> Option<Frame> {
        loop {
            while let Some(ready) = self.ready.pop_front() {
                if let Some(frame) = self.yielded(ready) {
                    return Some(frame);
                }
            }
            if self.ended {
                return None;
            }
            let page = self.read_page();
            if page.is_empty() {
                return self.at_the_end();
            }
            self.behind |= page.len() >= PAGE;
            for found in page {
                self.take(found);
            }
            self.report_dropped();
        }
    }

    fn yielded(&mut self, ready: Ready) -> Option<Frame> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((log, cursor)) = ready.moved {
            shared.cursors.insert(log, cursor);
        }
        shared.stats.queued = self.ready.len();
        shared.stats.catching_up = self.behind;
        match &ready.frame {
            Some(Frame::Completion(_)) => {
                shared.stats.delivered += 1;
                telemetry::count(telemetry::DELIVERED, 1);
                self.passed_over = false;
            }
            Some(Frame::Gap(_)) => shared.stats.gaps += 1,
            Some(_) => {}
            None => self.passed_over = true,
        }
        ready.frame
    }

    /// The frame to report once everything was read.
    fn at_the_end(&mut self) -> Option<Frame> {
        if std::mem::take(&mut self.passed_over) {
            let cursors = self.shared().cursors.clone();
            return Some(Frame::Checkpoint(self.logs.cursor(&self.host, self.options.scope, &cursors)));
        }
        if std::mem::take(&mut self.behind) {
            self.shared().stats.catching_up = false;
            return Some(Frame::CaughtUp);
        }
        None
    }

    fn read_page(&mut self) -> Vec<Found> {
        let host = self.host.clone();
        host.read(|keys, feed| {
            let all = |places: &FxHashMap<usize, Place>| places.keys().copied().collect::<Vec<_>>();
            let appended = match (&self.options.only, feed.after(self.seen)) {
                // It was woken for one of its few logs, or has not started yet.
                (Some(_), _) | (None, None) => all(&self.places),
                (None, Some(appended)) => appended.filter_map(|key| self.logs.numbers.get(key).copied()).collect(),
            };
            for number in appended {
                mark(&mut self.unread, &mut self.places, number);
            }
            self.seen = feed.head();
            let mut page = Vec::new();
            if !self.heed_overflow(keys, &mut page) {
                return page;
            }
            let end = page.len() + PAGE;
            while let Some(log) = self.unread.front().copied().filter(|_| page.len() < end) {
                if !self.read_log(keys, log, end, &mut page) {
                    self.unread.pop_front();
                    if let Some(place) = self.places.get_mut(&log) {
                        place.is_unread = false;
                    }
                }
            }
            page
        })
    }

    /// Applies the overflow policy if more entries are unread than the subscription's capacity. `false` if nothing more
    /// may be read now.
    fn heed_overflow(&mut self, keys: &Keyspace, page: &mut Vec<Found>) -> bool {
        let Some(capacity) = self.options.capacity.filter(|_| self.options.overflow != Overflow::CatchUp) else {
            return true;
        };
        let mut counts = Vec::new();
        for log in &self.unread {
            if let (Some(stream), Some(place)) = (stream(keys, &self.logs.names[*log].1), self.places.get_mut(log)) {
                place.turn_to(stream);
                counts.push((*log, stream.after(place.serial).count()));
            }
        }
        let mut excess = counts.iter().map(|(_, count)| count).sum::<usize>().saturating_sub(capacity.get());
        if excess == 0 {
            return true;
        }
        self.shared().stats.overflows += 1;
        if self.options.overflow == Overflow::Close {
            self.ended = true;
            return false;
        }
        let may_read_on = excess <= DROPPED_AT_ONCE;
        excess = excess.min(DROPPED_AT_ONCE);
        for (log, count) in counts {
            let dropped = count.min(excess);
            excess -= dropped;
            let (Some(stream), Some(place)) = (stream(keys, &self.logs.names[log].1), self.places.get_mut(&log)) else {
                continue;
            };
            for entry in stream.after(place.serial).take(dropped) {
                place.serial = entry.serial;
                page.push(Found { log, id: entry.id, fields: entry.fields.clone(), is_dropped: true });
            }
        }
        may_read_on
    }

    /// Declares the dropped range as a gap.
    fn report_dropped(&mut self) {
        if let Some((log, gap)) = self.dropped.take() {
            self.pass(log, &gap);
        }
    }

    /// Drops the next entry of a log.
    fn drop_entry(&mut self, log: usize, id: EntryId) {
        self.shared().stats.dropped += 1;
        let after = self.places.get_mut(&log).and_then(|place| {
            let after = place.reader.cursor().last();
            place.reader.advance(id);
            after
        });
        match &mut self.dropped {
            Some((of, gap)) if *of == log => gap.through = id,
            _ => {
                self.report_dropped();
                let gap = Gap::new(self.logs.names[log].0, after, id, GapCause::Overflow);
                self.dropped = Some((log, gap));
            }
        }
    }

    /// Declares a gap in a log.
    fn pass(&mut self, log: usize, gap: &Gap) {
        self.report_dropped();
        telemetry::count_gap(gap.cause);
        tracing::warn!(log = %gap.log, cause = %gap.cause, through = %gap.through, "completions are missing");
        let Some(place) = self.places.get_mut(&log) else { return };
        place.reader.pass(gap);
        let moved = Some((log, place.reader.cursor().clone()));
        self.ready.push_back(Ready { frame: Some(Frame::Gap(*gap)), moved });
    }

    /// Reads one log until the page has `end` entries; returns whether there is more.
    fn read_log(&mut self, keys: &Keyspace, log: usize, end: usize, page: &mut Vec<Found>) -> bool {
        let (Some(stream), Some(place)) = (stream(keys, &self.logs.names[log].1), self.places.get_mut(&log)) else {
            return false;
        };
        place.turn_to(stream);
        let mut entries = stream.after(place.serial);
        for entry in entries.by_ref().take(end - page.len()) {
            place.serial = entry.serial;
            page.push(Found { log, id: entry.id, fields: entry.fields.clone(), is_dropped: false });
        }
        entries.next().is_some()
    }

    /// Whether the entry counts only as a position.
    fn is_passed_over(&self, found: &Found) -> bool {
        let of_another = |only: &BTreeSet<ExecutionId>| {
            wire::execution_of(&found.fields).is_some_and(|execution| !only.contains(&execution))
        };
        found.is_dropped || self.options.only.as_deref().is_some_and(of_another)
    }

    fn take(&mut self, found: Found) {
        let number = found.log;
        let (entry, mut error) = self.decode(found);
        for item in self.read(number, entry).into_iter().flatten() {
            match item {
                LogItem::Event(id, event) => self.receive(number, id, event),
                LogItem::Gap(gap) => {
                    if gap.cause == GapCause::Unreadable
                        && let Some(error) = error.take()
                    {
                        tracing::warn!(log = %gap.log, entry = %gap.through, %error, "unreadable log entry");
                        telemetry::count(telemetry::MALFORMED, 1);
                    }
                    self.pass(number, &gap);
                }
            }
        }
    }

    /// Decodes an entry as far as the subscription needs it.
    fn decode(&self, found: Found) -> (LogEntry<Event>, Option<wire::WireError>) {
        let is_passed_over = self.is_passed_over(&found);
        let Found { log, id: entry, fields, is_dropped } = found;
        let prev = || wire::predecessor(&fields).ok().flatten();
        if is_passed_over {
            let event = if is_dropped { Event::Drop } else { Event::PassOver };
            return (LogEntry { entry, prev: prev(), event: Some(event) }, None);
        }
        match wire::decode_entry(self.logs.names[log].0, entry, &fields) {
            Ok(decoded) => {
                let is_wanted = self.options.wants(&decoded.payload);
                let event = if is_wanted { Event::Yield(decoded.payload) } else { Event::PassOver };
                (LogEntry { entry, prev: decoded.prev, event: Some(event) }, None)
            }
            Err(error) => (LogEntry { entry, prev: prev(), event: None }, Some(error)),
        }
    }

    /// Reads an entry, and looks up the log's epochs where it does not follow.
    fn read(&mut self, number: usize, mut entry: LogEntry<Event>) -> Option<LogItems<Event>> {
        loop {
            match self.places.get_mut(&number)?.reader.read(entry) {
                Ok(items) => return Some(items),
                Err(unknown) => entry = unknown,
            }
            let ends = self.ends(number);
            if let Some(gap) = self.places.get_mut(&number)?.reader.resolve(&ends) {
                self.pass(number, &gap);
            }
        }
    }

    fn receive(&mut self, number: usize, id: EntryId, event: Event) {
        let payload = match event {
            Event::Drop => return self.drop_entry(number, id),
            Event::PassOver => None,
            Event::Yield(payload) => Some(payload),
        };
        self.report_dropped();
        telemetry::count(telemetry::FILTERED, u64::from(payload.is_none()));
        let Some(place) = self.places.get_mut(&number) else { return };
        place.reader.advance(id);
        let moved = Some((number, place.reader.cursor().clone()));
        self.ready.push_back(Ready { frame: payload.map(Frame::Completion), moved });
    }

    fn ends(&self, log: usize) -> EpochEnds {
        self.host.read(|keys, _| ends(keys, &self.logs.names[log]))
    }
}

fn mark(unread: &mut VecDeque<usize>, places: &mut FxHashMap<usize, Place>, log: usize) {
    if let Some(place) = places.get_mut(&log)
        && !std::mem::replace(&mut place.is_unread, true)
    {
        unread.push_back(log);
    }
}
