//! Simulation: random histories of operations on the library in process, under a clock that moves when told, with calls
//! interrupted at exact commands, checked against an independent model and against invariants.
//!
//! - Each execution ends once and has one completion; it is promoted exactly when its needs allow; nothing is stuck
//!   once the sweeps ran; indexes agree with states; retention leaves no key.
//! - A call that is interrupted at any command amounts, after the sweeps and the reconciler, to the whole call or to
//!   nothing.
//!
//! A history that fails is shrunk and printed as a test.

mod model;
mod op;
mod run;
mod world;

use std::{
    fmt,
    time::{Duration, Instant},
};

pub use op::{Member, Op};

use op::Generator;
use run::Run;
use world::World;

/// What a simulation has covered.
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
pub struct Counterexample {
    /// The seed that led to it.
    pub seed: u64,
    /// What does not agree.
    pub what: String,
    /// The shortest history found that shows it.
    pub history: Vec<Op>,
}

impl fmt::Display for Counterexample {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let history = serde_json::to_string(&self.history).map_err(|_| fmt::Error)?;
        writeln!(f, "seed {}: {}\n", self.seed, self.what)?;
        write!(f, "#[test]\nfn seed_{}() {{\n    ff_test::simulation::replay(r#\"{history}\"#);\n}}", self.seed)
    }
}

/// Simulates one history per seed, from `first_seed` on, until `count` histories or `limit` are reached.
///
/// # Errors
/// The first [`Counterexample`].
pub fn simulate(first_seed: u64, count: u64, limit: Duration) -> Result<Report, Box<Counterexample>> {
    let start = Instant::now();
    let world = World::new(first_seed);
    let mut report = Report { first_seed, histories: 0, operations: 0, elapsed: Duration::ZERO };
    while report.histories < count && start.elapsed() < limit {
        let seed = first_seed + report.histories;
        let history = Generator::new(seed).history();
        if Run::new(&world, seed).whole(&history).is_err() {
            return Err(Box::new(shrunk(&world, seed, history)));
        }
        report.histories += 1;
        report.operations += history.len() as u64;
    }
    report.elapsed = start.elapsed();
    Ok(report)
}

/// Runs a history as [`Counterexample`] prints it.
///
/// # Panics
/// When library and model disagree, or the text is no history.
pub fn replay(history: &str) {
    let history: Vec<Op> = serde_json::from_str(history).expect("a history as it was printed");
    check(&history);
}

/// Runs one history.
///
/// # Panics
/// When library and model disagree.
pub fn check(history: &[Op]) {
    let world = World::new(0);
    if let Err(what) = Run::new(&world, 0).whole(history) {
        panic!("{what}\n{history:#?}");
    }
}

/// Takes operations out, in ever smaller pieces, as long as what is left still fails.
fn shrunk(world: &World, seed: u64, mut history: Vec<Op>) -> Counterexample {
    let fails = |history: &[Op]| Run::new(world, seed).whole(history).err();
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
    let what = fails(&history).unwrap_or_else(|| "it failed once and then no more".to_owned());
    Counterexample { seed, what, history }
}
