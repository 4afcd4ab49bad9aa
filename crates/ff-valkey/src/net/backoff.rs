//! The pause before the next attempt, for all retries in this crate.

use std::time::Duration;

/// The longest pause.
const LONGEST: Duration = Duration::from_millis(100);

/// Doubles from 10 ms to 100 ms. Each pause is up to a quarter shorter at random, so that processes that lost their
/// server together do not reconnect together.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// For connections and reads: quick to recover after a short failure, little load during a long one.
    pub(crate) const fn reconnect() -> Self {
        Self { next: Duration::from_millis(10) }
    }

    fn next(&mut self) -> Duration {
        let pause = self.next;
        self.next = pause.saturating_mul(2).min(LONGEST);
        pause.mul_f64(1.0 - fastrand::f64() / 4.0)
    }

    pub(crate) async fn pause(&mut self) {
        let pause = self.next();
        tokio::time::sleep(pause).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_longest_and_vary_by_a_quarter() {
        let mut backoff = Backoff::reconnect();
        for longest in [10, 20, 40, 80, 100, 100] {
            let longest = Duration::from_millis(longest);
            let pause = backoff.next();
            assert!(pause <= longest && pause >= longest.mul_f64(0.75), "{pause:?} of {longest:?}");
        }
    }
}
