//! Developer commands, run as `cargo xtask <command>`. Each prints what it runs; nothing here is part of the product.
#![forbid(unsafe_code)]

mod conformance;
mod provision;
mod run;
mod serve;
mod spelling;
mod tidy;

use std::{process::ExitCode, time::Duration};

use anyhow::{Result, ensure};
use clap::{Parser, Subcommand};

use crate::run::Cargo;

/// The workspace that compares FlowFabric with its peers. Its dependencies are not the product's.
const PEERS: &str = "benches/peers/Cargo.toml";

#[derive(Debug, Parser)]
#[command(name = "cargo xtask", about = "Developer commands of FlowFabric", disable_help_subcommand = true)]
struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Formatting, clippy, tidy, spelling and the documentation, all without a warning
    Lint,
    /// All tests, against a server that is found or fetched first
    Test {
        /// Arguments for `cargo test`, such as `-p ff-core`; they may contain another `--`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// The conformance suite on every set-up; writes its results into the table of backends in the README
    Conformance,
    /// The rules of this repository that no other tool checks
    Tidy,
    /// Assembles the Lua library from its sources
    Script,
    /// The demo of `ff` on a private server
    Demo {
        /// Arguments for `ff demo`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// A private server in the foreground, until Ctrl-C
    Server {
        /// Arguments for `valkey-server`, such as `--maxmemory 64mb`
        #[arg(last = true)]
        args: Vec<String>,
    },
    /// Random histories on the library in process, checked against a model
    Simulate {
        /// The first seed; each history takes the next
        #[arg(long, default_value_t = 0)]
        seed: u64,
        /// Stop after this many histories
        #[arg(long, default_value_t = u64::MAX, hide_default_value = true)]
        count: u64,
        /// Stop after this many minutes
        #[arg(long, default_value_t = 1)]
        minutes: u64,
        /// Replay each history, without interruptions, on a real server whose clock is set, and compare all keys
        #[arg(long)]
        replay: bool,
    },
    /// Servers, connections and readers fail under load; what every subscription saw is checked
    Faults {
        /// The seed of the first run; each run takes the next
        #[arg(long, default_value_t = 1)]
        seed: u64,
        /// Start no further run after this many minutes
        #[arg(long, default_value_t = 1)]
        minutes: u64,
        /// How many executions are ended in each run
        #[arg(long, default_value_t = 100_000)]
        completions: u64,
        /// How many faults there are in each run
        #[arg(long, default_value_t = 20)]
        faults: u64,
        /// How many milliseconds each of the four load generators pauses between two flows
        #[arg(long, default_value_t = 0)]
        pause: u64,
        /// Only these kinds of faults, such as `black-hole`; all kinds if none is named
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
    },
    /// The benchmarks, against a server that is found or fetched first
    Bench {
        /// Instead, count the server's instructions per call with valgrind, and fail if a call needs more than 5 % more
        #[arg(long)]
        guard: bool,
        /// With --guard: record the counts in benches/instructions.txt
        #[arg(long, requires = "guard")]
        record: bool,
        /// Instead, compare FlowFabric with other libraries; prints a table of ratios
        #[arg(long, conflicts_with = "guard")]
        peers: bool,
        /// Arguments for `cargo bench`, or for the comparison, such as `--only ours,raw --work cycle`
        #[arg(last = true)]
        args: Vec<String>,
    },
}

fn main() -> ExitCode {
    match run(Cli::parse().command) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(command: Command) -> Result<()> {
    match command {
        Command::Lint => lint(),
        Command::Test { args } => {
            let chosen = provision::provide()?;
            Cargo::new("test").args(test_scope(&args)).args(args).envs(chosen.env()).run()
        }
        Command::Conformance => conformance::conformance(),
        Command::Tidy => tidy::tidy(),
        Command::Script => Cargo::new("run").args(["--quiet", "-p", "ff-script", "--example", "assemble"]).run(),
        Command::Demo { args } => serve::demo(&args),
        Command::Server { args } => serve::server(args),
        Command::Simulate { seed, count, minutes, replay } => {
            let env = if replay { provision::process()?.env() } else { Vec::new() };
            Cargo::new("run")
                .args(["--quiet", "--release", "-p", "ff-test", "--example", "simulate", "--"])
                .args(replay.then_some("replay"))
                .args([seed, count, minutes].map(|number| number.to_string()))
                .envs(env)
                .run()
        }
        Command::Faults { seed, minutes, completions, faults, pause, only } => Cargo::new("run")
            .args(["--quiet", "--release", "-p", "ff-test", "--example", "faults", "--"])
            .args([seed, minutes, completions, faults, pause].map(|number| number.to_string()))
            .args(only)
            .envs(provision::process()?.env())
            .run(),
        Command::Bench { guard: true, record, .. } => guard(record),
        Command::Bench { peers: true, args, .. } => Cargo::new("run")
            .args(["--quiet", "--release", "--locked", "--manifest-path", PEERS, "-p", "peers-runner", "--"])
            .args(args)
            .envs(provision::process()?.env())
            .run(),
        Command::Bench { args, .. } => {
            let chosen = provision::provide()?;
            Cargo::new("bench").args(["-p", "ff-benches"]).args(args).envs(chosen.env()).run()
        }
    }
}

/// The program that counts is a debug build: only the server's instructions count.
fn guard(record: bool) -> Result<()> {
    ensure!(
        run::succeeds("valgrind", &["--version"], Duration::from_secs(10)),
        "valgrind is missing; install the package `valgrind`"
    );
    Cargo::new("run")
        .args(["--quiet", "-p", "ff-benches", "--example", "instructions", "--"])
        .args(record.then_some("--record"))
        .envs(provision::process()?.env())
        .run()
}

fn lint() -> Result<()> {
    Cargo::new("fmt").args(["--all", "--check"]).run()?;
    Cargo::new("fmt").args(["--all", "--check", "--manifest-path", PEERS]).run()?;
    Cargo::new("clippy").args(["--workspace", "--all-targets", "--", "-D", "warnings"]).run()?;
    tidy::tidy()?;
    spelling::spelling()?;
    Cargo::new("doc").args(["--workspace", "--no-deps"]).envs([("RUSTDOCFLAGS", "-D warnings".to_owned())]).run()
}

/// The whole workspace, unless the caller names packages.
fn test_scope(args: &[String]) -> &'static [&'static str] {
    let ours = args.iter().take_while(|arg| *arg != "--");
    let names_packages = ours.into_iter().any(|arg| arg.starts_with("-p") || arg.starts_with("--package"));
    if names_packages { &[] } else { &["--workspace"] }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn strings(args: &[&str]) -> Vec<String> {
        args.iter().map(ToString::to_string).collect()
    }

    #[test]
    fn the_command_line_is_valid() {
        use clap::CommandFactory;
        Cli::command().debug_assert();
    }

    #[test]
    fn everything_is_tested_unless_packages_are_named() {
        assert_eq!(test_scope(&[]), ["--workspace"]);
        assert_eq!(test_scope(&strings(&["--", "-p"])), ["--workspace"]);
        assert!(test_scope(&strings(&["-p", "ff-core"])).is_empty());
        assert!(test_scope(&strings(&["--package=ff-core"])).is_empty());
    }

    #[test]
    fn the_comparison_takes_its_own_arguments() {
        let cli = Cli::parse_from(["xtask", "bench", "--peers", "--", "--only", "ours,raw"]);
        let Command::Bench { peers: true, args, .. } = cli.command else { panic!("not the comparison: {cli:?}") };
        assert_eq!(args, ["--only", "ours,raw"]);
    }

    #[test]
    fn arguments_may_contain_a_separator() {
        let cli = Cli::parse_from(["xtask", "test", "--", "-p", "ff-core", "--", "--nocapture"]);
        let Command::Test { args } = cli.command else { panic!("not a test: {cli:?}") };
        assert_eq!(args, ["-p", "ff-core", "--", "--nocapture"]);
    }
}
