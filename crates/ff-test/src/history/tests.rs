//! Small histories, each with one violation, and the checker's result.

use ff_core::{
    Cursor, FlowId, Gap, Overflow, Partition, PartitionCount, ScannerFilter, Scope, SubscribeOptions, reader::LogCursor,
};

use super::*;

const LOG: LogId = LogId { partition: Partition::new(0), scope: Scope::Flows };

fn at(epoch: u64, seq: u64) -> EntryId {
    EntryId { epoch, seq }
}

fn namespace(name: &str) -> Namespace {
    Namespace::new(name).unwrap()
}

/// A log of two epochs, 10-0 to 10-3 and 20-0 to 20-2, of which the first two entries are trimmed. Those with an even
/// number have the namespace `even`. Rolled back were 10-4 and 10-5, and then an epoch 15.
struct Case {
    history: History,
    options: SubscribeOptions,
    seen: Vec<Seen>,
}

impl Case {
    fn new() -> Self {
        let mut history = History { rollback_faults: 1, ..History::default() };
        let flow = FlowId::from_idempotency_key(&namespace("even"), "flow");
        let count = PartitionCount::new(1).unwrap();
        for entry in all() {
            let id = ExecutionId::member(flow, &entry.to_string(), count);
            let name = if entry.seq.is_multiple_of(2) { "even" } else { "odd" };
            history.submitted.insert(id, Submitted { namespace: namespace(name), tags: Tags::default() });
            history.acknowledged.insert(id, u32::from(entry.epoch == 20));
        }
        let held = all().filter(|entry| is_committed(*entry) && *entry > at(10, 1)).map(|entry| (entry, end(entry)));
        let trimmed = [at(10, 0), at(10, 1)].map(|entry| (entry, end(entry)));
        let epochs = [(10, None), (20, Some(at(10, 3)))];
        history.logs.insert(LOG, LogTruth::new(Some(at(20, 2)), &epochs, held, trimmed));
        Self { history, options: SubscribeOptions::new(), seen: Vec::new() }
    }

    fn filtered(mut self) -> Self {
        self.options = self.options.filter(ScannerFilter::new().namespace(namespace("even")));
        self
    }

    fn events(mut self, entries: impl IntoIterator<Item = EntryId>) -> Self {
        self.seen.extend(entries.into_iter().map(|entry| Seen::Event { entry, end: end(entry) }));
        self
    }

    fn gap(mut self, cause: GapCause, after: Option<EntryId>, through: EntryId) -> Self {
        self.seen.push(Seen::Gap(Gap::new(LOG, after, through, cause)));
        self
    }

    /// The state of the log at an earlier time.
    fn stood(mut self, last: Option<EntryId>, epochs: &[(u64, Option<EntryId>)]) -> Self {
        self.history.earlier.push([(LOG, LogTruth::new(last, epochs, [], []))].into());
        self
    }

    /// All entries of the final log, in order.
    fn everything(self) -> Self {
        self.events(all().filter(|entry| is_committed(*entry)))
    }

    fn check(mut self) -> Verdict {
        let start = Cursor::new([LogCursor::default()].into(), None);
        let mut record = Record::new("reader", &self.options, start);
        self.seen.into_iter().for_each(|seen| record.saw(LOG, seen));
        self.history.records.push(record);
        self.history.check()
    }

    #[track_caller]
    fn passes(self) {
        let verdict = self.check();
        assert!(verdict.is_clean(), "{:?}: {}", verdict.breaches, verdict.counterexamples[0]);
    }

    /// Exactly one rule is violated, once, at this position; these received items show it.
    #[track_caller]
    fn breaks(self, breach: Breach, entry: EntryId, shown: &[&str]) {
        let verdict = self.check();
        assert_eq!(verdict.breaches, BTreeMap::from([(breach, 1)]), "{:?}", verdict.counterexamples);
        let [counterexample] = &verdict.counterexamples[..] else { panic!("{:?}", verdict.counterexamples) };
        assert_eq!(counterexample.at, Some((LOG, entry)));
        let text = counterexample.to_string();
        let saw: Vec<&str> = text.split("is enough:\n").nth(1).unwrap().lines().map(str::trim).collect();
        let cut: Vec<&str> = saw.iter().map(|line| line.split("  ").next().unwrap()).collect();
        assert_eq!(cut, shown, "{text}");
    }
}

fn all() -> impl Iterator<Item = EntryId> {
    let epoch = |epoch, count| (0..count).map(move |seq| at(epoch, seq));
    epoch(10, 6).chain(epoch(15, 3)).chain(epoch(20, 3))
}

fn is_committed(entry: EntryId) -> bool {
    entry.epoch == 20 || (entry.epoch == 10 && entry.seq < 4)
}

fn end(entry: EntryId) -> End {
    let flow = FlowId::from_idempotency_key(&namespace("even"), "flow");
    End { execution: ExecutionId::member(flow, &entry.to_string(), PartitionCount::new(1).unwrap()), generation: 0 }
}

fn range(epoch: u64, seqs: std::ops::RangeInclusive<u64>) -> impl Iterator<Item = EntryId> {
    seqs.map(move |seq| at(epoch, seq))
}

#[test]
fn everything_in_order_is_right() {
    Case::new().everything().passes();
    Case::new().filtered().events(all().filter(|entry| is_committed(*entry) && entry.seq.is_multiple_of(2))).passes();
}

#[test]
fn trimmed_entries_may_be_a_gap() {
    let case = Case::new().gap(GapCause::Trimmed, None, at(10, 1));
    case.events(range(10, 2..=3)).events(range(20, 0..=2)).passes();
}

#[test]
fn rolled_back_entries_may_have_been_delivered_if_that_is_declared() {
    let came = || Case::new().events(range(10, 0..=5));
    came().gap(GapCause::HistoryRewritten, Some(at(10, 3)), at(10, 5)).events(range(20, 0..=2)).passes();
    let further = came().events(range(15, 0..=2));
    further.gap(GapCause::HistoryRewritten, Some(at(10, 3)), at(15, 2)).events(range(20, 0..=2)).passes();
}

#[test]
fn an_undelivered_entry_is_lost() {
    let case = Case::new().events(range(10, 0..=2)).events(range(20, 0..=2));
    case.breaks(Breach::Lost, at(10, 3), &["nothing"]);
    Case::new().events(range(10, 0..=3)).events(range(20, 0..=1)).breaks(Breach::Lost, at(20, 2), &["nothing"]);
}

#[test]
fn rejected_completions_must_not_be_delivered() {
    let even = all().filter(|entry| is_committed(*entry) && entry.seq.is_multiple_of(2) && *entry != at(10, 2));
    Case::new().filtered().events(even).breaks(Breach::Lost, at(10, 2), &["nothing"]);
    let leaked = [at(10, 0), at(10, 1), at(10, 2), at(20, 0), at(20, 2)];
    Case::new().filtered().events(leaked).breaks(Breach::Leaked, at(10, 1), &["10-1"]);
}

#[test]
fn an_entry_that_is_delivered_again_is_repeated() {
    let case = Case::new().events(range(10, 0..=3)).events([at(20, 0), at(10, 2)]).events(range(20, 1..=2));
    case.breaks(Breach::Twice, at(10, 2), &["10-2", "10-2"]);
}

#[test]
fn an_entry_after_a_later_one_is_disordered_and_also_lost() {
    let verdict = Case::new().events([at(10, 1), at(10, 0), at(10, 2), at(10, 3)]).events(range(20, 0..=2)).check();
    assert_eq!(verdict.breaches, BTreeMap::from([(Breach::Disordered, 1), (Breach::Lost, 1)]));
}

#[test]
fn an_undeclared_rollback_is_found() {
    let case = Case::new().events(range(10, 0..=4)).events(range(20, 0..=2));
    let verdict = case.check();
    assert!(verdict.breaches.contains_key(&Breach::Undeclared), "{:?}", verdict.breaches);
    assert_eq!(verdict.counterexamples[0].at, Some((LOG, at(10, 4))));
    let case = Case::new().events(range(10, 0..=5)).gap(GapCause::HistoryRewritten, Some(at(10, 3)), at(10, 4));
    case.events(range(20, 0..=2)).breaks(Breach::Undeclared, at(10, 5), &["10-5"]);
}

#[test]
fn a_gap_over_existing_entries_is_too_wide() {
    let trimmed = Case::new().gap(GapCause::Trimmed, None, at(10, 2)).events([at(10, 3)]).events(range(20, 0..=2));
    trimmed.breaks(Breach::WideGap, at(10, 2), &["gap {fp:0}: trimmed from the log's start through 10-2"]);
    let rolled_back = Case::new().events(range(10, 0..=5)).gap(GapCause::HistoryRewritten, Some(at(10, 2)), at(10, 5));
    let verdict = rolled_back.events([at(10, 3)]).events(range(20, 0..=2)).check();
    assert_eq!(verdict.breaches.keys().collect::<Vec<_>>(), [&Breach::WideGap]);
    let unknown = Case::new().everything().gap(GapCause::Unreadable, Some(at(20, 2)), at(20, 3));
    unknown.breaks(Breach::WideGap, at(20, 3), &["gap {fp:0}: unreadable after 20-2 through 20-3"]);
}

#[test]
fn a_gap_beyond_the_delivered_entries_is_too_wide() {
    let case = Case::new().events(range(10, 0..=4)).gap(GapCause::HistoryRewritten, Some(at(10, 3)), at(10, 5));
    let shown = ["gap {fp:0}: history_rewritten after 10-3 through 10-5"];
    case.events(range(20, 0..=2)).breaks(Breach::WideGap, at(10, 5), &shown);
}

#[test]
fn only_subscriptions_that_may_drop_have_overflow_gaps() {
    let dropped = |case: Case| {
        let case = case.events([at(10, 0)]).gap(GapCause::Overflow, Some(at(10, 0)), at(10, 3));
        case.events(range(20, 0..=2))
    };
    let mut may = Case::new();
    may.options = may.options.overflow(Overflow::DropOldest);
    dropped(may).passes();
    let verdict = dropped(Case::new()).check();
    assert!(verdict.breaches.contains_key(&Breach::WideGap) && verdict.breaches.contains_key(&Breach::Lost));
}

#[test]
fn an_end_that_differs_from_the_logs_is_invented() {
    let mut case = Case::new().everything();
    case.seen[2] = Seen::Event { entry: at(10, 2), end: end(at(20, 2)) };
    case.breaks(Breach::Invented, at(10, 2), &["10-2"]);
}

#[test]
fn an_acknowledged_end_that_was_not_rolled_back_must_be_in_the_log() {
    let mut case = Case::new().everything();
    *case.history.acknowledged.get_mut(&end(at(10, 4)).execution).unwrap() = 1;
    let verdict = case.check();
    assert_eq!(verdict.breaches, BTreeMap::from([(Breach::Unlogged, 1)]));
    assert_eq!(Case::new().everything().check().rolled_back, 5);
}

#[test]
fn an_end_that_is_in_the_log_twice_is_found() {
    let mut case = Case::new().everything();
    let held = all().filter(|entry| is_committed(*entry)).map(|entry| (entry, end(at(10, entry.seq.min(2)))));
    let epochs = [(10, None), (20, Some(at(10, 3)))];
    case.history.logs.insert(LOG, LogTruth::new(Some(at(20, 2)), &epochs, held, []));
    assert!(case.check().breaches.contains_key(&Breach::EndedTwice));
}

#[test]
fn delivered_entries_of_a_lost_log_must_be_declared() {
    let mut case = Case::new().events(range(10, 0..=3));
    case.history.logs.clear();
    let verdict = case.check();
    assert_eq!(verdict.breaches.get(&Breach::Undeclared), Some(&4));
    let mut case = Case::new().events(range(10, 0..=3)).gap(GapCause::LogRecreated, None, at(10, 3));
    case.history.logs.clear();
    case.history.acknowledged.clear();
    case.passes();
}

#[test]
fn restored_entries_must_be_delivered_again() {
    let flushed = |case: Case| {
        let case = case.stood(Some(at(10, 2)), &[(10, None)]).stood(None, &[]);
        case.events(committed_until(3)).gap(GapCause::LogRecreated, None, at(10, 3))
    };
    flushed(Case::new()).everything().passes();
    flushed(Case::new()).events(committed_until(3).skip(1)).events(epoch_20()).breaks(
        Breach::Lost,
        at(10, 0),
        &["nothing"],
    );
}

#[test]
fn a_shorter_log_at_an_earlier_time_does_not_justify_a_gap() {
    let case = Case::new().stood(Some(at(10, 1)), &[(10, None)]).stood(Some(at(10, 2)), &[(10, None)]);
    let verdict = case.events(committed_until(3)).gap(GapCause::HistoryRewritten, Some(at(10, 2)), at(10, 3)).check();
    assert!(verdict.breaches.contains_key(&Breach::WideGap), "{:?}", verdict.breaches);
}

#[test]
fn another_history_in_between_justifies_a_declared_rollback() {
    let case = Case::new().stood(Some(at(15, 1)), &[(10, None), (15, Some(at(10, 2)))]);
    case.events(committed_until(3))
        .gap(GapCause::HistoryRewritten, Some(at(10, 2)), at(10, 3))
        .events([at(10, 3)])
        .events(epoch_20())
        .passes();
}

fn committed_until(seq: u64) -> impl Iterator<Item = EntryId> {
    (0..=seq).map(|seq| at(10, seq))
}

fn epoch_20() -> impl Iterator<Item = EntryId> {
    (0..3).map(|seq| at(20, seq))
}
