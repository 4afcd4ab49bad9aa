//! Keys that expire.
//!
//! Expired keys are removed when the time is set, before the call or the command that the time is for. The time is
//! constant within a call, so no key expires in the middle of one.

use std::collections::BTreeSet;

use rustc_hash::FxHashMap;

use super::{CommandError, Keyspace, Value, number};

/// When keys expire, in milliseconds since 1970-01-01 UTC.
#[derive(Debug, Default)]
pub(super) struct Expiries {
    due: FxHashMap<Box<[u8]>, u64>,
    order: BTreeSet<(u64, Box<[u8]>)>,
}

impl Expiries {
    pub(super) fn get(&self, key: &[u8]) -> Option<u64> {
        self.due.get(key).copied()
    }

    pub(super) fn set(&mut self, key: &[u8], due: u64) {
        self.clear(key);
        self.due.insert(key.into(), due);
        self.order.insert((due, key.into()));
    }

    /// Returns whether the key had an expiry.
    pub(super) fn clear(&mut self, key: &[u8]) -> bool {
        let Some((key, due)) = self.due.remove_entry(key) else { return false };
        self.order.remove(&(due, key));
        true
    }

    /// Removes and returns the next key whose last moment lies before `now`.
    pub(super) fn pop_before(&mut self, now: u64) -> Option<Box<[u8]>> {
        if self.order.first()?.0 >= now {
            return None;
        }
        let (_, key) = self.order.pop_first()?;
        self.due.remove(&key);
        Some(key)
    }
}

type Answer<'a> = Result<Value<'a>, CommandError>;

pub(super) fn pexpire<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let millis = number::integer(args[2])?;
    let now = i64::try_from(keys.now_ms()).unwrap_or(i64::MAX);
    let due = now.checked_add(millis).ok_or(CommandError::fixed("ERR invalid expire time in 'pexpire' command"))?;
    if !keys.contains(args[1]) {
        return Ok(Value::Integer(0));
    }
    match u64::try_from(due) {
        Ok(due_ms) if due > now => keys.expire(args[1], Some(due_ms)),
        _ => {
            keys.remove(args[1]);
        }
    }
    Ok(Value::Integer(1))
}

pub(super) fn pttl<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    if !keys.contains(args[1]) {
        return Ok(Value::Integer(-2));
    }
    let remaining = |due: u64| i64::try_from(due.saturating_sub(keys.now_ms())).unwrap_or(i64::MAX);
    Ok(Value::Integer(keys.expiry(args[1]).map_or(-1, remaining)))
}

pub(super) fn persist<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    Ok(Value::Integer(keys.expiries.clear(args[1]).into()))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bed, bulk, int};
    use super::*;

    #[test]
    fn an_expired_key_is_gone_for_every_command_and_for_dumps() {
        let mut bed = Bed::new();
        bed.keys.set_time(1_000_000);
        bed.run("SET s x PX 100");
        bed.run("HSET h a 1");
        assert_eq!((bed.run("PEXPIRE h 50"), bed.run("PEXPIRE none 50"), bed.run("PTTL h")), (int(1), int(0), int(50)));
        bed.keys.set_time(1_050_999);
        assert_eq!((bed.run("HGET h a"), bed.run("PTTL h")), (bulk("1"), int(0)), "the last millisecond counts");
        bed.keys.set_time(1_051_000);
        assert_eq!((bed.run("EXISTS h s"), bed.run("PTTL h"), bed.run("PTTL s")), (int(1), int(-2), int(49)));
        assert_eq!(bed.keys.snapshot().len(), 1);
        assert_eq!((bed.run("SET s y KEEPTTL"), bed.run("PTTL s")), (Value::status("OK"), int(49)));
        assert_eq!((bed.run("PERSIST s"), bed.run("PERSIST s"), bed.run("PTTL s")), (int(1), int(0), int(-1)));
    }

    #[test]
    fn a_key_that_is_removed_or_set_again_loses_its_expiry() {
        let mut bed = Bed::new();
        for (first, again) in [("SET k x PX 10", "SET k y"), ("HSET k a 1", "HSET k a 1"), ("ZADD k 1 a", "ZADD k 1 a")]
        {
            bed.run("DEL k");
            bed.run(first);
            bed.run("PEXPIRE k 10");
            if !again.starts_with("SET") {
                bed.run("DEL k");
            }
            bed.run(again);
            assert_eq!(bed.run("PTTL k"), int(-1), "{again}");
        }
        assert_eq!((bed.run("PEXPIRE k 0"), bed.run("EXISTS k")), (int(1), int(0)));
    }
}
