//! Checks one subscription against one log. Pure, and in one pass.
//!
//! At any time the state of the subscription is a chain: the entries delivered and declared missing since its start, in
//! order. An entry or a gap of trimmed entries extends the chain; a gap of rolled-back entries cuts it. At the end the
//! chain is compared with the log's history.

use ff_core::{EntryId, ExecutionId, Gap, GapCause, LogId};

use super::{Breach, End, History, LogTruth, Record, Seen, Tally};

/// One violation of a rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) breach: Breach,
    pub(super) entry: EntryId,
    pub(super) why: String,
}

/// The result for one subscription and one log.
#[derive(Debug, Default)]
pub(super) struct Judged {
    pub(super) tally: Tally,
    pub(super) found: Vec<Found>,
}

/// A piece of the chain.
#[derive(Debug, Clone, Copy)]
enum Link {
    Event(EntryId),
    Missing { after: Option<EntryId>, through: EntryId },
}

impl Link {
    const fn through(self) -> EntryId {
        match self {
            Self::Event(entry) | Self::Missing { through: entry, .. } => entry,
        }
    }
}

struct Judge<'a> {
    history: &'a History,
    truth: &'a LogTruth,
    /// The same log at earlier times.
    earlier: Vec<&'a LogTruth>,
    record: &'a Record,
    /// The last entry before the subscription's start.
    base: Option<EntryId>,
    chain: Vec<Link>,
    judged: Judged,
}

pub(super) fn judge(history: &History, truth: &LogTruth, record: &Record, log: LogId, seen: &[Seen]) -> Judged {
    let base = record.start(log);
    let earlier = history.earlier.iter().filter_map(|logs| logs.get(&log)).collect();
    let mut judge = Judge { history, truth, earlier, record, base, chain: Vec::new(), judged: Judged::default() };
    for seen in seen {
        match seen {
            Seen::Event { entry, end } => judge.event(*entry, *end),
            Seen::Gap(gap) => judge.gap(gap),
        }
    }
    judge.close();
    judge.judged
}

impl Judge<'_> {
    fn found(&mut self, breach: Breach, entry: EntryId, why: impl Into<String>) {
        self.judged.found.push(Found { breach, entry, why: why.into() });
    }

    fn last(&self) -> Option<EntryId> {
        self.chain.last().map(|link| link.through()).or(self.base)
    }

    /// Whether both belong to one history, so that they can be ordered.
    fn comparable(&self, a: EntryId, b: EntryId) -> bool {
        a.epoch == b.epoch || (self.truth.has_in_history(a) && self.truth.has_in_history(b))
    }

    fn wants(&self, execution: ExecutionId) -> Option<bool> {
        let submitted = self.history.submitted.get(&execution)?;
        let filter = &self.record.filter;
        let tag = filter.instance_tag.as_ref().and_then(|(key, _)| submitted.tags.get(key));
        Some(filter.matches(Some(submitted.namespace.as_str()), tag))
    }

    fn event(&mut self, entry: EntryId, end: End) {
        self.judged.tally.delivered += 1;
        match self.wants(end.execution) {
            None => self.found(Breach::Invented, entry, format!("{end}, which was never submitted")),
            Some(false) => self.found(Breach::Leaked, entry, format!("{end}, which the filter rejects")),
            Some(true) => {}
        }
        if let Some(there) = self.truth.end_at(entry).filter(|there| *there != end) {
            self.found(Breach::Invented, entry, format!("{end} was delivered, and the log has {there}"));
        }
        if let Some(last) = self.last().filter(|last| entry <= *last && self.comparable(entry, *last)) {
            let again = self.chain.iter().rev().any(|link| matches!(link, Link::Event(had) if *had == entry));
            let breach = if again { Breach::Twice } else { Breach::Disordered };
            return self.found(breach, entry, format!("it was delivered after {last}"));
        }
        if let Some(Link::Event(last)) = self.chain.last().copied()
            && !self.truth.has_in_history(last)
            && self.truth.has_in_history(entry)
        {
            self.found(
                Breach::Undeclared,
                last,
                format!("it was rolled back, and {entry} was delivered without a gap"),
            );
        }
        self.chain.push(Link::Event(entry));
    }

    fn gap(&mut self, gap: &Gap) {
        *self.judged.tally.gaps.entry(gap.cause).or_default() += 1;
        match gap.cause {
            cause if cause.is_undone() => self.rolled_back(gap),
            GapCause::Trimmed => self.missing(gap, false),
            GapCause::Overflow if self.record.may_drop => self.missing(gap, true),
            _ => self.found(Breach::WideGap, gap.through, format!("{gap}, and there is no reason for it")),
        }
    }

    fn was_always_there(&self, entry: EntryId) -> bool {
        self.truth.has_in_history(entry) && !self.truth.was_restored(entry, &self.earlier)
    }

    /// The entries after `gap.after` were rolled back.
    fn rolled_back(&mut self, gap: &Gap) {
        match self.last() {
            Some(last) if last > gap.through => {
                self.found(Breach::Undeclared, last, format!("{gap}, and more was delivered"));
            }
            // With a filter, the position of the subscription is not known here.
            last if last < Some(gap.through) && self.record.filter.is_noop() => {
                self.found(Breach::WideGap, gap.through, format!("{gap}, and that was never delivered"));
            }
            _ => {}
        }
        while let Some(link) = self.chain.pop_if(|link| gap.after.is_none_or(|after| link.through() > after)) {
            match link {
                Link::Event(entry) => {
                    self.judged.tally.rolled_back += 1;
                    if self.was_always_there(entry) {
                        self.found(Breach::WideGap, entry, format!("{gap}, and the log has it"));
                    }
                }
                // The part before the cut is still missing.
                Link::Missing { after, .. } => {
                    if let Some(through) = gap.after.filter(|through| after < Some(*through)) {
                        self.chain.push(Link::Missing { after, through });
                    }
                }
            }
        }
        self.base = self.base.min(gap.after);
        let next = self.truth.next(gap.after);
        let is_there = |next: &EntryId| next.epoch == gap.through.epoch && next.seq <= gap.through.seq;
        if let Some(there) = next.filter(is_there).filter(|there| self.was_always_there(*there)) {
            self.found(Breach::WideGap, there, format!("{gap}, and the log's history continues with it"));
        }
    }

    /// Entries are missing. Unless they were `dropped`, the log must not have them.
    fn missing(&mut self, gap: &Gap, dropped: bool) {
        if let Some(had) = self.chain.last().map(|link| link.through()).filter(|last| gap.after < Some(*last)) {
            self.found(Breach::WideGap, had, format!("{gap}, and it was delivered"));
        }
        let held = |(entry, _): &(EntryId, End)| !self.truth.is_trimmed(*entry);
        let there = self.truth.between(gap.after, gap.through).find(held).filter(|_| !dropped);
        if let Some((there, _)) = there {
            self.found(Breach::WideGap, there, format!("{gap}, and the log has it"));
        }
        self.chain.push(Link::Missing { after: gap.after, through: gap.through });
    }

    /// Compares the chain with the log's history.
    fn close(&mut self) {
        let mut links = std::mem::take(&mut self.chain).into_iter().peekable();
        let (truth, base) = (self.truth, self.base);
        for (entry, end) in truth.entries().filter(|(entry, _)| Some(*entry) > base) {
            while let Some(link) = links.next_if(|link| link.through() < entry) {
                self.is_declared(link);
            }
            let came = match links.peek() {
                Some(Link::Event(next)) => *next == entry,
                Some(Link::Missing { after, .. }) => *after < Some(entry),
                None => false,
            };
            if !came && self.wants(end.execution) == Some(true) {
                self.found(Breach::Lost, entry, format!("{end} was not delivered"));
            }
        }
        links.for_each(|link| self.is_declared(link));
    }

    fn is_declared(&mut self, link: Link) {
        if let Link::Event(entry) = link
            && !self.truth.has_in_history(entry)
        {
            self.found(Breach::Undeclared, entry, "it was rolled back, and no gap declares it");
        }
    }
}
