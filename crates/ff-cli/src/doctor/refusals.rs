//! States in which a server refuses the writes of every client, whatever their permissions. A full memory is a finding
//! of its own, and a server that refuses even PING (MISCONF, LOADING) cannot be connected to.

use super::{checks::field, facts::ServerFacts, finding::Finding};

const TOPIC: &str = "writes";

pub(super) fn all(facts: &ServerFacts) -> Vec<Finding> {
    [cluster_down(facts), too_few_replicas(facts)].into_iter().flatten().collect()
}

/// A node of a cluster that is down and refuses all calls.
fn cluster_down(facts: &ServerFacts) -> Option<Finding> {
    let refusals = [
        facts.library.as_ref().err(),
        facts.partitions.as_ref().err(),
        facts.logs.as_ref().err(),
        facts.engines.as_ref().err(),
    ];
    refusals.into_iter().flatten().any(|why| why.contains("CLUSTERDOWN")).then(|| {
        Finding::bad(
            "cluster",
            "it is down and refuses calls (CLUSTERDOWN): not every slot has a reachable primary",
            "valkey-cli --cluster check HOST:PORT lists the slots; start their primaries, or assign them with --cluster fix",
        )
    })
}

/// A primary that accepts writes only while enough replicas follow it.
fn too_few_replicas(facts: &ServerFacts) -> Option<Finding> {
    let required: u64 = facts.settings.required_replicas.as_ref().ok()?.as_ref()?.parse().ok()?;
    // Without replicas that follow in time, and without a time limit, the server does not report it.
    let good: u64 = field(facts.replication.as_ref().ok()?, "min_slaves_good_slaves").parse().ok()?;
    (good < required).then(|| {
        Finding::bad(
            TOPIC,
            format!("refused (NOREPLICAS): {good} replicas follow, and min-replicas-to-write is {required}"),
            "start the replicas, or CONFIG SET min-replicas-to-write 0",
        )
    })
}
