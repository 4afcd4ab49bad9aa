//! Rate limit for log lines that may occur thousands of times.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// The least time between two lines of a kind.
const PAUSE: Duration = Duration::from_secs(10);

/// One kind of line: the first is written, then at most one every ten seconds, with the number of omitted lines.
#[derive(Debug)]
pub(crate) struct Quiet(Mutex<(Option<Instant>, u64)>);

impl Quiet {
    pub(crate) const fn new() -> Self {
        Self(Mutex::new((None, 0)))
    }

    /// Whether a line may be written now, and if so, how many were omitted before it.
    pub(crate) fn turn(&self) -> Option<u64> {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let (written, left_out) = &mut *state;
        if written.is_some_and(|at| now.saturating_duration_since(at) < PAUSE) {
            *left_out += 1;
            return None;
        }
        *written = Some(now);
        Some(std::mem::take(left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_is_written_and_the_others_are_counted() {
        let quiet = Quiet::new();
        let start = Instant::now();
        assert_eq!(quiet.turn_at(start), Some(0));
        assert!((0..100).all(|_| quiet.turn_at(start).is_none()));
        assert_eq!(quiet.turn_at(start + PAUSE), Some(100));
        assert_eq!(quiet.turn_at(start + 2 * PAUSE), Some(0));
    }
}
