//! The history checker: proves from records that every subscription received what it should, or shows where it did not.
//!
//! It does not depend on how completions are delivered. It takes three independent records: the submissions and the
//! acknowledged calls ([`History::submitted`], [`History::acknowledged`]), the final content of each log and the
//! entries that retention removed ([`LogTruth`]), and the frames of each subscription ([`Record`]). From these it
//! decides, log by log:
//!
//! | [`Breach`] | what must never happen |
//! | --- | --- |
//! | `Lost` | an entry of the log that the filter passes was not delivered, and no gap covers it |
//! | `Twice` | an entry was delivered again without a rollback in between |
//! | `Disordered` | an entry was delivered after a later one of its log |
//! | `Leaked` | a completion was delivered that the filter rejects, by what was submitted |
//! | `Invented` | a completion of an unknown execution was delivered, or another one than the log has at its position |
//! | `Undeclared` | a delivered entry was rolled back, and no gap declares it before the next delivery |
//! | `WideGap` | a gap covers an entry that exists, or that was delivered |
//! | `Unlogged` | a terminal call was acknowledged, nothing could roll it back, and no log has its entry |
//! | `EndedTwice` | a log has two entries of one end |
//!
//! # Rolled back, and in doubt
//!
//! A log's epochs determine which positions belong to its history, since the entry before each epoch is recorded. The
//! server rolled back every other position (a crash, a failover, FLUSHALL). A rollback before the delivery is not a
//! loss; a rollback after the delivery must be declared. A call without a reply is in doubt: both outcomes are correct.
//!
//! A server can also restore what it rolled back: it starts from an old file, or a replica is promoted that never saw
//! the FLUSHALL. Then the entries that were declared as rolled back must be delivered again. Whether such a gap was
//! correct when it was declared is judged by the state of the logs at earlier times ([`History::earlier`]).

mod counterexample;
mod judge;
mod record;
mod truth;

use std::{
    collections::{BTreeMap, HashMap, HashSet},
    fmt,
};

use ff_core::{EntryId, ExecutionId, GapCause, LogId, Namespace, Tags};

pub use counterexample::Counterexample;
pub use record::{Record, Seen};
pub use truth::{End, LogTruth};

/// The submitted attributes of an execution that filters check.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The tenant.
    pub namespace: Namespace,
    /// The tags.
    pub tags: Tags,
}

/// All records.
#[derive(Debug, Default)]
pub struct History {
    /// All submissions, including those whose reply was lost.
    pub submitted: HashMap<ExecutionId, Submitted>,
    /// The acknowledged ends, each with the number of rollback faults before the call.
    pub acknowledged: HashMap<ExecutionId, u32>,
    /// The number of faults that can roll back committed entries.
    pub rollback_faults: u32,
    /// The logs at earlier times, oldest first, without their entries: rolled-back entries may be restored by the end.
    pub earlier: Vec<BTreeMap<LogId, LogTruth>>,
    /// The logs at the end.
    pub logs: BTreeMap<LogId, LogTruth>,
    /// The subscriptions, each after it has reached the end of all logs.
    pub records: Vec<Record>,
}

/// A violated rule.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Breach {
    /// An entry that the filter passes was not delivered.
    Lost,
    /// An entry was delivered again.
    Twice,
    /// An entry was delivered too late.
    Disordered,
    /// A completion that the filter rejects was delivered.
    Leaked,
    /// A completion that does not exist was delivered.
    Invented,
    /// A rollback was not declared.
    Undeclared,
    /// A gap covers an existing entry.
    WideGap,
    /// An acknowledged end is in no log.
    Unlogged,
    /// One end is in a log twice.
    EndedTwice,
}

impl Breach {
    /// All of them.
    pub const ALL: [Self; 9] = [
        Self::Lost,
        Self::Twice,
        Self::Disordered,
        Self::Leaked,
        Self::Invented,
        Self::Undeclared,
        Self::WideGap,
        Self::Unlogged,
        Self::EndedTwice,
    ];
}

impl fmt::Display for Breach {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Lost => "lost",
            Self::Twice => "twice",
            Self::Disordered => "disordered",
            Self::Leaked => "leaked",
            Self::Invented => "invented",
            Self::Undeclared => "undeclared",
            Self::WideGap => "gap wider than the loss",
            Self::Unlogged => "acknowledged and not in the log",
            Self::EndedTwice => "ended twice",
        })
    }
}

/// The counts of one subscription.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Delivered completions.
    pub delivered: u64,
    /// How many of these the server rolled back later.
    pub rolled_back: u64,
    /// Delivered gaps, by cause.
    pub gaps: BTreeMap<GapCause, u64>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.rolled_back += other.rolled_back;
        for (cause, count) in other.gaps {
            *self.gaps.entry(cause).or_default() += count;
        }
    }
}

/// The result of the checker.
#[derive(Debug, Default)]
pub struct Verdict {
    /// The entries of all logs' history, including those that retention removed.
    pub committed: u64,
    /// Acknowledged ends that the server rolled back.
    pub rolled_back: u64,
    /// Each subscription's name and counts.
    pub tallies: Vec<(String, Tally)>,
    /// How often each rule was violated. Empty if none was.
    pub breaches: BTreeMap<Breach, u64>,
    /// The first violation of each rule, shrunk.
    pub counterexamples: Vec<Counterexample>,
}

impl Verdict {
    /// Whether no rule was violated.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.breaches.is_empty()
    }

    /// Adds the verdict on another history, by subscription and by rule.
    pub fn add(&mut self, other: Self) {
        self.committed += other.committed;
        self.rolled_back += other.rolled_back;
        for (name, tally) in other.tallies {
            match self.tallies.iter_mut().find(|(known, _)| *known == name) {
                Some((_, known)) => known.add(tally),
                None => self.tallies.push((name, tally)),
            }
        }
        for (breach, count) in other.breaches {
            *self.breaches.entry(breach).or_default() += count;
        }
        self.counterexamples.extend(other.counterexamples);
    }

    fn note(&mut self, breach: Breach, counterexample: impl FnOnce() -> Counterexample) {
        let count = self.breaches.entry(breach).or_default();
        *count += 1;
        if *count == 1 {
            self.counterexamples.push(counterexample());
        }
    }
}

impl History {
    /// Checks the history.
    #[must_use]
    pub fn check(&self) -> Verdict {
        let mut verdict = Verdict::default();
        self.check_logs(&mut verdict);
        for record in &self.records {
            self.check_record(record, &mut verdict);
        }
        self.check_rolled_back(&mut verdict);
        verdict
    }

    /// Every acknowledged end is in a log once, unless it was rolled back.
    fn check_logs(&self, verdict: &mut Verdict) {
        let mut logged: HashSet<End> = HashSet::new();
        for (log, truth) in &self.logs {
            for (entry, end) in truth.entries() {
                verdict.committed += 1;
                if !logged.insert(end) {
                    verdict.note(Breach::EndedTwice, || {
                        Counterexample::of_log(Breach::EndedTwice, *log, entry, format!("{end} is there again"))
                    });
                }
            }
        }
        let logged: HashSet<ExecutionId> = logged.into_iter().map(|end| end.execution).collect();
        for (execution, faults_before) in self.acknowledged.iter().filter(|(id, _)| !logged.contains(id)) {
            if *faults_before < self.rollback_faults {
                verdict.rolled_back += 1;
                continue;
            }
            verdict.note(Breach::Unlogged, || Counterexample::of_call(*execution));
        }
    }

    fn check_record(&self, record: &Record, verdict: &mut Verdict) {
        let mut tally = Tally::default();
        let nothing = LogTruth::default();
        let logs: HashSet<LogId> = record.logs().chain(self.logs.keys().copied()).collect();
        for log in logs.into_iter().filter(|log| record.is_about(*log)) {
            let truth = self.logs.get(&log).unwrap_or(&nothing);
            let judged = judge::judge(self, truth, record, log, record.seen(log));
            tally.add(judged.tally);
            for found in judged.found {
                verdict.note(found.breach, || Counterexample::shrunk(self, truth, record, log, found));
            }
        }
        verdict.tallies.push((record.name().to_owned(), tally));
    }

    /// Rolled-back and trimmed entries can only be compared between the subscriptions that received them.
    fn check_rolled_back(&self, verdict: &mut Verdict) {
        let mut known: HashMap<(LogId, EntryId), End> = HashMap::new();
        for record in &self.records {
            for log in record.logs() {
                let truth = self.logs.get(&log);
                for seen in record.seen(log) {
                    let Seen::Event { entry, end } = seen else { continue };
                    if truth.is_some_and(|truth| truth.end_at(*entry).is_some()) {
                        continue;
                    }
                    if *known.entry((log, *entry)).or_insert(*end) != *end {
                        verdict.note(Breach::Invented, || {
                            let why = format!("`{}` saw {end} there, others another end", record.name());
                            Counterexample::of_log(Breach::Invented, log, *entry, why)
                        });
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests;
