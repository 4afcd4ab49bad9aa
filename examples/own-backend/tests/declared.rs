//! A backend that does not offer leases and retries says so, and the suite leaves both out. To see what was skipped:
//! `cargo test -p own-backend --test declared -- --nocapture`.

use std::sync::Arc;

use ff_core::EngineBackend;
use ff_embedded::EmbeddedBackend;
use own_backend::{Counted, OwnBackend};

async fn start() -> (Arc<dyn EngineBackend>, ()) {
    let engine = EmbeddedBackend::new();
    (Arc::new(OwnBackend::new(Counted::new(engine.clone()), engine)), ())
}

ff_conformance::conformance_suite!(start, without: [leases, retries]);
