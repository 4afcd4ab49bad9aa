//! The names of the metrics that every host of the library has in common.

use metrics::counter;

/// Flows that this process submitted in several calls, because one call may not take so much.
pub const IN_PARTS: &str = "ff_submission_in_parts_total";
/// How often this process wrote the parts of a flow again because the server no longer had all of them.
pub const PARTS_DISCARDED: &str = "ff_submission_parts_discarded_total";

pub(crate) fn count(name: &'static str) {
    counter!(name).increment(1);
}
