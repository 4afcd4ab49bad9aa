//! The clock of a host: the machine's, or one that a test moves.

use std::{
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    time::{Duration, SystemTime, UNIX_EPOCH},
};

/// The clock of a host.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Clock {
    /// The machine's clock.
    #[default]
    Real,
    /// A clock that does not advance until a test moves it.
    Virtual(VirtualClock),
}

impl Clock {
    /// Microseconds since 1970-01-01 UTC.
    pub(crate) fn now_us(&self) -> u64 {
        match self {
            // A clock before 1970 counts as one at 1970.
            Self::Real => SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, micros),
            Self::Virtual(clock) => clock.now_us.load(Ordering::SeqCst),
        }
    }
}

/// A clock that a test moves, also backwards. Clones share the same time.
///
/// ```
/// use std::time::Duration;
/// use ff_embedded::VirtualClock;
///
/// let clock = VirtualClock::at_millis(1_000);
/// clock.advance(Duration::from_secs(3));
/// clock.set_millis(clock.now_millis() - 1_500);
/// assert_eq!(clock.now_millis(), 2_500);
/// ```
#[derive(Debug, Clone)]
pub struct VirtualClock {
    now_us: Arc<AtomicU64>,
}

impl VirtualClock {
    /// A clock set to this time, in milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn at_millis(now: u64) -> Self {
        Self { now_us: Arc::new(AtomicU64::new(now.saturating_mul(1_000))) }
    }

    /// The time, in milliseconds since 1970-01-01 UTC.
    #[must_use]
    pub fn now_millis(&self) -> u64 {
        self.now_us.load(Ordering::SeqCst) / 1_000
    }

    /// Sets the clock to a time, which may be before the present one.
    pub fn set_millis(&self, now: u64) {
        self.now_us.store(now.saturating_mul(1_000), Ordering::SeqCst);
    }

    /// Moves the clock forward.
    pub fn advance(&self, by: Duration) {
        self.now_us.fetch_add(micros(by), Ordering::SeqCst);
    }
}

fn micros(duration: Duration) -> u64 {
    u64::try_from(duration.as_micros()).unwrap_or(u64::MAX)
}
