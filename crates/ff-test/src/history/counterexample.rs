//! A minimal example of a breach.

use std::fmt;

use ff_core::{EntryId, ExecutionId, LogId};

use super::{
    Breach, End, History, LogTruth, Record, Seen,
    judge::{Found, judge},
};

/// How many entries of the log are shown on each side.
const AROUND: usize = 2;

/// One violation of a rule, shrunk to the received items that are needed to show it.
#[derive(Debug, Clone)]
pub struct Counterexample {
    /// The rule.
    pub breach: Breach,
    /// The position, if it is in a log.
    pub at: Option<(LogId, EntryId)>,
    what: String,
    log: Vec<String>,
    saw: Option<(String, Vec<Seen>)>,
}

impl Counterexample {
    pub(super) fn of_log(breach: Breach, log: LogId, entry: EntryId, what: String) -> Self {
        Self { breach, at: Some((log, entry)), what, log: Vec::new(), saw: None }
    }

    pub(super) fn of_call(execution: ExecutionId) -> Self {
        let what = format!("the end of {execution} was acknowledged, and nothing has rolled it back");
        Self { breach: Breach::Unlogged, at: None, what, log: Vec::new(), saw: None }
    }

    pub(super) fn shrunk(history: &History, truth: &LogTruth, record: &Record, log: LogId, found: Found) -> Self {
        let still = |seen: &[Seen]| {
            let judged = judge(history, truth, record, log, seen);
            judged.found.iter().any(|other| other.breach == found.breach && other.entry == found.entry)
        };
        let saw = shrink(record.seen(log).to_vec(), still);
        let why = judge(history, truth, record, log, &saw).found;
        let why = why.into_iter().find(|other| other.breach == found.breach && other.entry == found.entry);
        let what = why.map_or(found.why, |found| found.why);
        let log_lines = around(truth, found.entry, &saw);
        let saw = Some((record.name().to_owned(), saw));
        Self { breach: found.breach, at: Some((log, found.entry)), what, log: log_lines, saw }
    }
}

/// Removes ever smaller pieces, as long as the rest is `still` wrong.
fn shrink(mut seen: Vec<Seen>, still: impl Fn(&[Seen]) -> bool) -> Vec<Seen> {
    let mut piece = seen.len().max(1);
    while piece > 0 {
        let mut at = 0;
        while at < seen.len() {
            let mut fewer = seen.clone();
            fewer.drain(at..(at + piece).min(seen.len()));
            if still(&fewer) { seen = fewer } else { at += piece }
        }
        piece /= 2;
    }
    seen
}

/// The log around the relevant entries.
fn around(truth: &LogTruth, entry: EntryId, saw: &[Seen]) -> Vec<String> {
    let named = |other: EntryId| {
        other == entry
            || saw.iter().any(|seen| match seen {
                Seen::Event { entry, .. } => *entry == other,
                Seen::Gap(gap) => gap.after == Some(other) || gap.through == other,
            })
    };
    let line = |(entry, end): (EntryId, End)| {
        let gone = if truth.is_trimmed(entry) { ", trimmed" } else { "" };
        format!("{entry}  {end}{gone}")
    };
    let all: Vec<_> = truth.entries().collect();
    let near = |at: usize| {
        let range = at.saturating_sub(AROUND)..(at + AROUND + 1).min(all.len());
        all[range].iter().any(|(entry, _)| named(*entry))
    };
    (0..all.len()).filter(|at| near(*at)).map(|at| line(all[at])).collect()
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.at {
            Some((log, entry)) => writeln!(f, "{}: {log}@{entry}: {}", self.breach, self.what)?,
            None => writeln!(f, "{}: {}", self.breach, self.what)?,
        }
        if !self.log.is_empty() {
            writeln!(f, "  the log at the end:")?;
            self.log.iter().try_for_each(|line| writeln!(f, "    {line}"))?;
        }
        let Some((name, saw)) = &self.saw else { return Ok(()) };
        writeln!(f, "  of what `{name}` received, this is enough:")?;
        if saw.is_empty() {
            writeln!(f, "    nothing")?;
        }
        saw.iter().try_for_each(|seen| match seen {
            Seen::Event { entry, end } => writeln!(f, "    {entry}  {end}"),
            Seen::Gap(gap) => writeln!(f, "    gap {gap}"),
        })
    }
}
