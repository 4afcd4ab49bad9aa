//! The names of all metrics of this crate, each counted in one place.

use std::sync::Arc;

use ff_core::Scope;
pub use ff_script::telemetry::{IN_PARTS, PARTS_DISCARDED};
use metrics::{counter, gauge};

/// Completions put into queues of subscriptions.
pub const DELIVERED: &str = "ff_completion_delivered_total";
/// Completions that a subscription's filter rejected.
pub const FILTERED: &str = "ff_completion_filtered_total";
/// Completions that arrived again after they had been delivered.
pub const DUPLICATES: &str = "ff_completion_duplicates_total";
/// Declared gaps; label `cause`: `trimmed`, `history_rewritten`, `log_recreated`, `unreadable`, `forged` or `overflow`.
pub const GAPS: &str = "ff_completion_gaps_total";
/// Pushes whose entry the log did not contain, even after several reads.
pub const UNKNOWN: &str = "ff_completion_unknown_total";
/// Pushes and log entries that are not completions.
pub const MALFORMED: &str = "ff_completion_malformed_total";
/// Subscriptions that are catching up from the log because their queue was full.
pub const LAGGING: &str = "ff_subscription_lagging";
/// Completions that the subscriptions of one name have not received yet: those in their queues, and those in the logs
/// while the subscriptions catch up. Labels: `scope` (`flows` or `solo`) and `subscription` (empty for all
/// subscriptions without a name). Updated once a second.
pub const LAG: &str = "ff_subscription_lag_events";
/// The server's time, in seconds since 1970-01-01 UTC, up to which every completion was put into the queues; label
/// `scope`. An alert on its age detects any fault between the server and the subscriptions.
pub const COMPLETE_AS_OF: &str = "ff_completion_complete_as_of_seconds";
/// Completion logs that cannot be read at present; label `scope`.
pub const UNREADABLE_LOGS: &str = "ff_completion_logs_unreadable";
/// How often a subscription's queue was full.
pub const LAGGED: &str = "ff_subscription_lagged_total";
/// Subscriptions of this process.
pub const SUBSCRIPTIONS: &str = "ff_subscriptions";
/// How often the subscriber's connection was re-established.
pub const RECONNECTS: &str = "ff_subscriber_reconnects_total";
/// How often the subscriber's connection was replaced because it did not answer.
pub const DEAD: &str = "ff_subscriber_dead_total";
/// How often the subscriber's connection was replaced because it delivered nothing.
pub const SILENT_FEED: &str = "ff_subscriber_deaf_total";
/// How often the sentinels named another primary.
pub const FAILOVERS: &str = "ff_primary_failovers_total";
/// How often a connection was closed because its server was no longer the primary.
pub const MOVED: &str = "ff_connection_moved_total";
/// Pushes lost inside this process before they were processed; they are read from the log instead.
pub const OVERRUN: &str = "ff_subscriber_overrun_total";
/// Events without a position that wait for attributes that a filter needs.
pub const HELD: &str = "ff_bare_events_held";
/// Events without a position that were dropped; label `cause`: `held` or `queue`.
pub const DROPPED: &str = "ff_bare_events_dropped_total";
/// Attributes that a filter needed and the server does not have.
pub const MISSING: &str = "ff_filter_missing_total";

/// Internal tasks that have ended, normally none; label `task`.
pub const TASKS_ENDED: &str = "ff_backend_tasks_ended_total";

pub(crate) fn count_task(task: &'static str) {
    counter!(TASKS_ENDED, "task" => task).increment(1);
}

pub(crate) fn count(name: &'static str, by: u64) {
    if by > 0 {
        counter!(name).increment(by);
    }
}

pub(crate) fn count_cause(name: &'static str, cause: &'static str, by: u64) {
    if by > 0 {
        counter!(name, "cause" => cause).increment(by);
    }
}

pub(crate) fn level(name: &'static str, value: usize) {
    // The value is far below 2^52, so the cast is exact.
    #[allow(clippy::cast_precision_loss)]
    gauge!(name).set(value as f64);
}

const fn scope_label(scope: Scope) -> &'static str {
    match scope {
        Scope::Flows => "flows",
        Scope::Solo => "solo",
    }
}

// The value is far below 2^52, so the cast is exact.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn lag(scope: Scope, name: Option<&Arc<str>>, lag: u64) {
    let name = name.map_or_else(String::new, |name| name.to_string());
    gauge!(LAG, "scope" => scope_label(scope), "subscription" => name).set(lag as f64);
}

// The value is far below 2^52, so the cast is exact.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn complete_as_of(scope: Scope, at_ms: Option<u64>) {
    if let Some(at_ms) = at_ms {
        gauge!(COMPLETE_AS_OF, "scope" => scope_label(scope)).set(at_ms as f64 / 1000.0);
    }
}

// The value is far below 2^52, so the cast is exact.
#[allow(clippy::cast_precision_loss)]
pub(crate) fn unreadable(scope: Scope, logs: usize) {
    gauge!(UNREADABLE_LOGS, "scope" => scope_label(scope)).set(logs as f64);
}
