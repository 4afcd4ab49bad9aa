//! The program's log, on stderr.
//!
//! While a run is shown live on the same terminal, its lines are written above what moves.

use std::{
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
};

use indicatif::MultiProgress;
use tracing_subscriber::EnvFilter;

use crate::failure::CliError;

/// What the client library says of each failed attempt is said once per outage by those who use it.
const LIBRARIES: &str = "fred=error";

static SCREEN: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Begins to log, at the level that the environment names.
///
/// # Errors
/// Where the environment names none.
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

/// Lines go above this screen, or nowhere in particular.
pub(crate) fn above(screen: Option<MultiProgress>) {
    *SCREEN.lock().unwrap_or_else(PoisonError::into_inner) = screen;
}

struct Stderr;

impl Write for Stderr {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let screen = SCREEN.lock().unwrap_or_else(PoisonError::into_inner).clone();
        // Nobody can be told that it cannot be written.
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
