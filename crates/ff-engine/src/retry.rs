//! The one retry schedule, and jitter for intervals.

use std::time::Duration;

use backon::{BackoffBuilder, ExponentialBackoff, ExponentialBuilder};

/// 50 ms, doubling to 5 s, each with a random addition of up to the same length, without end: the caller stops it.
pub(crate) fn schedule() -> ExponentialBuilder {
    ExponentialBuilder::new()
        .with_min_delay(Duration::from_millis(50))
        .with_max_delay(Duration::from_secs(5))
        .with_jitter()
        .without_max_times()
}

/// The schedule for a loop that continues after each failure.
#[derive(Debug)]
pub(crate) struct Delays(ExponentialBackoff);

impl Delays {
    pub(crate) fn new() -> Self {
        Self(schedule().build())
    }

    /// How long to wait after one more failure.
    pub(crate) fn next_delay(&mut self) -> Duration {
        self.0.next().unwrap_or(Duration::from_secs(5))
    }

    /// Restarts the schedule, after a success.
    pub(crate) fn reset(&mut self) {
        *self = Self::new();
    }
}

/// `interval`, shortened or lengthened by up to a tenth, so that processes started together drift apart.
pub(crate) fn jittered(interval: Duration) -> Duration {
    interval.mul_f64(0.9 + 0.2 * fastrand::f64())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn delays_grow_to_their_cap_and_are_reset_by_a_success() {
        let mut delays = Delays::new();
        let first = delays.next_delay();
        assert!((Duration::from_millis(50)..=Duration::from_millis(100)).contains(&first), "{first:?}");
        for _ in 0..50 {
            assert!(delays.next_delay() <= Duration::from_secs(10));
        }
        assert!(delays.next_delay() >= Duration::from_secs(5));
        delays.reset();
        assert!(delays.next_delay() <= Duration::from_millis(100));
    }

    #[test]
    fn jitter_stays_within_a_tenth() {
        for _ in 0..1_000 {
            let interval = jittered(Duration::from_secs(10));
            assert!((Duration::from_secs(9)..=Duration::from_secs(11)).contains(&interval), "{interval:?}");
        }
    }
}
