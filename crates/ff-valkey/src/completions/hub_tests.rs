#[path = "hub_tests/comparisons.rs"]
mod comparisons;
#[path = "hub_tests/witness.rs"]
mod witness;

use std::{
    collections::{HashMap, VecDeque},
    sync::atomic::AtomicU64,
};

use ff_core::{
    Cursor, EntryId, Frame, Lag, LogId, Partition, Start, Subscription,
    backend::LagProbe,
    reader::{EpochEnds, LogCursor, Predecessor},
};
use ff_script::operations::Newest;
use futures::StreamExt;
use proptest::prelude::*;
use serde_json::json;

use super::*;
use crate::completions::{
    page::Page,
    simulated::{self, Account, Server, compared, number},
    stream::{Completions, Frames},
};

use witness::Witness;

const PARTITIONS: u16 = 3;

/// Logs in memory; one of every few reads fails.
struct Logs {
    servers: Mutex<Vec<Server>>,
    reads: AtomicU64,
    fail_every: u64,
    /// A log that cannot be read.
    refused: Mutex<Option<usize>>,
    /// All reads fail.
    is_away: AtomicBool,
    /// Reads of heads fail as a whole.
    has_no_heads: AtomicBool,
}

impl Logs {
    fn new(fail_every: u64) -> Arc<Self> {
        let log = |n| LogId { partition: Partition::new(n), scope: Scope::Flows };
        let servers = (0..PARTITIONS).map(|n| Server::numbered(log(n), u64::from(n), u64::from(PARTITIONS))).collect();
        let (servers, refused, is_away) = (Mutex::new(servers), Mutex::default(), AtomicBool::default());
        let has_no_heads = AtomicBool::default();
        Arc::new(Self { servers, reads: AtomicU64::new(0), fail_every, refused, is_away, has_no_heads })
    }

    fn on<T>(&self, log: usize, act: impl FnOnce(&mut Server) -> T) -> T {
        act(&mut self.servers.lock().unwrap()[log])
    }

    /// The latency of the server, during which other tasks run.
    async fn travel(&self) -> Result<(), EngineError> {
        tokio::time::sleep(Duration::from_micros(300)).await;
        let read = self.reads.fetch_add(1, Ordering::Relaxed) + 1;
        // Scattered: a regular pattern could make the same read fail every time.
        let fails = (read.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 40).is_multiple_of(self.fail_every);
        if fails || self.is_away.load(Ordering::Relaxed) {
            return Err(EngineError::transport("reading", "the simulation refuses it"));
        }
        Ok(())
    }
}

impl Logs {
    /// Reads a log, unless it is refused.
    fn read<T>(&self, log: LogId, read: impl FnOnce(&mut Server) -> T) -> Result<T, EngineError> {
        let index = usize::from(log.partition.number());
        if *self.refused.lock().unwrap() == Some(index) {
            return Err(EngineError::transport("reading", "WRONGTYPE"));
        }
        Ok(self.on(index, read))
    }
}

#[async_trait::async_trait]
impl LogSource for Logs {
    async fn starts(&self, logs: &[LogId]) -> Result<(u64, OfEach<LogCursor>), EngineError> {
        self.travel().await?;
        Ok((1, logs.iter().map(|log| self.read(*log, |server| server.start())).collect()))
    }

    async fn appended(&self, scope: Scope, since: &str) -> Result<Appended, EngineError> {
        self.travel().await?;
        let servers = self.servers.lock().unwrap();
        let tallies: Vec<(u64, u64)> = servers.iter().map(Server::tally).collect();
        let tally = serde_json::to_string(&tallies).unwrap();
        let since: Option<Vec<(u64, u64)>> = serde_json::from_str(since).ok();
        let same = since.filter(|since| since.iter().zip(&tallies).all(|(then, now)| then.0 == now.0));
        let appended = |then: Vec<(u64, u64)>| {
            let logs = servers.iter().enumerate().filter(|(log, _)| then[*log] != tallies[*log]);
            let newest =
                |(log, server): (usize, &Server)| Some((LogId { partition: partition(log), scope }, server.newest()?));
            logs.filter_map(newest).collect()
        };
        Ok(Appended { at_ms: 1, tally, logs: same.map(appended) })
    }

    async fn heads(&self, of: &[(LogId, Option<Newest>)]) -> Result<OfEach<Head>, EngineError> {
        self.travel().await?;
        if self.has_no_heads.load(Ordering::Relaxed) {
            return Err(EngineError::protocol("reading heads", "the simulation has none"));
        }
        let head = |(log, has): &(LogId, Option<Newest>)| self.read(*log, |server| compared(server.newest(), *has));
        let heads = of.iter().map(head).collect();
        self.travel().await?;
        Ok(heads)
    }

    async fn pages(&self, reads: &[PageRead]) -> Result<OfEach<Page>, EngineError> {
        self.travel().await?;
        let page = |read: &PageRead| {
            // Small pages, so that there are many. A limit below the requested one would look like the end of the log.
            self.read(read.log, |server| Page::from(server.page(read.after, read.up_to, read.limit)))
        };
        let pages = reads.iter().map(page).collect();
        self.travel().await?;
        Ok(pages)
    }

    async fn epochs(&self, logs: &[LogId]) -> Result<OfEach<EpochEnds>, EngineError> {
        self.travel().await?;
        Ok(logs.iter().map(|log| self.read(*log, |server| server.ends())).collect())
    }

    async fn emptied(&self, logs: &[LogId]) -> Result<OfEach<Option<EntryId>>, EngineError> {
        self.travel().await?;
        Ok(logs.iter().map(|log| self.read(*log, |server| server.emptied())).collect())
    }
}

fn hub(logs: &Arc<Logs>, capacity: usize) -> Arc<Hub> {
    let config = ValkeyConfig::from_url("redis://nowhere").unwrap().subscription_capacity(capacity);
    Arc::new(Hub::new(Scope::Flows, PartitionCount::new(PARTITIONS).unwrap(), &config, logs.clone()))
}

fn message(shown: &LogEntry) -> Bytes {
    let event = shown.event.as_ref().unwrap();
    let prev = shown.prev.map(|prev| match prev {
        Predecessor::Start => "none".to_owned(),
        Predecessor::Entry(id) => id.to_string(),
    });
    let mut object = json!({
        "execution_id": event.execution_id, "outcome": "success", "ns": event.namespace, "pos": shown.entry.to_string(),
    });
    if let Some(prev) = prev {
        object["prev"] = json!(prev);
    }
    Bytes::from(object.to_string())
}

fn filter(name: &str) -> ScannerFilter {
    ScannerFilter::new().namespace(ff_core::Namespace::new(name).unwrap())
}

/// A subscription with a consumer that polls at some pace and records the numbers.
struct Reader {
    /// Numbers committed before the start, by log: they are not owed.
    since: Vec<u64>,
    wanted: fn(u64) -> bool,
    seen: Arc<Mutex<Vec<u64>>>,
    _task: crate::net::connection::Task,
}

impl Reader {
    fn open(hub: &Arc<Hub>, logs: &Logs, filter: &ScannerFilter, wanted: fn(u64) -> bool, pace: Duration) -> Self {
        let since = (0..usize::from(PARTITIONS)).map(|log| logs.on(log, |server| server.next())).collect();
        let options = Arc::new(SubscribeOptions::new().filter(filter.clone()));
        let mut stream = Completions::new(hub.subscribe(&options, Accepts::Completions, None, Arc::new(())).unwrap());
        let seen = Arc::new(Mutex::new(Vec::new()));
        let noted = seen.clone();
        let task = crate::net::connection::Task::spawn(async move {
            while let Some(event) = stream.next().await {
                noted.lock().unwrap().push(number(&event));
                tokio::time::sleep(pace).await;
            }
        });
        Self { since, wanted, seen, _task: task }
    }

    /// The numbers in the logs that it is owed, by log.
    fn owed(&self, logs: &Logs) -> Vec<Vec<u64>> {
        let owed = |log: usize| {
            let numbers: Vec<u64> = logs.on(log, |server| server.numbers().collect());
            numbers.into_iter().filter(|n| *n >= self.since[log] && (self.wanted)(*n)).collect()
        };
        (0..usize::from(PARTITIONS)).map(owed).collect()
    }

    async fn check(&self, logs: &Logs) -> Result<(), TestCaseError> {
        let owed = self.owed(logs);
        let total: usize = owed.iter().map(Vec::len).sum();
        // As long as anything arrives: with a queue of one and failing reads that is slow.
        let (mut idle, mut count) = (0, 0);
        while idle < 400 {
            let all: std::collections::HashSet<u64> = self.seen.lock().unwrap().iter().copied().collect();
            if owed.iter().flatten().all(|n| all.contains(n)) {
                break;
            }
            idle = if all.len() > count { 0 } else { idle + 1 };
            count = all.len();
            tokio::time::sleep(Duration::from_millis(50)).await;
        }
        // Time for deliveries that must not happen.
        tokio::time::sleep(Duration::from_millis(500)).await;
        let seen = self.seen.lock().unwrap().clone();
        let mut by_log: HashMap<u64, Vec<u64>> = HashMap::new();
        for n in &seen {
            prop_assert!((self.wanted)(*n), "{} is not wanted", n);
            let log = n % u64::from(PARTITIONS);
            let came = by_log.entry(log).or_default();
            if let Some(at) = came.iter().position(|it| it == n) {
                // An entry that was rolled back and restored is delivered again.
                let again = logs.on(usize::try_from(log).unwrap(), |server| server.was_rolled_back(*n));
                prop_assert!(again, "{} was delivered twice in {:?}", n, seen);
                came.remove(at);
            }
            came.push(*n);
        }
        for (log, owed) in owed.iter().enumerate() {
            let came = by_log.remove(&(log as u64)).unwrap_or_default();
            let came: Vec<u64> = came.into_iter().filter(|n| owed.contains(n)).collect();
            prop_assert_eq!(&came, owed, "log {} of {} owed; seen {:?}", log, total, seen);
        }
        Ok(())
    }
}

fn shown(frame: &Frame) -> String {
    match frame {
        Frame::Completion(event) => event.position.unwrap().to_string(),
        Frame::Gap(gap) => format!("({gap})"),
        Frame::Checkpoint(_) => "checkpoint".to_owned(),
        _ => "caught up".to_owned(),
    }
}

fn partition(log: usize) -> Partition {
    Partition::new(u16::try_from(log).unwrap())
}

struct NoLag;

#[async_trait::async_trait]
impl LagProbe for NoLag {
    async fn lag_of(&self, _cursor: &Cursor) -> Result<Lag, EngineError> {
        Ok(Lag::default())
    }
}

fn subscribe(hub: &Arc<Hub>, from: Option<Arc<[LogCursor]>>) -> Subscription {
    let options = Arc::new(SubscribeOptions::new());
    let joined = hub.subscribe(&options, Accepts::Frames, from, Arc::new(())).unwrap();
    Subscription::new(Frames::new(vec![(Scope::Flows, joined)], Arc::new(NoLag)))
}

#[derive(Debug, Clone, Copy)]
enum Event {
    Append(usize, Arrival, u32),
    Late,
    Missed,
    Pause(u64),
    Trim(usize, usize),
    TakeOver(usize, usize, bool),
    Lose(usize, usize),
    Save(usize),
    Restore(usize),
    Join(u64),
    Resume(usize),
}

#[derive(Debug, Clone, Copy)]
enum Arrival {
    Now,
    Twice,
    Late,
    Never,
}

fn events(history_changes: bool) -> impl Strategy<Value = Vec<Event>> {
    let arrival = prop_oneof![
        8 => Just(Arrival::Now), 1 => Just(Arrival::Twice), 1 => Just(Arrival::Late), 1 => Just(Arrival::Never)
    ];
    let log = 0..usize::from(PARTITIONS);
    let changes = u32::from(history_changes);
    let event = prop_oneof![
        20 => (log.clone(), arrival, 1u32..8).prop_map(|(log, arrival, count)| Event::Append(log, arrival, count)),
        3 => Just(Event::Late),
        2 => Just(Event::Missed),
        8 => (0u64..4_000).prop_map(Event::Pause),
        2 * changes => (log.clone(), 0usize..5).prop_map(|(log, count)| Event::Trim(log, count)),
        changes => (log.clone(), prop_oneof![4 => 1usize..6, 1 => Just(1_000)])
            .prop_map(|(log, lost)| Event::Lose(log, lost)),
        changes => (log.clone(), any::<bool>())
            .prop_map(|(log, save)| if save { Event::Save(log) } else { Event::Restore(log) }),
        2 * changes => (log, 0usize..6, any::<bool>())
            .prop_map(|(log, lost, behind)| Event::TakeOver(log, lost, behind)),
        1 => (0usize..2).prop_map(Event::Resume),
        1 => (0u64..3_000).prop_map(Event::Join),
    ];
    prop::collection::vec(event, 0..120)
}

fn arrive(hub: &Arc<Hub>, messages: Vec<Bytes>, arrival: Arrival, late: &mut VecDeque<Bytes>) {
    match arrival {
        Arrival::Never => {}
        Arrival::Late => late.extend(messages),
        Arrival::Twice => hub.pushed(messages.clone().into_iter().chain(messages)),
        Arrival::Now => hub.pushed(messages.into_iter()),
    }
}

async fn play(
    events: Vec<Event>,
    history_changes: bool,
    capacity: usize,
    fail_every: u64,
) -> Result<(), TestCaseError> {
    let logs = Logs::new(fail_every);
    logs.on(0, |server| drop(server.append()));
    let hub = hub(&logs, capacity);
    while hub.start().await.is_err() {}
    let _reader = crate::net::connection::Task::spawn(hub.clone().read_logs());
    let all = |_: u64| true;
    let mut readers = vec![
        Reader::open(&hub, &logs, &ScannerFilter::NOOP, all, Duration::ZERO),
        Reader::open(&hub, &logs, &ScannerFilter::NOOP, all, Duration::from_micros(1_500)),
        Reader::open(&hub, &logs, &filter("a"), |n| n % 2 == 1, Duration::from_micros(700)),
        Reader::open(&hub, &logs, &filter("b"), |n| n % 2 == 0, Duration::from_millis(4)),
    ];
    let mut witnesses = vec![
        Witness::open(&hub, &Start::Now, Duration::ZERO),
        Witness::open(&hub, &Start::Now, Duration::from_micros(1_200)),
    ];
    let mut late: VecDeque<Bytes> = VecDeque::new();
    for event in events {
        match event {
            Event::Append(log, arrival, count) => {
                let messages: Vec<Bytes> = (0..count).map(|_| message(&logs.on(log, Server::append))).collect();
                arrive(&hub, messages, arrival, &mut late);
            }
            Event::Late => hub.pushed(late.pop_front().into_iter()),
            Event::Missed => hub.missed(),
            Event::Pause(us) => tokio::time::sleep(Duration::from_micros(us)).await,
            Event::Trim(log, count) => logs.on(log, |server| server.trim(count)),
            Event::TakeOver(log, lost, behind) => drop(logs.on(log, |server| server.take_over(lost, behind))),
            Event::Lose(log, lost) => logs.on(log, |server| server.lose(lost)),
            Event::Save(log) => logs.on(log, Server::save),
            Event::Restore(log) => logs.on(log, Server::restore),
            Event::Resume(witness) => witnesses[witness].resume.send(()).unwrap(),
            Event::Join(us) => {
                readers.push(Reader::open(&hub, &logs, &ScannerFilter::NOOP, all, Duration::from_micros(us)));
                if us % 3 == 0 {
                    readers.remove(1);
                }
            }
        }
    }
    witnesses.push(Witness::open(&hub, &Start::Earliest, Duration::from_micros(200)));
    for log in 0..usize::from(PARTITIONS) {
        if history_changes && logs.on(log, |server| server.head()).is_none() {
            // Trimmed entries of a log that is empty are detected with its next entry.
            logs.on(log, |server| drop(server.append()));
        }
    }
    hub.missed();
    for reader in &readers {
        reader.check(&logs).await?;
    }
    for witness in &witnesses {
        witness.check(&logs).await?;
    }
    prop_assert_eq!(hub.counts(), (readers.len() + witnesses.len(), 0), "all are live at last");
    drop((readers, witnesses));
    tokio::time::sleep(Duration::from_millis(1)).await;
    prop_assert_eq!(hub.counts(), (0, 0));
    Ok(())
}

/// The clock advances only when all tasks wait, and pauses vary in the same way each time.
fn in_simulated_time(future: impl Future<Output = Result<(), TestCaseError>>) -> Result<(), TestCaseError> {
    fastrand::seed(0);
    tokio::runtime::Builder::new_current_thread().enable_time().start_paused(true).build().unwrap().block_on(future)
}

#[test]
fn entries_restored_during_a_look_up_do_not_count_as_trimmed() {
    let back_again = async {
        let logs = Logs::new(u64::MAX);
        let entries: Vec<EntryId> = (0..4).map(|_| logs.on(0, Server::append).entry).collect();
        let hub = hub(&logs, 8);
        hub.start().await.unwrap();
        logs.on(0, |server| {
            server.save();
            server.lose(2);
        });
        let mut from = vec![LogCursor::default(); usize::from(PARTITIONS)];
        from[0] = LogCursor::after(Some(entries[1]));
        let mut subscription = subscribe(&hub, Some(from.into()));
        // Each request to the server takes a tick of the clock. The page was read in the first one; the epochs are in
        // the third.
        tokio::time::sleep(Duration::from_micros(1_500)).await;
        logs.on(0, Server::restore);
        let mut frames = Vec::new();
        while frames.last() != Some(&Frame::CaughtUp) {
            frames.extend(subscription.next().await);
        }
        let frames: Vec<String> = frames.iter().map(shown).filter(|frames| frames != "checkpoint").collect();
        prop_assert_eq!(frames, ["{fp:0}@10-2", "{fp:0}@10-3", "caught up"]);
        Ok(())
    };
    in_simulated_time(back_again).unwrap();
}

#[test]
fn endless_requests_for_comparisons_do_not_stop_the_reading_of_logs() {
    let always_asked = async {
        let logs = Logs::new(u64::MAX);
        let hub = hub(&logs, 8);
        hub.start().await.unwrap();
        let _reader = crate::net::connection::Task::spawn(hub.clone().read_logs());
        let asking = hub.clone();
        let _asking = crate::net::connection::Task::spawn(async move {
            loop {
                asking.missed();
                tokio::time::sleep(Duration::from_micros(100)).await;
            }
        });
        let mut subscription = subscribe(&hub, None);
        for _ in 0..3 {
            logs.on(1, Server::append);
        }
        let mut frames = Vec::new();
        while frames.len() < 3 {
            let frame = tokio::time::timeout(COMPARE_EVERY, subscription.next()).await;
            prop_assert!(frame.is_ok(), "nothing is read");
            frames.extend(frame.ok().flatten().filter(|frame| matches!(frame, Frame::Completion(_))));
        }
        Ok(())
    };
    in_simulated_time(always_asked).unwrap();
}

#[test]
fn a_subscription_that_catches_up_retracts_forged_events_from_before() {
    let forged = async {
        let logs = Logs::new(u64::MAX);
        let hub = hub(&logs, 2);
        hub.start().await.unwrap();
        let _reader = crate::net::connection::Task::spawn(hub.clone().read_logs());
        let mut subscription = subscribe(&hub, None);
        let shown = logs.on(0, Server::append);
        let other = LogEntry {
            event: Some(simulated::event(
                LogId { partition: partition(0), scope: Scope::Flows },
                Some(shown.entry),
                77,
            )),
            ..shown.clone()
        };
        hub.pushed([message(&other)].into_iter());
        let more: Vec<Bytes> = (0..4).map(|_| message(&logs.on(1, Server::append))).collect();
        hub.pushed(more.into_iter());
        prop_assert_eq!(hub.counts().1, 1, "it is catching up");
        hub.pushed([message(&shown)].into_iter());
        tokio::time::sleep(COMPARE_EVERY).await;
        let mut frames = Vec::new();
        while frames.len() < 7 {
            let frame = tokio::time::timeout(COMPARE_EVERY * 3, subscription.next()).await;
            prop_assert!(frame.is_ok(), "{:?}", frames);
            frames.extend(frame.ok().flatten().filter(|frame| matches!(frame, Frame::Completion(_) | Frame::Gap(_))));
        }
        let of_log: Vec<String> = frames.iter().map(self::shown).filter(|frames| frames.contains("{fp:0}")).collect();
        let entry = format!("{{fp:0}}@{}", shown.entry);
        let gap = format!("({{fp:0}}: forged from the log's start through {})", shown.entry);
        prop_assert_eq!(of_log, [entry.clone(), gap, entry]);
        let ids: Vec<u64> = frames
            .iter()
            .filter_map(|frame| match frame {
                Frame::Completion(event) if event.execution_id.partition() == partition(0) => Some(number(event)),
                _ => None,
            })
            .collect();
        prop_assert_eq!(ids, [77, 0]);
        Ok(())
    };
    in_simulated_time(forged).unwrap();
}

#[test]
fn an_unreadable_log_stops_neither_the_hub_nor_a_catch_up_of_other_logs() {
    let refused = async {
        let logs = Logs::new(u64::MAX);
        let earlier: Vec<EntryId> = (0..3).map(|log| logs.on(log, Server::append).entry).collect();
        *logs.refused.lock().unwrap() = Some(0);
        let hub = hub(&logs, 8);
        hub.start().await.unwrap();
        let _reader = crate::net::connection::Task::spawn(hub.clone().read_logs());
        let mut live = subscribe(&hub, None);
        let mut behind = subscribe(&hub, Some(vec![LogCursor::earliest(); usize::from(PARTITIONS)].into()));
        // Never pushed.
        let found: Vec<EntryId> = [1, 2].map(|log| logs.on(log, Server::append).entry).into();
        let next = async |subscription: &mut Subscription, count: usize| {
            let mut entries = Vec::new();
            while entries.len() < count {
                let frame = tokio::time::timeout(COMPARE_EVERY * 3, subscription.next()).await.ok().flatten();
                match frame.expect("the other logs are not affected") {
                    Frame::Completion(event) => {
                        entries.extend(event.position.map(|at| (at.log.partition.number(), at.entry)));
                    }
                    Frame::Gap(gap) => panic!("{gap}"),
                    _ => {}
                }
            }
            entries.sort_unstable();
            entries
        };
        prop_assert_eq!(next(&mut live, 2).await, [(1, found[0]), (2, found[1])]);
        let all = [(1, earlier[1]), (1, found[0]), (2, earlier[2]), (2, found[1])];
        prop_assert_eq!(next(&mut behind, 4).await, all);
        let unreadable: Vec<LogId> = hub.unreadable().into_iter().map(|(log, _)| log).collect();
        prop_assert_eq!(unreadable, [LogId { partition: partition(0), scope: Scope::Flows }]);
        *logs.refused.lock().unwrap() = None;
        prop_assert_eq!(next(&mut live, 1).await, [(0, earlier[0])]);
        prop_assert_eq!(next(&mut behind, 1).await, [(0, earlier[0])]);
        prop_assert!(hub.unreadable().is_empty());
        Ok(())
    };
    in_simulated_time(refused).unwrap();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    #[test]
    fn every_subscription_gets_everything_once_in_order_at_its_own_pace(
        events in events(false), capacity in 1usize..20, fail_every in 3u64..40,
    ) {
        in_simulated_time(play(events, false, capacity, fail_every))?;
    }

    #[test]
    fn no_subscription_loses_or_repeats_entries_that_a_changed_history_still_holds(
        events in events(true), capacity in 1usize..20, fail_every in 3u64..40,
    ) {
        in_simulated_time(play(events, true, capacity, fail_every))?;
    }
}
