//! Simulates histories and prints the coverage, or the shortest history that fails.
//! `cargo xtask simulate [--seed N] [--count N] [--minutes M] [--replay]` runs it.

use std::{process::ExitCode, time::Duration};

use ff_test::simulation::{simulate, simulate_beside};
use on_server::OnServer;

#[path = "../tests/support/on_server.rs"]
mod on_server;

fn main() -> ExitCode {
    let mut arguments = std::env::args().skip(1).peekable();
    let replay = arguments.next_if(|argument| argument == "replay").is_some();
    let mut numbers = arguments.map(|argument| argument.parse::<u64>());
    let mut number = |default: u64| numbers.next().map_or(Ok(default), |number| number);
    let (Ok(seed), Ok(count), Ok(minutes)) = (number(0), number(u64::MAX), number(1)) else {
        eprintln!("expected numbers: first seed, histories at most, minutes at most");
        return ExitCode::from(2);
    };
    let limit = Duration::from_secs(60 * minutes);
    let (outcome, who) = if replay {
        let server = match OnServer::start() {
            Ok(server) => server,
            Err(error) => {
                eprintln!("error: {error}");
                return ExitCode::FAILURE;
            }
        };
        (simulate_beside(&server, seed, count, limit), "library, model and server")
    } else {
        (simulate(seed, count, limit), "library and model")
    };
    match outcome {
        Ok(report) => {
            println!("{report}: {who} agree");
            ExitCode::SUCCESS
        }
        Err(counterexample) => {
            println!("{counterexample}");
            ExitCode::FAILURE
        }
    }
}
