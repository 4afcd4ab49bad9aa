//! Loads the library onto a server and never replaces a newer one.

use std::fmt;

use ff_core::EngineError;

use crate::{
    SOURCE,
    assemble::{ABI_MAJOR, LIBRARY, VERSION},
    host::{Call, Reply, ScriptHost, ServerVersion},
};

/// The library on a server, compared with this program's.
#[derive(Debug, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LibraryState {
    /// The server has no library of this ABI major.
    Absent,
    /// The same text.
    Same,
    /// An older version, which [`ensure_loaded`] replaces.
    Older {
        /// The server's version.
        version: u32,
    },
    /// A newer version of the same ABI major, which this program can use as it is.
    Newer {
        /// The server's version.
        version: u32,
    },
    /// The same version with another text: one of the two was modified.
    Different {
        /// The digest of the server's text.
        digest: String,
    },
}

impl fmt::Display for LibraryState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Absent => write!(f, "not loaded"),
            Self::Same => write!(f, "version {VERSION}, the same as this program's"),
            Self::Older { version } => write!(f, "version {version}, older than this program's {VERSION}"),
            Self::Newer { version } => write!(f, "version {version}, newer than this program's {VERSION}"),
            Self::Different { digest } => {
                write!(
                    f,
                    "version {VERSION} with another text (digest {digest}, this program's is {})",
                    digest_of_source()
                )
            }
        }
    }
}

/// The digest of this program's library.
#[must_use]
pub fn digest_of_source() -> &'static str {
    SOURCE.split("digest = '").nth(1).and_then(|rest| rest.split('\'').next()).unwrap_or_default()
}

/// Compares the library on a server with this program's.
///
/// # Errors
/// Transport errors.
pub async fn inspect(host: &dyn ScriptHost) -> Result<LibraryState, EngineError> {
    let call = Call { function: "ff1_version", keys: vec![], args: vec![], read_only: true, idempotent: true };
    host.probe(call).await.map(|reply| reply.map_or(LibraryState::Absent, |reply| compare(&reply)))
}

fn compare(reply: &Reply) -> LibraryState {
    let text =
        |index: usize| reply.get(index).map(|bytes| String::from_utf8_lossy(bytes).into_owned()).unwrap_or_default();
    let (version, digest) = (text(0).parse().unwrap_or(0), text(1));
    match version {
        older if older < VERSION => LibraryState::Older { version: older },
        newer if newer > VERSION => LibraryState::Newer { version: newer },
        _ if digest == digest_of_source() => LibraryState::Same,
        _ => LibraryState::Different { digest },
    }
}

/// Checks the server's version and loads the library if it is absent or older. Returns the state before.
///
/// # Errors
/// As [`check_server`]; [`EngineError::Conflict`] for a library of the same version with another text; transport
/// errors.
pub async fn ensure_loaded(host: &dyn ScriptHost) -> Result<LibraryState, EngineError> {
    check_server(&host.server_version().await?)?;
    let state = inspect(host).await?;
    match &state {
        LibraryState::Same => {}
        LibraryState::Newer { version } => {
            tracing::info!(version, ours = VERSION, "the server has a newer library; using it");
        }
        LibraryState::Absent | LibraryState::Older { .. } => host.load_library(SOURCE).await?,
        LibraryState::Different { digest } => {
            return Err(EngineError::Conflict {
                what: format!("library {LIBRARY} version {VERSION} on the server"),
                reason: format!(
                    "its digest is {digest}, this program's {}; use one build everywhere, or replace the server's \
                     with `ff script load --replace`",
                    digest_of_source()
                ),
            });
        }
    }
    Ok(state)
}

/// Checks that a server is new enough for the library.
///
/// # Errors
/// [`EngineError::InvalidInput`] with the server's version and the required one.
pub fn check_server(server: &ServerVersion) -> Result<(), EngineError> {
    let oldest = if server.name == "valkey" { (7, 2, 0) } else { (7, 0, 0) };
    if server.version >= oldest {
        return Ok(());
    }
    let (major, minor, patch) = server.version;
    Err(EngineError::invalid(
        format!("server {} {major}.{minor}.{patch}", server.name),
        format!("it is too old for functions of ABI {ABI_MAJOR}; use Valkey 7.2 or Redis 7.0 or later"),
    ))
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;

    use super::*;

    fn reply(version: u32, digest: &str) -> Reply {
        vec![Bytes::from(version.to_string()), Bytes::from(digest.to_owned())]
    }

    #[test]
    fn the_library_of_a_server_is_distinguished_by_version_and_digest() {
        let ours = digest_of_source();
        assert_eq!(ours.len(), 32);
        assert_eq!(compare(&reply(VERSION, ours)), LibraryState::Same);
        assert_eq!(compare(&reply(VERSION - 1, ours)), LibraryState::Older { version: VERSION - 1 });
        assert_eq!(compare(&reply(VERSION + 1, "x")), LibraryState::Newer { version: VERSION + 1 });
        assert_eq!(compare(&reply(VERSION, "x")), LibraryState::Different { digest: "x".to_owned() });
    }

    #[test]
    fn a_server_that_is_too_old_is_refused_with_its_version() {
        let server = |name: &str, version| ServerVersion { name: name.to_owned(), version };
        assert!(check_server(&server("valkey", (7, 2, 0))).is_ok());
        assert!(check_server(&server("redis", (7, 0, 0))).is_ok());
        let refusal = check_server(&server("redis", (6, 2, 14))).unwrap_err().to_string();
        assert!(refusal.contains("redis 6.2.14") && refusal.contains("Redis 7.0"), "{refusal}");
    }
}
