//! The suite fails a backend that hands out what its filter should have kept back.

use std::sync::Arc;

use async_trait::async_trait;
use ff_conformance::cases::{delivery, filter};
use ff_core::{CompletionBackend, CompletionStream, EngineBackend, EngineError, ScannerFilter, SubscribeBackend};
use ff_embedded::EmbeddedBackend;
use own_backend::OwnBackend;

/// Takes a filter and looks at none.
struct Leaky(EmbeddedBackend);

#[async_trait]
impl CompletionBackend for Leaky {
    async fn subscribe_completions(&self) -> Result<CompletionStream, EngineError> {
        self.0.subscribe_completions().await
    }

    async fn subscribe_completions_filtered(&self, _: &ScannerFilter) -> Result<CompletionStream, EngineError> {
        self.subscribe_completions().await
    }
}

/// Offers no filters, and so has the trait refuse them.
struct Unfiltered(EmbeddedBackend);

#[async_trait]
impl CompletionBackend for Unfiltered {
    async fn subscribe_completions(&self) -> Result<CompletionStream, EngineError> {
        self.0.subscribe_completions().await
    }
}

impl SubscribeBackend for Leaky {}
impl SubscribeBackend for Unfiltered {}

fn over<C: SubscribeBackend>(completions: fn(EmbeddedBackend) -> C) -> Arc<dyn EngineBackend> {
    let engine = EmbeddedBackend::new();
    Arc::new(OwnBackend::new(completions(engine.clone()), engine))
}

/// Whether a case fails, as it would in a test of its own.
async fn fails(case: impl Future<Output = ()> + Send + 'static) -> bool {
    tokio::spawn(case).await.is_err_and(|error| error.is_panic())
}

#[tokio::test]
async fn a_backend_that_ignores_the_filter_fails() {
    assert!(fails(filter::a_namespace_filter_passes_its_tenant_only(over(Leaky))).await);
    assert!(fails(filter::a_tag_filter_passes_exactly_its_value(over(Leaky))).await);
    assert!(fails(filter::both_conditions_of_a_filter_must_hold(over(Leaky))).await);
}

#[tokio::test]
async fn a_backend_that_refuses_filters_fails() {
    assert!(fails(filter::a_namespace_filter_passes_its_tenant_only(over(Unfiltered))).await);
}

#[tokio::test]
async fn cases_without_filters_pass_on_it() {
    filter::the_noop_filter_passes_everything(over(Leaky)).await;
    delivery::a_completion_committed_right_after_subscribing_is_delivered(over(Leaky)).await;
}
