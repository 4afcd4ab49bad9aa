//! What is wrong with the connections of a process, as one line when it begins and one when it is over.
//!
//! While a server is away each connection fails over and over. The first failure of any of them begins an outage, and it
//! is over when the last one that failed is well again.

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Instant,
};

/// The state of all connections of a process together.
#[derive(Debug, Clone)]
pub(crate) struct Outage(Arc<Inner>);

#[derive(Debug)]
struct Inner {
    /// The server, as messages name it.
    server: String,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// Those that failed and are not well again.
    failing: HashSet<u64>,
    next: u64,
    begun: Option<Instant>,
    failures: u64,
    last_error: Option<String>,
}

impl Outage {
    pub(crate) fn of(server: impl Into<String>) -> Self {
        Self(Arc::new(Inner { server: server.into(), state: Mutex::default() }))
    }

    /// One more that can fail and be well again.
    pub(crate) fn part(&self) -> Part {
        let mut state = self.lock();
        state.next += 1;
        Part { outage: self.clone(), id: state.next }
    }

    /// Notes what went wrong where nothing is known of a connection.
    pub(crate) fn note(&self, text: impl Into<String>) {
        self.lock().last_error = Some(text.into());
    }

    /// The last thing that went wrong, until everything is well again.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.lock().last_error.clone()
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        self.0.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// One connection, or what is done over one. When it is dropped it counts no more.
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
        if state.begun.is_none() {
            state.begun = Some(Instant::now());
            tracing::warn!("connection to {} lost: {why}; connecting until it is back", self.outage.0.server);
        } else {
            tracing::debug!("connection to {} still lost: {why}", self.outage.0.server);
        }
    }

    pub(crate) fn is_well(&self) {
        let mut state = self.outage.lock();
        state.failing.remove(&self.id);
        if !state.failing.is_empty() {
            return;
        }
        state.last_error = None;
        if let Some(begun) = state.begun.take() {
            let failures = std::mem::take(&mut state.failures);
            let lasted = begun.elapsed().as_secs_f64();
            tracing::warn!(
                "connection to {} is back after {lasted:.1} s and {failures} failures",
                self.outage.0.server
            );
        }
    }
}

impl Drop for Part {
    fn drop(&mut self) {
        let mut state = self.outage.lock();
        if state.failing.remove(&self.id) && state.failing.is_empty() {
            // Nobody knows whether it would be well.
            (state.begun, state.failures, state.last_error) = (None, 0, None);
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
    fn a_connection_that_is_given_up_ends_no_outage_aloud() {
        let outage = Outage::of("db:6379");
        let part = outage.part();
        let lines = lines_of(|| {
            part.failed("connection refused");
            drop(part);
        });
        assert_eq!((lines.len(), outage.last_error()), (1, None), "{lines:?}");
    }
}
