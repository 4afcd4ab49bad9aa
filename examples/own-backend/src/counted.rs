//! Completions, counted.

use std::sync::{
    Arc,
    atomic::{AtomicU64, Ordering},
};

use async_trait::async_trait;
use ff_core::{
    CompletionBackend, CompletionStream, EngineError, ScannerFilter, SubscribeBackend, SubscribeOptions, Subscription,
};
use ff_embedded::EmbeddedBackend;
use futures::StreamExt;

/// Delivers what another backend delivers, and counts it.
#[derive(Debug, Clone)]
pub struct Counted {
    inner: EmbeddedBackend,
    delivered: Arc<AtomicU64>,
}

impl Counted {
    /// Counts from zero.
    #[must_use]
    pub fn new(inner: EmbeddedBackend) -> Self {
        Self { inner, delivered: Arc::default() }
    }

    /// How many completions all subscriptions together have handed out.
    #[must_use]
    pub fn delivered(&self) -> u64 {
        self.delivered.load(Ordering::Relaxed)
    }

    fn count(&self, stream: CompletionStream) -> CompletionStream {
        let delivered = self.delivered.clone();
        let count_one = move |_: &_| {
            delivered.fetch_add(1, Ordering::Relaxed);
        };
        stream.inspect(count_one).boxed()
    }
}

#[async_trait]
impl CompletionBackend for Counted {
    async fn subscribe_completions(&self) -> Result<CompletionStream, EngineError> {
        Ok(self.count(self.inner.subscribe_completions().await?))
    }

    // Without this method the trait refuses every real filter: safe, but the suite does not accept it.
    async fn subscribe_completions_filtered(&self, filter: &ScannerFilter) -> Result<CompletionStream, EngineError> {
        Ok(self.count(self.inner.subscribe_completions_filtered(filter).await?))
    }
}

#[async_trait]
impl SubscribeBackend for Counted {
    /// Not counted: an extended subscription has statistics of its own.
    async fn subscribe(&self, options: &SubscribeOptions) -> Result<Subscription, EngineError> {
        self.inner.subscribe(options).await
    }
}
