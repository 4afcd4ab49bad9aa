//! What commands print. A reader that has gone away (`ff watch | head -1`) is no error and no panic.

use std::io::{self, Write};

use serde::Serialize;

/// Whether anybody reads on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Reader {
    Listening,
    Gone,
}

/// Prints one line on stdout.
pub(crate) fn line(text: &str) -> Reader {
    let mut stdout = io::stdout().lock();
    match writeln!(stdout, "{text}").and_then(|()| stdout.flush()) {
        Ok(()) => Reader::Listening,
        Err(_) => Reader::Gone,
    }
}

/// Prints a text that may have several lines, for commands that end after it: whether anybody reads it changes nothing.
pub(crate) fn text(text: &str) {
    let _: Reader = line(text.trim_end_matches('\n'));
}

/// Prints a value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Reader {
    match serde_json::to_string(value) {
        Ok(json) => line(&json),
        Err(error) => {
            tracing::error!(%error, "a value that cannot be written as JSON is left out");
            Reader::Listening
        }
    }
}
