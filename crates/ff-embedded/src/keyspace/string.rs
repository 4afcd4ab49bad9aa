//! Strings.

use super::{CommandError, Keyspace, Value, entry::Data, entry::Kind, number};

/// A string of bytes.
#[derive(Debug, Default)]
pub(crate) struct Text(Box<[u8]>);

impl Text {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl Kind for Text {
    fn of(data: &Data) -> Option<&Self> {
        if let Data::String(text) = data { Some(text) } else { None }
    }

    fn of_mut(data: &mut Data) -> Option<&mut Self> {
        if let Data::String(text) = data { Some(text) } else { None }
    }

    fn create(_stamp: u64) -> Data {
        Data::String(Self::default())
    }
}

type Answer<'a> = Result<Value<'a>, CommandError>;

/// The keys on which `SET` has an effect.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Only {
    New,
    Existing,
}

/// The supported options of `SET`: `NX`, `XX`, `GET`, `PX` and `KEEPTTL`.
#[derive(Debug, Default)]
struct SetOptions<'a> {
    only: Option<Only>,
    get: bool,
    keep_expiry: bool,
    expires_after: Option<&'a [u8]>,
}

impl<'a> SetOptions<'a> {
    fn parse(words: &[&'a [u8]]) -> Result<Self, CommandError> {
        let mut options = Self::default();
        let mut words = words.iter();
        while let Some(word) = words.next() {
            match word.to_ascii_uppercase().as_slice() {
                b"NX" if options.only != Some(Only::Existing) => options.only = Some(Only::New),
                b"XX" if options.only != Some(Only::New) => options.only = Some(Only::Existing),
                b"GET" => options.get = true,
                b"KEEPTTL" if options.expires_after.is_none() => options.keep_expiry = true,
                b"PX" if !options.keep_expiry => {
                    options.expires_after = Some(words.next().copied().ok_or(CommandError::SYNTAX)?);
                }
                _ => return Err(CommandError::SYNTAX),
            }
        }
        Ok(options)
    }
}

pub(super) fn set<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let (key, value) = (args[1], args[2]);
    let options = SetOptions::parse(&args[3..])?;
    let due = options.expires_after.map(|text| due(keys, text)).transpose()?;
    let before = if options.get { keys.get::<Text>(key)?.map(|text| text.0.to_vec()) } else { None };
    let refused = match options.only {
        Some(Only::New) => keys.contains(key),
        Some(Only::Existing) => !keys.contains(key),
        None => false,
    };
    if !refused {
        let expiry = due.or_else(|| keys.expiry(key).filter(|_| options.keep_expiry));
        keys.replace(key, Data::String(Text(value.into())))?;
        keys.expire(key, expiry);
    }
    Ok(match (options.get, before) {
        (true, Some(before)) => Value::Bulk(before.into()),
        (true, None) => Value::Nil,
        (false, _) if refused => Value::Nil,
        (false, _) => Value::status("OK"),
    })
}

/// The expiry time of a key that lives for this many milliseconds from now.
fn due(keys: &Keyspace, text: &[u8]) -> Result<u64, CommandError> {
    const INVALID: CommandError = CommandError::fixed("ERR invalid expire time in 'set' command");
    let millis = number::integer(text)?;
    let due = i64::try_from(keys.now_ms()).ok().filter(|_| millis > 0).and_then(|now| now.checked_add(millis));
    due.and_then(|due| u64::try_from(due).ok()).ok_or(INVALID)
}

pub(super) fn get<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    Ok(Value::or_nil(keys.get::<Text>(args[1])?.map(Text::bytes)))
}

pub(super) fn strlen<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    Ok(Value::count(keys.get::<Text>(args[1])?.map_or(0, |text| text.0.len())))
}

#[cfg(test)]
mod tests {
    use super::super::testing::{Bed, bulk, int};
    use super::*;

    #[test]
    fn a_string_is_set_read_and_measured() {
        let mut bed = Bed::new();
        assert_eq!((bed.run("SET s abc"), bed.run("GET s")), (Value::status("OK"), bulk("abc")));
        assert_eq!((bed.run("STRLEN s"), bed.run("STRLEN none"), bed.run("GET none")), (int(3), int(0), Value::Nil));
        assert_eq!((bed.run("SET s x NX"), bed.run("SET s x NX GET"), bed.run("GET s")), {
            (Value::Nil, bulk("abc"), bulk("abc"))
        });
        assert_eq!((bed.run("SET none x XX"), bed.run("SET s x GET"), bed.run("GET s")), {
            (Value::Nil, bulk("abc"), bulk("x"))
        });
        bed.run("HSET h a 1");
        assert!(bed.fail("SET h x GET").starts_with("WRONGTYPE"));
        assert_eq!((bed.run("SET h x"), bed.run("TYPE h")), (Value::status("OK"), Value::status("string")));
    }
}
