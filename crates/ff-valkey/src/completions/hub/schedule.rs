//! When the hub compares heads, and when it reads logs. Pure: the clock is an argument.

use std::time::Duration;

use tokio::time::Instant;

use crate::completions::frontier::Waiting;

/// The pause before a log is read again that did not contain a pushed entry.
const LATER: Duration = Duration::from_millis(50);
/// How long a push may be in transit that the server sent before it answered a comparison.
pub(super) const ON_ITS_WAY: Duration = Duration::from_millis(500);
/// How often heads are compared.
pub(super) const COMPARE_EVERY: Duration = Duration::from_secs(2);

/// What the reading task does next.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Turn {
    /// Compares heads: of all logs, or of those without a push since the previous comparison.
    Compare { all: bool },
    /// Reads logs; which of the postponed reads are due.
    Read { later: bool, overdue: bool },
    /// Does nothing until then.
    Pause(Instant),
    /// Does nothing until it is woken, or until then.
    Wait(Instant),
}

#[derive(Debug)]
pub(super) struct ReadSchedule {
    compare_at: Instant,
    /// The time from which pushes in transit count as late.
    overdue_at: Instant,
    later_at: Instant,
    /// A comparison of all logs was requested.
    requested: bool,
    /// The findings of a comparison are read before a requested one, however often one is requested.
    reads_first: bool,
    /// The number of received messages when the last comparison found entries without a push.
    unpushed_at: Option<u64>,
}

impl ReadSchedule {
    pub(super) fn new(now: Instant) -> Self {
        let compare_at = now + COMPARE_EVERY;
        Self {
            compare_at,
            overdue_at: compare_at,
            later_at: now + LATER,
            requested: false,
            reads_first: false,
            unpushed_at: None,
        }
    }

    /// Requests a comparison of all logs: messages may have been missed.
    pub(super) const fn request(&mut self) {
        self.requested = true;
    }

    pub(super) fn next(&mut self, now: Instant, waiting: Waiting) -> Turn {
        let reads_first = std::mem::take(&mut self.reads_first);
        if !reads_first && std::mem::take(&mut self.requested) {
            return Turn::Compare { all: true };
        }
        if now >= self.compare_at {
            return Turn::Compare { all: false };
        }
        match self.next_read(now, waiting) {
            Turn::Wait(_) if std::mem::take(&mut self.requested) => Turn::Compare { all: true },
            turn => turn,
        }
    }

    /// As [`ReadSchedule::next`], without comparisons.
    pub(super) fn next_read(&mut self, now: Instant, waiting: Waiting) -> Turn {
        let later = now >= self.later_at;
        if later {
            self.later_at = now + LATER;
        }
        let overdue = waiting.overdue && now >= self.overdue_at;
        if waiting.reads || (waiting.later && later) || overdue {
            Turn::Read { later, overdue }
        } else if waiting.later {
            Turn::Pause(now + LATER)
        } else {
            Turn::Wait(if waiting.overdue { self.overdue_at } else { self.compare_at })
        }
    }

    /// A comparison begins; `received` is the number of messages received so far. Returns whether the connection is
    /// silent: the previous comparison found entries without a push, and no message of any kind has arrived since.
    pub(super) fn is_silent(&mut self, all: bool, received: u64) -> bool {
        !all && self.unpushed_at.take() == Some(received)
    }

    /// A comparison was made that began at `received` messages; `beyond` is whether it found entries without a push.
    pub(super) fn compared(&mut self, now: Instant, beyond: bool, received: u64) {
        self.compare_at = now + COMPARE_EVERY;
        self.overdue_at = now + ON_ITS_WAY;
        self.unpushed_at = beyond.then_some(received);
        self.reads_first = true;
    }

    /// A comparison failed: one of all logs is tried again, any other has its next turn.
    pub(super) fn failed(&mut self, now: Instant, all: bool) {
        self.compare_at = now + COMPARE_EVERY;
        self.requested |= all;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const READS: Waiting = Waiting { reads: true, later: false, overdue: false };
    const NOTHING: Waiting = Waiting { reads: false, later: false, overdue: false };
    const READ: Turn = Turn::Read { later: false, overdue: false };

    #[test]
    fn heads_are_compared_every_two_seconds_also_while_logs_are_read() {
        let now = Instant::now();
        let mut schedule = ReadSchedule::new(now);
        assert_eq!(schedule.next(now, READS), READ);
        assert_eq!(schedule.next(now, NOTHING), Turn::Wait(now + COMPARE_EVERY));
        let now = now + COMPARE_EVERY;
        assert_eq!(schedule.next(now, READS), Turn::Compare { all: false });
        schedule.compared(now, false, 0);
        assert_eq!(schedule.next(now, NOTHING), Turn::Wait(now + COMPARE_EVERY));
    }

    #[test]
    fn a_requested_comparison_is_made_at_once_and_covers_all_logs() {
        let now = Instant::now();
        let mut schedule = ReadSchedule::new(now);
        schedule.request();
        assert_eq!(schedule.next(now, READS), Turn::Compare { all: true });
        assert_eq!(schedule.next(now, READS), READ, "once");
    }

    #[test]
    fn the_findings_of_a_comparison_are_read_before_the_next_requested_one() {
        let now = Instant::now();
        let mut schedule = ReadSchedule::new(now);
        for waiting in [READS, Waiting { later: true, ..NOTHING }] {
            schedule.compared(now, true, 0);
            schedule.request();
            let turn = schedule.next(now, waiting);
            assert!(matches!(turn, Turn::Read { .. } | Turn::Pause(_)), "{turn:?}");
            assert_eq!(schedule.next(now, waiting), Turn::Compare { all: true });
        }
        schedule.compared(now, false, 0);
        schedule.request();
        assert_eq!(schedule.next(now, NOTHING), Turn::Compare { all: true }, "nothing was found");
    }

    #[test]
    fn a_log_without_a_pushed_entry_is_read_again_after_a_pause() {
        let now = Instant::now();
        let mut schedule = ReadSchedule::new(now);
        let waiting = Waiting { later: true, ..NOTHING };
        assert_eq!(schedule.next(now, waiting), Turn::Pause(now + LATER));
        let now = now + LATER;
        assert_eq!(schedule.next(now, waiting), Turn::Read { later: true, overdue: false });
        assert_eq!(schedule.next(now, waiting), Turn::Pause(now + LATER));
        // A task that was idle does not read such a log at once.
        let now = now + COMPARE_EVERY / 2;
        assert_eq!(schedule.next(now, READS), Turn::Read { later: true, overdue: false });
        assert_eq!(schedule.next(now, waiting), Turn::Pause(now + LATER));
    }

    #[test]
    fn pushes_in_transit_are_late_half_a_second_after_a_comparison() {
        let now = Instant::now();
        let mut schedule = ReadSchedule::new(now);
        schedule.compared(now, false, 0);
        let waiting = Waiting { overdue: true, ..NOTHING };
        assert_eq!(schedule.next(now, waiting), Turn::Wait(now + ON_ITS_WAY));
        let turn = schedule.next(now + ON_ITS_WAY, waiting);
        assert!(matches!(turn, Turn::Read { overdue: true, .. }), "{turn:?}");
    }

    #[test]
    fn a_failed_comparison_of_all_logs_is_made_again_and_any_other_waits_for_its_turn() {
        let now = Instant::now();
        let mut schedule = ReadSchedule::new(now);
        schedule.failed(now, true);
        assert_eq!(schedule.next(now, NOTHING), Turn::Compare { all: true });
        schedule.failed(now, false);
        assert_eq!(schedule.next(now, NOTHING), Turn::Wait(now + COMPARE_EVERY));
    }

    #[test]
    fn a_connection_is_silent_without_a_message_between_comparisons_that_should_have_come() {
        let now = Instant::now();
        let mut schedule = ReadSchedule::new(now);
        let silent = |schedule: &mut ReadSchedule, beyond, all, received| {
            schedule.compared(now, beyond, 7);
            schedule.is_silent(all, received)
        };
        assert!(silent(&mut schedule, true, false, 7));
        assert!(!silent(&mut schedule, true, false, 8), "a message came");
        assert!(!silent(&mut schedule, false, false, 7), "nothing was missing");
        assert!(!silent(&mut schedule, true, true, 7), "the connection is new");
    }
}
