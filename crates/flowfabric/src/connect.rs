//! A backend by its URL.

use std::sync::Arc;

use ff_core::{EngineBackend, EngineError};

/// The URL of a backend in this process.
const EMBEDDED: &str = "embedded:";

/// Opens the backend that a URL names: every URL that `ff --url` takes.
///
/// | URL | backend | feature |
/// | --- | --- | --- |
/// | `redis://user:password@host:6379` or `valkey://…` | a server | `valkey` |
/// | `rediss://…`, `valkeys://…` | a server, over TLS | `valkey` |
/// | `unix:///path/to/socket` | a server on this machine | `valkey` |
/// | `redis-sentinel://host:26379,host:26379/service`, `rediss-sentinel://…` | the primary that sentinels name |
/// `valkey` |
/// | `embedded:` | this process; nothing outlives it | `embedded` |
///
/// Certificates, partition counts and other settings are those of `ff_valkey::ValkeyConfig` and of the
/// builder of `ff_embedded::EmbeddedBackend`.
///
/// # Errors
/// [`EngineError::InvalidInput`] for a URL that cannot be read, or whose backend is not compiled in; what connecting to
/// the server answers.
///
/// # Cancel safety
/// Dropping the future closes the connection. The library may have been loaded on the server.
pub async fn connect(url: &str) -> Result<Arc<dyn EngineBackend>, EngineError> {
    if url == EMBEDDED {
        return embedded();
    }
    server(url).await
}

#[cfg(feature = "embedded")]
fn embedded() -> Result<Arc<dyn EngineBackend>, EngineError> {
    Ok(Arc::new(ff_embedded::EmbeddedBackend::builder().build()?))
}

#[cfg(not(feature = "embedded"))]
fn embedded() -> Result<Arc<dyn EngineBackend>, EngineError> {
    Err(EngineError::invalid(format!("URL `{EMBEDDED}`"), "enable the feature `embedded` of the crate flowfabric"))
}

#[cfg(feature = "valkey")]
async fn server(url: &str) -> Result<Arc<dyn EngineBackend>, EngineError> {
    Ok(Arc::new(ff_valkey::ValkeyBackend::connect(url).await?))
}

#[cfg(not(feature = "valkey"))]
async fn server(_: &str) -> Result<Arc<dyn EngineBackend>, EngineError> {
    // The URL may hold a password.
    Err(EngineError::invalid("the URL of a server", "enable the feature `valkey` of the crate flowfabric"))
}
