//! The trait through which completions arrive.

use std::pin::Pin;

use async_trait::async_trait;
use futures::Stream;

use crate::{CompletionPayload, EngineError, ScannerFilter};

/// An independent stream of completions. It never ends on its own; dropping it releases the backend's resources for it.
pub type CompletionStream = Pin<Box<dyn Stream<Item = CompletionPayload> + Send>>;

/// Streams a completion for every execution of a flow that ends.
///
/// # What an implementation must do
///
/// - **Ready means subscribed.** Every completion committed after the call has returned is delivered. A few that were
///   committed shortly before may be delivered too.
/// - **Each call opens its own subscription** with a bounded queue. Streams are independent: a slow reader does not
///   delay other readers, and its memory is bounded. Dropping one stream does not affect the others.
/// - **Only the setup returns errors** (credentials, permissions, no server, the configured number of subscriptions).
///   Afterwards the backend reconnects on its own and delivers what was committed meanwhile; the stream neither yields
///   errors nor ends. Warnings, metrics and the backend's health report show problems.
/// - **Exactly once per subscription, in commit order per flow**, as long as the backend's log still holds the missing
///   entries. Entries that the log has dropped are reported by a warning and a metric, because this stream carries
///   completions only.
///
/// # Solo executions are not reported
///
/// The stream carries completions of executions that belong to a flow. An execution that was submitted on its own ends
/// in its record as usual, but does not appear here: read its record, or submit it as a flow with one member.
///
/// # Cost
///
/// Events of this project's library carry the attributes that filters need, so filtering them reads nothing from the
/// server. For an event of another publisher without these attributes, a process reads at most one namespace (if some
/// filter names one) and then one tag set (if some filter names a tag), regardless of the number of subscriptions.
///
/// # Example
///
/// ```
/// use ff_core::{CompletionBackend, EngineError, Namespace, ScannerFilter};
/// use futures::StreamExt;
///
/// async fn audit(backend: &dyn CompletionBackend) -> Result<(), EngineError> {
///     let tenant = ScannerFilter::new().namespace(Namespace::new("tenant-a")?);
///     let mut completions = backend.subscribe_completions_filtered(&tenant).await?;
///     while let Some(completion) = completions.next().await {
///         println!("{} ended: {}", completion.execution_id, completion.outcome);
///     }
///     Ok(())
/// }
/// ```
#[async_trait]
pub trait CompletionBackend: Send + Sync + 'static {
    /// Subscribes to the completions of all flows.
    ///
    /// # Errors
    /// [`EngineError::PermissionDenied`] for wrong credentials or a missing permission, [`EngineError::Transport`] or
    /// [`EngineError::Timeout`] when no server answers, [`EngineError::ResourceExhausted`] at the configured number of
    /// subscriptions.
    ///
    /// # Cancel safety
    /// Dropping the future opens no subscription.
    async fn subscribe_completions(&self) -> Result<CompletionStream, EngineError>;

    /// Subscribes to the completions of flows that pass `filter`.
    ///
    /// A backend that does not override this refuses every filter that is not a no-op: an unfiltered stream instead
    /// would deliver one tenant's events to another tenant.
    ///
    /// # Errors
    /// As [`CompletionBackend::subscribe_completions`]; [`EngineError::Unavailable`] if the backend does not filter.
    ///
    /// # Cancel safety
    /// Dropping the future opens no subscription.
    async fn subscribe_completions_filtered(&self, filter: &ScannerFilter) -> Result<CompletionStream, EngineError> {
        if filter.is_noop() {
            return self.subscribe_completions().await;
        }
        Err(EngineError::Unavailable { op: "subscribe_completions_filtered" })
    }
}

/// Users hold `Arc<dyn CompletionBackend>`: this fails to compile if the trait is not object-safe.
const _: fn(&dyn CompletionBackend) = |_| {};
const _: fn() = || {
    fn is_send_and_unpin<T: Send + Unpin>() {}
    is_send_and_unpin::<CompletionStream>();
};

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use futures::{StreamExt, executor::block_on, stream};

    use super::*;
    use crate::Namespace;

    struct Unfiltered;

    #[async_trait]
    impl CompletionBackend for Unfiltered {
        async fn subscribe_completions(&self) -> Result<CompletionStream, EngineError> {
            Ok(stream::empty().boxed())
        }
    }

    #[test]
    fn a_backend_without_filters_refuses_a_real_one_and_takes_the_noop() {
        let backend: Arc<dyn CompletionBackend> = Arc::new(Unfiltered);
        let real = ScannerFilter::new().namespace(Namespace::new("a").unwrap());
        let refused = block_on(backend.subscribe_completions_filtered(&real)).err().unwrap();
        assert!(matches!(refused, EngineError::Unavailable { op: "subscribe_completions_filtered" }));
        assert!(block_on(backend.subscribe_completions_filtered(&ScannerFilter::NOOP)).is_ok());
    }
}
