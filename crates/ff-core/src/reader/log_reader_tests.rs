#[path = "log_reader_properties.rs"]
mod properties;

use super::*;
use crate::{Partition, Scope};

const LOG: LogId = LogId { partition: Partition::new(3), scope: Scope::Flows };

fn id(epoch: u64, seq: u64) -> EntryId {
    EntryId { epoch, seq }
}

/// What came of one entry.
#[derive(Debug, PartialEq, Eq)]
enum Step {
    Deliver(Option<Gap>),
    Skip,
    LookUp,
}

fn having(ends: &[EntryId]) -> LogCursor {
    let mut cursor = LogCursor::default();
    for end in ends {
        cursor.advance(*end);
    }
    cursor
}

fn reader_after(ends: &[EntryId]) -> LogReader {
    LogReader::new(LOG, having(ends))
}

/// Reads an entry, and moves past what came with it.
fn step(reader: &mut LogReader, entry: EntryId, prev: Option<Predecessor>) -> Step {
    let Ok(items) = reader.read(LogEntry { entry, prev, event: Some(()) }) else { return Step::LookUp };
    let (mut step, mut missing) = (Step::Skip, None);
    for item in items {
        match item {
            LogItem::Gap(gap) => {
                reader.pass(&gap);
                missing = Some(gap);
            }
            LogItem::Event(found, ()) => {
                assert_eq!(found, entry);
                reader.advance(entry);
                step = Step::Deliver(missing);
            }
        }
    }
    step
}

/// Takes the ends of epochs, and passes the gap that they show.
fn resolve(reader: &mut LogReader, ends: &EpochEnds) -> Option<Gap> {
    let gap = reader.resolve(ends);
    gap.iter().for_each(|gap| reader.pass(gap));
    gap
}

/// The ends of a log that has not forgotten any epoch, newest first.
fn whole<const N: usize>(ends: [EntryId; N]) -> EpochEnds {
    EpochEnds::whole(ends.to_vec())
}

fn gap(cause: GapCause, after: Option<EntryId>, through: EntryId) -> Option<Gap> {
    Some(Gap { log: LOG, after, through, cause })
}

#[test]
fn the_common_entry_is_the_cursor_while_the_history_is_the_same() {
    let cursor = having(&[id(5, 3)]);
    assert_eq!(cursor.common_with(&whole([id(5, 9)])), Some(id(5, 3)));
    assert_eq!(cursor.common_with(&whole([id(9, 2), id(5, 3)])), Some(id(5, 3)));
}

#[test]
fn a_rolled_back_epoch_is_skipped_even_if_its_number_is_greater() {
    let cursor = having(&[id(40, 9), id(100, 3)]);
    assert_eq!(cursor.common_with(&whole([id(50, 9), id(40, 7)])), Some(id(40, 7)));
    assert_eq!(cursor.common_with(&whole([id(110, 2), id(50, 9), id(40, 9)])), Some(id(40, 9)));
}

#[test]
fn trimmed_entries_are_one_gap_and_reading_continues() {
    let mut reader = reader_after(&[id(5, 3)]);
    assert_eq!(step(&mut reader, id(5, 9), None), Step::LookUp);
    assert_eq!(resolve(&mut reader, &whole([id(5, 10)])), None);
    assert_eq!(reader.after(), Some(id(5, 3)));
    let trimmed = gap(GapCause::Trimmed, Some(id(5, 3)), id(5, 8));
    assert_eq!(step(&mut reader, id(5, 9), None), Step::Deliver(trimmed));
    assert_eq!(step(&mut reader, id(5, 10), None), Step::Deliver(None));
    assert_eq!(reader.cursor().last(), Some(id(5, 10)));
}

#[test]
fn trimming_during_a_look_up_of_epochs_does_not_block_the_reader() {
    let mut reader = reader_after(&[id(5, 3)]);
    assert_eq!(step(&mut reader, id(5, 9), None), Step::LookUp);
    assert_eq!(resolve(&mut reader, &whole([id(5, 10)])), None);
    let trimmed = gap(GapCause::Trimmed, Some(id(5, 3)), id(5, 19));
    assert_eq!(step(&mut reader, id(5, 20), None), Step::Deliver(trimmed));
}

#[test]
fn a_gap_up_to_an_epochs_first_entry_ends_with_the_entry_before_it() {
    for (prev, through) in [(Some(Predecessor::Entry(id(5, 6))), id(5, 6)), (None, id(5, 6))] {
        let mut reader = reader_after(&[id(5, 3)]);
        assert_eq!(step(&mut reader, id(9, 0), prev), Step::LookUp);
        assert_eq!(resolve(&mut reader, &whole([id(9, 0), id(5, 6)])), None);
        let trimmed = gap(GapCause::Trimmed, Some(id(5, 3)), through);
        assert_eq!(step(&mut reader, id(9, 0), prev), Step::Deliver(trimmed));
    }
}

#[test]
fn a_lost_tail_is_a_gap_at_once_and_reading_continues_after_the_common_entry() {
    let mut reader = reader_after(&[id(40, 9), id(100, 3)]);
    assert_eq!(step(&mut reader, id(110, 0), Some(Predecessor::Entry(id(50, 1)))), Step::LookUp);
    let undone = gap(GapCause::HistoryRewritten, Some(id(40, 7)), id(100, 3));
    assert_eq!(resolve(&mut reader, &whole([id(110, 0), id(50, 1), id(40, 7)])), undone);
    assert_eq!((reader.after(), reader.cursor().last()), (Some(id(40, 7)), Some(id(40, 7))));
    let rest = [
        (id(50, 0), Some(Predecessor::Entry(id(40, 7))), Step::Deliver(None)),
        (id(50, 1), None, Step::Deliver(None)),
        (id(110, 0), Some(Predecessor::Entry(id(50, 1))), Step::Deliver(None)),
        (id(50, 0), None, Step::Skip),
    ];
    for (entry, prev, expected) in rest {
        assert_eq!(step(&mut reader, entry, prev), expected, "{entry}");
    }
    for late in [id(100, 2), id(40, 8)] {
        assert_eq!(reader.cursor().judge(late, None), Verdict::Duplicate, "a late push of a rolled-back entry");
    }
}

#[test]
fn a_lost_tail_and_a_trimmed_head_are_two_gaps() {
    let mut reader = reader_after(&[id(40, 9)]);
    assert_eq!(step(&mut reader, id(50, 5), None), Step::LookUp);
    let undone = gap(GapCause::HistoryRewritten, Some(id(40, 7)), id(40, 9));
    assert_eq!(resolve(&mut reader, &whole([id(50, 6), id(40, 7)])), undone);
    let trimmed = gap(GapCause::Trimmed, Some(id(40, 7)), id(50, 4));
    assert_eq!(step(&mut reader, id(50, 5), None), Step::Deliver(trimmed));
}

/// A log that knows the epochs 50 and 60 and the ends before them, and nothing earlier.
fn forgetful() -> EpochEnds {
    let epochs = [(50, Predecessor::Entry(id(40, 7))), (60, Predecessor::Entry(id(50, 2)))];
    EpochEnds::of(&epochs, Some(id(60, 5)))
}

#[test]
fn entries_between_an_old_cursor_and_the_first_entry_count_as_trimmed() {
    let mut reader = reader_after(&[id(20, 3), id(30, 9)]);
    assert_eq!(step(&mut reader, id(50, 2), None), Step::LookUp);
    assert_eq!(resolve(&mut reader, &forgetful()), None);
    let trimmed = gap(GapCause::Trimmed, Some(id(30, 9)), id(50, 1));
    assert_eq!(step(&mut reader, id(50, 2), None), Step::Deliver(trimmed));
}

#[test]
fn an_epoch_missing_among_the_kept_ones_was_rolled_back() {
    let mut reader = reader_after(&[id(30, 9), id(55, 1)]);
    let undone = gap(GapCause::HistoryRewritten, Some(id(30, 9)), id(55, 1));
    assert_eq!(resolve(&mut reader, &forgetful()), undone);
}

#[test]
fn a_recreated_log_is_a_gap_over_everything_delivered() {
    let mut reader = reader_after(&[id(5, 3)]);
    assert_eq!(resolve(&mut reader, &whole([])), gap(GapCause::LogRecreated, None, id(5, 3)));
    assert_eq!(resolve(&mut reader, &whole([])), None, "once");
    assert_eq!(step(&mut reader, id(9, 0), Some(Predecessor::Start)), Step::Deliver(None));
}

#[test]
fn restored_entries_are_delivered_again() {
    // FLUSHALL, then a server that starts without it.
    let mut reader = reader_after(&[id(5, 1)]);
    assert_eq!(resolve(&mut reader, &whole([])), gap(GapCause::LogRecreated, None, id(5, 1)));
    assert_eq!(step(&mut reader, id(9, 0), Some(Predecessor::Start)), Step::Deliver(None));
    assert_eq!(reader.cursor().judge(id(5, 1), None), Verdict::Duplicate, "a push may be late");
    reader.restart();
    let ends = whole([id(12, 0), id(5, 1)]);
    assert_eq!(resolve(&mut reader, &ends), gap(GapCause::LogRecreated, None, id(9, 0)));
    let back =
        [(id(5, 0), Predecessor::Start), (id(5, 1), Predecessor::Start), (id(12, 0), Predecessor::Entry(id(5, 1)))];
    for (entry, prev) in back {
        let prev = (entry.seq == 0).then_some(prev);
        assert_eq!(step(&mut reader, entry, prev), Step::Deliver(None), "{entry}");
    }
    assert_eq!(reader.cursor().last(), Some(id(12, 0)));
}

#[test]
fn restored_entries_without_their_beginning_are_a_gap_and_then_delivered() {
    let mut reader = reader_after(&[id(5, 7)]);
    reader.pass(&Gap::new(LOG, None, id(5, 7), GapCause::LogRecreated));
    assert_eq!(step(&mut reader, id(5, 4), None), Step::LookUp);
    assert_eq!(resolve(&mut reader, &whole([id(5, 7)])), None);
    assert_eq!(step(&mut reader, id(5, 4), None), Step::Deliver(gap(GapCause::Trimmed, None, id(5, 3))));
}

#[test]
fn trimmed_entries_are_a_gap_for_a_reader_of_an_empty_log_and_not_from_the_earliest() {
    let mut reader = reader_after(&[]);
    assert_eq!(step(&mut reader, id(7, 4), None), Step::LookUp);
    assert_eq!(resolve(&mut reader, &whole([id(7, 9)])), None);
    let trimmed = gap(GapCause::Trimmed, None, id(7, 3));
    assert_eq!(step(&mut reader, id(7, 4), None), Step::Deliver(trimmed));
    let mut reader = LogReader::new(LOG, LogCursor::earliest());
    assert_eq!(step(&mut reader, id(7, 4), None), Step::Deliver(None));
}

#[test]
fn unread_entries_are_counted_over_epochs() {
    let cursor = having(&[id(5, 3)]);
    assert_eq!(cursor.unread(&[id(5, 3)]), 0);
    assert_eq!(cursor.unread(&[id(9, 1), id(5, 5)]), 4);
}
