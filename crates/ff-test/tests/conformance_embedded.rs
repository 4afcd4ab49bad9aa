//! The conformance suite on the host in memory.

use std::sync::Arc;

use ff_core::EngineBackend;
use ff_embedded::EmbeddedBackend;

async fn start() -> (Arc<dyn EngineBackend>, ()) {
    (Arc::new(EmbeddedBackend::new()), ())
}

ff_conformance::conformance_suite!(start);
