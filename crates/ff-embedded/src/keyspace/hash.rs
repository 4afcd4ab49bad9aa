//! Hashes.

use rustc_hash::FxHashMap;

use super::{CommandError, Keyspace, Value, entry::Data, entry::Kind};

/// A hash: names to values, without an order.
#[derive(Debug, Default)]
pub(crate) struct Hash(FxHashMap<Box<[u8]>, Box<[u8]>>);

impl Kind for Hash {
    fn of(data: &Data) -> Option<&Self> {
        if let Data::Hash(hash) = data { Some(hash) } else { None }
    }

    fn of_mut(data: &mut Data) -> Option<&mut Self> {
        if let Data::Hash(hash) = data { Some(hash) } else { None }
    }

    fn create(_stamp: u64) -> Data {
        Data::Hash(Self::default())
    }
}

impl Hash {
    fn get(&self, name: &[u8]) -> Option<&[u8]> {
        self.0.get(name).map(AsRef::as_ref)
    }

    /// Returns whether the name is new.
    fn set(&mut self, name: &[u8], value: &[u8]) -> bool {
        if let Some(known) = self.0.get_mut(name) {
            *known = value.into();
            return false;
        }
        self.0.insert(name.into(), value.into());
        true
    }

    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        self.0.iter().map(|(name, value)| (&**name, &**value))
    }
}

type Answer<'a> = Result<Value<'a>, CommandError>;

pub(super) fn hset<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    if args.len() % 2 == 1 {
        return Err(CommandError::arity("hset"));
    }
    let hash = keys.get_or_create::<Hash>(args[1])?;
    hash.0.reserve(if hash.0.is_empty() { args.len() / 2 } else { 0 });
    let added = args[2..].chunks_exact(2).filter(|pair| hash.set(pair[0], pair[1])).count();
    Ok(Value::count(added))
}

pub(super) fn hget<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let hash = keys.get::<Hash>(args[1])?;
    Ok(Value::or_nil(hash.and_then(|hash| hash.get(args[2]))))
}

pub(super) fn hmget<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let hash = keys.get::<Hash>(args[1])?;
    Ok(Value::Array(args[2..].iter().map(|name| Value::or_nil(hash.and_then(|hash| hash.get(name)))).collect()))
}

pub(super) fn hexists<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let hash = keys.get::<Hash>(args[1])?;
    Ok(Value::Integer(hash.is_some_and(|hash| hash.get(args[2]).is_some()).into()))
}

pub(super) fn hstrlen<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let hash = keys.get::<Hash>(args[1])?;
    Ok(Value::count(hash.and_then(|hash| hash.get(args[2])).map_or(0, |value| value.len())))
}

pub(super) fn hlen<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    Ok(Value::count(keys.get::<Hash>(args[1])?.map_or(0, |hash| hash.0.len())))
}

/// In an order that the seed decides, different at every call: no caller may depend on it.
pub(super) fn hkeys<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let mut order = keys.fork_random();
    let Some(hash) = keys.get::<Hash>(args[1])? else { return Ok(Value::Array(Vec::new())) };
    let mut names: Vec<&[u8]> = hash.0.keys().map(AsRef::as_ref).collect();
    names.sort_unstable();
    order.shuffle(&mut names);
    Ok(Value::Array(names.into_iter().map(Value::bulk).collect()))
}

pub(super) fn hdel<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let Some(hash) = keys.get_mut::<Hash>(args[1])? else { return Ok(Value::Integer(0)) };
    let removed = args[2..].iter().filter(|name| hash.0.remove(**name).is_some()).count();
    if hash.0.is_empty() {
        keys.remove(args[1]);
    }
    Ok(Value::count(removed))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bed, array, bulk, int};
    use super::*;

    #[test]
    fn fields_are_set_read_and_deleted() {
        let mut bed = Bed::new();
        assert_eq!(bed.run("HSET h a 1 b 2"), int(2));
        assert_eq!(bed.run("HSET h a 3 c 4"), int(1));
        assert_eq!(bed.run("HMGET h a x c"), array([bulk("3"), Value::Nil, bulk("4")]));
        assert_eq!((bed.run("HGET h b"), bed.run("HGET none b")), (bulk("2"), Value::Nil));
        assert_eq!((bed.run("HEXISTS h c"), bed.run("HEXISTS h x"), bed.run("HLEN h")), (int(1), int(0), int(3)));
        assert_eq!((bed.run("HSTRLEN h c"), bed.run("HSTRLEN h x"), bed.run("HSTRLEN x c")), (int(1), int(0), int(0)));
        assert_eq!(bed.run("HDEL h a b x"), int(2));
        assert_eq!(bed.run("HDEL h c"), int(1));
        assert_eq!(bed.run("EXISTS h"), int(0), "an empty hash is gone");
        assert_eq!((bed.run("HKEYS h"), bed.run("HLEN h"), bed.run("HDEL h a")), (array([]), int(0), int(0)));
    }

    #[test]
    fn the_order_of_names_depends_on_the_seed() {
        let order = |seed| {
            let mut bed = Bed::seeded(seed);
            bed.run("HSET h a 1 b 1 c 1 d 1 e 1 f 1 g 1 h 1");
            (bed.run("HKEYS h"), bed.run("HKEYS h"))
        };
        assert_eq!(order(1), order(1));
        assert_ne!(order(1).0, order(2).0);
        assert_ne!(order(1).0, order(1).1);
    }
}
