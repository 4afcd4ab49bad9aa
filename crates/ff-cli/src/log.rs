//! The program's log, on stderr.
//!
//! While a run is shown live on the same terminal, log lines are written above the live display.

use std::{
    fmt,
    io::{self, IsTerminal, Write},
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

use indicatif::MultiProgress;
use tracing::{
    Event, Metadata,
    field::{Field, Visit},
};
use tracing_subscriber::{
    Layer,
    filter::{FilterExt, Targets},
    layer::{Context, Filter, SubscriberExt},
    util::SubscriberInitExt,
};

use crate::failure::CliError;

/// The client library logs each failed attempt. This is suppressed, because ff's own crates log each outage once.
const LIBRARIES: &str = "fred=error";

static SCREEN: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Starts the log at the level from the environment.
///
/// # Errors
/// If the environment contains an invalid level.
pub(crate) fn begin() -> Result<(), CliError> {
    let given = std::env::var("FF_LOG").unwrap_or_default();
    let level = if given.is_empty() { "warn" } else { given.as_str() };
    let levels: Targets = format!("{LIBRARIES},{level}").parse().map_err(|error| {
        CliError::usage(
            format!("FF_LOG `{}`", level.escape_debug()),
            format!("{error}; expected a level, such as info"),
        )
    })?;
    let outages = OutageFilter { shows_all: !given.is_empty(), quiet_until: Mutex::new(None) };
    let coloured = io::stderr().is_terminal();
    let lines = tracing_subscriber::fmt::layer().with_writer(|| Stderr).with_ansi(coloured);
    tracing_subscriber::registry().with(lines.with_filter(levels.and(outages))).init();
    Ok(())
}

/// Where the begin and the end of an outage are logged.
const OUTAGES: &str = "ff_valkey::net::outage";
/// The words of the end.
const END: &str = "is back after";
/// Where calls that fail during an outage are logged.
const CONSEQUENCES: [&str; 4] =
    ["ff_engine::meters", "ff_engine::worker::renew", "ff_valkey::host", "ff_valkey::completions::hub::trouble"];
/// An outage that follows sooner is not logged by itself.
const LINGER: Duration = Duration::from_secs(10);

/// Leaves out what follows from an outage that is logged anyway, unless the user asked for a level.
struct OutageFilter {
    shows_all: bool,
    quiet_until: Mutex<Option<Instant>>,
}

impl OutageFilter {
    /// Whether a line is shown; `says` is its message.
    fn shows(&self, target: &str, now: Instant, says: impl FnOnce() -> String) -> bool {
        let is_begin_or_end = target == OUTAGES;
        if self.shows_all || !(is_begin_or_end || CONSEQUENCES.contains(&target)) {
            return true;
        }
        let mut until = self.quiet_until.lock().unwrap_or_else(PoisonError::into_inner);
        if !is_begin_or_end {
            return until.is_none_or(|until| until < now);
        }
        // An outage may take any time.
        let quiet = if says().contains(END) { LINGER } else { Duration::from_secs(u64::from(u32::MAX)) };
        *until = Some(now + quiet);
        true
    }
}

impl<S> Filter<S> for OutageFilter {
    fn enabled(&self, _: &Metadata<'_>, _: &Context<'_, S>) -> bool {
        true
    }

    fn event_enabled(&self, event: &Event<'_>, _: &Context<'_, S>) -> bool {
        self.shows(event.metadata().target(), Instant::now(), || {
            let mut message = Message(String::new());
            event.record(&mut message);
            message.0
        })
    }
}

struct Message(String);

impl Visit for Message {
    fn record_debug(&mut self, field: &Field, value: &dyn fmt::Debug) {
        if field.name() == "message" {
            self.0 = format!("{value:?}");
        }
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn failures_are_not_logged_during_an_outage_and_shortly_after_it() {
        let filter = OutageFilter { shows_all: false, quiet_until: Mutex::new(None) };
        let start = Instant::now();
        let shows = |target: &str, at: u64, says: &str| {
            filter.shows(target, start + Duration::from_secs(at), || says.to_owned())
        };
        assert!(shows("ff_engine::meters", 0, "failing"));
        assert!(shows(OUTAGES, 1, "connection to db lost: refused"));
        assert!(!shows("ff_engine::meters", 100, "failing"));
        assert!(shows("ff_valkey::completions::fanout", 100, "completions are missing"));
        assert!(shows(OUTAGES, 101, "connection to db is back after 100.0 s"));
        assert!(!shows("ff_valkey::host", 110, "no connection"));
        assert!(shows("ff_valkey::host", 112, "no connection"));
    }
}
