use proptest::prelude::*;

use super::*;
use crate::simulated::{Server, event, number};

#[derive(Debug, Default)]
struct Out {
    numbers: Vec<u64>,
    gaps: Vec<GapCause>,
    unknown: usize,
}

impl Deliver for Out {
    fn deliver(&mut self, event: &Arc<CompletionPayload>, _before: &[LogCursor]) {
        self.numbers.push(number(event));
    }
    fn gap(&mut self, _log: LogId, cause: GapCause, _after: Option<EntryId>, _next: EntryId) {
        self.gaps.push(cause);
    }
    fn unreadable(&mut self, _log: LogId, _entry: EntryId) {}
    fn duplicate(&mut self) {}
    fn unknown(&mut self, _log: LogId, _entry: EntryId) {
        self.unknown += 1;
    }
}

fn one_log() -> Vector {
    Vector::new(Scope::Flows, PartitionCount::new(1).unwrap())
}

fn the_log() -> LogId {
    LogId { partition: Partition::new(0), scope: Scope::Flows }
}

/// Does one piece of what the vector asks for. `false` when it asks for nothing.
fn work(vector: &mut Vector, server: &Server, out: &mut Out, limit: usize) -> bool {
    let Some(work) = vector.work(1).pop() else {
        let later = vector.has_later();
        vector.wake_later();
        return later;
    };
    match work {
        Work::Page(log, after) => {
            let page = server.page(after, None, limit);
            vector.page(log, &page, page.len() < limit, out);
        }
        Work::Epochs(log) => vector.epochs(log, &server.ends()),
    }
    true
}

fn settle(vector: &mut Vector, server: &Server, out: &mut Out, limit: usize) {
    vector.heads(&[server.head()], out);
    for _ in 0..10_000 {
        if !work(vector, server, out, limit) {
            return;
        }
    }
    panic!("never done: {vector:?}");
}

#[test]
fn pushes_between_the_acknowledgement_and_the_heads_are_not_missed() {
    let (mut vector, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    let before = server.append();
    let head = server.head();
    let after = [server.append(), server.append()];
    for shown in [before].into_iter().chain(after) {
        assert!(vector.push(the_log(), shown, &mut out));
    }
    assert!(out.numbers.is_empty());
    vector.heads(&[head], &mut out);
    assert_eq!((out.numbers, vector.reading()), (vec![1, 2], 0));
}

#[test]
fn pushes_during_a_reading_do_not_overtake_it() {
    let (mut vector, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    vector.heads(&[None], &mut out);
    let shown: Vec<Shown> = (0..4).map(|_| server.append()).collect();
    vector.push(the_log(), shown[1].clone(), &mut out);
    let Work::Page(log, after) = vector.work(1)[0] else { panic!("a page") };
    let page = server.page(after, None, 3);
    vector.push(the_log(), shown[3].clone(), &mut out);
    assert!(out.numbers.is_empty());
    vector.page(log, &page, true, &mut out);
    assert_eq!((out.numbers, vector.reading()), (vec![0, 1, 2, 3], 0));
}

#[test]
fn a_push_that_the_log_never_shows_is_given_up() {
    let (mut vector, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    vector.heads(&[None], &mut out);
    let first = server.append();
    vector.push(the_log(), first, &mut out);
    let stray = Shown { entry: EntryId { epoch: 99, seq: 4 }, prev: None, event: Some(event(the_log(), None, 7)) };
    vector.push(the_log(), stray, &mut out);
    while work(&mut vector, &server, &mut out, 10) {}
    assert_eq!((out.unknown, vector.reading(), out.numbers), (1, 0, vec![0]));
}

#[test]
fn more_pushes_than_are_held_are_read_from_the_log() {
    let (mut vector, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    vector.heads(&[None], &mut out);
    server.append();
    let total = HELD_PUSHES * 2;
    for _ in 0..total {
        let shown = server.append();
        vector.push(the_log(), shown, &mut out);
    }
    assert_eq!(vector.held, HELD_PUSHES);
    settle(&mut vector, &server, &mut out, 256);
    assert!(out.numbers.iter().copied().eq(0..=total as u64));
    assert_eq!((vector.held, vector.reading(), out.gaps.len()), (0, 0, 0));
}

#[test]
fn a_partition_that_is_not_there_is_refused() {
    let mut vector = one_log();
    let log = LogId { partition: Partition::new(1), scope: Scope::Flows };
    assert!(!vector.push(log, Server::of(the_log()).append(), &mut Out::default()));
}

#[derive(Debug, Clone)]
enum Event {
    /// An entry is appended and its push arrives, or does not, or later.
    Append(Arrival),
    /// Pushes that were late arrive now, some of them twice.
    Late,
    Work,
    Heads,
    Trim(usize),
    TakeOver(usize, bool),
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
        6 => Just(Arrival::Now), 1 => Just(Arrival::Twice), 2 => Just(Arrival::Late), 2 => Just(Arrival::Never)
    ];
    let calm = prop_oneof![
        10 => arrival.prop_map(Event::Append), 2 => Just(Event::Late), 4 => Just(Event::Work), 1 => Just(Event::Heads)
    ]
    .boxed();
    let event = if history_changes {
        prop_oneof![
            12 => calm,
            1 => (0usize..4).prop_map(Event::Trim),
            2 => (0usize..5, any::<bool>()).prop_map(|(lost, behind)| Event::TakeOver(lost, behind)),
        ]
        .boxed()
    } else {
        prop_oneof![20 => calm, 1 => any::<bool>().prop_map(|_| Event::TakeOver(0, false))].boxed()
    };
    prop::collection::vec(event, 0..80)
}

fn play(events: Vec<Event>, start: usize, limit: usize) -> (Server, Out, u64) {
    let (mut vector, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    for _ in 0..start {
        server.append();
    }
    vector.heads(&[server.head()], &mut out);
    let mut late: VecDeque<Shown> = VecDeque::new();
    for event in events {
        match event {
            Event::Append(arrival) => {
                let shown = server.append();
                match arrival {
                    Arrival::Never => {}
                    Arrival::Late => late.push_back(shown),
                    Arrival::Now | Arrival::Twice => {
                        if matches!(arrival, Arrival::Twice) {
                            late.push_back(shown.clone());
                        }
                        vector.push(the_log(), shown, &mut out);
                    }
                }
            }
            Event::Late => {
                if let Some(shown) = late.pop_front() {
                    vector.push(the_log(), shown, &mut out);
                }
            }
            Event::Work => {
                work(&mut vector, &server, &mut out, limit);
            }
            Event::Heads => vector.heads(&[server.head()], &mut out),
            Event::Trim(count) => server.trim(count),
            Event::TakeOver(lost, behind) => drop(server.take_over(lost, behind)),
        }
    }
    settle(&mut vector, &server, &mut out, limit);
    assert_eq!((vector.held, vector.reading()), (0, 0));
    (server, out, start as u64)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 2_000, ..ProptestConfig::default() })]

    #[test]
    fn whatever_is_lost_late_or_repeated_everything_is_delivered_once_in_order(
        events in events(false), start in 0usize..4, limit in 1usize..6,
    ) {
        let (server, out, start) = play(events, start, limit);
        prop_assert!(out.numbers.iter().copied().eq(start..server.next()), "{out:?} of {server:?}");
        prop_assert!(out.gaps.is_empty());
    }

    #[test]
    fn whatever_happens_to_the_history_nothing_that_the_log_holds_is_lost_or_repeated(
        events in events(true), start in 0usize..4, limit in 1usize..6,
    ) {
        let (server, out, start) = play(events, start, limit);
        let mut unique = out.numbers.clone();
        unique.sort_unstable();
        unique.dedup();
        prop_assert_eq!(unique.len(), out.numbers.len(), "repeated: {:?}", out);
        let held: Vec<u64> = server.numbers().filter(|n| *n >= start).collect();
        let delivered: Vec<u64> = out.numbers.iter().copied().filter(|n| held.contains(n)).collect();
        prop_assert_eq!(delivered, held, "{:?} of {:?}", out, server);
    }
}
