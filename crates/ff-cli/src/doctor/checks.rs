//! Derives findings from facts, by pure functions.

use std::collections::BTreeSet;

use ff_core::LogId;
use ff_script::{
    keys,
    loader::{self, LibraryState},
    permissions::Role,
};

use super::{
    facts::{Fact, LogTotals, Logs, Permissions, ServerFacts, ServerSettings},
    finding::Finding,
    refusals,
};
use crate::text;

/// If the hard limit is smaller than this, an ordinary burst disconnects a subscriber.
const SMALL_BUFFER: u64 = 8 * 1024 * 1024;
/// The assumed size of an entry if the logs are empty.
const USUAL_ENTRY_BYTES: u64 = 350;
const GRANT_CONFIG: &str = "grant it temporarily (+config|get), or ask the server's operator";
/// Clocks that NTP synchronises differ by less than this.
const CLOCKS_DIFFER_MS: u64 = 2_000;
const RETENTION: std::time::Duration = std::time::Duration::from_secs(24 * 3600);

pub(super) fn all(facts: &ServerFacts) -> Vec<Finding> {
    let mut findings =
        vec![server(facts), role(facts), clock(&facts.clock_ahead_ms), library(&facts.library), persistence(facts)];
    findings.extend(refusals::all(facts));
    findings.extend(torn_file(facts));
    findings.push(memory(facts));
    findings.push(output_buffers(&facts.settings));
    findings.extend(permissions(&facts.permissions));
    findings.push(partitions(facts));
    let recorded = facts.partitions.clone().ok().flatten().unwrap_or_default().get();
    findings.extend(logs(&facts.logs, recorded, max_memory(facts)));
    findings.push(engines(&facts.engines));
    findings
}

fn partitions(facts: &ServerFacts) -> Finding {
    const TOPIC: &str = "partitions";
    match (&facts.partitions, facts.wanted_partitions) {
        (Ok(Some(count)), Some(wanted)) if *count != wanted => Finding::bad(
            TOPIC,
            format!("{} recorded: a program that requests {} cannot connect", count.get(), wanted.get()),
            format!("set --partitions {} (FF_PARTITIONS) or omit it; the count cannot be changed", count.get()),
        ),
        (Ok(Some(count)), _) => Finding::ok(TOPIC, format!("{} recorded", count.get())),
        (Ok(None), _) => Finding::ok(TOPIC, "none recorded yet; the first program that connects fixes their number"),
        (Err(why), _) => Finding::unknown(TOPIC, why, "grant reading the keys: ~ff:* +@read"),
    }
}

/// Without an engine no delay, retry, deadline or lost lease takes effect. But the absence of engines is not a problem
/// by itself: this program does not know whether one should be running.
fn engines(engines: &Fact<Vec<String>>) -> Finding {
    const SHOWN: usize = 10;
    match engines {
        Ok(names) if names.is_empty() => {
            Finding::ok("engines", "none running; delays, retries and deadlines wait until one starts")
        }
        Ok(names) => {
            let more = if names.len() > SHOWN { ", …" } else { "" };
            let shown = names.iter().take(SHOWN).map(String::as_str).collect::<Vec<_>>().join(", ");
            Finding::ok("engines", format!("{} running: {shown}{more}", names.len()))
        }
        Err(why) => Finding::unknown("engines", why, "grant ~ff:* +zrange +time"),
    }
}

fn server(facts: &ServerFacts) -> Finding {
    const FIX: &str = "use Valkey 7.2 or later, or Redis 7.0 or later";
    let version = match &facts.version {
        Ok(version) => version,
        Err(why) => return Finding::unknown("server", why, "grant +info"),
    };
    let (major, minor, patch) = version.version;
    let says = format!("{} {major}.{minor}.{patch}", version.name);
    if loader::check_server(version).is_err() {
        Finding::bad("server", format!("{says} is too old"), FIX)
    } else {
        Finding::ok("server", says)
    }
}

fn clock(ahead: &Fact<i64>) -> Finding {
    match ahead {
        Err(why) => Finding::unknown("clock", why, "grant +info"),
        Ok(millis) if millis.unsigned_abs() > CLOCKS_DIFFER_MS => {
            let direction = if *millis > 0 { "ahead of" } else { "behind" };
            Finding::warn(
                "clock",
                format!("the server's is {:.1} s {direction} this machine's", millis.unsigned_abs() as f64 / 1_000.0),
                "delays, deadlines and retention use the server's clock: synchronise it by NTP, never set it by hand",
            )
        }
        Ok(_) => Finding::ok("clock", "agrees with this machine's"),
    }
}

fn role(facts: &ServerFacts) -> Finding {
    let clustered = facts.cluster.as_ref().is_ok_and(|info| info.get("cluster_enabled").is_some_and(|on| on == "1"));
    if clustered {
        return Finding::warn(
            "role",
            "a node of a cluster; this version supports one primary and its replicas",
            "use a standalone or replicated server",
        );
    }
    match &facts.replication {
        Err(why) => Finding::unknown("role", why, "grant +info"),
        Ok(info) if info.get("role").is_some_and(|role| role == "slave") => {
            let primary = format!("{}:{}", field(info, "master_host"), field(info, "master_port"));
            Finding::bad("role", "a replica, which refuses writes", format!("name the primary in the URL: {primary}"))
        }
        Ok(info) => {
            let replicas = field(info, "connected_slaves").parse().unwrap_or(0);
            let found = facts.named.as_ref().map_or_else(String::new, |at| format!(", found by sentinels at {at}"));
            Finding::ok("role", format!("primary with {}{found}", text::count(replicas, "replica")))
        }
    }
}

/// Warns of server versions that truncate an append-only file in the middle of a transaction, if a crash has torn it
/// there. This was observed in these versions.
fn torn_file(facts: &ServerFacts) -> Option<Finding> {
    let version = facts.version.as_ref().ok()?;
    let (major, minor, _) = version.version;
    let cuts = matches!((version.name.as_str(), major, minor), ("valkey", 8, 0) | ("redis", 7, 0));
    let appends = facts.persistence.as_ref().is_ok_and(|info| info.get("aof_enabled").is_some_and(|on| on == "1"));
    let loads = !matches!(&facts.settings.load_truncated, Ok(Some(setting)) if setting == "no");
    (cuts && appends && loads).then(|| {
        Finding::warn(
            "torn file",
            format!(
                "{} {major}.{minor} truncates an append-only file that a crash has torn within a transaction: completions \
                 reappear at one restart and vanish at the next, and subscribers receive gaps",
                version.name
            ),
            "use Valkey 9.1 or later; or CONFIG SET aof-load-truncated no, so that it does not start until the file is repaired",
        )
    })
}

pub(super) fn field<'a>(info: &'a std::collections::BTreeMap<String, String>, name: &str) -> &'a str {
    info.get(name).map_or("?", String::as_str)
}

fn library(library: &Fact<LibraryState>) -> Finding {
    let state = match library {
        Ok(state) => state,
        Err(why) => return Finding::unknown("library", why, "grant +fcall and +fcall_ro"),
    };
    match state {
        LibraryState::Same | LibraryState::Newer { .. } => Finding::ok("library", state.to_string()),
        LibraryState::Absent | LibraryState::Older { .. } => {
            Finding::warn("library", state.to_string(), "the next program that connects loads it, or `ff script load`")
        }
        _ => Finding::bad("library", state.to_string(), "use one build everywhere, or `ff script load --replace`"),
    }
}

fn persistence(facts: &ServerFacts) -> Finding {
    const TOPIC: &str = "persistence";
    const APPEND: &str = "CONFIG SET appendonly yes and appendfsync always, and write both into the configuration file";
    let info = match &facts.persistence {
        Ok(info) => info,
        Err(why) => return Finding::unknown(TOPIC, why, "grant +info"),
    };
    if info.get("aof_last_write_status").is_some_and(|status| status != "ok") {
        return Finding::bad(TOPIC, "the last write to the append-only file failed", "check the server's disk and log");
    }
    let snapshots = matches!(&facts.settings.save, Ok(Some(save)) if !save.is_empty());
    if snapshots && info.get("rdb_last_bgsave_status").is_some_and(|status| status != "ok") {
        return Finding::bad(TOPIC, "the last snapshot failed", "check the server's disk and log, then BGSAVE");
    }
    if info.get("aof_enabled").is_some_and(|on| on == "1") {
        return match &facts.settings.append_fsync {
            Ok(Some(fsync)) if fsync == "always" => Finding::ok(TOPIC, "append-only file, synced before each answer"),
            Ok(Some(fsync)) if fsync == "no" => Finding::warn(
                TOPIC,
                "append-only file, synced by the kernel: a crash of the machine can roll back delivered completions",
                "CONFIG SET appendfsync always (or everysec)",
            ),
            Ok(_) => Finding::warn(
                TOPIC,
                "append-only file, synced every second: a crash of the machine can roll back about the last second, more \
                 with a slow disk, and subscribers that received it get a gap",
                "CONFIG SET appendfsync always if that is not acceptable",
            ),
            Err(why) => Finding::unknown(TOPIC, &format!("append-only file; its sync policy: {why}"), GRANT_CONFIG),
        };
    }
    match &facts.settings.save {
        Ok(Some(save)) if !save.is_empty() => Finding::warn(
            TOPIC,
            format!("snapshots only (save {save}): a restart loses everything since the last one"),
            APPEND,
        ),
        Ok(_) => Finding::bad(TOPIC, "none: a restart loses all flows", APPEND),
        Err(why) => {
            Finding::unknown(TOPIC, &format!("no append-only file; the snapshot settings: {why}"), GRANT_CONFIG)
        }
    }
}

fn max_memory(facts: &ServerFacts) -> Option<u64> {
    let limit = facts.memory.as_ref().ok()?.get("maxmemory")?.parse().ok()?;
    (limit > 0).then_some(limit)
}

/// If more than this share of the limit is used, in percent, memory is short.
const SHORT: u64 = 90;

fn memory(facts: &ServerFacts) -> Finding {
    const TOPIC: &str = "memory";
    const FIX: &str = "CONFIG SET maxmemory-policy noeviction";
    let info = match &facts.memory {
        Ok(info) => info,
        Err(why) => return Finding::unknown(TOPIC, why, "grant +info"),
    };
    let policy = field(info, "maxmemory_policy");
    let limit = max_memory(facts);
    let limited = limit.map_or_else(|| "no limit".to_owned(), |limit| format!("limit {}", text::bytes(limit)));
    let used: u64 = info.get("used_memory").and_then(|used| used.parse().ok()).unwrap_or(0);
    if let Some(limit) = limit.filter(|limit| !policy.starts_with("allkeys") && used > limit / 100 * SHORT) {
        const FREE: &str = "raise maxmemory, or keep less: shorter logs and retention";
        let says = format!("{} used, {limited}", text::bytes(used));
        return if used > limit {
            Finding::bad(TOPIC, format!("{says}: submissions and completions are refused"), FREE)
        } else {
            Finding::warn(TOPIC, format!("{says}: above the limit, submissions and completions are refused"), FREE)
        };
    }
    match (policy, limit) {
        ("noeviction", _) => Finding::ok(TOPIC, format!("{limited}, nothing is evicted")),
        (policy, Some(_)) if policy.starts_with("allkeys") => {
            Finding::bad(TOPIC, format!("{limited}, policy {policy}: flows and completion logs can be evicted"), FIX)
        }
        (policy, _) => {
            Finding::warn(TOPIC, format!("{limited}, policy {policy}: suitable for caches, not for durable data"), FIX)
        }
    }
}

fn output_buffers(settings: &ServerSettings) -> Finding {
    const TOPIC: &str = "output buffer";
    const FIX: &str = "CONFIG SET client-output-buffer-limit \"pubsub 32mb 8mb 60\"";
    let limits = match &settings.output_buffers {
        Ok(Some(limits)) => limits,
        Ok(None) => return Finding::unknown(TOPIC, "the server has no such setting", FIX),
        Err(why) => return Finding::unknown(TOPIC, why, GRANT_CONFIG),
    };
    let words: Vec<&str> = limits.split_whitespace().collect();
    let hard = words.chunks(4).find(|chunk| chunk[0] == "pubsub").and_then(|chunk| chunk.get(1)?.parse::<u64>().ok());
    match hard {
        None => Finding::unknown(TOPIC, &format!("`{limits}` contains no limit for pubsub"), FIX),
        Some(0) => Finding::warn(TOPIC, "unlimited: a subscriber that hangs can use up the server's memory", FIX),
        Some(hard) if hard < SMALL_BUFFER => Finding::warn(
            TOPIC,
            format!(
                "subscribers are disconnected at {}: in bursts they reconnect and read the log instead",
                text::bytes(hard)
            ),
            FIX,
        ),
        Some(hard) => {
            Finding::ok(TOPIC, format!("subscribers that do not read are disconnected at {}", text::bytes(hard)))
        }
    }
}

/// One finding per role, which says whether the user can act in it, and one for permissions that no role needs.
fn permissions(permissions: &Fact<Permissions>) -> Vec<Finding> {
    const TOPIC: &str = "permissions";
    let Permissions { user, missing, excessive } = match permissions {
        Ok(permissions) => permissions,
        Err(why) => {
            let fix = "grant +acl|whoami +acl|dryrun temporarily; a program reports each permission that it lacks";
            return vec![Finding::unknown(TOPIC, why, fix)];
        }
    };
    let useless = missing.iter().all(|(_, rules)| !rules.is_empty());
    let role = |(role, rules): &(Role, BTreeSet<String>)| {
        if rules.is_empty() {
            return Finding::ok(TOPIC, format!("user `{user}` has all that the role {role} needs"));
        }
        let rules = rules.iter().map(String::as_str).collect::<Vec<_>>().join(" ");
        if useless {
            let fix = format!("for the role {role}: ACL SETUSER {user} {rules}");
            return Finding::bad(TOPIC, format!("user `{user}` lacks for the role {role}: {rules}"), fix);
        }
        Finding::ok(TOPIC, format!("user `{user}` cannot act as {role}: missing {rules}"))
    };
    let mut findings: Vec<Finding> = missing.iter().map(role).collect();
    if !excessive.is_empty() {
        let says = format!("user `{user}` has more than any role needs: {}", excessive.join(", "));
        let fix = "use one user per program, with the rules that `ff script acl ROLE` prints; see PERMISSIONS.md";
        findings.push(Finding::warn(TOPIC, says, fix));
    }
    findings
}

fn logs(logs: &Fact<Logs>, partitions: u16, limit: Option<u64>) -> Vec<Finding> {
    const GRANT: &str = "grant ~ff:* +@read +memory|usage";
    let logs = match logs {
        Ok(logs) => logs,
        Err(why) => return vec![Finding::unknown("logs", why, GRANT)],
    };
    let mut findings = vec![
        log("logs: flows", &logs.flows, partitions),
        log("logs: solo", &logs.solo, partitions),
        all_logs(logs, partitions, limit),
    ];
    let (overwritten, refused): (Vec<_>, Vec<_>) =
        logs.unreadable.iter().partition(|(_, why)| why.contains("WRONGTYPE"));
    if !overwritten.is_empty() {
        let says = format!("{}; they deliver nothing", named("cannot be read", &overwritten));
        findings.push(Finding::bad("logs", says, "another program has overwritten these keys: move them away"));
    }
    if !refused.is_empty() {
        findings.push(Finding::unknown("logs", &named("could not be read", &refused), GRANT));
    }
    findings
}

/// The number of these logs, the names of the first few, and the reason of the first.
fn named(what: &str, logs: &[&(LogId, String)]) -> String {
    const SHOWN: usize = 5;
    let names = logs.iter().take(SHOWN).map(|(log, _)| keys::completion_log(*log)).collect::<Vec<_>>().join(", ");
    let more = if logs.len() > SHOWN { ", …" } else { "" };
    let why = logs.first().map_or("", |(_, why)| why);
    format!("{} {what}: {names}{more} ({why})", text::count(logs.len(), "log"))
}

/// The memory that all logs use now, and the most that they may use, compared with the server's limit.
fn all_logs(logs: &Logs, partitions: u16, limit: Option<u64>) -> Finding {
    let both = [&logs.flows, &logs.solo];
    let now = both.iter().map(|totals| totals.bytes).sum();
    let full: u64 = both.iter().map(|totals| totals.full_bytes(partitions)).sum();
    let most = both.iter().map(|totals| totals.most_memory.saturating_mul(partitions.into())).sum();
    let says = format!(
        "{} now; {} when all logs are full, if the size of entries stays the same; at most {} by this program's policy \
         ({} for flows and {} for solo executions in each of {} partitions)",
        text::bytes(now),
        text::bytes(full),
        text::bytes(most),
        text::bytes(logs.flows.most_memory),
        text::bytes(logs.solo.most_memory),
        partitions,
    );
    match limit {
        Some(limit) if full > limit / 2 || most > limit => Finding::warn(
            "logs",
            format!("{says}; the server's limit is {}", text::bytes(limit)),
            "raise maxmemory, or keep less: fewer entries or bytes per log, or smaller results in them (LogPolicy)",
        ),
        _ => Finding::ok("logs", says),
    }
}

impl LogTotals {
    fn entry_bytes(&self) -> u64 {
        self.bytes.checked_div(self.entries).filter(|bytes| *bytes > 0).unwrap_or(USUAL_ENTRY_BYTES)
    }

    /// How many entries one log keeps if they have the present average size.
    fn kept_entries(&self) -> u64 {
        self.capacity.min(self.capacity_bytes / self.entry_bytes())
    }

    fn full_bytes(&self, partitions: u16) -> u64 {
        self.entry_bytes() * self.kept_entries() * u64::from(partitions)
    }
}

fn log(topic: &'static str, totals: &LogTotals, partitions: u16) -> Finding {
    let now = format!(
        "{} in {}; when full {} in {}",
        text::count(totals.entries as usize, "completion"),
        text::bytes(totals.bytes),
        totals.kept_entries() * u64::from(partitions),
        text::bytes(totals.full_bytes(partitions)),
    );
    if totals.busiest_rate <= 0.0 {
        return Finding::ok(topic, format!("{now}; none during the sample"));
    }
    // The busiest log is the first to drop entries that a subscriber may still need.
    let reach = (totals.kept_entries() as f64 / totals.busiest_rate).min(RETENTION.as_secs_f64());
    let reach_text = text::span(std::time::Duration::from_secs_f64(reach));
    let says = format!("{now}; {:.1}/s now; at this rate the busiest log keeps the last {reach_text}", totals.rate);
    if reach < 600.0 {
        return Finding::warn(topic, says, "keep longer logs: a subscriber that is away for longer receives a gap");
    }
    Finding::ok(topic, says)
}

#[cfg(test)]
#[path = "checks_tests.rs"]
mod tests;
