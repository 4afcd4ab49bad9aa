//! What an engine knows of the timers, as far as it matters when it sweeps: it must never sleep beyond one.

use ff_core::{
    backend::{SweepReport, TimerSignal, TimerSignals},
    limits,
};
use futures::{FutureExt, StreamExt};

/// An engine that hears of timers, and plans its next sweep (ms) as the sweeper does.
pub(super) struct Engine {
    signals: TimerSignals,
    planned: u64,
}

/// What comes at the latest after any moment: a sweep that nothing asked for.
fn regular(now: u64) -> u64 {
    now + u64::try_from(limits::TIMER_HORIZON.as_millis()).unwrap_or(u64::MAX)
}

impl Engine {
    /// One that has swept at `now` and found nothing.
    pub(super) fn new(signals: TimerSignals, now: u64) -> Self {
        Self { signals, planned: regular(now) }
    }

    /// A sweep reported this, and then the announcements of a step came. Returns when the next sweep is planned.
    pub(super) fn plan(&mut self, now: u64, swept: Option<SweepReport>) -> u64 {
        if let Some(report) = swept {
            let due = report.next_due.map(|after| now + u64::try_from(after.as_millis()).unwrap_or(u64::MAX));
            self.planned = due.unwrap_or(u64::MAX);
        }
        while let Some(Some(signal)) = self.signals.next().now_or_never() {
            if let TimerSignal::Due { after, .. } = signal {
                // The signal has grown older by less than a millisecond or so since it was made.
                let millis = after.as_micros().div_ceil(1_000);
                self.planned = self.planned.min(now + u64::try_from(millis).unwrap_or(u64::MAX));
            }
        }
        self.planned = self.planned.min(regular(now));
        self.planned
    }
}
