use super::{
    Value,
    testing::{Bed, array, bulk, int, texts},
};

#[test]
fn members_are_added_moved_and_removed() {
    let mut bed = Bed::new();
    assert_eq!(bed.run("ZADD z 2 b 1 a 3 c"), int(3));
    assert_eq!(bed.run("ZADD z 9 a 2 b"), int(0));
    assert_eq!(bed.run("ZRANGE z 0 -1 WITHSCORES"), texts("b 2 c 3 a 9"));
    assert_eq!((bed.run("ZRANGE z 0 0"), bed.run("ZRANGE z -2 -1")), (texts("b"), texts("c a")));
    assert_eq!((bed.run("ZRANGE z 5 9"), bed.run("ZRANGE none 0 0")), (array([]), array([])));
    assert_eq!((bed.run("ZSCORE z a"), bed.run("ZSCORE z x")), (bulk("9"), Value::Nil));
    assert_eq!((bed.run("ZCARD z"), bed.run("ZREM z a x b"), bed.run("ZREM z c")), (int(3), int(2), int(1)));
    assert_eq!((bed.run("EXISTS z"), bed.run("ZCARD z")), (int(0), int(0)), "an empty set is gone");
}

#[test]
fn ranges_by_score_take_bounds_and_a_limit() {
    let mut bed = Bed::new();
    bed.run("ZADD z 1 a 2 b 2.5 c 3 d");
    for (range, found) in [
        ("-inf +inf", "a b c d"),
        ("-inf (2", "a"),
        ("(1 2.5", "b c"),
        ("2 (3 LIMIT 1 5", "c"),
        ("-inf inf LIMIT 0 2", "a b"),
        ("-inf inf LIMIT 1 -1", "b c d"),
        ("-inf inf LIMIT -1 2", ""),
        ("3 1", ""),
    ] {
        assert_eq!(bed.run(&format!("ZRANGEBYSCORE z {range}")), texts(found), "{range}");
    }
    assert_eq!(bed.fail("ZRANGEBYSCORE z x 1"), "ERR min or max is not a float");
}

#[test]
fn ranges_by_bytes_take_bounds_and_a_limit() {
    let mut bed = Bed::new();
    bed.run("ZADD z 0 a 0 b 0 ba 0 c");
    for (range, found) in [
        ("- +", "a b ba c"),
        ("[b (c", "b ba"),
        ("(b [c", "ba c"),
        ("(b +", "ba c"),
        ("- + LIMIT 1 2", "b ba"),
        ("+ -", ""),
        ("[c [a", ""),
    ] {
        assert_eq!(bed.run(&format!("ZRANGEBYLEX z {range}")), texts(found), "{range}");
    }
    assert_eq!(bed.fail("ZRANGEBYLEX z a b"), "ERR min or max not valid string range item");
}

#[test]
fn a_bad_score_adds_nothing() {
    let mut bed = Bed::new();
    assert_eq!(bed.fail("ZADD z 1 a x b"), "ERR value is not a valid float");
    assert_eq!(bed.fail("ZADD z 1 a 2"), "ERR syntax error");
    assert_eq!(bed.run("EXISTS z"), int(0));
}
