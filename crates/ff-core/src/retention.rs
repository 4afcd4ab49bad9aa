//! How long ended executions are kept.

use std::time::Duration;

use crate::{EngineError, limits};

/// How long ended executions and their completions are kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub struct SweepPolicy {
    /// The age at which a completion is removed from its log. Its execution is deleted afterwards.
    pub retention: Duration,
    /// How long after that an idempotency key is still known. Until then, repeating the submission returns that it
    /// exists and runs nothing. With zero, a key is deleted with its flow or execution.
    pub idempotency: Duration,
}

impl SweepPolicy {
    /// Keeps ended executions and their completions for this long, and idempotency keys for a week longer.
    #[must_use]
    pub fn retention(retention: Duration) -> Self {
        Self { retention, ..Self::default() }
    }

    /// Sets how long idempotency keys are known after the retention.
    #[must_use]
    pub const fn idempotency(self, idempotency: Duration) -> Self {
        Self { idempotency, ..self }
    }

    /// Checks the ranges that the types do not enforce.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] with the setting and its range.
    pub fn check(&self) -> Result<(), EngineError> {
        limits::check_duration("retention", self.retention, Duration::ZERO)?;
        limits::check_duration("idempotency", self.idempotency, Duration::ZERO)
    }
}

impl Default for SweepPolicy {
    /// 24 h, and 7 days.
    fn default() -> Self {
        const DAY: Duration = Duration::from_secs(24 * 3600);
        Self { retention: DAY, idempotency: DAY.saturating_mul(7) }
    }
}
