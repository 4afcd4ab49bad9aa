//! The findings of a comparison with the server, and when they are made.

use super::*;

/// The first of this many logs, all of them empty.
fn one_of(count: u16) -> Frontier {
    let mut frontier = Frontier::new(Scope::Flows, PartitionCount::new(count).unwrap());
    frontier.starts(1, (0..count).map(|_| Ok(LogCursor::default())).collect(), &mut Out::default());
    frontier
}

/// The server's answers for the first log; the other logs stay empty.
fn answers(asked: &Comparison, server: &Server) -> OfEach<Head> {
    let head = |log, has| if log == the_log() { compared(server.newest(), has) } else { Head::Known };
    asked.logs.iter().map(|(log, has)| Ok(head(*log, *has))).collect()
}

/// Compares at this time; the server reports whether it has appended to the first log.
fn compare_at(frontier: &mut Frontier, server: &Server, at_ms: u64, appended: bool) {
    let mut asked = frontier.compare(false);
    let appended = server.newest().filter(|_| appended).map(|newest| (the_log(), newest));
    frontier.narrow(&mut asked, appended.into_iter().collect());
    let heads = answers(&asked, server);
    frontier.heads(&asked, at_ms, heads);
}

fn gap_over(server: &Server, through: EntryId) -> Gap {
    Gap::new(the_log(), server.last(), through, GapCause::HistoryRewritten)
}

#[test]
fn a_push_that_waited_for_a_reading_and_was_lost_meanwhile_is_declared_after_the_next_comparison() {
    let (mut frontier, mut server, mut out) = (one_of(8), Server::of(the_log()), Out::default());
    let shown: Vec<LogEntry> = (0..3).map(|_| server.append()).collect();
    // The first of them was not pushed, so the log is read; the last one is lost before the read.
    for shown in &shown[1..] {
        frontier.push(the_log(), shown.clone(), &mut out);
    }
    server.lose(1);
    while work(&mut frontier, &server, &mut out, 10) {}
    assert_eq!(out.numbers, [0, 1, 2], "nothing distinguishes the lost one from the next one");
    frontier.turn = 1;
    compare_at(&mut frontier, &server, 1, false);
    while work(&mut frontier, &server, &mut out, 10) {}
    let gap = gap_over(&server, shown[2].entry);
    assert!(matches!(&out.delivered[3..], [Delivered::Gap(delivered)] if *delivered == gap), "{out:?}");
}

#[test]
fn a_comparison_that_fails_leaves_its_logs_to_the_next_one() {
    let mut frontier = one_of(8);
    let mut server = Server::of(the_log());
    let asked = |frontier: &mut Frontier| {
        let mut asked = frontier.compare(false);
        frontier.narrow(&mut asked, Vec::new());
        asked
    };
    let numbers = |asked: &Comparison| asked.logs.iter().map(|(log, _)| log.partition.number()).collect::<Vec<_>>();
    frontier.turn = 2;
    frontier.push(the_log(), server.append(), &mut Out::default());
    let failed = asked(&mut frontier);
    assert_eq!(numbers(&failed), [0, 2, 3], "logs with a push, and logs in turn");
    frontier.not_compared(&failed);
    assert_eq!(numbers(&asked(&mut frontier)), [0, 2, 3]);
    assert_eq!(numbers(&asked(&mut frontier)), [4, 5]);
}

#[test]
fn a_comparison_with_another_server_process_includes_the_logs_with_pushes() {
    let (mut frontier, mut server, mut out) = (one_of(8), Server::of(the_log()), Out::default());
    let shown: Vec<LogEntry> = (0..2).map(|_| server.append()).collect();
    for shown in &shown {
        frontier.push(the_log(), shown.clone(), &mut out);
    }
    server.lose(1);
    let mut asked = frontier.compare(false);
    frontier.widen(&mut asked);
    let heads = answers(&asked, &server);
    frontier.heads(&asked, 1, heads);
    while work(&mut frontier, &server, &mut out, 10) {}
    let gap = gap_over(&server, shown[1].entry);
    assert!(matches!(&out.delivered[2..], [Delivered::Gap(delivered)] if *delivered == gap), "{out:?}");
}

#[test]
fn a_push_in_flight_during_a_comparison_that_never_arrives_is_read() {
    let (mut frontier, mut server, mut out) = (one_of(8), Server::of(the_log()), Out::default());
    frontier.push(the_log(), server.append(), &mut out);
    // Not pushed, but the log had a push since the previous comparison.
    server.append();
    compare_at(&mut frontier, &server, 1, true);
    assert!(frontier.waiting().overdue && frontier.reading() == 0, "it may be in transit");
    frontier.read_overdue();
    while work(&mut frontier, &server, &mut out, 10) {}
    assert_eq!((out.numbers, frontier.waiting().overdue), (vec![0, 1], false));
}

#[test]
fn a_push_in_flight_during_a_comparison_that_arrives_costs_no_read() {
    let (mut frontier, mut server, mut out) = (one_of(8), Server::of(the_log()), Out::default());
    frontier.push(the_log(), server.append(), &mut out);
    let shown = server.append();
    compare_at(&mut frontier, &server, 1, true);
    frontier.push(the_log(), shown, &mut out);
    frontier.read_overdue();
    assert_eq!((out.numbers, frontier.reading()), (vec![0, 1], 0));
}

#[test]
fn a_log_is_not_complete_while_a_push_of_it_is_overdue() {
    let (mut frontier, mut server, mut out) = (one_of(1), Server::of(the_log()), Out::default());
    frontier.push(the_log(), server.append(), &mut out);
    server.append();
    compare_at(&mut frontier, &server, 1, true);
    compare_at(&mut frontier, &server, 9, false);
    assert_eq!(frontier.complete_as_of(), Some(1));
    while work(&mut frontier, &server, &mut out, 10) {}
    assert_eq!((out.numbers, frontier.complete_as_of()), (vec![0, 1], Some(9)));
}
