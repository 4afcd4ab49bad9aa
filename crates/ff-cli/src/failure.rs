//! The errors of commands: one line for people and an exit code for scripts.

use std::{borrow::Cow, fmt, process::ExitCode};

use ff_core::EngineError;

use crate::text::{is_active, without_error_numbers};

/// The exit codes of `ff`, beside 0.
pub(crate) mod code {
    /// A flow failed or expired, a check found a problem, or the requested object does not exist.
    pub(crate) const FAILED: u8 = 1;
    /// The command line or an input file is wrong; nothing was done.
    pub(crate) const USAGE: u8 = 2;
    /// The server is unavailable, refuses, or is not supported.
    pub(crate) const SERVER: u8 = 3;
    /// The terminal closed while a flow ran; the flow was left unfinished.
    pub(crate) const HUNG_UP: u8 = 129;
    /// The flow was cancelled, as by Ctrl-C.
    pub(crate) const CANCELLED: u8 = 130;
}

/// Why a command ends early. Printed as `ff: <message>`, always one line.
#[derive(Debug)]
pub(crate) struct CliError {
    message: String,
    code: u8,
}

impl CliError {
    /// Wrong input: which one, what is wrong with it and how to fix it.
    pub(crate) fn usage(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {why}"), code: code::USAGE }
    }

    /// An operation failed.
    pub(crate) fn failed(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {why}"), code: code::FAILED }
    }

    /// An operation was cancelled before its end.
    pub(crate) fn cancelled(what: impl fmt::Display, why: impl fmt::Display) -> Self {
        Self { message: format!("{what}: {why}"), code: code::CANCELLED }
    }

    pub(crate) const fn with_code(mut self, code: u8) -> Self {
        self.code = code;
        self
    }

    /// Appends a hint on what to do.
    pub(crate) fn with_hint(mut self, hint: &str) -> Self {
        self.message = format!("{}; {hint}", self.message);
        self
    }

    /// Prepends the subject of the error.
    pub(crate) fn about(mut self, what: impl fmt::Display) -> Self {
        self.message = format!("{what}: {}", self.message);
        self
    }

    pub(crate) fn exit_code(&self) -> ExitCode {
        ExitCode::from(self.code)
    }
}

impl From<EngineError> for CliError {
    fn from(error: EngineError) -> Self {
        let code = match &error {
            EngineError::InvalidInput { .. } => code::USAGE,
            EngineError::NotFound { .. } | EngineError::State { .. } => code::FAILED,
            _ => code::SERVER,
        };
        Self { message: without_methods(&error.to_string()), code }
    }
}

/// The text without the methods of the library that it names behind options, such as ` (ValkeyConfig::ca_file)`.
fn without_methods(text: &str) -> String {
    let mut parts = text.split(" (ValkeyConfig::");
    let first = parts.next().unwrap_or_default().to_owned();
    parts.fold(first, |kept, part| kept + part.split_once(')').map_or(part, |(_, rest)| rest))
}

impl fmt::Display for CliError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&shortened(&one_line(&without_error_numbers(&self.message))))
    }
}

/// Shortens a long message in the middle: its beginning names the subject, and its end names the place.
fn shortened(line: &str) -> Cow<'_, str> {
    const HEAD: usize = 600;
    const TAIL: usize = 300;
    let Some((head, _)) = line.char_indices().nth(HEAD) else { return line.into() };
    match line.char_indices().rev().nth(TAIL - 1) {
        Some((tail, _)) if tail > head => format!("{} … {}", &line[..head], &line[tail..]).into(),
        _ => line.into(),
    }
}

/// The text as one line: line breaks become spaces, other control characters are shown escaped.
pub(crate) fn one_line(text: &str) -> String {
    let mut line = String::with_capacity(text.len());
    for word in text.split_whitespace() {
        if !line.is_empty() {
            line.push(' ');
        }
        for c in word.chars() {
            if is_active(c) { line.extend(c.escape_default()) } else { line.push(c) }
        }
    }
    line
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_message_is_one_line_without_control_characters() {
        let io = std::io::Error::from_raw_os_error(2);
        assert_eq!(CliError::failed("a", io).to_string(), "a: No such file or directory");
        let error = CliError::usage("flow.yaml", "bad\n  at line 3\u{1b}[31m");
        assert_eq!(error.to_string(), "flow.yaml: bad at line 3\\u{1b}[31m");
    }

    #[test]
    fn a_message_names_options_and_no_methods_of_the_library() {
        let error = EngineError::transport("connecting", "name it with --ca (ValkeyConfig::ca_file), or not (at all)");
        assert!(CliError::from(error).to_string().ends_with("name it with --ca, or not (at all)"));
    }

    #[test]
    fn a_message_is_short_and_keeps_its_beginning_and_its_end() {
        let said = |length| CliError::usage("flow.yaml", format!("{} at line 3", "ä".repeat(length))).to_string();
        assert_eq!(said(500), format!("flow.yaml: {} at line 3", "ä".repeat(500)));
        for length in [560, 860, 880, 900, 100_000] {
            let said = said(length);
            assert!(said.starts_with("flow.yaml: ä") && said.ends_with("ä at line 3"), "{said}");
            assert!(said.chars().count() <= 903, "{}", said.chars().count());
        }
    }

    #[test]
    fn wrong_input_a_missing_object_and_a_missing_server_have_different_exit_codes() {
        let code = |error: EngineError| CliError::from(error).code;
        assert_eq!(code(EngineError::invalid("id `7`", "malformed")), code::USAGE);
        assert_eq!(code(EngineError::NotFound { what: "flow 1".into() }), code::FAILED);
        assert_eq!(code(EngineError::transport("connect", "refused")), code::SERVER);
    }
}
