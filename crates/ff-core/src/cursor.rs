//! The cursor: the position of a subscription in all logs, as a value that outlives the process.
//!
//! The text is `ff1:` and, in base64url without padding: scope (1 byte), partition count, the greatest
//! epoch, then for each log its state (at the start, earliest, or after an entry; whether entries were rolled back; how
//! many epochs were passed before), and those entries, each as the epoch's distance from the greatest epoch and the
//! sequence number; last a CRC-32 of all that. Numbers are LEB128.

use std::{fmt, str::FromStr, sync::Arc};

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use crc::{CRC_32_ISO_HDLC, Crc};
use serde::{Deserialize, Deserializer, Serialize, Serializer};

use crate::{EngineError, EntryId, LogId, PartitionCount, Scope, SubscriptionScope, error::shown, reader::LogCursor};

const PREFIX: &str = "ff1:";
const CHECK: Crc<u32> = Crc::<u32>::new(&CRC_32_ISO_HDLC);
/// The limit per log. A reader remembers only a few epochs, so no log has more entries.
const MOST_ENTRIES: u64 = 64;
/// The state of a log in the text.
const START: u64 = 0;
const EARLIEST: u64 = 1;
const AFTER: u64 = 2;

/// The state of a subscription: one position per log. Opaque; store its text or its serde form and pass it to
/// [`Start::After`](crate::Start::After) later, in this process or another one.
///
/// It contains the scope and the partition count of its deployment. A subscription with another scope or partition
/// count refuses it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    flows: Arc<[LogCursor]>,
    solo: Option<Arc<[LogCursor]>>,
}

impl Cursor {
    /// A cursor with these positions, one per partition in order. For backends.
    ///
    /// # Panics
    /// If there are no partitions, too many partitions, or different numbers for solo executions and for flows.
    #[must_use]
    pub fn new(flows: Arc<[LogCursor]>, solo: Option<Arc<[LogCursor]>>) -> Self {
        assert!((1..=usize::from(PartitionCount::MAX)).contains(&flows.len()), "{} partitions", flows.len());
        assert!(solo.iter().all(|solo| solo.len() == flows.len()), "one position per log of each scope");
        Self { flows, solo }
    }

    /// The positions in the logs of a scope, by partition; `None` for a scope that the cursor lacks. For backends.
    #[must_use]
    pub const fn logs(&self, scope: Scope) -> Option<&Arc<[LogCursor]>> {
        match scope {
            Scope::Flows => Some(&self.flows),
            Scope::Solo => self.solo.as_ref(),
        }
    }

    /// The newest entry of a log that the cursor has passed.
    #[must_use]
    pub fn position(&self, log: LogId) -> Option<EntryId> {
        self.logs(log.scope)?.get(usize::from(log.partition.number()))?.last()
    }

    /// The scope of the subscription.
    #[must_use]
    pub const fn scope(&self) -> SubscriptionScope {
        if self.solo.is_some() { SubscriptionScope::FlowsAndSolo } else { SubscriptionScope::Flows }
    }

    /// The number of partitions of its deployment.
    #[must_use]
    pub fn partitions(&self) -> usize {
        self.flows.len()
    }

    /// Refuses a cursor of another deployment or scope.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] with the difference.
    pub fn check(&self, partitions: PartitionCount, scope: SubscriptionScope) -> Result<(), EngineError> {
        let refused = |reason| Err(EngineError::invalid(format!("cursor `{}`", shown(&self.to_string())), reason));
        if self.partitions() != usize::from(partitions.get()) {
            return refused(format!(
                "it belongs to a deployment of {} partitions, and this one has {}; subscribe from Now or Earliest",
                self.partitions(),
                partitions.get()
            ));
        }
        if self.scope() != scope {
            return refused(format!(
                "its scope is {}, but the subscription's scope is {scope}; subscribe with the cursor's scope",
                self.scope()
            ));
        }
        Ok(())
    }
}

impl fmt::Display for Cursor {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let logs = || self.flows.iter().chain(self.solo.iter().flat_map(|solo| solo.iter()));
        let base = logs().flat_map(entries).map(|entry| entry.epoch).max().unwrap_or(0);
        let mut out = vec![u8::from(self.solo.is_some())];
        write(&mut out, self.flows.len() as u64);
        write(&mut out, base);
        for log in logs() {
            let kind = match (log.last(), log.is_earliest()) {
                (None, false) => START,
                (None, true) => EARLIEST,
                (Some(_), _) => AFTER,
            };
            let undone = log.undone().len() as u64;
            write(&mut out, kind + 4 * u64::from(undone > 0) + 8 * log.passed().len() as u64);
            if undone > 0 {
                write(&mut out, undone);
            }
            for entry in entries(log) {
                write(&mut out, base - entry.epoch);
                write(&mut out, entry.seq);
            }
        }
        let check = CHECK.checksum(&out).to_be_bytes();
        out.extend(check);
        write!(f, "{PREFIX}{}", URL_SAFE_NO_PAD.encode(out))
    }
}

/// The newest entry, then those of passed epochs, then those that were rolled back.
fn entries(log: &LogCursor) -> impl Iterator<Item = EntryId> {
    log.last().into_iter().chain(log.passed().iter().copied()).chain(log.undone().iter().copied())
}

impl FromStr for Cursor {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        let refused = |reason: &str| EngineError::invalid(format!("cursor `{}`", shown(text)), reason);
        let encoded = text.strip_prefix(PREFIX).ok_or_else(|| refused("expected `ff1:` and what follows it"))?;
        let bytes = URL_SAFE_NO_PAD.decode(encoded).map_err(|_| refused("it is cut off or garbled"))?;
        let body = bytes.split_last_chunk::<4>().filter(|(body, check)| CHECK.checksum(body).to_be_bytes() == **check);
        let (mut body, _) = body.ok_or_else(|| refused("it is cut off or garbled"))?;
        decode(&mut body).filter(|_| body.is_empty()).ok_or_else(|| refused("it is of a form that is not known"))
    }
}

fn decode(body: &mut &[u8]) -> Option<Cursor> {
    let (scope, rest) = body.split_first().filter(|(scope, _)| **scope <= 1)?;
    *body = rest;
    let count = PartitionCount::new(u16::try_from(read(body)?).ok()?).ok()?;
    let base = read(body)?;
    let logs = |body: &mut &[u8]| (0..count.get()).map(|_| log(body, base)).collect::<Option<Arc<[LogCursor]>>>();
    let flows = logs(body)?;
    let solo = if *scope == 1 { Some(logs(body)?) } else { None };
    Some(Cursor { flows, solo })
}

fn log(body: &mut &[u8], base: u64) -> Option<LogCursor> {
    let head = read(body)?;
    let (kind, passed) = (head % 4, head / 8);
    let undone = if head & 4 == 4 { read(body)? } else { 0 };
    let entry = |body: &mut &[u8]| Some(EntryId { epoch: base.checked_sub(read(body)?)?, seq: read(body)? });
    let last = if kind == AFTER { Some(entry(body)?) } else { None };
    let entries = |count: u64, body: &mut &[u8]| -> Option<Vec<EntryId>> {
        (0..count.min(MOST_ENTRIES)).map(|_| entry(body)).collect()
    };
    let (passed, undone) = (entries(passed, body)?, entries(undone, body)?);
    match kind {
        START | AFTER => Some(LogCursor::restored(last, &passed, &undone)),
        EARLIEST if passed.is_empty() && undone.is_empty() => Some(LogCursor::earliest()),
        _ => None,
    }
}

/// LEB128.
fn write(out: &mut Vec<u8>, mut value: u64) {
    while value >= 0x80 {
        out.push((value & 0x7f) as u8 | 0x80);
        value >>= 7;
    }
    out.push(value as u8);
}

fn read(body: &mut &[u8]) -> Option<u64> {
    let mut value = 0u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = body.split_first()?;
        *body = rest;
        let bits = u64::from(byte & 0x7f);
        value |= bits.checked_shl(shift).filter(|shifted| shifted >> shift == bits)?;
        if byte & 0x80 == 0 {
            return Some(value);
        }
    }
    None
}

impl Serialize for Cursor {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Cursor {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry() -> impl Strategy<Value = EntryId> {
        (any::<u64>(), any::<u64>()).prop_map(|(epoch, seq)| EntryId { epoch, seq })
    }

    fn entries() -> impl Strategy<Value = Vec<EntryId>> {
        prop::collection::vec(entry(), 0..4)
    }

    fn log_cursor() -> impl Strategy<Value = LogCursor> {
        prop_oneof![
            2 => Just(LogCursor::default()),
            1 => Just(LogCursor::earliest()),
            4 => (prop::option::of(entry()), entries(), entries())
                .prop_map(|(last, passed, undone)| LogCursor::restored(last, &passed, &undone)),
        ]
    }

    fn cursor() -> impl Strategy<Value = Cursor> {
        (1usize..20).prop_flat_map(|count| {
            let logs = || prop::collection::vec(log_cursor(), count);
            (logs(), prop::option::of(logs())).prop_map(|(flows, solo)| Cursor::new(flows.into(), solo.map(Into::into)))
        })
    }

    proptest! {
        #[test]
        fn a_cursor_survives_print_and_parse(cursor in cursor()) {
            prop_assert_eq!(&cursor.to_string().parse::<Cursor>().unwrap(), &cursor);
            let json = serde_json::to_string(&cursor).unwrap();
            prop_assert_eq!(serde_json::from_str::<Cursor>(&json).unwrap(), cursor);
        }

        #[test]
        fn a_cursor_with_a_wrong_character_is_refused(cursor in cursor(), at in any::<prop::sample::Index>(), with in "[A-Za-z0-9_-]") {
            let text = cursor.to_string();
            let at = PREFIX.len() + at.index(text.len() - PREFIX.len());
            let mut garbled = text.clone();
            garbled.replace_range(at..=at, &with);
            prop_assume!(garbled != text);
            prop_assert!(garbled.parse::<Cursor>().is_err());
            prop_assert!(text[..text.len() - 1].parse::<Cursor>().is_err());
        }

        #[test]
        fn no_text_makes_parsing_panic(text in ".*") {
            let _ = text.parse::<Cursor>();
            let _ = format!("{PREFIX}{text}").parse::<Cursor>();
        }
    }

    #[test]
    fn the_cursor_of_an_ordinary_deployment_is_short() {
        let log = |n: u64| LogCursor::after(Some(EntryId { epoch: 1_764_000_000_000 + n, seq: 5_000 }));
        let cursor = Cursor::new((0..256).map(log).collect(), None);
        assert!(cursor.to_string().len() < 2_000, "{}", cursor.to_string().len());
    }

    #[test]
    fn a_cursor_of_another_deployment_or_scope_is_refused_with_the_difference() {
        let cursor = Cursor::new(vec![LogCursor::default(); 4].into(), None);
        let check = |count, scope| cursor.check(PartitionCount::new(count).unwrap(), scope).map_err(|e| e.to_string());
        assert_eq!(check(4, SubscriptionScope::Flows), Ok(()));
        assert!(check(8, SubscriptionScope::Flows).unwrap_err().contains("4 partitions, and this one has 8"));
        assert!(check(4, SubscriptionScope::FlowsAndSolo).unwrap_err().contains("scope"));
    }
}
