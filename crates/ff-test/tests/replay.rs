//! Simulated histories, replayed on a real server whose clock the test sets: all keys are the same as in process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/on_server.rs"]
mod on_server;

use std::time::Duration;

use ff_test::simulation::simulate_beside;
use on_server::OnServer;

/// Enough to cover every operation; takes a few seconds.
const HISTORIES: u64 = 60;

#[test]
fn a_history_leaves_the_same_keys_on_a_server_as_in_process() {
    let server = OnServer::start().unwrap();
    if let Err(counterexample) = simulate_beside(&server, 2_000_000_000, HISTORIES, Duration::from_secs(600)) {
        panic!("{counterexample}");
    }
}
