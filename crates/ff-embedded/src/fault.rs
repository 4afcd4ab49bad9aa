//! Faults that a test injects: failures that the library must survive on a real server, at an exact command.

/// A command of the next call that fails. Writes of the call before it are kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fault {
    command: u64,
    text: String,
    stops: bool,
}

impl Fault {
    /// The `command`-th command of the next call (from 1) is refused: `redis.call` raises this, `redis.pcall` returns
    /// it.
    #[must_use]
    pub fn refuse(command: u64) -> Self {
        Self { command, text: format!("ERR command {command} was made to fail"), stops: false }
    }

    /// The next call ends before its `command`-th command (from 1), whatever the library does about errors: the worst
    /// case at this command.
    #[must_use]
    pub fn stop(command: u64) -> Self {
        Self { command, text: format!("ERR the call was made to stop at command {command}"), stops: true }
    }

    /// With this error instead of the usual one, such as `OOM …` or `TRYAGAIN …`.
    #[must_use]
    pub fn with_text(self, text: impl Into<String>) -> Self {
        Self { text: text.into(), ..self }
    }

    pub(crate) const fn command(&self) -> u64 {
        self.command
    }

    pub(crate) fn text(&self) -> &str {
        &self.text
    }

    /// Whether the fault ends the call in any case.
    pub(crate) const fn stops(&self) -> bool {
        self.stops
    }
}
