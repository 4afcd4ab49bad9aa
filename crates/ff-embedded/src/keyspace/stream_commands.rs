//! The commands on streams.

use bytes::Bytes;
use ff_core::EntryId;

use super::{
    CommandError, Keyspace, Value, number,
    stream::{Entry, Exactness, Stream, Trim},
};

type Answer<'a> = Result<Value<'a>, CommandError>;

const FIRST: EntryId = EntryId { epoch: 0, seq: 0 };
const LAST: EntryId = EntryId { epoch: u64::MAX, seq: u64::MAX };

fn half(text: &[u8]) -> Result<u64, CommandError> {
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or(CommandError::STREAM_ID)
}

/// Parses `<ms>-<seq>`, or `<ms>` with `seq` as the default of the missing part.
fn id(text: &[u8], seq: u64) -> Result<EntryId, CommandError> {
    match text.iter().position(|byte| *byte == b'-') {
        Some(at) => Ok(EntryId { epoch: half(&text[..at])?, seq: half(&text[at + 1..])? }),
        None => Ok(EntryId { epoch: half(text)?, seq }),
    }
}

/// The id that a new entry asks for.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    Exactly(EntryId),
    /// Any id of this epoch.
    InEpoch(u64),
}

impl Wanted {
    fn parse(text: &[u8]) -> Result<Self, CommandError> {
        match text.strip_suffix(b"-*") {
            Some(epoch) => Ok(Self::InEpoch(half(epoch)?)),
            None => Ok(Self::Exactly(id(text, 0)?)),
        }
    }

    /// The id after `last`, if there is a valid one.
    fn after(self, last: EntryId) -> Option<EntryId> {
        let id = match self {
            Self::Exactly(id) => id,
            Self::InEpoch(epoch) if epoch == last.epoch => EntryId { epoch, seq: last.seq.checked_add(1)? },
            Self::InEpoch(epoch) => EntryId { epoch, seq: 0 },
        };
        (id > last).then_some(id)
    }
}

/// The options before an entry's id, or after the key of a trim.
#[derive(Debug, Default)]
struct Options {
    no_create: bool,
    trim: Option<(Trim, Exactness)>,
}

impl Options {
    /// Parses options and returns them with the remaining arguments; the first word that is not an option ends them.
    fn parse<'r, 'a>(mut args: &'r [&'a [u8]]) -> Result<(Self, &'r [&'a [u8]]), CommandError> {
        let mut options = Self::default();
        loop {
            match args {
                [word, rest @ ..] if word.eq_ignore_ascii_case(b"NOMKSTREAM") => {
                    options.no_create = true;
                    args = rest;
                }
                [word, rest @ ..] if is_trim(word) && !rest.is_empty() => {
                    if options.trim.is_some() {
                        let text = "ERR syntax error, MAXLEN and MINID options at the same time are not compatible";
                        return Err(CommandError::fixed(text));
                    }
                    let (approximate, rest) = match rest {
                        [sign, rest @ ..] if *sign == b"~" && !rest.is_empty() => (true, rest),
                        [sign, rest @ ..] if *sign == b"=" && !rest.is_empty() => (false, rest),
                        _ => (false, rest),
                    };
                    let exactness = if approximate { Exactness::default() } else { Exactness::Exact };
                    options.trim = Some((threshold(word, rest[0])?, exactness));
                    args = &rest[1..];
                }
                [word, number, rest @ ..] if word.eq_ignore_ascii_case(b"LIMIT") => {
                    let limit = number::integer(number)?;
                    let limit = usize::try_from(limit)
                        .map_err(|_| CommandError::fixed("ERR The LIMIT argument must be >= 0."))?;
                    let needs = |what| Err(CommandError::fixed(what));
                    let exactness = match &mut options.trim {
                        Some((_, exactness @ Exactness::Nodes { .. })) => exactness,
                        Some(_) => return needs("ERR syntax error, LIMIT cannot be used without the special ~ option"),
                        None => {
                            let text = "ERR syntax error, LIMIT cannot be used without specifying a trimming strategy";
                            return needs(text);
                        }
                    };
                    *exactness = Exactness::Nodes { at_most: if limit == 0 { usize::MAX } else { limit } };
                    args = rest;
                }
                _ => return Ok((options, args)),
            }
        }
    }
}

fn is_trim(word: &[u8]) -> bool {
    word.eq_ignore_ascii_case(b"MAXLEN") || word.eq_ignore_ascii_case(b"MINID")
}

fn threshold(word: &[u8], text: &[u8]) -> Result<Trim, CommandError> {
    if word.eq_ignore_ascii_case(b"MINID") {
        return id(text, 0).map(Trim::MinId);
    }
    let length = number::integer(text)?;
    let length = usize::try_from(length).map_err(|_| CommandError::fixed("ERR The MAXLEN argument must be >= 0."))?;
    Ok(Trim::MaxLength(length))
}

pub(super) fn xadd<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let (options, rest) = Options::parse(&args[2..])?;
    let [wanted, fields @ ..] = rest else { return Err(CommandError::arity("xadd")) };
    let wanted = Wanted::parse(wanted)?;
    if fields.is_empty() || fields.len() % 2 == 1 {
        return Err(CommandError::arity("xadd"));
    }
    if matches!(wanted, Wanted::Exactly(FIRST)) {
        return Err(CommandError::fixed("ERR The ID specified in XADD must be greater than 0-0"));
    }
    if options.no_create && keys.get::<Stream>(args[1])?.is_none() {
        return Ok(Value::Nil);
    }
    let stream = keys.get_or_create::<Stream>(args[1])?;
    if stream.last_id() == LAST {
        let text = "ERR The stream has exhausted the last possible ID, unable to add more items";
        return Err(CommandError::fixed(text));
    }
    let id = wanted.after(stream.last_id()).ok_or(CommandError::fixed(
        "ERR The ID specified in XADD is equal or smaller than the target stream top item",
    ))?;
    let pair = |pair: &[&[u8]]| (Bytes::copy_from_slice(pair[0]), Bytes::copy_from_slice(pair[1]));
    stream.push(id, fields.chunks_exact(2).map(pair).collect());
    if let Some((trim, exactness)) = options.trim {
        stream.trim(trim, exactness);
    }
    keys.appended_to(args[1]);
    Ok(Value::text(id))
}

pub(super) fn xdel<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let Some(stream) = keys.get_mut::<Stream>(args[1])? else { return Ok(Value::Integer(0)) };
    // All ids are read before the first entry is removed.
    let ids: Vec<EntryId> = args[2..].iter().map(|text| id(text, 0)).collect::<Result<_, _>>()?;
    Ok(Value::count(ids.into_iter().filter(|id| stream.remove(*id)).count()))
}

pub(super) fn xlen<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    Ok(Value::count(keys.get::<Stream>(args[1])?.map_or(0, Stream::len)))
}

pub(super) fn xtrim<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let (options, rest) = Options::parse(&args[2..])?;
    let Some((trim, exactness)) = options.trim.filter(|_| rest.is_empty() && !options.no_create) else {
        return Err(CommandError::SYNTAX);
    };
    let stream = keys.get_mut::<Stream>(args[1])?;
    Ok(Value::count(stream.map_or(0, |stream| stream.trim(trim, exactness))))
}

/// The part of the server's answer that the library reads.
pub(super) fn xinfo<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    if args.len() != 3 || !args[1].eq_ignore_ascii_case(b"STREAM") {
        return Err(CommandError::fixed("ERR this host supports XINFO STREAM only"));
    }
    let stream = keys.get::<Stream>(args[2])?.ok_or(CommandError::fixed("ERR no such key"))?;
    Ok(Value::Array(vec![
        Value::bulk(b"length"),
        Value::count(stream.len()),
        Value::bulk(b"last-generated-id"),
        Value::text(stream.last_id()),
    ]))
}

pub(super) fn xrange<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let (first, last) = (lower(args[2])?, upper(args[3])?);
    let count = count(&args[4..])?;
    let Some(stream) = keys.get::<Stream>(args[1])? else { return Ok(Value::Array(Vec::new())) };
    Ok(listed(stream.range(first, last), count))
}

pub(super) fn xrevrange<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let (first, last) = (lower(args[3])?, upper(args[2])?);
    let count = count(&args[4..])?;
    let Some(stream) = keys.get::<Stream>(args[1])? else { return Ok(Value::Array(Vec::new())) };
    Ok(listed(stream.range(first, last).rev(), count))
}

fn lower(text: &[u8]) -> Result<EntryId, CommandError> {
    if let Some(excluded) = text.strip_prefix(b"(") {
        let EntryId { epoch, seq } = id(excluded, 0)?;
        let next = seq.checked_add(1).map(|seq| EntryId { epoch, seq });
        let next = next.or_else(|| epoch.checked_add(1).map(|epoch| EntryId { epoch, seq: 0 }));
        return next.ok_or(CommandError::fixed("ERR invalid start ID for the interval"));
    }
    end_or(text, 0)
}

fn upper(text: &[u8]) -> Result<EntryId, CommandError> {
    if let Some(excluded) = text.strip_prefix(b"(") {
        let EntryId { epoch, seq } = id(excluded, u64::MAX)?;
        let before = seq.checked_sub(1).map(|seq| EntryId { epoch, seq });
        let before = before.or_else(|| epoch.checked_sub(1).map(|epoch| EntryId { epoch, seq: u64::MAX }));
        return before.ok_or(CommandError::fixed("ERR invalid end ID for the interval"));
    }
    end_or(text, u64::MAX)
}

fn end_or(text: &[u8], seq: u64) -> Result<EntryId, CommandError> {
    match text {
        b"-" => Ok(FIRST),
        b"+" => Ok(LAST),
        _ => id(text, seq),
    }
}

/// `COUNT n`, or no limit.
fn count(args: &[&[u8]]) -> Result<Option<usize>, CommandError> {
    match args {
        [] => Ok(None),
        [word, number] if word.eq_ignore_ascii_case(b"COUNT") => {
            Ok(Some(usize::try_from(number::integer(number)?).unwrap_or(0)))
        }
        _ => Err(CommandError::SYNTAX),
    }
}

fn listed<'a>(entries: impl Iterator<Item = &'a Entry>, count: Option<usize>) -> Value<'a> {
    match count {
        // The server returns nil for a count of zero.
        Some(0) => Value::Nil,
        count => Value::Array(entries.take(count.unwrap_or(usize::MAX)).map(entry).collect()),
    }
}

fn entry(entry: &Entry) -> Value<'_> {
    let fields = entry.fields.iter().flat_map(|(name, value)| [Value::bulk(name), Value::bulk(value)]).collect();
    Value::Array(vec![Value::text(entry.id), Value::Array(fields)])
}
