//! Faults on real servers under load, checked by the history checker.
//! `cargo xtask faults [--seed N] [--minutes M]` runs it.

use std::{
    process::ExitCode,
    time::{Duration, Instant},
};

use faults::{Failure, Fault, Plan, Report};
use ff_core::PartitionCount;

#[path = "../tests/support/faults/mod.rs"]
mod faults;

fn main() -> ExitCode {
    let outcome = faults::consume_if_asked().and_then(|()| faults_from(std::env::args().skip(1)));
    match outcome {
        Ok(true) => ExitCode::SUCCESS,
        Ok(false) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("error: {error}");
            ExitCode::FAILURE
        }
    }
}

/// Arguments: the first seed, the minutes, then for each run the completions, the faults and the pause between two
/// flows in ms, then the kinds of faults.
fn faults_from(mut arguments: impl Iterator<Item = String>) -> Result<bool, Failure> {
    let mut number = || arguments.next().ok_or("expected five numbers")?.parse::<u64>().map_err(Failure::from);
    let (seed, minutes, completions, count) = (number()?, number()?, number()?, number()?);
    let pause = Duration::from_millis(number()?);
    let kind = |name: String| Fault::named(&name).ok_or_else(|| unknown(&name));
    let mut kinds = arguments.map(kind).collect::<Result<Vec<_>, _>>()?;
    if kinds.is_empty() {
        kinds = Fault::ALL.to_vec();
    }
    let until = Instant::now() + Duration::from_secs(60 * minutes);
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
    let mut all = Report::default();
    for seed in seed.. {
        println!("seed {seed}");
        let faults = Plan::random_faults(seed, &kinds, usize::try_from(count)?);
        let report = |line: &str| println!("{line}");
        let partitions = PartitionCount::DEFAULT;
        let plan = Plan { seed, faults, completions, partitions, pause, consumer_args: &[], report };
        all.add(runtime.block_on(faults::run(&plan))?);
        if !all.is_clean() || Instant::now() >= until {
            break;
        }
    }
    println!("\n{all}");
    Ok(all.is_clean())
}

fn unknown(name: &str) -> Failure {
    let known: Vec<_> = Fault::ALL.iter().map(|fault| fault.short()).collect();
    format!("`{name}` is not a fault; the faults are {}", known.join(", ")).into()
}
