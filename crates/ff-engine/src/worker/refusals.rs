//! Computes how long a refused execution is kept before it returns to the queue. Pure: neither backend nor time.

use std::{collections::HashMap, time::Duration};

use ff_core::{ClaimedExecution, ExecutionId};

/// The wait after the second refusal; it doubles with each further one.
const FIRST_WAIT: Duration = Duration::from_millis(100);
/// How many executions are remembered.
const REMEMBERED: usize = 10_000;

/// How often each execution was refused.
#[derive(Debug, Default)]
pub(super) struct Refusals {
    counts: HashMap<ExecutionId, u32>,
    warned: bool,
}

impl Refusals {
    /// Counts a refusal and returns how long to keep the execution: always far less than its lease and its timeout, so
    /// that neither runs out.
    pub(super) fn wait(&mut self, execution: &ClaimedExecution, lease: Duration) -> Duration {
        let id = execution.lease.execution_id;
        if !std::mem::replace(&mut self.warned, true) {
            tracing::warn!(
                execution_id = %id,
                namespace = %execution.namespace,
                "an execution on this lane is refused; later ones are only counted"
            );
        }
        if self.counts.len() >= REMEMBERED {
            self.counts.clear();
        }
        let count = self.counts.entry(id).or_default();
        *count += 1;
        let wait = match *count {
            1 => Duration::ZERO,
            more => FIRST_WAIT.saturating_mul(1 << (more - 2).min(20)),
        };
        let longest = execution.timeout.map_or(lease, |timeout| timeout.min(lease)) / 2;
        wait.min(longest)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{execution, lease};

    const LEASE: Duration = Duration::from_secs(30);

    #[test]
    fn the_first_refusal_goes_back_at_once_and_each_further_one_later() {
        let mut refusals = Refusals::default();
        let stranger = execution(lease(1), "stranger");
        let waits: Vec<_> = (0..4).map(|_| refusals.wait(&stranger, LEASE).as_millis()).collect();
        assert_eq!(waits, [0, 100, 200, 400]);
        assert_eq!(refusals.wait(&execution(lease(2), "other"), LEASE), Duration::ZERO);
    }

    #[test]
    fn a_refused_execution_is_kept_for_half_its_lease_or_half_its_timeout_at_most() {
        let mut refusals = Refusals::default();
        let mut stranger = execution(lease(1), "stranger");
        let longest = (0..100).map(|_| refusals.wait(&stranger, LEASE)).max();
        assert_eq!(longest, Some(LEASE / 2));
        stranger.timeout = Some(Duration::from_secs(4));
        assert_eq!(refusals.wait(&stranger, LEASE), Duration::from_secs(2));
    }

    #[test]
    fn memory_of_refusals_is_bounded() {
        let mut refusals = Refusals::default();
        for number in 0..3 * REMEMBERED as u128 {
            refusals.wait(&execution(lease(number), "stranger"), LEASE);
        }
        assert!(refusals.counts.len() <= REMEMBERED);
    }
}
