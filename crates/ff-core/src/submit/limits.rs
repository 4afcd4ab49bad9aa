//! The limits of submissions, settings and calls. Each number is the most that is allowed, unless it says otherwise.

use std::{ops::RangeInclusive, time::Duration};

use crate::EngineError;

/// Members of a flow.
pub const MEMBERS: usize = 1_000;
/// Dependencies within a flow, counted over all its members.
pub const DEPENDENCIES: usize = 50_000;
/// Bytes of one execution's payload, and of its result.
pub const PAYLOAD_BYTES: usize = 1024 * 1024;
/// Bytes of the largest result that can be part of its event.
pub const INLINE_RESULT_BYTES: usize = 64 * 1024;
/// Bytes of all payloads of one submission.
pub const SUBMISSION_BYTES: usize = 16 * 1024 * 1024;
/// Bytes of an execution's name within its flow, and of an idempotency key.
pub const NAME_BYTES: usize = 256;
/// The longest delay, timeout, deadline or backoff.
pub const DURATION: Duration = Duration::from_secs(10 * 366 * 24 * 3600);
/// A backend announces a timer only if it is due within this time. Engines sweep at shorter intervals, so they find
/// all later timers in time.
pub const TIMER_HORIZON: Duration = Duration::from_secs(10);
/// The longest time for which one registration of an engine can be valid. It must register again before that.
pub const ENGINE_STAY: Duration = Duration::from_secs(60);
/// The highest priority; 0 is the lowest and the default.
pub const PRIORITY: u16 = 999;
/// Frames that the queue of one subscription holds.
pub const QUEUE: usize = 1_000_000;
/// Executions that one claim requests. A backend may return fewer and report that there are more.
pub const CLAIM_BATCH: usize = 128;
/// Bytes of a failure's or cancellation's reason; a longer one is cut at the end of a character.
pub const REASON_BYTES: usize = 1_024;

/// Checks that a configured duration lies between `least` and [`DURATION`]. Longer durations can overflow clocks.
///
/// # Errors
/// [`EngineError::InvalidInput`] with the setting, its value and its range.
pub fn check_duration(what: &str, duration: Duration, least: Duration) -> Result<(), EngineError> {
    if (least..=DURATION).contains(&duration) {
        return Ok(());
    }
    Err(EngineError::invalid(format!("{what} {duration:?}"), format!("expected {least:?} to ten years ({DURATION:?})")))
}

/// Checks a configured number.
///
/// # Errors
/// [`EngineError::InvalidInput`] with the setting, its value and its range.
pub fn check_number(what: &str, number: u64, range: RangeInclusive<u64>) -> Result<(), EngineError> {
    if range.contains(&number) {
        return Ok(());
    }
    Err(EngineError::invalid(format!("{what} {number}"), format!("expected {} to {}", range.start(), range.end())))
}
