use super::{
    Value,
    testing::{Bed, array, bulk, int},
};

fn ids(bed: &mut Bed, command: &str) -> String {
    let Value::Array(entries) = bed.run(command) else { panic!("{command} gave no array") };
    let id = |entry: &Value<'_>| match entry {
        Value::Array(parts) => match &parts[0] {
            Value::Bulk(id) => String::from_utf8_lossy(id).into_owned(),
            other => panic!("{other:?}"),
        },
        other => panic!("{other:?}"),
    };
    entries.iter().map(id).collect::<Vec<_>>().join(" ")
}

fn filled(entries: usize) -> Bed {
    let mut bed = Bed::new();
    for _ in 0..entries {
        bed.run("XADD s 5-* e x");
    }
    bed
}

#[test]
fn ids_are_numbered_within_their_epoch_and_never_go_back() {
    let mut bed = Bed::new();
    assert_eq!(bed.run("XADD s NOMKSTREAM 5-* a 1"), Value::Nil);
    assert_eq!((bed.run("XADD s 5-* a 1"), bed.run("XADD s 5-* a 2")), (bulk("5-0"), bulk("5-1")));
    assert_eq!((bed.run("XADD s 5-7 a 1"), bed.run("XADD s 6-* a 2")), (bulk("5-7"), bulk("6-0")));
    let top = "ERR The ID specified in XADD is equal or smaller than the target stream top item";
    for id in ["5-*", "6-0", "1-1"] {
        assert_eq!(bed.fail(&format!("XADD s {id} a 1")), top, "{id}");
    }
    assert_eq!(bed.fail("XADD s 0-0 a 1"), "ERR The ID specified in XADD must be greater than 0-0");
    assert_eq!(bed.fail("XADD s x a 1"), "ERR Invalid stream ID specified as stream command argument");
    assert_eq!(bed.fail("XADD s 9-1 a 1 b"), "ERR wrong number of arguments for 'xadd' command");
    assert_eq!(bed.run("XADD new 0-* a 1"), bulk("0-1"));
}

#[test]
fn ranges_go_both_ways_with_exclusive_and_partial_ids() {
    let mut bed = Bed::new();
    for id in ["1-0", "1-1", "2-0", "3-5"] {
        bed.run(&format!("XADD s {id} a 1"));
    }
    for (command, found) in [
        ("XRANGE s - +", "1-0 1-1 2-0 3-5"),
        ("XRANGE s 1 2", "1-0 1-1 2-0"),
        ("XRANGE s (1-0 (3-5", "1-1 2-0"),
        ("XRANGE s - + COUNT 2", "1-0 1-1"),
        ("XREVRANGE s + - COUNT 1", "3-5"),
        ("XREVRANGE s (2-0 -", "1-1 1-0"),
        ("XRANGE s 4 +", ""),
        ("XRANGE s 3 1", ""),
        ("XRANGE none - +", ""),
    ] {
        assert_eq!(ids(&mut bed, command), found, "{command}");
    }
    assert_eq!(bed.run("XRANGE s - + COUNT 0"), Value::Nil);
    assert_eq!(bed.run("XRANGE s 2 2"), array([array([bulk("2-0"), array([bulk("a"), bulk("1")])])]));
}

#[test]
fn deleting_entries_keeps_the_last_id() {
    let mut bed = filled(3);
    assert_eq!((bed.run("XDEL s 5-2 5-9 5-0"), bed.run("XLEN s")), (int(2), int(1)));
    assert_eq!(bed.run("XDEL s 5-1"), int(1));
    let last = [bulk("length"), int(0), bulk("last-generated-id"), bulk("5-2")];
    assert_eq!(bed.run("XINFO STREAM s"), array(last));
    assert_eq!((bed.run("EXISTS s"), bed.run("XADD s 5-* a 1")), (int(1), bulk("5-3")));
    assert_eq!(bed.fail("XINFO STREAM none"), "ERR no such key");
}

#[test]
fn an_exact_trim_keeps_exactly_the_requested_length() {
    let mut bed = filled(250);
    assert_eq!((bed.run("XTRIM s MAXLEN 120"), bed.run("XLEN s")), (int(130), int(120)));
    assert_eq!((bed.run("XTRIM s MINID 5-200"), bed.run("XTRIM s MINID = 5-200")), (int(70), int(0)));
    assert_eq!(ids(&mut bed, "XRANGE s - + COUNT 1"), "5-200");
    assert_eq!((bed.run("XTRIM s MAXLEN 0"), bed.run("XLEN s")), (int(50), int(0)));
}

#[test]
fn an_approximate_trim_removes_whole_nodes() {
    let mut bed = filled(250);
    assert_eq!((bed.run("XTRIM s MAXLEN ~ 120"), bed.run("XLEN s")), (int(100), int(150)));
    for _ in 0..100 {
        bed.run("XADD s MAXLEN ~ 120 5-* e x");
    }
    assert_eq!(bed.run("XLEN s"), int(150));
}

#[test]
fn nodes_with_large_entries_hold_fewer_of_them() {
    let mut bed = Bed::new();
    let entry = format!("XADD s MAXLEN ~ 10 5-* e {}", "x".repeat(1000));
    for _ in 0..40 {
        bed.run(&entry);
    }
    let Value::Integer(length) = bed.run("XLEN s") else { panic!("XLEN gave no number") };
    assert!((10..14).contains(&length), "{length}");
}
