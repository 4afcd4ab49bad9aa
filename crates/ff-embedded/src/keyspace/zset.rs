//! Sorted sets: members by score, and by their bytes where the scores are equal.

use std::{cmp::Ordering, collections::BTreeSet, ops::Bound, sync::Arc};

use rustc_hash::FxHashMap;

use super::{CommandError, Keyspace, Value, entry::Data, entry::Kind, number};

/// A score; never NaN.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Score(f64);

impl Eq for Score {}

impl PartialOrd for Score {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Score {
    fn cmp(&self, other: &Self) -> Ordering {
        self.0.partial_cmp(&other.0).unwrap_or(Ordering::Equal)
    }
}

type Ranked = (Score, Arc<[u8]>);

#[derive(Debug, Default)]
pub(crate) struct SortedSet {
    scores: FxHashMap<Arc<[u8]>, Score>,
    order: BTreeSet<Ranked>,
}

impl Kind for SortedSet {
    fn of(data: &Data) -> Option<&Self> {
        if let Data::SortedSet(set) = data { Some(set) } else { None }
    }

    fn of_mut(data: &mut Data) -> Option<&mut Self> {
        if let Data::SortedSet(set) = data { Some(set) } else { None }
    }

    fn create(_stamp: u64) -> Data {
        Data::SortedSet(Self::default())
    }
}

impl SortedSet {
    /// Returns whether the member is new.
    fn add(&mut self, member: &[u8], score: Score) -> bool {
        if let Some(known) = self.scores.get_mut(member) {
            let before = *known;
            if before != score {
                *known = score;
                let ranked = self.order.take(&(before, Arc::from(member)));
                self.order.insert((score, ranked.map_or_else(|| Arc::from(member), |(_, member)| member)));
            }
            return false;
        }
        let member: Arc<[u8]> = Arc::from(member);
        self.scores.insert(member.clone(), score);
        self.order.insert((score, member));
        true
    }

    fn remove(&mut self, member: &[u8]) -> bool {
        let Some((member, score)) = self.scores.remove_entry(member) else { return false };
        self.order.remove(&(score, member));
        true
    }

    /// Members and scores in their order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], f64)> {
        self.order.iter().map(|(score, member)| (&**member, score.0))
    }

    fn by_score(&self, range: &ScoreRange) -> impl Iterator<Item = &Ranked> {
        let first = Bound::Included((Score(range.min.0), Arc::from(&b""[..])));
        let (min, max) = (range.min, range.max);
        self.order
            .range((first, Bound::Unbounded))
            .skip_while(move |(score, _)| min.1 && score.0 <= min.0)
            .take_while(move |(score, _)| if max.1 { score.0 < max.0 } else { score.0 <= max.0 })
    }

    /// As on the server: from the first member that is not below the range to the first that is above it. With
    /// different scores the result depends on this.
    fn by_bytes<'s, 'r>(&'s self, range: &LexRange<'r>) -> impl Iterator<Item = &'s Ranked> + use<'s, 'r> {
        let first = match (self.order.first(), self.order.last(), &range.min) {
            (Some(first), Some(last), LexBound::At(bytes, _)) if first.0 == last.0 => {
                Bound::Included((first.0, Arc::from(*bytes)))
            }
            _ => Bound::Unbounded,
        };
        let (min, max) = (range.min, range.max);
        self.order
            .range((first, Bound::Unbounded))
            .skip_while(move |(_, member)| !min.admits_from(member))
            .take_while(move |(_, member)| max.admits_to(member))
    }
}

/// Two scores, each with whether it is excluded.
struct ScoreRange {
    min: (f64, bool),
    max: (f64, bool),
}

impl ScoreRange {
    fn parse(min: &[u8], max: &[u8]) -> Result<Self, CommandError> {
        let bound = |text: &[u8]| {
            let (text, excluded) = text.strip_prefix(b"(").map_or((text, false), |rest| (rest, true));
            // The server reads an empty text as zero here.
            let score = if text.is_empty() { Some(0.0) } else { number::float(text) };
            let score = score.ok_or(CommandError::fixed("ERR min or max is not a float"))?;
            Ok((score, excluded))
        };
        Ok(Self { min: bound(min)?, max: bound(max)? })
    }

    fn is_empty(&self) -> bool {
        self.min.0 > self.max.0
    }
}

#[derive(Clone, Copy)]
enum LexBound<'a> {
    Lowest,
    Highest,
    /// These bytes, and whether they are excluded.
    At(&'a [u8], bool),
}

impl<'a> LexBound<'a> {
    fn parse(text: &'a [u8]) -> Result<Self, CommandError> {
        match text {
            b"-" => Ok(Self::Lowest),
            b"+" => Ok(Self::Highest),
            [b'(', bytes @ ..] => Ok(Self::At(bytes, true)),
            [b'[', bytes @ ..] => Ok(Self::At(bytes, false)),
            _ => Err(CommandError::fixed("ERR min or max not valid string range item")),
        }
    }

    fn admits_from(self, member: &[u8]) -> bool {
        match self {
            Self::Lowest => true,
            Self::Highest => false,
            Self::At(bytes, excluded) => {
                if excluded {
                    member > bytes
                } else {
                    member >= bytes
                }
            }
        }
    }

    fn admits_to(self, member: &[u8]) -> bool {
        match self {
            Self::Lowest => false,
            Self::Highest => true,
            Self::At(bytes, excluded) => {
                if excluded {
                    member < bytes
                } else {
                    member <= bytes
                }
            }
        }
    }
}

struct LexRange<'a> {
    min: LexBound<'a>,
    max: LexBound<'a>,
}

/// The number of members to skip, and the maximum number to take.
struct Limit(usize, usize);

impl Limit {
    /// Parses `LIMIT offset count` or nothing. A negative offset selects nothing, a negative count everything.
    fn parse(args: &[&[u8]]) -> Result<Self, CommandError> {
        match args {
            [] => Ok(Self(0, usize::MAX)),
            [word, offset, count] if word.eq_ignore_ascii_case(b"LIMIT") => {
                let (offset, count) = (number::integer(offset)?, number::integer(count)?);
                let whole = |number: i64| usize::try_from(number).unwrap_or(usize::MAX);
                Ok(if offset < 0 { Self(0, 0) } else { Self(whole(offset), whole(count)) })
            }
            _ => Err(CommandError::SYNTAX),
        }
    }

    fn members<'a>(&self, found: impl Iterator<Item = &'a Ranked>) -> Value<'a> {
        Value::Array(found.skip(self.0).take(self.1).map(|(_, member)| Value::bulk(member)).collect())
    }
}

type Answer<'a> = Result<Value<'a>, CommandError>;

pub(super) fn zadd<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    if args.len() % 2 == 1 {
        return Err(CommandError::SYNTAX);
    }
    // All scores are parsed before the first is written.
    let pairs = args[2..].chunks_exact(2).map(|pair| {
        let score = number::float(pair[0]).ok_or(CommandError::NOT_FLOAT)?;
        Ok((Score(score), pair[1]))
    });
    let pairs: Vec<_> = pairs.collect::<Result<_, CommandError>>()?;
    let set = keys.get_or_create::<SortedSet>(args[1])?;
    Ok(Value::count(pairs.into_iter().filter(|(score, member)| set.add(member, *score)).count()))
}

pub(super) fn zrem<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let Some(set) = keys.get_mut::<SortedSet>(args[1])? else { return Ok(Value::Integer(0)) };
    let removed = args[2..].iter().filter(|member| set.remove(member)).count();
    if set.scores.is_empty() {
        keys.remove(args[1]);
    }
    Ok(Value::count(removed))
}

pub(super) fn zscore<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let set = keys.get::<SortedSet>(args[1])?;
    let score = set.and_then(|set| set.scores.get(args[2]));
    Ok(score.map_or(Value::Nil, |score| Value::text(number::write_float(score.0))))
}

pub(super) fn zcard<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    Ok(Value::count(keys.get::<SortedSet>(args[1])?.map_or(0, |set| set.scores.len())))
}

/// By rank, counted from the end if negative; `WITHSCORES` is the only option.
pub(super) fn zrange<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let with_scores = match &args[4..] {
        [] => false,
        [word] if word.eq_ignore_ascii_case(b"WITHSCORES") => true,
        _ => return Err(CommandError::SYNTAX),
    };
    let (start, stop) = (number::integer(args[2])?, number::integer(args[3])?);
    let Some(set) = keys.get::<SortedSet>(args[1])? else { return Ok(Value::Array(Vec::new())) };
    let length = set.scores.len();
    let from_end = |rank: i64| if rank < 0 { rank.saturating_add_unsigned(length as u64) } else { rank };
    let first = usize::try_from(from_end(start)).unwrap_or(0);
    let count = usize::try_from(from_end(stop)).map_or(0, |last| last.saturating_add(1).saturating_sub(first));
    let mut found = Vec::new();
    for (score, member) in set.order.iter().skip(first).take(count) {
        found.push(Value::bulk(member));
        if with_scores {
            found.push(Value::text(number::write_float(score.0)));
        }
    }
    Ok(Value::Array(found))
}

pub(super) fn zrangebyscore<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let limit = Limit::parse(&args[4..])?;
    let range = ScoreRange::parse(args[2], args[3])?;
    let set = keys.get::<SortedSet>(args[1])?.filter(|_| !range.is_empty());
    Ok(set.map_or(Value::Array(Vec::new()), |set| limit.members(set.by_score(&range))))
}

pub(super) fn zrangebylex<'a>(keys: &'a mut Keyspace, args: &[&[u8]]) -> Answer<'a> {
    let limit = Limit::parse(&args[4..])?;
    let range = LexRange { min: LexBound::parse(args[2])?, max: LexBound::parse(args[3])? };
    let Some(set) = keys.get::<SortedSet>(args[1])? else { return Ok(Value::Array(Vec::new())) };
    Ok(limit.members(set.by_bytes(&range)))
}
