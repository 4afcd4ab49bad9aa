//! Simulation: random histories of operations on the library in process, under a virtual clock, with calls interrupted
//! at exact commands, checked against an independent model and against invariants.
//!
//! - Each execution ends once and has one completion; it is promoted exactly when its needs allow; nothing is stuck
//!   after the sweeps; indexes and flows agree with states; retention leaves no key.
//! - Nothing is due before the sweep that the announced and reported timers plan.
//! - A reader can prove of each log entry that it follows the one before it. One that resumes from time to time gets
//!   every entry once, and lost entries are one gap with exactly their positions.
//! - A log keeps the bytes of its policy, and at most a piece, an entry and the uncounted bytes of restarts more.
//! - A repeated submission exists once. No call creates an undeclared key (the host fails such a call).
//! - A member whose record is deleted ends as failed, and its flow goes on.
//! - A flow that is submitted in parts exists as a whole or not at all, whichever programs write its parts and however
//!   often; one that never starts leaves nothing.
//! - Leases keep their length when the clock is set, retention waits for a stable clock, and a submission is recognised
//!   for the stated time after that.
//! - No two tenures of a log begin the same epoch: neither reloaded libraries nor servers that took over without the
//!   last writes.
//! - A call that is interrupted at any command has, after the sweeps and the reconciler, its whole effect or none.
//!
//! A history that fails is shrunk and printed as a test.

mod epochs;
mod model;
mod op;
mod reader;
mod run;
mod stage;
mod timers;
mod world;

use std::{
    collections::BTreeSet,
    fmt,
    ops::Range,
    time::{Duration, Instant},
};

pub use op::{Member, Op};
pub use stage::{Contents, InProcess, Stage, little};

use epochs::Renumbering;
use op::Generator;
use run::Run;
use uuid::Uuid;

/// The coverage of a simulation.
#[derive(Debug, Clone, Copy)]
pub struct Report {
    /// The first seed.
    pub first_seed: u64,
    /// Histories, one per seed.
    pub histories: u64,
    /// Operations in all of them.
    pub operations: u64,
    /// How long it took.
    pub elapsed: Duration,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let seconds = self.elapsed.as_secs_f64().max(f64::MIN_POSITIVE);
        #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than a float holds")]
        let rate = |count: u64| count as f64 / seconds;
        write!(
            f,
            "{} histories (seeds {} to {}), {} operations, {:.1} s: {:.0} histories and {:.0} operations a second",
            self.histories,
            self.first_seed,
            self.first_seed + self.histories.saturating_sub(1),
            self.operations,
            seconds,
            rate(self.histories),
            rate(self.operations)
        )
    }
}

/// A history on which library and model disagree, shrunk.
#[derive(Debug, Clone)]
pub struct FailingHistory {
    /// The seed that led to it.
    pub seed: u64,
    /// The disagreement.
    pub what: String,
    /// The shortest history found that shows it.
    pub history: Vec<Op>,
}

impl fmt::Display for FailingHistory {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let history = serde_json::to_string(&self.history).map_err(|_| fmt::Error)?;
        writeln!(f, "seed {}: {}\n", self.seed, self.what)?;
        write!(f, "#[test]\nfn seed_{}() {{\n    ff_test::simulation::replay(r#\"{history}\"#);\n}}", self.seed)
    }
}

/// Simulates one history per seed, from `first_seed` on, until `count` histories or `limit` are reached.
///
/// # Errors
/// The first [`FailingHistory`].
pub fn simulate(first_seed: u64, count: u64, limit: Duration) -> Result<Report, Box<FailingHistory>> {
    let stage = InProcess::new(first_seed, [Uuid::nil(); 2]);
    let seeds = first_seed..first_seed.saturating_add(count);
    over(
        seeds,
        limit,
        |seed| Generator::new(seed).history(),
        |seed, history| Run::new(&stage, seed).whole(history).map(drop),
    )
}

/// Like [`simulate`], in process and on `stage`, whose keys are deleted first. In addition to the checks of each, all
/// keys of both must be equal after the last operation, after all times have passed, and after everything was
/// cancelled: states, indexes and logs, with their times and positions. Calls are not interrupted, which only the host
/// in process can do.
///
/// # Errors
/// The first [`FailingHistory`].
pub fn simulate_beside(
    stage: &impl Stage,
    first_seed: u64,
    count: u64,
    limit: Duration,
) -> Result<Report, Box<FailingHistory>> {
    let in_process = InProcess::new(first_seed, stage.listeners());
    let seeds = first_seed..first_seed.saturating_add(count);
    let drawn = |seed| {
        let mut history = Generator::new(seed).history();
        history.retain(|op| !matches!(op, Op::Fault { .. }));
        history
    };
    over(seeds, limit, drawn, |seed, history| {
        // The first epoch depends on what the library remembers of earlier histories.
        in_process.forget();
        stage.forget();
        let ours = Run::new(&in_process, seed).recording().whole(history)?;
        let theirs = Run::new(stage, seed).recording().whole(history).map_err(|what| format!("beside: {what}"))?;
        ours.snapshots.iter().zip(&theirs.snapshots).try_for_each(|(ours, theirs)| same(ours, theirs))
    })
}

/// Each side computes its own epochs: they are compared by their order in the logs.
fn same(ours: &Contents, theirs: &Contents) -> Result<(), String> {
    let keys: BTreeSet<_> = ours.keys().chain(theirs.keys()).collect();
    let (our_epochs, their_epochs) = (Renumbering::of(ours), Renumbering::of(theirs));
    let ours = |key| ours.get(key).map(|value| our_epochs.applied(value));
    let theirs = |key| theirs.get(key).map(|value| their_epochs.applied(value));
    let Some(key) = keys.into_iter().find(|key| ours(*key) != theirs(*key)) else { return Ok(()) };
    let (ours, theirs) = (ours(key), theirs(key));
    Err(format!("the key {} holds {ours:?} in process and {theirs:?} beside", String::from_utf8_lossy(key)))
}

/// Runs the history of each seed.
fn over(
    seeds: Range<u64>,
    limit: Duration,
    drawn: impl Fn(u64) -> Vec<Op>,
    run: impl Fn(u64, &[Op]) -> Result<(), String>,
) -> Result<Report, Box<FailingHistory>> {
    let start = Instant::now();
    let mut report = Report { first_seed: seeds.start, histories: 0, operations: 0, elapsed: Duration::ZERO };
    for seed in seeds.take_while(|_| start.elapsed() < limit) {
        let history = drawn(seed);
        if run(seed, &history).is_err() {
            return Err(Box::new(shrunk(seed, history, |history| run(seed, history).err())));
        }
        report.histories += 1;
        report.operations += history.len() as u64;
    }
    report.elapsed = start.elapsed();
    Ok(report)
}

/// Runs a history as [`FailingHistory`] prints it.
///
/// # Panics
/// If library and model disagree, or the text is not a history.
pub fn replay(history: &str) {
    let history: Vec<Op> = serde_json::from_str(history).expect("a history as it was printed");
    check(&history);
}

/// Runs one history in process.
///
/// # Panics
/// If library and model disagree.
pub fn check(history: &[Op]) {
    if let Err(what) = try_on(&InProcess::new(0, [Uuid::nil(); 2]), history) {
        panic!("{what}\n{history:#?}");
    }
}

/// Runs one history on a stage, whose keys are deleted first. Returns whether each of its faults has occurred; a fault
/// at a command that its call does not have does not occur.
///
/// # Errors
/// The disagreement of library and model.
pub fn try_on(stage: &impl Stage, history: &[Op]) -> Result<bool, String> {
    Run::new(stage, 0).whole(history).map(|record| record.unmet_faults == 0)
}

/// Removes ever smaller pieces of the history, as long as the rest still fails.
fn shrunk(seed: u64, mut history: Vec<Op>, fails: impl Fn(&[Op]) -> Option<String>) -> FailingHistory {
    let mut piece = history.len() / 2;
    while piece > 0 {
        let mut at = 0;
        while at < history.len() {
            let mut shorter = history.clone();
            shorter.drain(at..(at + piece).min(history.len()));
            if fails(&shorter).is_some() {
                history = shorter;
            } else {
                at += piece;
            }
        }
        piece /= 2;
    }
    let what = fails(&history).unwrap_or_else(|| "it failed only once".to_owned());
    FailingHistory { seed, what, history }
}
