//! The program `ff`: runs flows, watches their completions, and checks the server.
//!
//! It never decides a transition and contains no key: everything goes through the traits of `ff-core`. It is a library
//! only so that its parsers can be fuzzed; it has no API for other programs.
#![forbid(unsafe_code)]

mod cancel;
mod cause;
mod cli;
mod connect;
mod cursor_file;
mod demo;
mod describe;
mod doctor;
mod failure;
mod flow_file;
#[doc(hidden)]
pub mod fuzz;
mod local_runtime;
mod log;
mod metrics;
mod open_files;
mod out;
mod plan;
mod run;
mod script;
mod secrets;
mod signals;
mod target;
mod text;
mod watch;
mod wfformat;
mod work;

use std::process::ExitCode;

use clap::{CommandFactory, FromArgMatches};

use crate::{
    cli::{Cli, Command},
    failure::CliError,
};

/// Runs the command of the command line.
#[must_use]
pub fn main() -> ExitCode {
    // In case it was started by another name, such as /proc/self/exe.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_name(c"ff");
    let mut arguments = std::env::args_os().skip(1);
    if arguments.next().is_some_and(|first| first == work::supervisor::ARGUMENT) && arguments.next().is_none() {
        return work::supervisor::main();
    }
    if let Err(error) = out::check() {
        return report(&error);
    }
    let parsed = Cli::command().try_get_matches().and_then(|matches| Ok((Cli::from_arg_matches(&matches)?, matches)));
    let (cli, matches) = match parsed {
        Ok(parsed) => parsed,
        Err(error) if error.use_stderr() && !cli::asks_for_help(&error) => return report(&cli::usage_error(error)),
        Err(help) => {
            out::text(&help.render().to_string());
            return ended(Ok(ExitCode::SUCCESS));
        }
    };
    if let Err(error) = secrets::hide_password(&matches).and_then(|()| log::begin()) {
        return report(&error);
    }
    let runtime = match tokio::runtime::Builder::new_multi_thread().enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return report(&CliError::failed("the program cannot start its threads", error)),
    };
    let outcome = runtime.block_on(execute(cli));
    // Tasks that still wait for the server or a terminal must not delay the end.
    runtime.shutdown_background();
    work::end_last();
    ended(outcome)
}

/// A failure to write to stdout fails the command, whatever its outcome.
fn ended(outcome: Result<ExitCode, CliError>) -> ExitCode {
    match (outcome, out::failure()) {
        (Ok(code), None) => code,
        (Ok(_), Some(error)) => report(&error),
        (Err(error), unwritten) => {
            if let Some(error) = unwritten {
                out::note(&format!("ff: {error}"));
            }
            report(&error)
        }
    }
}

async fn execute(cli: Cli) -> Result<ExitCode, CliError> {
    signals::outlive_file_size_limit();
    let connect = &cli.connect;
    match cli.command {
        Command::Run(args) => run::run(args, connect).await,
        Command::Watch(args) => watch::watch(args, connect).await,
        Command::Describe(args) => describe::describe(&args, connect).await,
        Command::Cancel(args) => cancel::cancel(&args, connect).await,
        Command::Demo(args) => demo::demo(&args, connect).await,
        Command::Script(command) => script::script(&command, connect).await,
        Command::Doctor(args) => doctor::doctor(&args, connect).await,
        Command::Completions { shell } => {
            out::text(&cli::completions(shell));
            Ok(ExitCode::SUCCESS)
        }
    }
}

fn report(error: &CliError) -> ExitCode {
    out::note(&format!("ff: {error}"));
    error.exit_code()
}
