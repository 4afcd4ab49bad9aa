#[path = "frontier_tests/comparison.rs"]
mod comparison;

use ff_core::EngineError;
use proptest::prelude::*;

use super::*;
use crate::completions::simulated::{Account, Server, compared, event, number};

#[derive(Debug, Default)]
struct Out {
    numbers: Vec<u64>,
    /// Deliveries and gaps, in order.
    delivered: Vec<Delivered>,
    unknown: usize,
}

#[derive(Debug)]
enum Delivered {
    Entry(EntryId),
    Gap(Gap),
}

impl Out {
    fn gaps(&self) -> usize {
        self.delivered.iter().filter(|delivered| matches!(delivered, Delivered::Gap(_))).count()
    }
}

impl Deliver for Out {
    fn deliver(&mut self, event: &Arc<CompletionPayload>, _before: &[LogReader]) {
        self.numbers.push(number(event));
        self.delivered.extend(event.position.map(|position| Delivered::Entry(position.entry)));
    }
    fn gap(&mut self, gap: &Gap, _before: &[LogReader]) {
        self.delivered.push(Delivered::Gap(*gap));
    }
    fn duplicate(&mut self) {}
    fn unknown(&mut self, _log: LogId, _entry: EntryId) {
        self.unknown += 1;
    }
}

fn one_log() -> Frontier {
    Frontier::new(Scope::Flows, PartitionCount::new(1).unwrap())
}

fn the_log() -> LogId {
    LogId { partition: Partition::new(0), scope: Scope::Flows }
}

/// Executes one read that the frontier plans. `false` if none is planned.
fn work(frontier: &mut Frontier, server: &Server, out: &mut Out, limit: usize) -> bool {
    let Some(work) = frontier.work(1).pop() else {
        let later = frontier.waiting().later;
        frontier.wake_later();
        return later;
    };
    match work {
        Work::Page(log, after) => {
            let page = server.page(after, None, limit);
            let is_last = page.len() < limit;
            frontier.page(log, page, is_last, out);
        }
        Work::Epochs(log) => frontier.epochs(log, &server.ends(), out),
    }
    true
}

fn compare(frontier: &mut Frontier, server: &Server) -> bool {
    let asked = frontier.compare(true);
    let heads = answered(&asked, server);
    frontier.heads(&asked, 1, heads)
}

fn answered(asked: &Comparison, server: &Server) -> OfEach<Head> {
    asked.logs.iter().map(|(_, has)| Ok(compared(server.newest(), *has))).collect()
}

/// Compares as if the server reported to which logs it has appended.
fn compare_reported(frontier: &mut Frontier, server: &Server, appended: bool) -> bool {
    let mut asked = frontier.compare(false);
    let appended = server.newest().filter(|_| appended).map(|newest| (the_log(), newest));
    frontier.narrow(&mut asked, appended.into_iter().collect());
    let heads = answered(&asked, server);
    frontier.heads(&asked, 1, heads)
}

/// A forged announcement at the position of an entry.
fn forged(shown: &LogEntry, number: u64) -> LogEntry {
    LogEntry { event: Some(event(the_log(), Some(shown.entry), number)), ..*shown }
}

/// Compares and reads until nothing is left, as the hub does every few seconds.
fn settle(frontier: &mut Frontier, server: &Server, out: &mut Out, limit: usize) {
    for _ in 0..3 {
        compare(frontier, server);
        let mut left = 10_000;
        while work(frontier, server, out, limit) {
            left -= 1;
            assert!(left > 0, "never finished: {frontier:?}");
        }
    }
}

fn start(frontier: &mut Frontier, server: &Server, out: &mut Out) {
    frontier.starts(1, vec![Ok(server.start())], out);
}

#[test]
fn pushes_between_the_acknowledgement_and_the_heads_are_not_missed() {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    let before = server.append();
    let head = server.start();
    let after = [server.append(), server.append()];
    for shown in [before].into_iter().chain(after) {
        assert!(frontier.push(the_log(), shown, &mut out));
    }
    assert!(out.numbers.is_empty());
    frontier.starts(1, vec![Ok(head)], &mut out);
    assert_eq!((out.numbers, frontier.reading()), (vec![1, 2], 0));
}

#[test]
fn pushes_during_a_reading_do_not_overtake_it() {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    start(&mut frontier, &server, &mut out);
    let shown: Vec<LogEntry> = (0..4).map(|_| server.append()).collect();
    frontier.push(the_log(), shown[1].clone(), &mut out);
    let Work::Page(log, after) = frontier.work(1)[0] else { panic!("a page") };
    let page = server.page(after, None, 3);
    frontier.push(the_log(), shown[3].clone(), &mut out);
    assert!(out.numbers.is_empty());
    frontier.page(log, page, true, &mut out);
    assert_eq!((out.numbers, frontier.reading()), (vec![0, 1, 2, 3], 0));
}

#[test]
fn a_push_that_never_appears_in_the_log_is_given_up() {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    start(&mut frontier, &server, &mut out);
    let first = server.append();
    frontier.push(the_log(), first, &mut out);
    frontier.push(the_log(), stray(4), &mut out);
    while work(&mut frontier, &server, &mut out, 10) {}
    assert_eq!((out.unknown, frontier.reading(), out.numbers), (1, 0, vec![0]));
}

/// A push of an entry that is not in the log.
fn stray(seq: u64) -> LogEntry {
    LogEntry { entry: EntryId { epoch: 99, seq }, prev: None, event: Some(event(the_log(), None, 7)) }
}

#[test]
fn pushes_that_never_appear_in_the_log_are_given_up_together() {
    let (mut frontier, server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    start(&mut frontier, &server, &mut out);
    for seq in 4..100 {
        frontier.push(the_log(), stray(seq), &mut out);
    }
    let mut pauses = 0;
    loop {
        let pause = frontier.waiting().later;
        pauses += u32::from(pause);
        // A push that arrives while others are waited for is not given up with them.
        if pause && pauses == 2 {
            frontier.push(the_log(), stray(100), &mut out);
        }
        if pause && pauses == UNKNOWN_RETRIES + 1 {
            assert_eq!((out.unknown, frontier.held), (96, 1));
        }
        if !work(&mut frontier, &server, &mut out, 10) {
            break;
        }
    }
    assert_eq!((pauses, out.unknown, frontier.reading(), frontier.held), (2 * UNKNOWN_RETRIES, 97, 0, 0));
}

#[test]
fn more_pushes_than_are_held_are_read_from_the_log() {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    start(&mut frontier, &server, &mut out);
    server.append();
    let total = HELD_PUSHES * 2;
    for _ in 0..total {
        let shown = server.append();
        frontier.push(the_log(), shown, &mut out);
    }
    assert_eq!(frontier.held, HELD_PUSHES);
    settle(&mut frontier, &server, &mut out, 256);
    assert!(out.numbers.iter().copied().eq(0..=total as u64));
    assert_eq!((frontier.held, frontier.reading(), out.gaps()), (0, 0, 0));
}

#[test]
fn the_newest_head_reported_before_a_log_is_read_is_kept() {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    start(&mut frontier, &server, &mut out);
    for _ in 0..100 {
        server.append();
        compare(&mut frontier, &server);
    }
    assert_eq!(frontier.held, 1);
    frontier.work(1);
    for _ in 0..100 {
        server.append();
        compare(&mut frontier, &server);
    }
    // A read in progress that does not contain the newer entry does not disprove it.
    assert_eq!(frontier.held, 2);
    settle(&mut frontier, &server, &mut out, 7);
    assert!(out.numbers.iter().copied().eq(0..200));
    assert_eq!((frontier.held, frontier.reading(), out.unknown), (0, 0, 0));
}

#[test]
fn an_unknown_partition_is_refused() {
    let mut frontier = one_log();
    let log = LogId { partition: Partition::new(1), scope: Scope::Flows };
    assert!(!frontier.push(log, Server::of(the_log()).append(), &mut Out::default()));
}

#[test]
fn a_lost_tail_is_declared_although_nothing_was_appended_to_the_log_since() {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    start(&mut frontier, &server, &mut out);
    for _ in 0..5 {
        let shown = server.append();
        frontier.push(the_log(), shown, &mut out);
    }
    let through = server.last().unwrap();
    server.lose(2);
    settle(&mut frontier, &server, &mut out, 10);
    let cause = GapCause::HistoryRewritten;
    let rolled_back = Gap::new(the_log(), server.last(), through, cause);
    assert!(matches!(&out.delivered[5..], [Delivered::Gap(gap)] if *gap == rolled_back), "{out:?}");
    assert_eq!(frontier.readers()[0].cursor().last(), server.last());
}

#[test]
fn a_head_that_was_read_before_a_push_is_not_a_lost_tail() {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    let first = server.append();
    start(&mut frontier, &server, &mut out);
    let asked = frontier.compare(true);
    let shown = server.append();
    frontier.push(the_log(), shown, &mut out);
    let head = Head::At(Newest { entry: first.entry, execution: None });
    assert!(!frontier.heads(&asked, 7, vec![Ok(head)]));
    assert_eq!((frontier.reading(), frontier.complete_as_of()), (0, Some(7)));
}

#[test]
fn only_logs_without_pushes_are_compared() {
    let mut frontier = Frontier::new(Scope::Flows, PartitionCount::new(2).unwrap());
    let mut server = Server::of(the_log());
    let mut out = Out::default();
    frontier.starts(1, vec![Ok(server.start()), Ok(LogCursor::default())], &mut out);
    let shown = server.append();
    frontier.push(the_log(), shown, &mut out);
    let other = LogId { partition: Partition::new(1), scope: Scope::Flows };
    let compared =
        |frontier: &mut Frontier, all| frontier.compare(all).logs.iter().map(|(log, _)| *log).collect::<Vec<_>>();
    assert_eq!(compared(&mut frontier, false), [other]);
    assert_eq!(compared(&mut frontier, false), [the_log(), other], "one push, none since");
    assert_eq!(compared(&mut frontier, true), [the_log(), other]);
}

#[test]
fn if_the_server_reports_the_logs_that_grew_the_others_are_compared_within_a_few_rounds() {
    let mut frontier = Frontier::new(Scope::Flows, PartitionCount::new(8).unwrap());
    frontier.starts(1, (0..8).map(|_| Ok(LogCursor::default())).collect(), &mut Out::default());
    let mut rounds = Vec::new();
    for at_ms in 2..6 {
        let mut asked = frontier.compare(false);
        frontier.narrow(&mut asked, Vec::new());
        rounds.push(asked.logs.iter().map(|(log, _)| log.partition.number()).collect::<Vec<_>>());
        let known = asked.logs.iter().map(|_| Ok(Head::Known)).collect();
        assert!(!frontier.heads(&asked, at_ms, known));
        assert_eq!(frontier.complete_as_of(), Some(at_ms), "a log without appended entries is complete");
    }
    assert_eq!(rounds, [[0, 1], [2, 3], [4, 5], [6, 7]]);
}

/// A log of three entries that a process received as pushes, and a fourth entry whose position a forged push announces
/// first.
fn with_a_forged_push() -> (Frontier, Server, Out, LogEntry) {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    start(&mut frontier, &server, &mut out);
    for _ in 0..3 {
        let shown = server.append();
        frontier.push(the_log(), shown, &mut out);
    }
    let shown = server.append();
    frontier.push(the_log(), forged(&shown, 77), &mut out);
    assert_eq!(out.numbers, [0, 1, 2, 77]);
    (frontier, server, out, shown)
}

fn assert_taken_back(server: &Server, out: &Out, shown: &LogEntry) {
    let gap = Gap::new(the_log(), server.before(shown.entry), shown.entry, GapCause::Forged);
    let [Delivered::Gap(found), Delivered::Entry(entry), ..] = &out.delivered[4..] else { panic!("{out:?}") };
    assert_eq!((*found, *entry), (gap, shown.entry), "{out:?}");
    assert_eq!(out.numbers[..5], [0, 1, 2, 77, 3]);
    assert_eq!(out.gaps(), 1);
}

#[test]
fn a_forged_push_is_retracted_when_the_true_one_arrives() {
    let (mut frontier, mut server, mut out, shown) = with_a_forged_push();
    frontier.push(the_log(), shown.clone(), &mut out);
    while work(&mut frontier, &server, &mut out, 10) {}
    assert_taken_back(&server, &out, &shown);
    let next = server.append();
    frontier.push(the_log(), next, &mut out);
    assert_eq!((out.numbers.last(), frontier.reading()), (Some(&4), 0), "pushes are delivered as before");
}

#[test]
fn a_forged_push_is_retracted_when_the_newest_entry_contradicts_it() {
    for delivered in [true, false] {
        let (mut frontier, server, mut out, shown) = with_a_forged_push();
        if delivered {
            compare_reported(&mut frontier, &server, true)
        } else {
            compare(&mut frontier, &server)
        };
        while work(&mut frontier, &server, &mut out, 10) {}
        assert_taken_back(&server, &out, &shown);
    }
}

#[test]
fn a_forged_push_is_retracted_when_the_log_is_read_for_another_reason() {
    let (mut frontier, mut server, mut out, shown) = with_a_forged_push();
    let next = server.append();
    frontier.push(the_log(), next, &mut out);
    assert_eq!(out.numbers, [0, 1, 2, 77, 4]);
    frontier.push(the_log(), shown, &mut out);
    while work(&mut frontier, &server, &mut out, 10) {}
    assert_eq!(out.numbers, [0, 1, 2, 77, 4, 3, 4], "everything from the forged one on is delivered again");
    assert_eq!(out.gaps(), 1);
}

#[test]
fn a_push_beyond_the_end_of_the_log_is_declared_as_rolled_back() {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    start(&mut frontier, &server, &mut out);
    let shown = server.append();
    frontier.push(the_log(), shown.clone(), &mut out);
    compare_reported(&mut frontier, &server, true);
    let beyond = EntryId { seq: shown.entry.seq + 1, ..shown.entry };
    frontier.push(the_log(), forged(&LogEntry { entry: beyond, ..shown.clone() }, 77), &mut out);
    // The server has appended nothing, but a push arrived.
    compare_reported(&mut frontier, &server, false);
    while work(&mut frontier, &server, &mut out, 10) {}
    let rolled_back = Gap::new(the_log(), Some(shown.entry), beyond, GapCause::HistoryRewritten);
    assert!(matches!(&out.delivered[2..], [Delivered::Gap(gap)] if *gap == rolled_back), "{out:?}");
}

#[test]
fn a_push_that_contradicts_a_true_one_retracts_nothing() {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    start(&mut frontier, &server, &mut out);
    let shown = server.append();
    frontier.push(the_log(), shown.clone(), &mut out);
    frontier.push(the_log(), forged(&shown, 77), &mut out);
    while work(&mut frontier, &server, &mut out, 10) {}
    assert_eq!((&out.numbers[..], out.gaps(), frontier.reading()), (&[0][..], 0, 0));
}

#[test]
fn an_unreadable_log_delays_no_other_and_loses_nothing() {
    let count = PartitionCount::new(2).unwrap();
    let (mut frontier, mut out) = (Frontier::new(Scope::Flows, count), Out::default());
    let (mut server, mut good) =
        (Server::of(the_log()), Server::of(LogId { partition: Partition::new(1), ..the_log() }));
    let refused = || EngineError::transport("reading", "WRONGTYPE");
    frontier.starts(1, vec![Err(refused()), Ok(good.start())], &mut out);
    assert_eq!(frontier.unreadable().map(|(log, _)| log).collect::<Vec<_>>(), [the_log()]);
    for _ in 0..5_000 {
        let (shown, other) = (server.append(), good.append());
        frontier.push(the_log(), shown, &mut out);
        frontier.push(other.event.as_ref().unwrap().position.unwrap().log, other, &mut out);
    }
    assert_eq!((out.numbers.len(), frontier.held), (5_000, 0));
    for _ in 0..2 {
        frontier.wake_unreadable();
        assert_eq!(frontier.work(8), [Work::Page(the_log(), None)]);
        frontier.failed(the_log(), "WRONGTYPE".to_owned());
        assert!(frontier.work(8).is_empty(), "it is not retried repeatedly");
    }
    frontier.wake_unreadable();
    while work(&mut frontier, &server, &mut out, 300) {}
    assert_eq!((out.numbers.len(), frontier.unreadable().count(), frontier.reading()), (10_000, 0, 0));
}

#[test]
fn an_unreadable_entry_is_a_gap_of_one() {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    start(&mut frontier, &server, &mut out);
    let mut shown: Vec<LogEntry> = (0..3).map(|_| server.append()).collect();
    shown[1].event = None;
    for shown in shown.clone() {
        frontier.push(the_log(), shown, &mut out);
    }
    let gap = Gap::new(the_log(), Some(shown[0].entry), shown[1].entry, GapCause::Unreadable);
    assert_eq!(out.numbers, [0, 2]);
    assert!(matches!(&out.delivered[1], Delivered::Gap(found) if *found == gap));
}

#[derive(Debug, Clone)]
enum Event {
    /// An entry is appended and its push arrives, is lost, or arrives later.
    Append(Arrival),
    /// Late pushes arrive now, some of them twice.
    Late,
    Work,
    /// Heads are requested and read; the answer arrives now or later.
    Heads(bool),
    Trim(usize),
    TakeOver(usize, bool),
    Lose(usize),
    Save,
    Restore,
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
        10 => arrival.prop_map(Event::Append), 2 => Just(Event::Late), 4 => Just(Event::Work),
        1 => any::<bool>().prop_map(Event::Heads)
    ]
    .boxed();
    let event = if history_changes {
        prop_oneof![
            12 => calm,
            1 => (0usize..4).prop_map(Event::Trim),
            2 => (0usize..5, any::<bool>()).prop_map(|(lost, behind)| Event::TakeOver(lost, behind)),
            1 => prop_oneof![4 => 1usize..4, 1 => Just(1_000)].prop_map(Event::Lose),
            1 => prop_oneof![Just(Event::Save), Just(Event::Restore)],
        ]
        .boxed()
    } else {
        prop_oneof![20 => calm, 1 => any::<bool>().prop_map(|_| Event::TakeOver(0, false))].boxed()
    };
    prop::collection::vec(event, 0..80)
}

fn play(events: Vec<Event>, before: usize, limit: usize) -> (Server, Out, u64, Result<(), String>) {
    let (mut frontier, mut server, mut out) = (one_log(), Server::of(the_log()), Out::default());
    for _ in 0..before {
        server.append();
    }
    start(&mut frontier, &server, &mut out);
    let mut account = Account::starting_after(server.last());
    let mut judged = Ok(());
    let mut late: VecDeque<LogEntry> = VecDeque::new();
    let mut asked: Option<(Comparison, OfEach<Head>)> = None;
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
                        frontier.push(the_log(), shown, &mut out);
                    }
                }
            }
            Event::Late => {
                if let Some(shown) = late.pop_front() {
                    frontier.push(the_log(), shown, &mut out);
                }
            }
            Event::Work => {
                work(&mut frontier, &server, &mut out, limit);
            }
            Event::Heads(later) => {
                let mut ask = || {
                    let comparison = frontier.compare(true);
                    let heads = answered(&comparison, &server);
                    (comparison, heads)
                };
                let (comparison, heads) = asked.take().unwrap_or_else(&mut ask);
                if later {
                    asked = Some((comparison, heads));
                } else {
                    frontier.heads(&comparison, 1, heads);
                }
            }
            Event::Trim(count) => server.trim(count),
            Event::TakeOver(lost, behind) => drop(server.take_over(lost, behind)),
            Event::Lose(lost) => server.lose(lost),
            Event::Save => server.save(),
            Event::Restore => server.restore(),
        }
        judged = judged.and_then(|()| report(&mut account, &mut out, &server));
    }
    settle(&mut frontier, &server, &mut out, limit);
    if server.head().is_none() {
        // Trimmed entries of a log that is empty are detected with its next entry.
        server.append();
        settle(&mut frontier, &server, &mut out, limit);
    }
    let judged = judged.and_then(|()| report(&mut account, &mut out, &server)).and_then(|()| account.settle(&server));
    assert_eq!((frontier.held, frontier.reading()), (0, 0));
    (server, out, before as u64, judged)
}

/// Passes the deliveries since the previous call to the account.
fn report(account: &mut Account, out: &mut Out, server: &Server) -> Result<(), String> {
    for delivered in out.delivered.drain(..) {
        match delivered {
            Delivered::Entry(entry) => account.delivered(entry)?,
            Delivered::Gap(gap) => account.gap(&gap, server)?,
        }
    }
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 4_000, ..ProptestConfig::default() })]

    #[test]
    fn everything_is_delivered_once_in_order_despite_lost_late_and_repeated_pushes(
        events in events(false), before in 0usize..4, limit in 1usize..6,
    ) {
        let (server, out, before, judged) = play(events, before, limit);
        prop_assert!(out.numbers.iter().copied().eq(before..server.next()), "{out:?} of {server:?}");
        prop_assert_eq!(judged, Ok(()));
    }

    #[test]
    fn each_position_is_delivered_once_or_is_in_an_exact_gap_despite_changed_histories(
        events in events(true), before in 0usize..4, limit in 1usize..6,
    ) {
        let (server, out, _, judged) = play(events, before, limit);
        prop_assert_eq!(judged, Ok(()), "{:?} of {:?}", out.numbers, server);
    }
}
