//! One subscription against one log. Pure, and in one pass.
//!
//! What the subscription has at any moment is a chain: what came and what was declared missing, in order, since its
//! start. An entry extends the chain; a gap of what was trimmed does too; a gap of what was undone cuts it back. In the
//! end the chain and the log's history are laid side by side.

use ff_core::{EntryId, ExecutionId, Gap, GapCause, LogId};

use super::{Breach, End, History, LogTruth, Record, Seen, Tally};

/// One breach of one rule.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Found {
    pub(super) breach: Breach,
    pub(super) entry: EntryId,
    pub(super) why: String,
}

/// All about one subscription and one log.
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
    /// The same log at earlier moments.
    earlier: Vec<&'a LogTruth>,
    record: &'a Record,
    /// The last entry that the subscription need not get.
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

    /// Whether one history had both, so that their order means something.
    fn comparable(&self, a: EntryId, b: EntryId) -> bool {
        a.epoch == b.epoch || (self.truth.tells_of(a) && self.truth.tells_of(b))
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
            None => self.found(Breach::Invented, entry, format!("{end}, which nobody submitted")),
            Some(false) => self.found(Breach::Leaked, entry, format!("{end}, which the filter rejects")),
            Some(true) => {}
        }
        if let Some(there) = self.truth.end_at(entry).filter(|there| *there != end) {
            self.found(Breach::Invented, entry, format!("{end} came, and {there} stands there"));
        }
        if let Some(last) = self.last().filter(|last| entry <= *last && self.comparable(entry, *last)) {
            let again = self.chain.iter().rev().any(|link| matches!(link, Link::Event(had) if *had == entry));
            let breach = if again { Breach::Twice } else { Breach::Disordered };
            return self.found(breach, entry, format!("it came when {last} had been passed"));
        }
        if let Some(Link::Event(last)) = self.chain.last().copied()
            && !self.truth.tells_of(last)
            && self.truth.tells_of(entry)
        {
            self.found(Breach::Undeclared, last, format!("it was undone, and {entry} came without a word of that"));
        }
        self.chain.push(Link::Event(entry));
    }

    fn gap(&mut self, gap: &Gap) {
        *self.judged.tally.gaps.entry(gap.cause).or_default() += 1;
        match gap.cause {
            cause if cause.is_undone() => self.undone(gap),
            GapCause::Trimmed => self.missing(gap, false),
            GapCause::Overflow if self.record.may_drop => self.missing(gap, true),
            _ => self.found(Breach::WideGap, gap.through, format!("{gap}, and nothing of the kind is known")),
        }
    }

    fn was_always_there(&self, entry: EntryId) -> bool {
        self.truth.tells_of(entry) && !self.truth.has_back(entry, &self.earlier)
    }

    /// What the subscription had after `gap.after` was undone.
    fn undone(&mut self, gap: &Gap) {
        match self.last() {
            Some(last) if last > gap.through => {
                self.found(Breach::Undeclared, last, format!("{gap}, and the subscription has more than that"));
            }
            // Behind a filter, what the subscription had passed is not known from here.
            last if last < Some(gap.through) && self.record.filter.is_noop() => {
                self.found(Breach::WideGap, gap.through, format!("{gap}, and the subscription never had that"));
            }
            _ => {}
        }
        while let Some(link) = self.chain.pop_if(|link| gap.after.is_none_or(|after| link.through() > after)) {
            match link {
                Link::Event(entry) => {
                    self.judged.tally.undone += 1;
                    if self.was_always_there(entry) {
                        self.found(Breach::WideGap, entry, format!("{gap}, and the log has it"));
                    }
                }
                // What lies before the cut is missing as before.
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
            self.found(Breach::WideGap, there, format!("{gap}, and the log's history goes on with it"));
        }
    }

    /// Entries do not come. Unless they were `dropped`, the log must not have them.
    fn missing(&mut self, gap: &Gap, dropped: bool) {
        if let Some(had) = self.chain.last().map(|link| link.through()).filter(|last| gap.after < Some(*last)) {
            self.found(Breach::WideGap, had, format!("{gap}, and the subscription has it"));
        }
        let held = |(entry, _): &(EntryId, End)| !self.truth.is_trimmed(*entry);
        let there = self.truth.between(gap.after, gap.through).find(held).filter(|_| !dropped);
        if let Some((there, _)) = there {
            self.found(Breach::WideGap, there, format!("{gap}, and the log has it"));
        }
        self.chain.push(Link::Missing { after: gap.after, through: gap.through });
    }

    /// Lays the chain beside the log's history.
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
                self.found(Breach::Lost, entry, format!("{end} did not come"));
            }
        }
        links.for_each(|link| self.is_declared(link));
    }

    fn is_declared(&mut self, link: Link) {
        if let Link::Event(entry) = link
            && !self.truth.tells_of(entry)
        {
            self.found(Breach::Undeclared, entry, "it was undone, and no gap says so");
        }
    }
}
