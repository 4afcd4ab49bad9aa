//! The program's log, on stderr.
//!
//! While a run is shown live on the same terminal, log lines are written above the live display.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;

use crate::failure::CliError;

/// The client library logs each failed attempt. This is suppressed, because ff's own crates log each outage once.
const LIBRARIES: &str = "fred=error";

static SCREEN: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Starts the log at the level from the environment.
///
/// # Errors
/// If the environment contains an invalid level.
pub(crate) fn begin() -> Result<(), CliError> {
    let level = std::env::var("FF_LOG").unwrap_or_default();
    let level = if level.is_empty() { "warn" } else { level.as_str() };
    let filter = EnvFilter::try_new(format!("{LIBRARIES},{level}")).map_err(|error| {
        CliError::usage(
            format!("FF_LOG `{}`", level.escape_debug()),
            format!("{error}; expected a level, such as info"),
        )
    })?;
    let coloured = io::stderr().is_terminal();
    tracing_subscriber::fmt().with_env_filter(filter).with_writer(|| Stderr).with_ansi(coloured).init();
    Ok(())
}

/// Prints log lines above this screen, or directly if there is none.
pub(crate) fn above(screen: Option<MultiProgress>) {
    *SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = screen;
}

struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let screen = SCREEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // A failure to write the log cannot be reported.
        let write = || drop(io::stderr().lock().write_all(bytes));
        match screen.filter(|_| io::stderr().is_terminal()) {
            Some(screen) => screen.suspend(write),
            None => write(),
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
