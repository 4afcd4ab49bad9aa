//! The history checker: proves from what was recorded that every subscription got what it should, or shows where not.
//!
//! It knows nothing of how completions travel. It takes three accounts that were made independently of each other: what
//! was submitted and which calls were answered ([`History::submitted`], [`History::acknowledged`]), what each log holds
//! in the end and what retention took from it ([`LogTruth`]), and what each subscription saw ([`Record`]). From these it
//! decides, log by log:
//!
//! | [`Breach`] | what must never be |
//! | --- | --- |
//! | `Lost` | an entry of the log that a subscription wants did not come, and no gap covers it |
//! | `Twice` | an entry came again although nothing was undone in between |
//! | `Disordered` | an entry came after one that follows it in the log |
//! | `Leaked` | a completion came that the subscription's filter rejects, by what was submitted |
//! | `Invented` | a completion came of an execution that nobody submitted, or another one than stands there |
//! | `Undeclared` | an entry came, was undone by the server, and no gap says so before what follows |
//! | `WideGap` | a gap covers an entry that is there, or that the subscription has |
//! | `Unlogged` | a terminal call was answered, nothing could undo it, and no log tells of it |
//! | `EndedTwice` | a log tells twice of one end |
//!
//! # Undone, and in doubt
//!
//! A log's epochs tell which positions belong to its history: the entry before each epoch is recorded. A position beyond
//! them was undone by the server (a crash, a failover, FLUSHALL). What was undone before a subscription received it is no
//! loss to it; what it had received has to be declared. A call that got no answer is in doubt: both outcomes are right.
//!
//! A server can also take back that it undid something: it starts from an old file, or a replica is promoted that never
//! saw the FLUSHALL. Then what a subscription was told to be undone has to come again. That a gap of that kind was right
//! when it was declared is seen from how the logs stood at moments in between ([`History::earlier`]).

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

/// What was submitted of an execution, as far as filters ask for it.
#[derive(Debug, Clone)]
pub struct Submitted {
    /// The tenant.
    pub namespace: Namespace,
    /// The tags.
    pub tags: Tags,
}

/// Everything that was recorded.
#[derive(Debug, Default)]
pub struct History {
    /// What was asked for, also where the answer was lost.
    pub submitted: HashMap<ExecutionId, Submitted>,
    /// Whose end was answered, and how many undoing faults there had been by then.
    pub acknowledged: HashMap<ExecutionId, u32>,
    /// How many faults there were that can undo what was committed.
    pub undoing_faults: u32,
    /// How the logs stood now and then, oldest first: what was undone may have come back by the end. Their entries are
    /// not asked for.
    pub earlier: Vec<BTreeMap<LogId, LogTruth>>,
    /// The logs in the end.
    pub logs: BTreeMap<LogId, LogTruth>,
    /// The subscriptions, each after it has come to the end of all logs.
    pub records: Vec<Record>,
}

/// What was wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Breach {
    /// An entry that is wanted did not come.
    Lost,
    /// An entry came again.
    Twice,
    /// An entry came too late.
    Disordered,
    /// A completion came that the filter rejects.
    Leaked,
    /// A completion came that there is not.
    Invented,
    /// What was undone was not declared.
    Undeclared,
    /// A gap covers what is there.
    WideGap,
    /// An acknowledged end is in no log.
    Unlogged,
    /// One end stands in a log twice.
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

/// What one subscription got.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tally {
    /// Completions that came.
    pub delivered: u64,
    /// Of these, how many the server undid later.
    pub undone: u64,
    /// Gaps that came, by cause.
    pub gaps: BTreeMap<GapCause, u64>,
}

impl Tally {
    fn add(&mut self, other: Self) {
        self.delivered += other.delivered;
        self.undone += other.undone;
        for (cause, count) in other.gaps {
            *self.gaps.entry(cause).or_default() += count;
        }
    }
}

/// What the checker found.
#[derive(Debug, Default)]
pub struct Verdict {
    /// Entries of all logs' history, those that retention took included.
    pub committed: u64,
    /// Acknowledged ends that the server undid.
    pub undone: u64,
    /// Each subscription's name and what it got.
    pub tallies: Vec<(String, Tally)>,
    /// How often each rule was broken. Empty when all is well.
    pub breaches: BTreeMap<Breach, u64>,
    /// The first of each kind, shrunk to what matters.
    pub counterexamples: Vec<Counterexample>,
}

impl Verdict {
    /// Whether nothing was wrong.
    #[must_use]
    pub fn is_clean(&self) -> bool {
        self.breaches.is_empty()
    }

    /// Takes the verdict on another history: figures are added by subscription and by rule.
    pub fn add(&mut self, other: Self) {
        self.committed += other.committed;
        self.undone += other.undone;
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
    /// Decides.
    #[must_use]
    pub fn check(&self) -> Verdict {
        let mut verdict = Verdict::default();
        self.check_logs(&mut verdict);
        for record in &self.records {
            self.check_record(record, &mut verdict);
        }
        self.check_undone(&mut verdict);
        verdict
    }

    /// Every answered end is in a log once, unless it was undone.
    fn check_logs(&self, verdict: &mut Verdict) {
        let mut logged: HashSet<End> = HashSet::new();
        for (log, truth) in &self.logs {
            for (entry, end) in truth.entries() {
                verdict.committed += 1;
                if !logged.insert(end) {
                    verdict.note(Breach::EndedTwice, || {
                        Counterexample::of_log(Breach::EndedTwice, *log, entry, format!("{end} stands there again"))
                    });
                }
            }
        }
        let logged: HashSet<ExecutionId> = logged.into_iter().map(|end| end.execution).collect();
        for (execution, faults_before) in self.acknowledged.iter().filter(|(id, _)| !logged.contains(id)) {
            if *faults_before < self.undoing_faults {
                verdict.undone += 1;
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

    /// What is no longer there, undone or trimmed, can only be compared between those who saw it.
    fn check_undone(&self, verdict: &mut Verdict) {
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
