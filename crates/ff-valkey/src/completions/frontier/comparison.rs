//! Compares the logs with the frontier: which heads differ, what was forged, what cannot be read.

use super::*;

impl Frontier {
    /// Plans a comparison of the heads: of all logs, or of those without a push since the previous comparison.
    pub(crate) fn compare(&mut self, all: bool) -> Comparison {
        self.read_overdue();
        let confirmed = std::mem::replace(&mut self.confirmed, vec![false; self.readers.len()]);
        let logs = (0..self.readers.len()).filter(|index| all || !confirmed[*index]);
        let logs = logs.map(|index| self.known(index)).collect();
        Comparison { logs, before: self.snapshot(), confirmed, turn: self.turn, appended: None }
    }

    /// Extends a comparison to all logs, because the server process that answered is not the previous one. The pushes
    /// came from the previous process, and the log may have lost them since.
    pub(crate) fn widen(&self, comparison: &mut Comparison) {
        comparison.logs = (0..self.readers.len()).map(|index| self.known(index)).collect();
    }

    /// A comparison failed: the next one covers the same logs.
    pub(crate) fn not_compared(&mut self, comparison: &Comparison) {
        for (confirmed, before) in self.confirmed.iter_mut().zip(&comparison.confirmed) {
            *confirmed |= before;
        }
        self.turn = comparison.turn;
    }

    /// Narrows a comparison once the server has reported to which logs it has appended. Beside these it keeps the logs
    /// in turn, the logs whose pushes the server does not know of, and the logs that cannot be read.
    pub(crate) fn narrow(&mut self, comparison: &mut Comparison, appended: Vec<(LogId, Newest)>) {
        let count = self.readers.len();
        let mut is_reported = vec![false; count];
        for index in appended.iter().filter_map(|(log, _)| self.index(*log)) {
            is_reported[index] = true;
        }
        let turn = count.div_ceil(ROUND);
        let mut has_turn = comparison.confirmed.clone();
        for offset in 0..turn {
            has_turn[(self.turn + offset) % count] = true;
        }
        self.turn = (self.turn + turn) % count;
        let is_asked =
            |index: &usize| (has_turn[*index] && !is_reported[*index]) || self.unreadable.contains_key(index);
        let asked: Vec<usize> = (0..count).filter(is_asked).collect();
        comparison.logs = asked.into_iter().map(|index| self.known(index)).collect();
        comparison.appended = Some(appended);
    }

    /// The newest entry of a log known to this process.
    pub(super) fn known(&self, index: usize) -> (LogId, Option<Newest>) {
        let has = |entry| {
            let pushed = self.pushed[index].iter().rfind(|pushed| pushed.entry == entry);
            Newest { entry, execution: pushed.map(|pushed| pushed.execution) }
        };
        (self.log(index), self.cursor(index).last().map(has))
    }

    /// Takes the heads that were requested; `at_ms` is the server's time (ms) before the request. Returns whether one
    /// of them lies beyond all received pushes.
    pub(crate) fn heads(&mut self, asked: &Comparison, at_ms: u64, heads: OfEach<Head>) -> bool {
        let mut beyond = false;
        let mut is_reported = vec![false; self.readers.len()];
        for (log, newest) in asked.appended.iter().flatten() {
            let Some(index) = self.index(*log) else { continue };
            is_reported[index] = true;
            if !asked.confirmed[index] {
                beyond |= self.head(index, asked, Head::At(*newest), at_ms);
                continue;
            }
            // The log advances while it is compared: a missing entry is in transit, or lost.
            self.check(index, *newest);
            if self.cursor(index).has(newest.entry) {
                self.complete_up_to(index, at_ms);
            } else {
                self.overdue.push((index, newest.entry, at_ms));
            }
        }
        for ((log, _), head) in asked.logs.iter().zip(heads) {
            let Some(index) = self.index(*log) else { continue };
            is_reported[index] = true;
            match head {
                Ok(head) => {
                    if matches!(self.modes[index], Mode::Live) {
                        self.unreadable.remove(&index);
                    }
                    beyond |= self.head(index, asked, head, at_ms);
                }
                Err(error) => self.failed(*log, error.to_string()),
            }
        }
        if asked.appended.is_some() {
            (0..is_reported.len())
                .filter(|index| !is_reported[*index])
                .for_each(|index| self.complete_up_to(index, at_ms));
        }
        beyond
    }

    /// Reads the logs whose pushes were in transit and have not arrived: the server reports each entry only once.
    pub(crate) fn read_overdue(&mut self) {
        for (index, entry, at_ms) in std::mem::take(&mut self.overdue) {
            if self.cursor(index).has(entry) {
                self.complete_up_to(index, at_ms);
                continue;
            }
            if matches!(self.modes[index], Mode::Live) {
                self.start_reading(index, Want::Page);
            }
            self.defer(index, Sighting::Head(entry, at_ms));
        }
    }

    /// Takes the head of one log.
    pub(super) fn head(&mut self, index: usize, asked: &Comparison, head: Head, at_ms: u64) -> bool {
        let before = &asked.before[index];
        if matches!(self.modes[index], Mode::Starting(_)) {
            return false;
        }
        let head = match head {
            Head::Known => before.last(),
            Head::Empty => None,
            Head::At(newest) => {
                self.check(index, newest);
                Some(newest.entry)
            }
        };
        let was_empty = std::mem::replace(&mut self.empty[index], head.is_none());
        match head {
            Some(head) if before.last() == Some(head) => self.complete_up_to(index, at_ms),
            // The cursor had passed it before the request: the log has lost what followed.
            Some(head) if before.has(head) => self.look_up(index),
            Some(head) if self.cursor(index).has(head) => self.complete_up_to(index, at_ms),
            Some(head) => {
                let is_live = matches!(self.modes[index], Mode::Live);
                if is_live {
                    self.start_reading(index, Want::Page);
                }
                self.defer(index, Sighting::Head(head, at_ms));
                return is_live;
            }
            None if before.last().is_none() || was_empty => self.complete_up_to(index, at_ms),
            // Trimmed to nothing, or deleted.
            None => self.look_up(index),
        }
        false
    }

    /// Reads the log again from before a push, if the newest entry of the log contradicts that push.
    pub(super) fn check(&mut self, index: usize, newest: Newest) {
        let Some(execution) = newest.execution else { return };
        let pushed = self.pushed[index].iter().rfind(|pushed| pushed.entry == newest.entry);
        if let Some(pushed) = pushed.copied().filter(|pushed| pushed.execution != execution) {
            self.read_again(index, pushed.before);
        }
    }

    /// The push that reported another end at the position of `shown`.
    pub(super) fn contradicted(&self, index: usize, shown: &LogEntry) -> Option<Pushed> {
        let event = shown.event.as_ref()?;
        let pushed = self.pushed[index].iter().rfind(|pushed| pushed.entry == shown.entry)?;
        pushed.differs(event).then_some(*pushed)
    }

    /// Reads a log from before a push that may not be in the log.
    pub(super) fn read_again(&mut self, index: usize, before: Option<EntryId>) {
        if matches!(self.modes[index], Mode::Live) {
            self.start_reading(index, Want::Page);
        }
        if let Mode::Reading(reading) = &mut self.modes[index]
            && reading.want != Want::Unreadable
        {
            reading.want = Want::Page;
            self.readers[index].read_from(before);
        }
    }

    /// Takes back what was delivered from a forged push on.
    pub(super) fn take_back(&mut self, index: usize, forged: Pushed, out: &mut impl Deliver) {
        let Some(through) = self.cursor(index).last() else { return };
        self.pass(index, &Gap::new(self.log(index), forged.before, through, GapCause::Forged), out);
    }

    /// A log could not be read, for this reason.
    pub(crate) fn failed(&mut self, log: LogId, why: String) {
        let Some(index) = self.index(log) else { return };
        if let Mode::Reading(reading) = &mut self.modes[index] {
            reading.want = Want::Unreadable;
            self.held -= reading.held.sightings.len();
            let newest = reading.held.sightings.iter().rev().find_map(|sighting| match sighting {
                Sighting::Push(shown) => Some(shown.entry),
                Sighting::Id(entry) => Some(*entry),
                Sighting::Head(..) => None,
            });
            let overflow = reading.held.overflow.or(newest);
            reading.held = Deferred { overflow, ..Deferred::default() };
        }
        self.unreadable.insert(index, why);
    }

    /// The logs that cannot be read at present, with the reason.
    pub(crate) fn unreadable(&self) -> impl Iterator<Item = (LogId, &str)> {
        self.unreadable.iter().map(|(index, why)| (self.log(*index), why.as_str()))
    }

    /// Tries again the logs that could not be read.
    pub(crate) fn wake_unreadable(&mut self) {
        for index in self.unreadable.keys() {
            if let Mode::Reading(reading) = &mut self.modes[*index]
                && reading.want == Want::Unreadable
            {
                reading.want = Want::Page;
            }
        }
    }

    pub(super) fn complete_up_to(&mut self, index: usize, at_ms: u64) {
        if matches!(self.modes[index], Mode::Live) {
            let known = &mut self.complete_as_of[index];
            *known = at_ms.max(*known);
        }
    }

    pub(super) fn look_up(&mut self, index: usize) {
        if matches!(self.modes[index], Mode::Live) {
            self.start_reading(index, Want::Epochs);
        }
    }
}
