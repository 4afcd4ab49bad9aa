//! The permissions that a user of the server needs in each role, as ACL rules and as commands to test.
//!
//! A function runs with its caller's permissions: the caller needs every command that the function runs, on the keys
//! and channels that it uses. The rules of a role therefore grant its functions by name, and the commands that these
//! run.

use std::{collections::BTreeSet, fmt};

use ff_core::{ExecutionId, Partition};
use uuid::Uuid;

use crate::keys;

/// The role of a user. A user with several roles has the rules of all of them, see [`acl_rules`].
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Role {
    /// Receives completions; does not write.
    Subscriber,
    /// Submits, describes and cancels.
    Submitter,
    /// Runs work and the engine.
    Worker,
    /// Loads the library, records the partition count, and checks the server with `ff doctor`.
    Administrator,
}

/// Commands that every connection and every backend sends.
const CONNECTING: &[&str] = &["client|id", "fcall_ro|ff1_version", "hmget", "info"];

const SUBSCRIBING: &[&str] = &[
    "fcall_ro|ff1_appended",
    "fcall_ro|ff1_heads",
    "hget",
    "hgetall",
    "ping",
    "pubsub|numsub",
    "subscribe",
    "time",
    "xinfo|stream",
    "xlen",
    "xrange",
    "xrevrange",
];

const SUBMITTING: &[&str] = &[
    "fcall|ff1_cancel_execution",
    "fcall|ff1_cancel_flow",
    "fcall|ff1_enqueue",
    "fcall|ff1_start_flow",
    "fcall|ff1_submit",
    "fcall_ro|ff1_describe_execution",
    "fcall_ro|ff1_describe_flow",
    "del",
    "persist",
    "pexpire",
];

const WORKING: &[&str] = &[
    "fcall|ff1_await_work",
    "fcall|ff1_claim",
    "fcall|ff1_complete",
    "fcall|ff1_complete_many",
    "fcall|ff1_deployment",
    "fcall|ff1_engine",
    "fcall|ff1_fail",
    "fcall|ff1_reconcile",
    "fcall|ff1_release",
    "fcall|ff1_renew",
    "fcall|ff1_resolve",
    "fcall|ff1_settle",
    "fcall|ff1_sweep",
    "fcall_ro|ff1_pending",
    "get",
    "pexpire",
    "pttl",
    "set",
    "unlink",
    "zcard",
    "zrange",
    "zrangebyscore",
];

/// Commands that functions run to end executions or to make them ready.
const CHANGING: &[&str] = &[
    "exists",
    "hdel",
    "hexists",
    "hget",
    "hkeys",
    "hlen",
    "hset",
    "hstrlen",
    "publish",
    "time",
    "type",
    "xadd",
    "xdel",
    "xinfo|stream",
    "xlen",
    "xrange",
    "xrevrange",
    "xtrim",
    "zadd",
    "zrangebylex",
    "zrem",
    "zscore",
];

const ADMINISTERING: &[&str] = &[
    "acl|dryrun",
    "acl|whoami",
    "config|get",
    "fcall|ff1_deployment",
    "function|load",
    "hget",
    "hset",
    "memory|usage",
    "time",
    "xinfo|stream",
    "zrange",
];

impl Role {
    /// All roles, the one with the fewest rights first.
    pub const ALL: [Self; 4] = [Self::Subscriber, Self::Submitter, Self::Worker, Self::Administrator];

    /// The role's name in command lines.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Subscriber => "subscriber",
            Self::Submitter => "submitter",
            Self::Worker => "worker",
            Self::Administrator => "administrator",
        }
    }

    /// The rules that grant a user this role, for ACL SETUSER. They add to the user's existing rules.
    #[must_use]
    pub fn acl_rules(self) -> Vec<String> {
        acl_rules(&[self])
    }

    /// The commands of the role, each with a sample call.
    #[must_use]
    pub fn needs(self) -> Vec<Need> {
        let need = |command| Need { role: self, command };
        self.commands().into_iter().map(need).collect()
    }

    fn commands(self) -> BTreeSet<&'static str> {
        let more: &[&[&str]] = match self {
            Self::Subscriber => &[SUBSCRIBING],
            Self::Submitter => &[SUBMITTING, CHANGING],
            Self::Worker => &[SUBSCRIBING, WORKING, CHANGING],
            Self::Administrator => &[ADMINISTERING],
        };
        [CONNECTING].iter().chain(more).flat_map(|commands| commands.iter().copied()).collect()
    }

    fn key_rules(self) -> Vec<String> {
        let read = format!("%R~{}", keys::ALL_KEYS);
        match self {
            Self::Subscriber => vec![read],
            Self::Submitter | Self::Worker => vec![format!("~{}", keys::ALL_KEYS)],
            Self::Administrator => vec![read, format!("~{}", keys::DEPLOYMENT)],
        }
    }

    fn channel_rules(self) -> Vec<String> {
        let completions = [keys::FLOW_CHANNEL, keys::SOLO_CHANNEL, keys::WAKE_CHANNELS];
        let more: &[&str] = match self {
            Self::Administrator => return Vec::new(),
            Self::Subscriber => &[],
            Self::Submitter | Self::Worker => &[keys::TIMERS_CHANNEL],
        };
        completions.iter().chain(more).map(|channel| format!("&{channel}")).collect()
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The rules that grant a user all of these roles: keys, channels and commands.
#[must_use]
pub fn acl_rules(roles: &[Role]) -> Vec<String> {
    let mut rules: Vec<String> = Vec::new();
    let commands: BTreeSet<&str> = roles.iter().flat_map(|role| role.commands()).collect();
    let keys = roles.iter().flat_map(|role| role.key_rules());
    let channels = roles.iter().flat_map(|role| role.channel_rules());
    for rule in keys.chain(channels).chain(commands.into_iter().map(|command| format!("+{command}"))) {
        if !rules.contains(&rule) {
            rules.push(rule);
        }
    }
    rules
}

/// One command that a role needs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Need {
    role: Role,
    command: &'static str,
}

impl Need {
    /// A sample call of the command, for ACL DRYRUN. It must not be executed.
    #[must_use]
    pub fn sample(&self) -> Vec<String> {
        let core = keys::execution_core(ExecutionId::from_parts(Partition::new(0), Uuid::nil()));
        let writes_the_record_only = self.role == Role::Administrator && self.command == "hset";
        let key = if writes_the_record_only { keys::DEPLOYMENT } else { &core };
        let (name, second) = self.command.split_once('|').unwrap_or((self.command, ""));
        let wake = keys::wake_channel(Uuid::nil());
        let mut subscribed = vec![keys::FLOW_CHANNEL, keys::SOLO_CHANNEL, wake.as_str()];
        if self.role == Role::Worker {
            subscribed.push(keys::TIMERS_CHANNEL);
        }
        let rest: Vec<&str> = match self.command {
            "acl|dryrun" => vec!["default", "ping"],
            "config|get" => vec!["save"],
            "function|load" => vec!["-"],
            "subscribe" => subscribed,
            // PUBLISH takes one channel. One is enough for the test: a role has all channels or none.
            "publish" => vec![keys::FLOW_CHANNEL, "-"],
            "pubsub|numsub" => vec![keys::FLOW_CHANNEL],
            "info" | "ping" | "time" | "acl|whoami" | "client|id" | "fcall_ro|ff1_version" => Vec::new(),
            "fcall|ff1_deployment" => vec!["1", keys::DEPLOYMENT],
            function if function.starts_with("fcall") => vec!["1", key],
            "hdel" | "hexists" | "hget" | "hmget" | "hstrlen" | "zrem" | "zscore" => vec![key, "-"],
            "set" => vec![key, "-"],
            "pexpire" => vec![key, "0"],
            "hset" | "zrangebylex" | "xrange" => vec![key, "-", "+"],
            "xrevrange" => vec![key, "+", "-"],
            "xadd" => vec![key, "*", "f", "v"],
            "xdel" => vec![key, "1-1"],
            "xtrim" => vec![key, "MAXLEN", "0"],
            "zadd" | "zrange" | "zrangebyscore" => vec![key, "0", "0"],
            _ => vec![key],
        };
        let count = if self.command == "fcall_ro|ff1_version" { Some("0") } else { None };
        let words = [name, second].into_iter().filter(|word| !word.is_empty());
        words.chain(count).chain(rest).map(str::to_owned).collect()
    }

    /// The rules that a user lacks. `refusal` is the text with which the server refused the sample.
    #[must_use]
    pub fn missing(&self, refusal: &str) -> Vec<String> {
        if refusal.contains(" command") {
            return vec![format!("+{}", self.command)];
        }
        if refusal.contains(" channel") { self.role.channel_rules() } else { self.role.key_rules() }
    }
}

/// Commands that no role needs, each with a description and a call for ACL DRYRUN.
pub const EXCESSIVE: &[(&str, &[&str])] = &[
    ("read keys of others", &["HGET", "another:key", "f"]),
    ("write keys of others", &["HSET", "another:key", "f", "v"]),
    ("receive from channels of others", &["SUBSCRIBE", "another:channel"]),
    ("call functions of others", &["FCALL", "another_function", "0"]),
    ("run scripts (EVAL)", &["EVAL", "return 1", "0"]),
    ("FLUSHALL", &["FLUSHALL"]),
    ("FLUSHDB", &["FLUSHDB"]),
    ("CONFIG SET", &["CONFIG", "SET", "save", ""]),
    ("ACL SETUSER", &["ACL", "SETUSER", "another"]),
    ("FUNCTION DELETE", &["FUNCTION", "DELETE", "another"]),
    ("FUNCTION FLUSH", &["FUNCTION", "FLUSH"]),
    ("SHUTDOWN", &["SHUTDOWN"]),
    ("REPLICAOF", &["REPLICAOF", "NO", "ONE"]),
    ("CLIENT KILL", &["CLIENT", "KILL", "ID", "1"]),
    ("KEYS", &["KEYS", "*"]),
    ("MONITOR", &["MONITOR"]),
];

#[cfg(test)]
#[path = "permissions_tests.rs"]
mod tests;
