//! What the server tells of itself. Every question may be refused; then the refusal is what is known.

use std::{collections::BTreeMap, time::Duration};

use ff_core::{EngineError, ExecutionId, FlowId, LogId, Partition, PartitionCount, Scope};
use ff_script::{
    host::{ScriptHost, ServerVersion},
    keys,
    loader::{self, LibraryState},
};
use ff_valkey::{LogSize, ValkeyHost};
use uuid::Uuid;

/// What the library does and this program never: asked for by dry run alone.
const DRYRUN_PUBLISH: &str = "PUBLISH";

/// An answer, or why there is none.
pub(super) type Told<T> = Result<T, String>;

pub(super) struct Facts {
    pub(super) version: Told<ServerVersion>,
    pub(super) library: Told<LibraryState>,
    pub(super) replication: Told<BTreeMap<String, String>>,
    pub(super) cluster: Told<BTreeMap<String, String>>,
    pub(super) persistence: Told<BTreeMap<String, String>>,
    pub(super) memory: Told<BTreeMap<String, String>>,
    pub(super) settings: Settings,
    pub(super) permissions: Told<Vec<Permission>>,
    pub(super) partitions: Told<Option<PartitionCount>>,
    pub(super) logs: Told<Logs>,
}

/// Settings that INFO does not show, or not as fully.
pub(super) struct Settings {
    pub(super) append_fsync: Told<Option<String>>,
    pub(super) save: Told<Option<String>>,
    pub(super) output_buffers: Told<Option<String>>,
}

/// Something that a program must be allowed to do.
pub(super) struct Permission {
    pub(super) what: &'static str,
    /// The server's refusal.
    pub(super) refusal: Option<String>,
    /// The rule that allows it.
    pub(super) rule: &'static str,
}

/// What the completion logs hold, added up per scope.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct Logs {
    pub(super) flows: LogTotals,
    pub(super) solo: LogTotals,
}

#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(super) struct LogTotals {
    pub(super) entries: u64,
    pub(super) bytes: u64,
    /// Logs that hold anything.
    pub(super) logs: u64,
    /// Appended per second during the sample.
    pub(super) rate: f64,
    /// Capacity of one log, in entries.
    pub(super) capacity: u64,
    /// Appended per second to the busiest log.
    pub(super) busiest_rate: f64,
}

impl Facts {
    pub(super) async fn gather(host: &ValkeyHost, sample: Duration) -> Self {
        let partitions = told(host.recorded_partitions().await);
        let count = partitions.clone().ok().flatten().unwrap_or_default();
        Self {
            version: told(host.server_version().await),
            library: told(loader::inspect(host).await),
            replication: told(host.info("replication").await),
            cluster: told(host.info("cluster").await),
            persistence: told(host.info("persistence").await),
            memory: told(host.info("memory").await),
            settings: Settings {
                append_fsync: told(host.setting("appendfsync").await),
                save: told(host.setting("save").await),
                output_buffers: told(host.setting("client-output-buffer-limit").await),
            },
            permissions: told(permissions(host).await),
            logs: told(logs(host, count, sample).await),
            partitions,
        }
    }
}

fn told<T>(answer: Result<T, EngineError>) -> Told<T> {
    answer.map_err(|error| error.to_string())
}

/// Asks for everything that the library's callers do, by dry runs.
async fn permissions(host: &ValkeyHost) -> Result<Vec<Permission>, EngineError> {
    let user = host.whoami().await?;
    let partition = Partition::new(0);
    let execution = ExecutionId::from_parts(partition, Uuid::nil());
    let core = keys::execution_core(execution);
    let flow = keys::flow_core(partition, FlowId::from_uuid(Uuid::nil()));
    let log = keys::completion_log(LogId { partition, scope: Scope::Flows });
    let wake = keys::wake_channel(Uuid::nil());
    let functions = "+fcall +fcall_ro";
    let data = "~ff:* +@read +@write";
    let channels = "&ff:* +subscribe +unsubscribe +publish";
    let asked: Vec<(&str, &str, Vec<&str>)> = vec![
        ("run functions", functions, vec!["FCALL", "ff1_version", "1", &core]),
        ("run read-only functions", functions, vec!["FCALL_RO", "ff1_version", "1", &flow]),
        ("load functions", "+function|load", vec!["FUNCTION", "LOAD", "REPLACE", "-"]),
        ("write the deployment's record", data, vec!["HSET", keys::DEPLOYMENT, "f", "v"]),
        ("write executions", data, vec!["HSET", &core, "f", "v"]),
        ("delete executions", data, vec!["DEL", &core]),
        ("append to completion logs", data, vec!["XADD", &log, "*", "f", "v"]),
        ("trim completion logs", data, vec!["XTRIM", &log, "MAXLEN", "0"]),
        ("read completion logs", data, vec!["XRANGE", &log, "-", "+"]),
        ("receive completions", channels, vec!["SUBSCRIBE", keys::FLOW_CHANNEL, keys::SOLO_CHANNEL]),
        ("receive work signals", channels, vec!["SUBSCRIBE", &wake]),
        ("announce completions", channels, vec![DRYRUN_PUBLISH, keys::FLOW_CHANNEL, "x"]),
        ("announce completions of solo executions", channels, vec![DRYRUN_PUBLISH, keys::SOLO_CHANNEL, "x"]),
        ("announce work", channels, vec![DRYRUN_PUBLISH, &wake, "x"]),
    ];
    let mut permissions = Vec::with_capacity(asked.len());
    for (what, rule, command) in asked {
        permissions.push(Permission { what, rule, refusal: host.refusal(&user, &command).await? });
    }
    Ok(permissions)
}

async fn logs(host: &ValkeyHost, count: PartitionCount, sample: Duration) -> Result<Logs, EngineError> {
    let before = host.log_sizes(count).await?;
    let started = std::time::Instant::now();
    tokio::time::sleep(sample).await;
    let after = host.log_sizes(count).await?;
    let elapsed = started.elapsed();
    let config = host.config();
    Ok(Logs {
        flows: totals(Scope::Flows, config.log_policy.flow_entries, &before, &after, elapsed),
        solo: totals(Scope::Solo, config.log_policy.solo_entries, &before, &after, elapsed),
    })
}

fn totals(scope: Scope, capacity: u64, before: &[LogSize], after: &[LogSize], elapsed: Duration) -> LogTotals {
    let appended_before: BTreeMap<LogId, u64> = before.iter().map(|size| (size.log, size.appended)).collect();
    let mut totals = LogTotals { capacity, ..LogTotals::default() };
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
    use super::*;

    #[test]
    fn rates_are_what_was_appended_during_the_sample() {
        let log = |partition, scope| LogId { partition: Partition::new(partition), scope };
        let size = |log, entries, appended| LogSize { log, entries, appended, bytes: entries * 100 };
        let flow = log(0, Scope::Flows);
        let before = [size(flow, 10, 50), size(log(0, Scope::Solo), 1, 1)];
        let after = [size(flow, 10, 70), size(log(1, Scope::Flows), 4, 4), size(log(0, Scope::Solo), 1, 1)];
        let totals = totals(Scope::Flows, 10, &before, &after, Duration::from_secs(2));
        assert_eq!((totals.entries, totals.bytes, totals.logs), (14, 1_400, 2));
        assert_eq!((totals.rate, totals.busiest_rate), (12.0, 10.0));
    }
}
