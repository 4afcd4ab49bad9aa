//! What can go wrong between asking for a server and having one.

use std::path::PathBuf;
use std::time::Duration;

/// The result of everything here that can fail.
pub type Result<T, E = Error> = std::result::Result<T, E>;

/// Why there is no server, or why it did not do what was asked.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// `FF_TEST_PROVIDER` holds a value that names no provider.
    #[error("FF_TEST_PROVIDER={value} is unknown; use docker or process, or leave it unset")]
    UnknownProvider {
        /// What the variable holds.
        value: String,
    },
    /// Neither Docker nor a program is there.
    #[error("no Valkey server for tests: {tried}. Run scripts/fetch-valkey.sh, install valkey-server, or start Docker")]
    NoProvider {
        /// What was looked for and how it failed.
        tried: String,
    },
    /// Docker was forced, or chosen, and did not do its part.
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
        /// What is wrong with it.
        reason: String,
    },
    /// The server cannot do TLS.
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
        /// How long it was given.
        waited: Duration,
        /// What the last attempt saw.
        last: String,
        /// The last lines that the server printed.
        output: String,
    },
    /// The sentinels did not come to what was waited for.
    #[error("the sentinels of {name} did not {what} within {waited:?}: {last}")]
    Sentinels {
        /// The name under which they watch.
        name: String,
        /// What was waited for.
        what: &'static str,
        /// How long they were given.
        waited: Duration,
        /// What they said last.
        last: String,
    },
    /// The program could not be started at all.
    #[error("cannot run {}: {source}", program.display())]
    Spawn {
        /// The program.
        program: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// A library to be preloaded did not compile.
    #[error("compiling the preloaded library {name}: {output}")]
    Compile {
        /// The library.
        name: String,
        /// What the compiler said.
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
    /// The clock of a server that goes by the machine's was to be set.
    #[error("this server goes by the machine's clock; start it with Builder::clock_at or Builder::clock_ahead")]
    NoClock,
    /// The syncs of a server that goes by the machine's disk were to be delayed.
    #[error("this server goes by the machine's disk; start it with Builder::slow_disk")]
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
    /// The server answered something that is no RESP2.
    #[error("not a RESP2 reply: {0}")]
    Protocol(String),
    /// A file or a socket failed.
    #[error("{doing}: {source}")]
    Io {
        /// What was being done.
        doing: &'static str,
        /// How it failed.
        source: std::io::Error,
    },
}

/// Says what was being done when an input or output failed.
pub(crate) trait Doing<T> {
    /// Turns the error into [`Error::Io`] with these words.
    fn doing(self, doing: &'static str) -> Result<T>;
}

impl<T> Doing<T> for std::io::Result<T> {
    fn doing(self, doing: &'static str) -> Result<T> {
        self.map_err(|source| Error::Io { doing, source })
    }
}
