//! Decides which partitions an engine serves: all of them, or its share among the active engines.
//!
//! Every engine decides on its own, by the same rule: a partition goes to the engine with the highest weight for it
//! (rendezvous hashing). So an engine that starts or stops moves no partition between the others. The rule is part of
//! the contract between versions: two versions with different rules would leave some partitions without an engine.

use std::{collections::BTreeSet, sync::Arc};

use ff_core::{EngineId, Partition, PartitionCount};
use tokio::sync::watch;

/// The partitions that an engine serves.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Share {
    /// Not known yet: none.
    Unknown,
    All,
    Of(Arc<BTreeSet<Partition>>),
}

impl Share {
    /// The share of `engine` among the active engines. An engine that is not among them is on standby.
    pub(crate) fn among(engine: &EngineId, at_work: &[EngineId], count: PartitionCount) -> Self {
        if at_work == [engine.clone()] {
            return Self::All;
        }
        let is_mine = |partition: &Partition| owner(at_work, *partition) == Some(engine);
        Self::Of(Arc::new(count.partitions().filter(is_mine).collect()))
    }

    pub(crate) fn serves(&self, partition: Partition) -> bool {
        match self {
            Self::Unknown => false,
            Self::All => true,
            Self::Of(partitions) => partitions.contains(&partition),
        }
    }

    /// The partitions served, of a deployment of this many.
    pub(crate) fn partitions(&self, count: PartitionCount) -> Vec<Partition> {
        count.partitions().filter(|partition| self.serves(*partition)).collect()
    }
}

/// The share of a part that runs without an engine: everything.
pub(crate) fn everything() -> watch::Receiver<Share> {
    watch::channel(Share::All).1
}

/// Waits until the share changes; pending without end where it cannot change.
pub(crate) async fn changed(share: &mut watch::Receiver<Share>) {
    if share.changed().await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn owner(at_work: &[EngineId], partition: Partition) -> Option<&EngineId> {
    at_work.iter().max_by_key(|engine| (weight(engine, partition), *engine))
}

/// FNV-1a over name and number, with the finaliser of SplitMix64, because FNV alone distributes short inputs badly.
fn weight(engine: &EngineId, partition: Partition) -> u64 {
    let bytes = engine.as_str().bytes().chain(partition.number().to_be_bytes());
    let hash = bytes
        .fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| (hash ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3));
    let mixed = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    mixed ^ (mixed >> 31)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn engines(count: usize) -> Vec<EngineId> {
        (0..count).map(|number| EngineId::new(&format!("engine-{number}")).unwrap()).collect()
    }

    #[test]
    fn each_partition_falls_to_exactly_one_engine_and_no_engine_has_far_more_than_its_part() {
        let (count, engines) = (PartitionCount::DEFAULT, engines(10));
        let mut served: Vec<_> = engines
            .iter()
            .map(|engine| Share::among(engine, &engines, count).partitions(count))
            .inspect(|partitions| assert!((10..=45).contains(&partitions.len()), "{}", partitions.len()))
            .flatten()
            .collect();
        served.sort_unstable();
        assert_eq!(served, count.partitions().collect::<Vec<_>>());
    }

    #[test]
    fn an_engine_that_leaves_moves_no_partition_between_the_others() {
        let (count, engines) = (PartitionCount::DEFAULT, engines(5));
        for engine in &engines[1..] {
            let before = Share::among(engine, &engines, count).partitions(count);
            let after = Share::among(engine, &engines[1..], count);
            assert!(before.iter().all(|partition| after.serves(*partition)));
        }
    }

    #[test]
    fn the_order_in_which_engines_are_named_changes_nothing() {
        let (count, engines) = (PartitionCount::DEFAULT, engines(3));
        let reversed: Vec<_> = engines.iter().rev().cloned().collect();
        assert_eq!(Share::among(&engines[1], &engines, count), Share::among(&engines[1], &reversed, count));
    }

    #[test]
    fn weights_are_the_same_in_every_version() {
        let engine = EngineId::new("engine-0").unwrap();
        let weights: Vec<_> = [0, 1, 255].map(|number| weight(&engine, Partition::new(number))).into();
        assert_eq!(weights, WEIGHTS);
    }

    /// Computed once and written down: see the head of this file.
    const WEIGHTS: [u64; 3] = [0x2ea5_3ec3_40fc_73d1, 0xcbd6_da0f_8103_4ea5, 0x052e_285c_675c_3cc9];

    #[test]
    fn one_engine_alone_serves_everything_and_one_that_is_not_noted_stands_by() {
        let (count, engines) = (PartitionCount::new(4).unwrap(), engines(3));
        assert_eq!(Share::among(&engines[0], &engines[..1], count), Share::All);
        assert_eq!(Share::among(&engines[0], &engines[1..], count).partitions(count), []);
        assert!(!Share::Unknown.serves(Partition::new(0)));
    }
}
