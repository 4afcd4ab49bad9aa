//! The pause before the next try, for everything in this crate that tries again.

use std::time::Duration;

/// Doubles from its first pause to its longest.
#[derive(Debug)]
pub(crate) struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// For connections and reads: back soon after a short failure, no burden during a long one.
    pub(crate) const fn reconnect() -> Self {
        Self { next: Duration::from_millis(10), longest: Duration::from_millis(500) }
    }

    pub(crate) const fn next(&mut self) -> Duration {
        let pause = self.next;
        let doubled = pause.saturating_mul(2);
        self.next = if doubled.as_nanos() < self.longest.as_nanos() { doubled } else { self.longest };
        pause
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
    fn pauses_double_up_to_the_longest() {
        let mut backoff = Backoff::reconnect();
        let pauses: Vec<u128> = (0..8).map(|_| backoff.next().as_millis()).collect();
        assert_eq!(pauses, [10, 20, 40, 80, 160, 320, 500, 500]);
    }
}
