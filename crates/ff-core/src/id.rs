//! Identities. Both are `Copy`, print as text, and refuse malformed text with a message that shows it.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Serialize, de};
use uuid::Uuid;

use crate::{EngineError, Namespace, Partition, PartitionCount, error::shown};

/// The root of all ids that are derived from an idempotency key (a UUIDv5 namespace, drawn once for this project).
const IDEMPOTENCY_ROOT: Uuid = Uuid::from_u128(0x8f1d_62c4_5a0b_4d7e_9c35_e2b7_4f60_a918);

fn derived(kind: &str, namespace: &Namespace, key: &str) -> Uuid {
    let scoped = Uuid::new_v5(&IDEMPOTENCY_ROOT, format!("{kind}\0{namespace}").as_bytes());
    Uuid::new_v5(&scoped, key.as_bytes())
}

fn parse_uuid(kind: &str, whole: &str, text: &str, expected: &str) -> Result<Uuid, EngineError> {
    // Only the hyphenated form in lower case: one execution must not have several spellings. No other has this length.
    match Uuid::try_parse(text) {
        Ok(uuid) if text.len() == 36 && !text.bytes().any(|byte| byte.is_ascii_uppercase()) => Ok(uuid),
        _ => Err(EngineError::invalid(format!("{kind} id `{}`", shown(whole)), format!("expected {expected}"))),
    }
}

/// The identity of a flow: a uuid, printed hyphenated in lower case.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct FlowId(Uuid);

impl FlowId {
    /// A new, time-ordered id (UUIDv7).
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::now_v7())
    }

    /// The id derived from a namespace and an idempotency key (UUIDv5). A repeated submission gets the same id.
    #[must_use]
    pub fn from_idempotency_key(namespace: &Namespace, key: &str) -> Self {
        Self(derived("flow", namespace, key))
    }

    /// The id with this uuid.
    #[must_use]
    pub const fn from_uuid(uuid: Uuid) -> Self {
        Self(uuid)
    }

    /// The uuid.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.0
    }

    /// The partition of the flow and of all its members.
    #[must_use]
    pub fn partition(self, count: PartitionCount) -> Partition {
        count.partition_of(self.0)
    }
}

impl fmt::Display for FlowId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl FromStr for FlowId {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        parse_uuid("flow", text, text, "a uuid such as 0192f0c1-2b3c-7d4e-8f50-617283940a1b").map(Self)
    }
}

/// The identity of a claim. A repeated claim keeps it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub struct ClaimId(Uuid);

impl ClaimId {
    /// A new id.
    #[must_use]
    pub fn generate() -> Self {
        Self(Uuid::new_v4())
    }
}

impl From<Uuid> for ClaimId {
    fn from(uuid: Uuid) -> Self {
        Self(uuid)
    }
}

impl fmt::Display for ClaimId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// The identity of an execution: its partition and a uuid, printed `{fp:N}:<uuid>`.
///
/// All members of a flow carry the flow's partition; a solo execution carries that of its own uuid.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ExecutionId {
    partition: Partition,
    uuid: Uuid,
}

impl ExecutionId {
    /// A new id for a solo execution.
    #[must_use]
    pub fn generate_solo(count: PartitionCount) -> Self {
        Self::solo(Uuid::now_v7(), count)
    }

    /// The id of a solo execution with this uuid.
    #[must_use]
    pub fn solo(uuid: Uuid, count: PartitionCount) -> Self {
        Self { partition: count.partition_of(uuid), uuid }
    }

    /// The id of a solo execution, derived from a namespace and an idempotency key.
    #[must_use]
    pub fn from_idempotency_key(namespace: &Namespace, key: &str, count: PartitionCount) -> Self {
        Self::solo(derived("execution", namespace, key), count)
    }

    /// The id of the member of a flow with this name (UUIDv5 of the flow's uuid and the name).
    #[must_use]
    pub fn member(flow: FlowId, name: &str, count: PartitionCount) -> Self {
        Self { partition: flow.partition(count), uuid: Uuid::new_v5(&flow.uuid(), name.as_bytes()) }
    }

    /// The id with these parts.
    #[must_use]
    pub const fn from_parts(partition: Partition, uuid: Uuid) -> Self {
        Self { partition, uuid }
    }

    /// The partition of the execution.
    #[must_use]
    pub const fn partition(self) -> Partition {
        self.partition
    }

    /// The uuid.
    #[must_use]
    pub const fn uuid(self) -> Uuid {
        self.uuid
    }
}

impl fmt::Display for ExecutionId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.partition, self.uuid)
    }
}

impl FromStr for ExecutionId {
    type Err = EngineError;

    fn from_str(text: &str) -> Result<Self, EngineError> {
        const EXPECTED: &str = "`{fp:N}:<uuid>` such as {fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b";
        let malformed =
            || EngineError::invalid(format!("execution id `{}`", shown(text)), format!("expected {EXPECTED}"));
        let (number, uuid) = text.strip_prefix("{fp:").and_then(|rest| rest.split_once('}')).ok_or_else(malformed)?;
        let uuid = uuid.strip_prefix(':').ok_or_else(malformed)?;
        let partition: u16 = number.parse().map_err(|_| malformed())?;
        let has_other_spelling = number.len() > 1 && number.starts_with(['0', '+']);
        if has_other_spelling || partition >= PartitionCount::MAX {
            return Err(malformed());
        }
        let uuid = parse_uuid("execution", text, uuid, EXPECTED)?;
        Ok(Self { partition: Partition::new(partition), uuid })
    }
}

macro_rules! serde_as_text {
    ($type:ty) => {
        impl Serialize for $type {
            fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
                serializer.collect_str(self)
            }
        }

        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let text = <std::borrow::Cow<'de, str>>::deserialize(deserializer)?;
                text.parse().map_err(de::Error::custom)
            }
        }
    };
}

serde_as_text!(FlowId);
serde_as_text!(ExecutionId);

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn namespace(name: &str) -> Namespace {
        name.parse().unwrap()
    }

    #[test]
    fn the_same_key_gives_the_same_flow_in_the_same_partition() {
        let count = PartitionCount::DEFAULT;
        let first = FlowId::from_idempotency_key(&namespace("a"), "order-7");
        let again = FlowId::from_idempotency_key(&namespace("a"), "order-7");
        assert_eq!((first, first.partition(count)), (again, again.partition(count)));
        assert_ne!(first, FlowId::from_idempotency_key(&namespace("b"), "order-7"));
    }

    #[test]
    fn members_share_the_partition_of_their_flow() {
        let count = PartitionCount::DEFAULT;
        let flow = FlowId::generate();
        for name in ["a", "b", "c"] {
            assert_eq!(ExecutionId::member(flow, name, count).partition(), flow.partition(count));
        }
    }

    #[test]
    fn a_malformed_id_is_refused_with_a_message_that_shows_it() {
        for bad in [
            "",
            "7",
            "{fp:7}",
            "{fp:7}:nonsense",
            "{fp:x}:0192f0c1-2b3c-7d4e-8f50-617283940a1b",
            "{fp:07}:0192f0c1-2b3c-7d4e-8f50-617283940a1b",
            "{fp:00}:0192f0c1-2b3c-7d4e-8f50-617283940a1b",
            "{fp:+7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b",
            "{fp:7}}:0192f0c1-2b3c-7d4e-8f50-617283940a1b",
            "{fp:7}0192f0c1-2b3c-7d4e-8f50-617283940a1b",
            "{fp:99999}:0192f0c1-2b3c-7d4e-8f50-617283940a1b",
            "{fp:7}:0192F0C1-2B3C-7D4E-8F50-617283940A1B",
            "{fp:7}:0192f0c12b3c7d4e8f50617283940a1b",
            "{fp:7}:{0192f0c12b3c7d4e8f50617283940a1b}",
            "fp:7:0192f0c1-2b3c-7d4e-8f50-617283940a1b",
        ] {
            let error = bad.parse::<ExecutionId>().unwrap_err().to_string();
            assert!(error.contains(&format!("`{bad}`")) && error.contains("expected"), "{error}");
        }
        assert!("x".repeat(10_000).parse::<FlowId>().unwrap_err().to_string().len() < 300);
    }

    proptest! {
        #[test]
        fn an_id_survives_print_and_parse(partition in 0..PartitionCount::MAX, bits: u128) {
            let id = ExecutionId::from_parts(Partition::new(partition), Uuid::from_u128(bits));
            prop_assert_eq!(id.to_string().parse::<ExecutionId>().unwrap(), id);
            let json = serde_json::to_string(&id).unwrap();
            prop_assert_eq!(serde_json::from_str::<ExecutionId>(&json).unwrap(), id);
        }

        #[test]
        fn no_text_panics_the_parser(text in ".*") {
            let _ = text.parse::<ExecutionId>();
            let _ = text.parse::<FlowId>();
        }
    }
}
