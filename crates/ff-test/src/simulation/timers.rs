//! A model of the sweeper's plan: an engine must never sleep beyond a timer.

use ff_core::{
    backend::{SweepReport, TimerSignal, TimerSignals},
    limits,
};
use futures::{FutureExt, StreamExt};

/// Receives timer signals, and plans the next sweep (ms) like the sweeper.
pub(super) struct SweepPlan {
    signals: TimerSignals,
    planned: u64,
}

/// The latest time of the next regular sweep.
fn regular(now: u64) -> u64 {
    now + u64::try_from(limits::TIMER_HORIZON.as_millis()).unwrap_or(u64::MAX)
}

impl SweepPlan {
    /// The plan after a sweep at `now` that found nothing.
    pub(super) fn new(signals: TimerSignals, now: u64) -> Self {
        Self { signals, planned: regular(now) }
    }

    /// Applies the report of a sweep, and then the announcements of a step. Returns when the next sweep is planned.
    pub(super) fn plan(&mut self, now: u64, swept: Option<SweepReport>) -> u64 {
        if let Some(report) = swept {
            let due = report.next_due.map(|after| now + u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            self.planned = due.unwrap_or(u64::MAX);
        }
        while let Some(Some(signal)) = self.signals.next().now_or_never() {
            if let TimerSignal::Due { after, .. } = signal {
                // The signal is about a millisecond old at most.
                let millis = after.as_micros().div_ceil(1_000);
                self.planned = self.planned.min(now + u64::try_from(millis).unwrap_or(u64::MAX));
            }
        }
        self.planned = self.planned.min(regular(now));
        self.planned
    }
}
