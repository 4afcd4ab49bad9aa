//! Simulates histories and prints what was covered, or the shortest history that fails.
//! `cargo xtask simulate [--seed N] [--count N] [--minutes M]` runs it.

use std::{process::ExitCode, time::Duration};

fn main() -> ExitCode {
    let mut numbers = std::env::args().skip(1).map(|argument| argument.parse::<u64>());
    let mut number = |default: u64| numbers.next().map_or(Ok(default), |number| number);
    let (Ok(seed), Ok(count), Ok(minutes)) = (number(0), number(u64::MAX), number(1)) else {
        eprintln!("expected numbers: first seed, histories at most, minutes at most");
        return ExitCode::from(2);
    };
    match ff_test::simulation::simulate(seed, count, Duration::from_secs(60 * minutes)) {
        Ok(report) => {
            println!("{report}: library and model agree");
            ExitCode::SUCCESS
        }
        Err(counterexample) => {
            println!("{counterexample}");
            ExitCode::FAILURE
        }
    }
}
