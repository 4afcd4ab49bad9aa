//! The conformance suite on a real server.

mod support;

use std::sync::Arc;

use ff_core::EngineBackend;

async fn start() -> (Arc<dyn EngineBackend>, support::Stand) {
    let stand = support::Stand::start().await;
    (stand.backend.clone(), stand)
}

ff_conformance::conformance_suite!(start);
