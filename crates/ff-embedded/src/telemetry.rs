//! The names of all metrics of this crate: the same as those of the server's backend, as far as they apply.

use ff_core::GapCause;
pub use ff_script::telemetry::{IN_PARTS, PARTS_DISCARDED};
use metrics::{counter, gauge};

/// Completions handed to subscriptions.
pub const DELIVERED: &str = "ff_completion_delivered_total";
/// Completions that a subscription's filter rejected.
pub const FILTERED: &str = "ff_completion_filtered_total";
/// Declared gaps; label `cause`: `trimmed`, `history_rewritten`, `log_recreated`, `unreadable` or `overflow`.
pub const GAPS: &str = "ff_completion_gaps_total";
/// Log entries that are not completions.
pub const MALFORMED: &str = "ff_completion_malformed_total";
/// Open subscriptions.
pub const SUBSCRIPTIONS: &str = "ff_subscriptions";

pub(crate) fn count(name: &'static str, by: u64) {
    counter!(name).increment(by);
}

pub(crate) fn count_gap(cause: GapCause) {
    counter!(GAPS, "cause" => cause.as_str()).increment(1);
}

pub(crate) fn level(name: &'static str, value: usize) {
    #[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
    gauge!(name).set(value as f64);
}
