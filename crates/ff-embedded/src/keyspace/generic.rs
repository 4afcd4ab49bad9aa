//! Commands on keys of any type, and commands without a key.

use super::{CommandError, Keyspace, Value};

type Answer<'a> = Result<Value<'a>, CommandError>;

/// The time at which the present call began: it is constant within a call.
pub(super) fn time<'a>(keys: &'a mut Keyspace, _args: &[&[u8]]) -> Answer<'a> {
    let (seconds, micros) = (keys.now_us / 1_000_000, keys.now_us % 1_000_000);
    Ok(Value::Array(vec![Value::text(seconds), Value::text(micros)]))
}

/// The id of this host and its number of executed commands, whatever sections are requested.
pub(super) fn info<'a>(keys: &'a mut Keyspace, _args: &[&[u8]]) -> Answer<'a> {
    let (run_id, executed) = (keys.run_id, keys.executed);
    Ok(Value::text(format_args!("run_id:{run_id:032x}\r\ntotal_commands_processed:{executed}\r\n")))
}

pub(super) fn key_type<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    Ok(Value::status(keys.data.get(args[1]).map_or("none", super::entry::Data::type_name)))
}

/// A key that is named twice counts twice.
pub(super) fn exists<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    Ok(Value::count(args[1..].iter().filter(|key| keys.data.contains_key(**key)).count()))
}

pub(super) fn del<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    Ok(Value::count(args[1..].iter().filter(|key| keys.remove(key)).count()))
}

/// Delivers a message to the present listeners and returns their number.
pub(super) fn announce<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    Ok(Value::count(keys.listeners.announce(args[1], args[2])))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bed, array, bulk, int};
    use super::*;

    #[test]
    fn a_key_knows_its_type() {
        let mut bed = Bed::new();
        bed.run("HSET h a 1");
        bed.run("ZADD z 1 a");
        bed.run("XADD s 1-1 a 1");
        for (key, name) in [("h", "hash"), ("z", "zset"), ("s", "stream"), ("x", "none")] {
            assert_eq!(bed.run(&format!("TYPE {key}")), Value::status(name));
        }
        assert_eq!((bed.run("EXISTS h z h x"), bed.run("UNLINK h x"), bed.run("DEL h z s")), (int(3), int(1), int(2)));
    }

    #[test]
    fn time_is_in_seconds_and_microseconds() {
        let mut bed = Bed::new();
        bed.keys.set_time(1_700_000_000_000_042);
        assert_eq!(bed.run("TIME"), array([bulk("1700000000"), bulk("42")]));
    }

    #[test]
    fn every_host_and_every_process_of_it_describes_itself_differently() {
        let mut hosts = [Bed::seeded(1), Bed::seeded(2)];
        let mut descriptions: Vec<_> =
            (0..4).map(|turn| format!("{:?}", hosts[turn % 2].run("INFO server stats"))).collect();
        descriptions.sort();
        descriptions.dedup();
        assert_eq!(descriptions.len(), 4);
    }

    #[test]
    fn a_message_without_listeners_has_no_receivers() {
        assert_eq!(Bed::new().run("publish channel text"), int(0));
    }
}
