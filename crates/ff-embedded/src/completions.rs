//! Subscriptions: each reads the logs at its own pace, from a cursor of its own.
//!
//! There is no queue to overflow and no push to lose: a subscription is woken when a log was appended to, and reads
//! after its cursors. Who reads slowly delays nobody and holds no more than one page. The rules by which it reads are
//! those of a server's subscriptions ([`ff_core::reader`]), and what a log no longer holds is a gap as there.

use std::{
    collections::VecDeque,
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
    Cursor, EngineError, EntryId, Frame, Gap, GapCause, Lag, LagProbe, LogCursor, LogId, Overflow, Partition,
    PartitionCount, Scope, Start, SubscribeOptions, SubscriptionScope, SubscriptionSource, SubscriptionStats,
    SweepPolicy,
    reader::{LogFacts, LogReading, Step, epoch_ends},
};
use ff_script::{keys, operations::LogPolicy, wire};
use futures::{
    Stream as Futures,
    stream::{self, BoxStream, FusedStream},
};
use rustc_hash::FxHashMap;

use crate::{
    host::EmbeddedHost,
    keyspace::{Entry, Hash, Keyspace, Stream},
    telemetry,
};

/// Entries that a subscription reads at once.
const PAGE: usize = 256;

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

    /// Those that a subscription of this scope reads.
    fn of(&self, scope: SubscriptionScope) -> &[(LogId, Box<[u8]>)] {
        &self.names[..self.names.len() / 2 * scope.logs().len()]
    }

    fn cursor(&self, cursors: &[LogCursor]) -> Cursor {
        let (flows, solo) = cursors.split_at(self.names.len() / 2);
        Cursor::new(flows.into(), (!solo.is_empty()).then(|| solo.into()))
    }
}

/// A log, unless its key holds something else, which then is somebody else's.
fn stream<'a>(keys: &'a Keyspace, key: &[u8]) -> Option<&'a Stream> {
    keys.get::<Stream>(key).ok().flatten()
}

/// The ends of a log's epochs, newest first.
fn ends(keys: &Keyspace, (log, key): &(LogId, Box<[u8]>)) -> Vec<EntryId> {
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
    if last.is_none() { Vec::new() } else { epoch_ends(&epochs, last) }
}

/// How far a subscription has read one log. What it has yielded may be less.
#[derive(Debug, Clone)]
struct Place {
    /// Which stream it read; one that was deleted and made anew is another.
    stamp: u64,
    /// The entries appended up to here have been read.
    serial: u64,
    cursor: LogCursor,
    reading: LogReading,
}

impl Place {
    fn new(log: LogId, cursor: LogCursor, stream: Option<&Stream>) -> Self {
        let reading = LogReading::from(log, &cursor);
        let after = cursor.last();
        let unread = stream.and_then(|stream| stream.iter().find(|entry| after.is_none_or(|after| entry.id > after)));
        let serial = unread.map_or_else(|| stream.map_or(0, Stream::appended), |entry| entry.serial - 1);
        Self { stamp: stream.map_or(0, Stream::stamp), serial, cursor, reading }
    }
}

/// An entry as it was found, to be decoded when the keys are no longer locked.
struct Found {
    log: usize,
    id: EntryId,
    fields: Box<[(Bytes, Bytes)]>,
}

/// A frame, and where the subscription stands in a log once it was yielded.
struct Ready {
    frame: Option<Frame>,
    moved: Option<(usize, LogCursor)>,
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

/// What is known of a subscription besides its frames.
#[derive(Debug)]
struct Shared {
    cursors: Vec<LogCursor>,
    stats: SubscriptionStats,
}

struct Reader {
    host: Arc<EmbeddedHost>,
    logs: Arc<Logs>,
    options: SubscribeOptions,
    places: Vec<Place>,
    /// How many appends of the feed have been looked at.
    seen: u64,
    /// Logs with entries that were not read yet, and for each log whether it is among them.
    unread: VecDeque<usize>,
    is_unread: Vec<bool>,
    ready: VecDeque<Ready>,
    /// Whether the end of the logs is to be told when it is reached.
    behind: bool,
    /// Whether something was passed over since the cursor was last told.
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
    let appends = host.switchboard().appends();
    let names = logs.of(options.scope);
    let ((mut places, ready), seen) = host.read(|keys, feed| (starts(keys, names, &options.start), feed.head()));
    let cursors = places.iter().map(|place| place.cursor.clone()).collect();
    let shared = Arc::new(Mutex::new(Shared { cursors, stats: SubscriptionStats::default() }));
    for moved in ready.iter().filter_map(|ready| ready.moved.as_ref()) {
        places[moved.0].cursor = moved.1.clone();
        places[moved.0].reading = LogReading::from(names[moved.0].0, &moved.1);
    }
    let all_unread = !matches!(options.start, Start::Now);
    let reader = Reader {
        host: host.clone(),
        logs: logs.clone(),
        options: options.clone(),
        unread: if all_unread { (0..places.len()).collect() } else { VecDeque::new() },
        is_unread: vec![all_unread; places.len()],
        places,
        seen,
        ready,
        behind: true,
        passed_over: false,
        ended: false,
        shared: shared.clone(),
        _membership: membership,
    };
    let frames = stream::unfold((reader, appends), |(mut reader, mut appends)| async move {
        loop {
            // Marked as seen before the look, so that an append in between is seen at the next turn.
            appends.borrow_and_update();
            if let Some(frame) = reader.next() {
                return Some((frame, (reader, appends)));
            }
            // The sender lives in the host, which this subscription holds.
            if reader.ended || appends.changed().await.is_err() {
                return None;
            }
        }
    });
    let probe = Arc::new(EmbeddedLag { host: host.clone(), logs: logs.clone() });
    Ok(Frames { frames: Box::pin(frames), ended: false, shared, probe })
}

/// Where a subscription begins in each log, and what it has to be told of that at once: a cursor may be of a history
/// that the logs no longer tell.
fn starts(keys: &Keyspace, names: &[(LogId, Box<[u8]>)], start: &Start) -> (Vec<Place>, VecDeque<Ready>) {
    let mut told = VecDeque::new();
    let mut place = |(number, name): (usize, &(LogId, Box<[u8]>))| {
        let stream = stream(keys, &name.1);
        let cursor = match start {
            Start::After(cursor) => {
                let of_scope = cursor.logs(name.0.scope);
                of_scope.map(|logs| logs[usize::from(name.0.partition.number())].clone()).unwrap_or_default()
            }
            Start::Earliest => LogCursor::earliest(),
            _ => LogCursor::at_end(&ends(keys, name)),
        };
        let mut place = Place::new(name.0, cursor, stream);
        let mut back = place.cursor.clone();
        if let Some(undone) = place.reading.resolve(&mut back, &ends(keys, name)) {
            telemetry::count_gap(undone.cause);
            told.push_back(Ready { frame: Some(Frame::Gap(undone)), moved: Some((number, back.clone())) });
            place = Place { cursor: place.cursor, ..Place::new(name.0, back, stream) };
        }
        place
    };
    (names.iter().enumerate().map(&mut place).collect(), told)
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
        }
    }

    fn yielded(&mut self, ready: Ready) -> Option<Frame> {
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((log, cursor)) = ready.moved {
            shared.cursors[log] = cursor;
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

    /// What there is to tell when everything was read.
    fn at_the_end(&mut self) -> Option<Frame> {
        if std::mem::take(&mut self.passed_over) {
            return Some(Frame::Checkpoint(self.logs.cursor(&self.shared().cursors)));
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
            let count = self.places.len();
            match feed.after(self.seen) {
                Some(appended) => {
                    let numbers = appended.filter_map(|key| self.logs.numbers.get(key).copied());
                    for number in numbers.filter(|number| *number < count) {
                        mark(&mut self.unread, &mut self.is_unread, number);
                    }
                }
                None => (0..count).for_each(|log| mark(&mut self.unread, &mut self.is_unread, log)),
            }
            self.seen = feed.head();
            if !self.heed_overflow(keys) {
                return Vec::new();
            }
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

    /// Does what was asked for when more is unread than the subscription's capacity. `false` if it ends.
    fn heed_overflow(&mut self, keys: &Keyspace) -> bool {
        let Some(capacity) = self.options.capacity.filter(|_| self.options.overflow != Overflow::CatchUp) else {
            return true;
        };
        let unread = |log: &usize| {
            let stream = stream(keys, &self.logs.names[*log].1);
            stream.map_or(0, |stream| stream.after(self.places[*log].serial).count())
        };
        let counts: Vec<(usize, usize)> = self.unread.iter().map(|log| (*log, unread(log))).collect();
        let mut excess = counts.iter().map(|(_, count)| count).sum::<usize>().saturating_sub(capacity.get());
        if excess == 0 {
            return true;
        }
        self.shared().stats.overflows += 1;
        if self.options.overflow == Overflow::Close {
            self.ended = true;
            return false;
        }
        for (log, count) in counts {
            let dropped = count.min(excess);
            if let Some(last) = dropped
                .checked_sub(1)
                .and_then(|last| stream(keys, &self.logs.names[log].1)?.after(self.places[log].serial).nth(last))
            {
                self.drop_through(log, last.id, last.serial, dropped as u64);
            }
            excess -= dropped;
        }
        true
    }

    fn drop_through(&mut self, log: usize, through: EntryId, serial: u64, dropped: u64) {
        self.shared().stats.dropped += dropped;
        let place = &mut self.places[log];
        place.serial = serial;
        let gap = Gap { log: self.logs.names[log].0, after: place.cursor.last(), through, cause: GapCause::Overflow };
        self.pass(log, &gap);
    }

    /// Declares that positions of a log do not come.
    fn pass(&mut self, log: usize, gap: &Gap) {
        telemetry::count_gap(gap.cause);
        tracing::warn!(log = %gap.log, cause = %gap.cause, through = %gap.through, "completions are missing");
        let cursor = &mut self.places[log].cursor;
        if gap.cause.is_undone() {
            cursor.rewind(gap.after);
        } else {
            cursor.advance(gap.through);
        }
        self.places[log].reading = LogReading::from(gap.log, &self.places[log].cursor);
        let moved = Some((log, self.places[log].cursor.clone()));
        self.ready.push_back(Ready { frame: Some(Frame::Gap(*gap)), moved });
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
        let Found { log: number, id, fields } = found;
        let log = self.logs.names[number].0;
        let decoded = wire::decode_entry(log, id, &fields);
        let prev = match &decoded {
            Ok(decoded) => decoded.prev,
            Err(_) => wire::predecessor(&fields).ok().flatten(),
        };
        loop {
            let place = &mut self.places[number];
            let mut moved = place.cursor.clone();
            match place.reading.step(&mut moved, id, prev) {
                Step::Skip => return,
                Step::LookUp => {
                    let looked_up = self.ends(number);
                    let place = &mut self.places[number];
                    let mut back = place.cursor.clone();
                    if let Some(undone) = place.reading.resolve(&mut back, &looked_up) {
                        let reading = place.reading.clone();
                        self.pass(number, &undone);
                        self.places[number].reading = reading;
                    }
                }
                Step::Deliver(gap) => {
                    if let Some(gap) = gap {
                        self.pass(number, &gap);
                    }
                    break;
                }
            }
        }
        let Ok(decoded) = decoded else {
            tracing::warn!(%log, entry = %id, "unreadable log entry");
            telemetry::count(telemetry::MALFORMED, 1);
            let after = self.places[number].cursor.last();
            return self.pass(number, &Gap { log, after, through: id, cause: GapCause::Unreadable });
        };
        self.places[number].cursor.advance(id);
        let wanted = self.options.wants(&decoded.payload);
        telemetry::count(telemetry::FILTERED, u64::from(!wanted));
        let moved = Some((number, self.places[number].cursor.clone()));
        self.ready.push_back(Ready { frame: wanted.then(|| Frame::Completion(decoded.payload)), moved });
    }

    fn ends(&self, log: usize) -> Vec<EntryId> {
        self.host.read(|keys, _| ends(keys, &self.logs.names[log]))
    }
}

fn mark(unread: &mut VecDeque<usize>, is_unread: &mut [bool], log: usize) {
    if !std::mem::replace(&mut is_unread[log], true) {
        unread.push_back(log);
    }
}

/// An extended subscription.
pub(crate) struct Frames {
    frames: BoxStream<'static, Frame>,
    ended: bool,
    shared: Arc<Mutex<Shared>>,
    probe: Arc<EmbeddedLag>,
}

impl Frames {
    fn shared(&self) -> MutexGuard<'_, Shared> {
        self.shared.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Futures for Frames {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        if self.ended {
            return Poll::Ready(None);
        }
        let polled = self.frames.as_mut().poll_next(context);
        self.ended = matches!(polled, Poll::Ready(None));
        polled
    }
}

impl FusedStream for Frames {
    fn is_terminated(&self) -> bool {
        self.ended
    }
}

impl SubscriptionSource for Frames {
    fn cursor(&self) -> Cursor {
        self.probe.logs.cursor(&self.shared().cursors)
    }

    fn stats(&self) -> SubscriptionStats {
        self.shared().stats
    }

    fn lag_probe(&self) -> Arc<dyn LagProbe> {
        self.probe.clone()
    }
}

struct EmbeddedLag {
    host: Arc<EmbeddedHost>,
    logs: Arc<Logs>,
}

#[async_trait]
impl LagProbe for EmbeddedLag {
    async fn lag_of(&self, cursor: &Cursor) -> Result<Lag, EngineError> {
        let now = self.host.clock().now_us() / 1000;
        let retention = SweepPolicy::default().retention;
        let mut lag = Lag::default();
        self.host.read(|keys, _| {
            for name in self.logs.of(cursor.scope()) {
                let (log, Some(stream)) = (name.0, stream(keys, &name.1)) else { continue };
                let Some(cursors) = cursor.logs(log.scope) else { continue };
                let cursor = &cursors[usize::from(log.partition.number())];
                let at = |entry: &Entry| wire::decode_entry(log, entry.id, &entry.fields).ok()?.payload.produced_at_ms;
                let unread = stream.iter().find(|entry| !cursor.has(entry.id));
                let facts = LogFacts {
                    ends: ends(keys, name),
                    len: stream.len() as u64,
                    first_at: stream.iter().next().and_then(at),
                    last_at: stream.iter().next_back().and_then(at),
                    unread_at: unread.and_then(at),
                };
                lag.include(cursor, &facts, now, self.logs.policy.entries(log.scope), retention);
            }
        });
        Ok(lag)
    }
}
