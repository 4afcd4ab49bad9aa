//! The whole suite on a backend of somebody else.

use std::sync::Arc;

use ff_core::EngineBackend;
use ff_embedded::EmbeddedBackend;
use own_backend::{Counted, OwnBackend};

/// A fresh backend for each case, and what must live as long as it: a server, a directory; here nothing.
async fn start() -> (Arc<dyn EngineBackend>, ()) {
    let engine = EmbeddedBackend::new();
    (Arc::new(OwnBackend::new(Counted::new(engine.clone()), engine)), ())
}

ff_conformance::conformance_suite!(start);

#[tokio::test]
async fn delivered_completions_are_counted() {
    let engine = EmbeddedBackend::new();
    let counted = Counted::new(engine.clone());
    let backend = OwnBackend::new(counted.clone(), engine);
    ff_conformance::cases::filter::the_noop_filter_passes_everything(Arc::new(backend)).await;
    assert_eq!(counted.delivered(), 60);
}
