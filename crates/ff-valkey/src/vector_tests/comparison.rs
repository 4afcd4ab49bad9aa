//! What a comparison with the server finds, and when.

use super::*;

/// The first of so many logs, all of them empty.
fn one_of(count: u16) -> Vector {
    let mut vector = Vector::new(Scope::Flows, PartitionCount::new(count).unwrap());
    vector.starts(1, (0..count).map(|_| Ok(LogCursor::default())).collect(), &mut Out::default());
    vector
}

/// What the server answers of the first log; the others stay empty.
fn answers(asked: &Comparison, server: &Server) -> OfEach<Head> {
    let head = |log, has| if log == the_log() { compared(server.newest(), has) } else { Head::Known };
    asked.logs.iter().map(|(log, has)| Ok(head(*log, *has))).collect()
}

/// Compares at this time, when the server tells whether it has appended to the first log.
fn compare_at(vector: &mut Vector, server: &Server, at_ms: u64, appended: bool) {
    let mut asked = vector.compare(false);
    let appended = server.newest().filter(|_| appended).map(|newest| (the_log(), newest));
    vector.narrow(&mut asked, appended.into_iter().collect());
    let heads = answers(&asked, server);
    vector.heads(&asked, at_ms, heads);
}

fn gap_over(server: &Server, through: EntryId) -> Gap {
    Gap { log: the_log(), after: server.last(), through, cause: GapCause::HistoryRewritten }
}

#[test]
fn a_push_that_waited_for_a_reading_and_was_lost_meanwhile_is_declared_after_the_next_comparison() {
    let (mut vector, mut server, mut out) = (one_of(8), Server::of(the_log()), Out::default());
    let shown: Vec<Shown> = (0..3).map(|_| server.append()).collect();
    // The first of them was not pushed, so the log is read; the last one is lost before that.
    for shown in &shown[1..] {
        vector.push(the_log(), shown.clone(), &mut out);
    }
    server.lose(1);
    while work(&mut vector, &server, &mut out, 10) {}
    assert_eq!(out.numbers, [0, 1, 2], "nothing tells the lost one from the next one");
    vector.turn = 1;
    compare_at(&mut vector, &server, 1, false);
    while work(&mut vector, &server, &mut out, 10) {}
    let gap = gap_over(&server, shown[2].entry);
    assert!(matches!(&out.told[3..], [Told::Gap(told)] if *told == gap), "{out:?}");
}

#[test]
fn a_comparison_that_fails_leaves_its_logs_to_the_next_one() {
    let mut vector = one_of(8);
    let mut server = Server::of(the_log());
    let asked = |vector: &mut Vector| {
        let mut asked = vector.compare(false);
        vector.narrow(&mut asked, Vec::new());
        asked
    };
    let numbers = |asked: &Comparison| asked.logs.iter().map(|(log, _)| log.partition.number()).collect::<Vec<_>>();
    vector.turn = 2;
    vector.push(the_log(), server.append(), &mut Out::default());
    let failed = asked(&mut vector);
    assert_eq!(numbers(&failed), [0, 2, 3], "what was heard of, and what has its turn");
    vector.not_compared(&failed);
    assert_eq!(numbers(&asked(&mut vector)), [0, 2, 3]);
    assert_eq!(numbers(&asked(&mut vector)), [4, 5]);
}

#[test]
fn a_comparison_with_another_server_process_includes_the_logs_of_which_something_was_heard() {
    let (mut vector, mut server, mut out) = (one_of(8), Server::of(the_log()), Out::default());
    let shown: Vec<Shown> = (0..2).map(|_| server.append()).collect();
    for shown in &shown {
        vector.push(the_log(), shown.clone(), &mut out);
    }
    server.lose(1);
    let mut asked = vector.compare(false);
    vector.widen(&mut asked);
    let heads = answers(&asked, &server);
    vector.heads(&asked, 1, heads);
    while work(&mut vector, &server, &mut out, 10) {}
    let gap = gap_over(&server, shown[1].entry);
    assert!(matches!(&out.told[2..], [Told::Gap(told)] if *told == gap), "{out:?}");
}

#[test]
fn a_push_that_was_on_its_way_when_the_heads_were_compared_and_never_came_is_read() {
    let (mut vector, mut server, mut out) = (one_of(8), Server::of(the_log()), Out::default());
    vector.push(the_log(), server.append(), &mut out);
    // Not pushed, but something was heard of the log since the comparison before.
    server.append();
    compare_at(&mut vector, &server, 1, true);
    assert!(vector.has_overdue() && vector.reading() == 0, "it may be on its way");
    vector.read_overdue();
    while work(&mut vector, &server, &mut out, 10) {}
    assert_eq!((out.numbers, vector.has_overdue()), (vec![0, 1], false));
}

#[test]
fn a_push_that_was_on_its_way_when_the_heads_were_compared_and_came_costs_no_read() {
    let (mut vector, mut server, mut out) = (one_of(8), Server::of(the_log()), Out::default());
    vector.push(the_log(), server.append(), &mut out);
    let shown = server.append();
    compare_at(&mut vector, &server, 1, true);
    vector.push(the_log(), shown, &mut out);
    vector.read_overdue();
    assert_eq!((out.numbers, vector.reading()), (vec![0, 1], 0));
}

#[test]
fn a_log_is_not_complete_while_a_push_of_it_is_overdue() {
    let (mut vector, mut server, mut out) = (one_of(1), Server::of(the_log()), Out::default());
    vector.push(the_log(), server.append(), &mut out);
    server.append();
    compare_at(&mut vector, &server, 1, true);
    compare_at(&mut vector, &server, 9, false);
    assert_eq!(vector.complete_as_of(), Some(1));
    while work(&mut vector, &server, &mut out, 10) {}
    assert_eq!((out.numbers, vector.complete_as_of()), (vec![0, 1], Some(9)));
}
