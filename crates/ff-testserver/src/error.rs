//! Errors of starting and controlling a server.

use std::path::PathBuf;
use std::time::Duration;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// The reason why a server could not be started, or did not do what was requested.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `FF_TEST_PROVIDER` has an unknown value.
    #[error("FF_TEST_PROVIDER={value} is unknown; use docker or process, or leave it unset")]
    UnknownProvider {
        /// The value of the variable.
        value: String,
    },
    /// Neither Docker nor a program is available.
    #[error("no Valkey server for tests: {tried}. Run scripts/fetch-valkey.sh, install valkey-server, or start Docker")]
    NoProvider {
        /// The providers that were tried and their failures.
        tried: String,
    },
    /// Docker was forced or chosen, and failed.
    #[error("docker: {0}")]
    Docker(String),
    /// The option needs a private server, and `FF_TEST_VALKEY_URL` names a shared one.
    #[error("{what} needs a private server, but FF_TEST_VALKEY_URL names a shared one; unset it for this test")]
    NeedsPrivate {
        /// The option or the action.
        what: &'static str,
    },
    /// The shared server cannot be used.
    #[error("shared server {url}: {reason}")]
    Shared {
        /// The value of `FF_TEST_VALKEY_URL` without its password.
        url: String,
        /// The fault of the server.
        reason: String,
    },
    /// The server does not support TLS.
    #[error("{program} was built without TLS, which this test needs; use the distribution's package or Docker")]
    NoTls {
        /// The program or image that was started.
        program: String,
    },
    /// The server ended while it was starting.
    #[error("the server ended while starting; its last lines:\n{output}")]
    Died {
        /// The last lines that the server printed.
        output: String,
    },
    /// The server did not answer in time.
    #[error("the server did not answer within {waited:?} ({last}); its last lines:\n{output}")]
    NotReady {
        /// The time limit.
        waited: Duration,
        /// The result of the last attempt.
        last: String,
        /// The last lines that the server printed.
        output: String,
    },
    /// The sentinels did not reach the expected state.
    #[error("the sentinels of {name} did not {what} within {waited:?}: {last}")]
    Sentinels {
        /// The name under which they monitor.
        name: String,
        /// The expected state.
        what: &'static str,
        /// The time limit.
        waited: Duration,
        /// Their last answer.
        last: String,
    },
    /// The program could not be started.
    #[error("cannot run {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// The cause.
        source: std::io::Error,
    },
    /// A library to be preloaded did not compile.
    #[error("compiling the preloaded library {name}: {output}")]
    Compile {
        /// The library.
        name: String,
        /// The output of the compiler.
        output: String,
    },
    /// The option needs a server that is a process of this machine.
    #[error(
        "{what} needs a server that is a process of this machine; run scripts/fetch-valkey.sh or install valkey-server"
    )]
    NeedsProcess {
        /// The option or the action.
        what: &'static str,
    },
    /// A test tried to set the clock of a server that uses the machine's clock.
    #[error("this server uses the machine's clock; start it with Builder::clock_at or Builder::clock_ahead")]
    NoClock,
    /// A test tried to delay the syncs of a server that uses the machine's disk.
    #[error("this server uses the machine's disk; start it with Builder::slow_disk")]
    NoSlowDisk,
    /// No free port was found.
    #[error("no free port between {from} and {to}")]
    NoPort {
        /// The first port tried.
        from: u16,
        /// The last port tried.
        to: u16,
    },
    /// A certificate could not be made.
    #[error("making the TLS files: {0}")]
    Certificate(#[from] rcgen::Error),
    /// The server's answer is not RESP2.
    #[error("not a RESP2 reply: {0}")]
    Protocol(String),
    /// A file or a socket failed.
    #[error("{doing}: {source}")]
    Io {
        /// The operation.
        doing: &'static str,
        /// The cause.
        source: std::io::Error,
    },
}

/// Adds the operation to an input or output error.
pub(crate) trait Doing<T> {
    /// Turns the error into [`Error::Io`] with this operation.
    fn doing(self, doing: &'static str) -> Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|source| Error::Io { doing, source })
    }
}
