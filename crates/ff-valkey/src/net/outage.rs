//! Logs the failure of a process's connections as one line when it begins and one when it is over.
//!
//! While a server is down each connection fails repeatedly. The first failure of any of them begins an outage; the
//! outage is over when the last failed connection has recovered. Connections that are lost again and again give a line
//! at most every ten seconds.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

use crate::net::quiet::Quiet;

/// The state of all connections of a process together.
#[derive(Debug, Clone)]
pub(crate) struct Outage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The server's name in messages.
    server: String,
    lines: Quiet,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// The parts that failed and have not recovered.
    failing: HashSet<u64>,
    next: u64,
    begun: Option<Instant>,
    /// Whether the line of its begin was written.
    reported: bool,
    /// Outages that ended before their line was due.
    unreported: u64,
    failures: u64,
    last_error: Option<String>,
}

impl Outage {
    pub(crate) fn of(server: impl Into<String>) -> Self {
        Self(Arc::new(Inner { server: server.into(), lines: Quiet::new(), state: Mutex::default() }))
    }

    /// Another part that can fail and recover.
    pub(crate) fn part(&self) -> Part {
        let mut state = self.lock();
        state.next += 1;
        Part { outage: self.clone(), id: state.next }
    }

    /// Records an error that does not belong to a known connection.
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.lock().last_error = Some(text.into());
    }

    /// The last error, until all parts have recovered.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.lock().last_error.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, or an activity over it. Once dropped it no longer counts.
#[derive(Debug)]
pub(crate) struct Part {
    outage: Outage,
    id: u64,
}

impl Part {
    pub(crate) fn failed(&self, why: &str) {
        let mut state = self.outage.lock();
        state.failing.insert(self.id);
        state.failures += 1;
        state.last_error = Some(why.to_owned());
        state.begun.get_or_insert_with(Instant::now);
        let (server, why) = (&self.outage.0.server, why.trim_end_matches('.'));
        if state.reported || self.outage.0.lines.turn().is_none() {
            tracing::debug!("connection to {server} lost: {why}");
            return;
        }
        state.reported = true;
        let before = match std::mem::take(&mut state.unreported) {
            0 => String::new(),
            count => format!(" (after {count} short outages)"),
        };
        tracing::warn!("connection to {server} lost: {why}; reconnecting{before}");
    }

    pub(crate) fn is_well(&self) {
        let mut state = self.outage.lock();
        state.failing.remove(&self.id);
        if !state.failing.is_empty() {
            return;
        }
        state.last_error = None;
        let Some(begun) = state.begun.take() else { return };
        let failures = std::mem::take(&mut state.failures);
        let (server, lasted) = (&self.outage.0.server, begun.elapsed().as_secs_f64());
        if std::mem::take(&mut state.reported) {
            tracing::warn!("connection to {server} is back after {lasted:.1} s and {failures} failures");
        } else {
            state.unreported += 1;
            tracing::debug!("connection to {server} is back after {lasted:.1} s and {failures} failures");
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut state = self.outage.lock();
        if state.failing.remove(&self.id) && state.failing.is_empty() {
            // It is unknown whether the part would have recovered.
            (state.begun, state.reported, state.failures, state.last_error) = (None, false, 0, None);
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    #[derive(Clone, Default)]
    struct Lines(Arc<Mutex<Vec<u8>>>);

    impl Write for Lines {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    fn lines_of(happening: impl FnOnce()) -> Vec<String> {
        let lines = Lines::default();
        let writer = lines.clone();
        let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || writer.clone()).finish();
        tracing::subscriber::with_default(subscriber, happening);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn an_outage_of_many_connections_is_two_lines_with_its_count() {
        let outage = Outage::of("db:6379");
        let parts = [outage.part(), outage.part(), outage.part()];
        let lines = lines_of(|| {
            for _ in 0..100 {
                parts.iter().for_each(|part| part.failed("connection refused"));
            }
            assert_eq!(outage.last_error().as_deref(), Some("connection refused"));
            parts.iter().for_each(Part::is_well);
            parts.iter().for_each(Part::is_well);
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].contains("connection to db:6379 lost: connection refused"), "{lines:?}");
        assert!(lines[1].contains("back after 0.0 s and 300 failures"), "{lines:?}");
        assert_eq!(outage.last_error(), None);
    }

    #[test]
    fn connections_that_are_lost_again_and_again_are_two_lines() {
        let outage = Outage::of("db:6379");
        let part = outage.part();
        let lines = lines_of(|| {
            for _ in 0..100 {
                part.failed("Connection closed.");
                part.is_well();
            }
        });
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[0].ends_with("lost: Connection closed; reconnecting"), "{lines:?}");
    }

    #[test]
    fn a_connection_that_is_given_up_logs_no_end_of_the_outage() {
        let outage = Outage::of("db:6379");
        let part = outage.part();
        let lines = lines_of(|| {
            part.failed("connection refused");
            drop(part);
        });
        assert_eq!((lines.len(), outage.last_error()), (1, None), "{lines:?}");
    }
}
