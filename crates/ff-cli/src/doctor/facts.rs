//! The facts that the server reports. If it refuses a query, the refusal is recorded instead.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::{Duration, UNIX_EPOCH},
};

use ff_core::{EngineError, LogId, PartitionCount, Scope};
use ff_script::{
    host::{ScriptHost, ServerVersion},
    loader::{self, LibraryState},
    operations::LogPolicy,
    permissions::{EXCESSIVE, Role},
};
use ff_valkey::{Endpoint, LogSize, ValkeyHost};

/// A fact, or why it is not known.
pub(super) type Fact<T> = Result<T, String>;

pub(super) struct ServerFacts {
    /// The primary's address, if sentinels named it.
    pub(super) named: Option<String>,
    pub(super) version: Fact<ServerVersion>,
    /// How many milliseconds the server's clock is ahead of this machine's; negative if it is behind.
    pub(super) clock_ahead_ms: Fact<i64>,
    pub(super) library: Fact<LibraryState>,
    pub(super) replication: Fact<BTreeMap<String, String>>,
    pub(super) cluster: Fact<BTreeMap<String, String>>,
    pub(super) persistence: Fact<BTreeMap<String, String>>,
    pub(super) memory: Fact<BTreeMap<String, String>>,
    pub(super) settings: ServerSettings,
    pub(super) permissions: Fact<Permissions>,
    /// The count of partitions that is recorded on the server.
    pub(super) partitions: Fact<Option<PartitionCount>>,
    /// The count of partitions that the user requests.
    pub(super) wanted_partitions: Option<PartitionCount>,
    pub(super) logs: Fact<Logs>,
    /// The names of the running engines.
    pub(super) engines: Fact<Vec<String>>,
}

/// Settings that INFO does not show completely.
pub(super) struct ServerSettings {
    pub(super) append_fsync: Fact<Option<String>>,
    pub(super) save: Fact<Option<String>>,
    pub(super) output_buffers: Fact<Option<String>>,
    /// `min-replicas-to-write`.
    pub(super) required_replicas: Fact<Option<String>>,
    /// `aof-load-truncated`.
    pub(super) load_truncated: Fact<Option<String>>,
}

/// What the connected user may do.
#[derive(Debug, Clone, Default)]
pub(super) struct Permissions {
    pub(super) user: String,
    /// For each role, the ACL rules that the user lacks.
    pub(super) missing: Vec<(Role, BTreeSet<String>)>,
    /// Permissions of the user that no role needs.
    pub(super) excessive: Vec<&'static str>,
}

/// The contents of the completion logs, summed per scope.
#[derive(Debug, Clone, Default, PartialEq)]
pub(super) struct Logs {
    pub(super) flows: LogTotals,
    pub(super) solo: LogTotals,
    /// The logs that cannot be read, each with the reason.
    pub(super) unreadable: Vec<(LogId, String)>,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct LogTotals {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// How many logs are not empty.
    pub(super) logs: u64,
    /// Entries appended per second, to all logs together, during the sample.
    pub(super) rate: f64,
    /// Capacity of one log, in entries and in bytes.
    pub(super) capacity: u64,
    pub(super) capacity_bytes: u64,
    /// The most memory of the server that one log may use.
    pub(super) most_memory: u64,
    /// Entries appended per second to the busiest log.
    pub(super) busiest_rate: f64,
}

impl ServerFacts {
    pub(super) async fn gather(host: &ValkeyHost, sample: Duration) -> Self {
        let partitions = fact(host.recorded_partitions().await);
        let count = partitions.clone().ok().flatten().unwrap_or_default();
        let by_sentinels = matches!(host.config().endpoint, Endpoint::Sentinel { .. });
        Self {
            named: by_sentinels.then(|| host.server()),
            version: fact(host.server_version().await),
            clock_ahead_ms: clock_ahead(host).await,
            library: fact(loader::inspect(host).await),
            replication: fact(host.info("replication").await),
            cluster: fact(host.info("cluster").await),
            persistence: fact(host.info("persistence").await),
            memory: fact(host.info("memory").await),
            settings: ServerSettings {
                append_fsync: fact(host.setting("appendfsync").await),
                save: fact(host.setting("save").await),
                output_buffers: fact(host.setting("client-output-buffer-limit").await),
                required_replicas: fact(host.setting("min-replicas-to-write").await),
                load_truncated: fact(host.setting("aof-load-truncated").await),
            },
            permissions: fact(permissions(host).await),
            logs: fact(logs(host, count, sample).await),
            engines: fact(host.engines().await),
            partitions,
            wanted_partitions: host.config().partition_count,
        }
    }
}

fn fact<T>(answer: Result<T, EngineError>) -> Fact<T> {
    answer.map_err(|error| error.to_string())
}

/// Compares the server's time with this machine's time at the middle of the round trip.
async fn clock_ahead(host: &ValkeyHost) -> Fact<i64> {
    let own = || UNIX_EPOCH.elapsed().map_or(0, |elapsed| i64::try_from(elapsed.as_millis()).unwrap_or(i64::MAX));
    let asked = own();
    let server = fact(host.info("server").await)?;
    let answered = own();
    let micros = server.get("server_time_usec").and_then(|text| text.parse::<i64>().ok());
    let micros = micros.ok_or_else(|| "INFO shows no server_time_usec".to_owned())?;
    Ok(micros / 1_000 - (asked + (answered - asked) / 2))
}

/// Finds by dry runs which commands the user may run: those that each role needs, and some that no role needs.
async fn permissions(host: &ValkeyHost) -> Result<Permissions, EngineError> {
    let mut permissions = Permissions { user: host.whoami().await?, ..Permissions::default() };
    for role in Role::ALL {
        let mut missing = BTreeSet::new();
        for need in role.needs() {
            let sample = need.sample();
            let words: Vec<&str> = sample.iter().map(String::as_str).collect();
            if let Some(refusal) = host.refusal(&permissions.user, &words).await? {
                missing.extend(need.missing(&refusal));
            }
        }
        permissions.missing.push((role, missing));
    }
    for (what, command) in EXCESSIVE {
        // If the server lacks a command, no user may run it.
        if matches!(host.refusal(&permissions.user, command).await, Ok(None)) {
            permissions.excessive.push(what);
        }
    }
    Ok(permissions)
}

async fn logs(host: &ValkeyHost, count: PartitionCount, sample: Duration) -> Result<Logs, EngineError> {
    let before = host.log_sizes(count).await?;
    let started = std::time::Instant::now();
    tokio::time::sleep(sample).await;
    let after = host.log_sizes(count).await?;
    let elapsed = started.elapsed();
    let of = |scope| totals(scope, host.config().log_policy, &before.sizes, &after.sizes, elapsed);
    let unreadable = after.unreadable.iter().map(|(log, error)| (*log, error.to_string())).collect();
    Ok(Logs { flows: of(Scope::Flows), solo: of(Scope::Solo), unreadable })
}

fn totals(scope: Scope, policy: LogPolicy, before: &[LogSize], after: &[LogSize], elapsed: Duration) -> LogTotals {
    let appended_before: BTreeMap<LogId, u64> = before.iter().map(|size| (size.log, size.appended)).collect();
    let mut totals = LogTotals {
        capacity: policy.entries(scope),
        capacity_bytes: policy.bytes(scope),
        most_memory: policy.most_memory(scope),
        ..LogTotals::default()
    };
    for size in after.iter().filter(|size| size.log.scope == scope) {
        let appended = size.appended.saturating_sub(appended_before.get(&size.log).copied().unwrap_or(0));
        let rate = appended as f64 / elapsed.as_secs_f64().max(0.001);
        totals.entries += size.entries;
        totals.bytes += size.bytes;
        totals.logs += u64::from(size.entries > 0);
        totals.rate += rate;
        totals.busiest_rate = totals.busiest_rate.max(rate);
    }
    totals
}

#[cfg(test)]
mod tests {
    use ff_core::Partition;

    use super::*;

    #[test]
    fn rates_are_measured_from_the_appends_during_the_sample() {
        let log = |partition, scope| LogId { partition: Partition::new(partition), scope };
        let size = |log, entries, appended| LogSize { log, entries, appended, bytes: entries * 100 };
        let flow = log(0, Scope::Flows);
        let before = [size(flow, 10, 50), size(log(0, Scope::Solo), 1, 1)];
        let after = [size(flow, 10, 70), size(log(1, Scope::Flows), 4, 4), size(log(0, Scope::Solo), 1, 1)];
        let totals = totals(Scope::Flows, LogPolicy::default(), &before, &after, Duration::from_secs(2));
        assert_eq!((totals.entries, totals.bytes, totals.logs), (14, 1_400, 2));
        assert_eq!((totals.rate, totals.busiest_rate), (12.0, 10.0));
    }
}
