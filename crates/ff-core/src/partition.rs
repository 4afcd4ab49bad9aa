//! How executions are distributed over partitions. Where a partition is stored is up to the backend.

use std::fmt;

use crc::{CRC_16_XMODEM, Crc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::EngineError;

const XMODEM: Crc<u16> = Crc::<u16>::new(&CRC_16_XMODEM);

/// One of the `0..count` partitions of a deployment.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Partition(u16);

impl Partition {
    /// The partition with this number. The calls that use it check whether the deployment has it.
    #[must_use]
    pub const fn new(number: u16) -> Self {
        Self(number)
    }

    /// The number, from 0.
    #[must_use]
    pub const fn number(self) -> u16 {
        self.0
    }
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{{fp:{}}}", self.0)
    }
}

/// How many partitions a deployment has. Fixed for its lifetime: the count determines the partition of every execution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "u16", into = "u16")]
pub struct PartitionCount(u16);

impl PartitionCount {
    /// 256, the default count.
    pub const DEFAULT: Self = Self(256);
    /// The largest count: the number of slots of a Valkey cluster. More partitions could not be distributed further.
    pub const MAX: u16 = 16_384;

    /// # Errors
    /// [`EngineError::InvalidInput`] for 0 and for more than [`PartitionCount::MAX`].
    pub fn new(count: u16) -> Result<Self, EngineError> {
        if (1..=Self::MAX).contains(&count) {
            Ok(Self(count))
        } else {
            Err(EngineError::invalid(
                format!("partition count {count}"),
                format!("expected a number from 1 to {}", Self::MAX),
            ))
        }
    }

    /// The count as a number.
    #[must_use]
    pub const fn get(self) -> u16 {
        self.0
    }

    /// The partition of a flow or of a solo execution: CRC16-XMODEM of the 16 bytes of its uuid, modulo the count.
    #[must_use]
    pub fn partition_of(self, uuid: Uuid) -> Partition {
        Partition(XMODEM.checksum(uuid.as_bytes()) % self.0)
    }

    /// All partitions in order.
    pub fn partitions(self) -> impl ExactSizeIterator<Item = Partition> + Clone {
        (0..self.0).map(Partition)
    }
}

impl Default for PartitionCount {
    fn default() -> Self {
        Self::DEFAULT
    }
}

impl TryFrom<u16> for PartitionCount {
    type Error = EngineError;

    fn try_from(count: u16) -> Result<Self, EngineError> {
        Self::new(count)
    }
}

impl From<PartitionCount> for u16 {
    fn from(count: PartitionCount) -> Self {
        count.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checksum_is_crc16_xmodem() {
        // The check value of CRC-16/XMODEM in the catalogue of parametrised CRC algorithms.
        assert_eq!(XMODEM.checksum(b"123456789"), 0x31C3);
    }

    #[test]
    fn every_uuid_has_one_partition_within_the_range() {
        let count = PartitionCount::new(7).unwrap();
        for n in 0..1_000u128 {
            let uuid = Uuid::from_u128(n.wrapping_mul(0x9E37_79B9_7F4A_7C15));
            let partition = count.partition_of(uuid);
            assert!(partition.number() < 7);
            assert_eq!(partition, count.partition_of(uuid));
        }
    }

    #[test]
    fn zero_and_too_many_partitions_are_refused_with_the_number() {
        for count in [0, PartitionCount::MAX + 1] {
            let error = PartitionCount::new(count).unwrap_err().to_string();
            assert!(error.contains(&count.to_string()), "{error}");
        }
    }
}
