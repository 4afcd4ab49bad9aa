//! Every key and channel of FlowFabric for Rust; `lua/lib/keys.lua` has them for Lua.
//!
//! All keys of a partition carry its hash tag `{fp:N}`, so that they share a slot of a Valkey cluster.

use ff_core::{ExecutionId, FlowId, LogId, Partition, Scope, WorkerId};
use uuid::Uuid;

/// Where the completions of flows are published.
pub const FLOW_CHANNEL: &str = "ff:dag:completions";
/// Where the completions of solo executions are published.
pub const SOLO_CHANNEL: &str = "ff:solo:completions";
/// The deployment's record: partition count and ABI.
pub const DEPLOYMENT: &str = "ff:deployment";

/// The running engines (sorted set, by the time at which each counts as gone).
pub const ENGINES: &str = "ff:engines";
/// Where timers that are due soon and changes of the set of engines are announced.
pub const TIMERS_CHANNEL: &str = "ff:timers";

/// The pattern of all keys.
pub const ALL_KEYS: &str = "ff:*";
/// The pattern of the channels of [`wake_channel`].
pub const WAKE_CHANNELS: &str = "ff:wake:*";

/// Where a process is signalled, see [`WakeMessage`](crate::wake::WakeMessage).
#[must_use]
pub fn wake_channel(listener: Uuid) -> String {
    format!("ff:wake:{listener}")
}

/// Joins texts. Much cheaper than formatting, and every call of a function has a dozen keys.
fn join(parts: &[&str]) -> String {
    let mut key = String::with_capacity(parts.iter().map(|part| part.len()).sum());
    for part in parts {
        key.push_str(part);
    }
    key
}

fn of_execution(id: ExecutionId, suffix: &str) -> String {
    let tag = id.partition().to_string();
    let mut buffer = Uuid::encode_buffer();
    let uuid = id.uuid().hyphenated().encode_lower(&mut buffer);
    join(&["ff:exec:", &tag, ":", &tag, ":", uuid, suffix])
}

/// An execution's state, payload and result (hash).
#[must_use]
pub fn execution_core(id: ExecutionId) -> String {
    of_execution(id, ":core")
}

/// An execution's tags (hash).
#[must_use]
pub fn execution_tags(id: ExecutionId) -> String {
    of_execution(id, ":tags")
}

/// A flow's state and members (hash).
#[must_use]
pub fn flow_core(partition: Partition, id: FlowId) -> String {
    let mut buffer = Uuid::encode_buffer();
    let uuid = id.uuid().hyphenated().encode_lower(&mut buffer);
    join(&["ff:flow:", &partition.to_string(), ":", uuid, ":core"])
}

/// A completion log (stream).
#[must_use]
pub fn completion_log(log: LogId) -> String {
    match log.scope {
        Scope::Flows => format!("ff:part:{}:completions", log.partition),
        Scope::Solo => format!("ff:part:{}:completions:solo", log.partition),
    }
}

/// The recent epochs of a completion log, each with the entry before it (hash).
#[must_use]
pub fn log_epochs(log: LogId) -> String {
    format!("{}:epochs", completion_log(log))
}

/// What a worker's last claim in a partition took (string), so that a repeated claim gets the same reply.
#[must_use]
pub fn claim_record(partition: Partition, worker: &WorkerId) -> String {
    format!("ff:part:{partition}:claim:{worker}")
}

/// The keys of a partition that calls read and write, in the order that `ff.keys.partition` of the Lua expects. They
/// come first in KEYS of every function that changes an execution.
#[must_use]
pub fn partition_block(partition: Partition) -> Vec<String> {
    let tag = partition.to_string();
    PARTITION_KEYS.iter().map(|name| join(&["ff:part:", &tag, ":", name])).collect()
}

const PARTITION_KEYS: [&str; 12] = [
    "ready",
    "delayed",
    "leases",
    "deadlines",
    "open",
    "pending",
    "ended",
    "waiters",
    "completions",
    "completions:epochs",
    "completions:solo",
    "completions:solo:epochs",
];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_of_an_execution_carry_the_tag_twice() {
        let id: ExecutionId = "{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b".parse().unwrap();
        assert_eq!(execution_core(id), "ff:exec:{fp:7}:{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b:core");
        assert_eq!(execution_tags(id), "ff:exec:{fp:7}:{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b:tags");
    }

    #[test]
    fn a_partitions_block_names_the_logs_and_their_epochs() {
        let partition = Partition::new(3);
        let block = partition_block(partition);
        for (at, scope) in [(8, Scope::Flows), (10, Scope::Solo)] {
            let log = LogId { partition, scope };
            assert_eq!(block[at..at + 2], [completion_log(log), log_epochs(log)]);
        }
        assert_eq!(block[0], "ff:part:{fp:3}:ready");
    }

    #[test]
    fn the_logs_have_the_names_of_the_contract() {
        let log = |scope| completion_log(LogId { partition: Partition::new(3), scope });
        assert_eq!(log(Scope::Flows), "ff:part:{fp:3}:completions");
        assert_eq!(log(Scope::Solo), "ff:part:{fp:3}:completions:solo");
    }
}
