//! Resolves the dependents that terminal calls have left pending, as soon as their completion arrives.
//!
//! A completion only shows *where* there is work; the backend decides what may run. So a spurious or forged completion
//! costs a call and changes nothing, and a lost one costs time: the reconciler and the sweep find the same work later.

use std::sync::Arc;

use backon::Retryable;
use ff_core::{
    CompletionBackend, CompletionPayload, CompletionStream, EngineError, Partition,
    backend::{MaintenanceBackend, ResolveReport},
};
use futures::{FutureExt, StreamExt, future::BoxFuture, stream::FuturesUnordered};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;
use tracing::Instrument;

use crate::{
    meters::{self, Outage},
    partition_queue::PartitionQueue,
    retry,
    share::{self, Share},
};

/// Tries of one call before other partitions get their turn.
const TRIES_IN_A_ROW: usize = 5;

/// Consumes completions and resolves pending dependents.
pub struct Dispatcher<B: ?Sized> {
    backend: Arc<B>,
    concurrency: usize,
    share: watch::Receiver<Share>,
}

impl<B: ?Sized> std::fmt::Debug for Dispatcher<B> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Dispatcher").field("concurrency", &self.concurrency).finish_non_exhaustive()
    }
}

impl<B: CompletionBackend + MaintenanceBackend + ?Sized> Dispatcher<B> {
    /// A dispatcher over this backend that resolves in up to 8 partitions concurrently.
    #[must_use]
    pub fn new(backend: Arc<B>) -> Self {
        Self { backend, concurrency: 8, share: share::everything() }
    }

    /// Resolves in up to this many partitions concurrently, at least one.
    #[must_use]
    pub fn concurrency(mut self, partitions: usize) -> Self {
        self.concurrency = partitions.max(1);
        self
    }

    /// Resolves only in the partitions of this share; other engines serve the other partitions.
    pub(crate) fn within(mut self, share: watch::Receiver<Share>) -> Self {
        self.share = share;
        self
    }

    /// Dispatches until `shutdown` is cancelled.
    ///
    /// # Errors
    /// Permanent errors of [`CompletionBackend::subscribe_completions`], such as wrong credentials. The dispatcher
    /// waits for an unavailable backend; later errors are logged, counted and retried.
    ///
    /// # Cancel safety
    /// Dropping the future only costs time: the reconciler finds the pending dependents.
    pub async fn run(self, shutdown: CancellationToken) -> Result<(), EngineError> {
        match shutdown.run_until_cancelled(self.subscribe()).await {
            Some(completions) => {
                self.run_with(completions?, shutdown).await;
                Ok(())
            }
            None => Ok(()),
        }
    }

    pub(crate) async fn run_with(self, mut completions: CompletionStream, shutdown: CancellationToken) {
        let dispatching = async {
            let mut rounds = Rounds::new(&self);
            loop {
                rounds.work(&mut completions).await;
                tracing::warn!("the stream of completions ended; subscribing again");
                completions = self.resubscribe().await;
            }
        };
        shutdown.run_until_cancelled(dispatching).await;
    }

    async fn subscribe(&self) -> Result<CompletionStream, EngineError> {
        let mut outage = Outage::of("subscribe_completions");
        (|| self.backend.subscribe_completions())
            .retry(retry::schedule())
            .when(EngineError::is_retryable)
            .notify(|error, _| outage.failed(error))
            .await
    }

    /// After the start, every error is retried: permissions and limits can be repaired meanwhile.
    async fn resubscribe(&self) -> CompletionStream {
        let mut outage = Outage::of("subscribe_completions");
        let mut delays = retry::Delays::new();
        loop {
            tokio::time::sleep(delays.next_delay()).await;
            match self.backend.subscribe_completions().await {
                Ok(completions) => return completions,
                Err(error) => outage.failed(&error),
            }
        }
    }

    /// The partition in which the completion left pending dependents, if any.
    fn dirty_partition(&self, completion: &CompletionPayload) -> Option<Partition> {
        let partition = completion.execution_id.partition();
        let exists = partition.number() < self.backend.partition_count().get();
        (completion.dependents_pending && exists && self.share.borrow().serves(partition)).then_some(partition)
    }
}

type Resolved = (Partition, Result<ResolveReport, EngineError>);

/// The calls in progress and the partitions that wait for a call.
struct Rounds<'a, B: ?Sized> {
    dispatcher: &'a Dispatcher<B>,
    dirty: PartitionQueue,
    calls: FuturesUnordered<BoxFuture<'a, Resolved>>,
    outage: Outage,
}

impl<'a, B: CompletionBackend + MaintenanceBackend + ?Sized> Rounds<'a, B> {
    fn new(dispatcher: &'a Dispatcher<B>) -> Self {
        let outage = Outage::of("resolve_dependents");
        Self { dispatcher, dirty: PartitionQueue::default(), calls: FuturesUnordered::new(), outage }
    }

    /// Works until the stream ends. Reading the stream never waits for a call.
    async fn work(&mut self, completions: &mut CompletionStream) {
        loop {
            while self.dirty.served() < self.dispatcher.concurrency
                && let Some(partition) = self.dirty.begin()
            {
                self.calls.push(resolve(&*self.dispatcher.backend, partition).boxed());
            }
            tokio::select! {
                completion = completions.next() => match completion {
                    Some(completion) => self.received(&completion),
                    None => return,
                },
                Some((partition, resolved)) = self.calls.next() => self.resolved(partition, resolved),
            }
        }
    }

    fn received(&mut self, completion: &CompletionPayload) {
        if let Some(partition) = self.dispatcher.dirty_partition(completion) {
            meters::add("ff_dispatcher_marked", 1);
            self.dirty.mark(partition);
        }
    }

    fn resolved(&mut self, partition: Partition, resolved: Result<ResolveReport, EngineError>) {
        let more = match resolved {
            Ok(report) => {
                self.outage.succeeded();
                meters::add("ff_dispatcher_resolved", report.resolved);
                report.more
            }
            Err(error) => {
                self.outage.failed(&error);
                error.is_retryable()
            }
        };
        self.dirty.end(partition, more);
    }
}

async fn resolve<B: MaintenanceBackend + ?Sized>(backend: &B, partition: Partition) -> Resolved {
    let span = tracing::debug_span!("ff.dispatcher.resolve", %partition);
    let resolved = (|| backend.resolve_dependents(partition))
        .retry(retry::schedule().with_max_times(TRIES_IN_A_ROW - 1))
        .when(EngineError::is_retryable)
        .instrument(span)
        .await;
    (partition, resolved)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use ff_core::{ExecutionId, Outcome};
    use uuid::Uuid;

    use super::*;
    use crate::{
        counting::Counters,
        testing::{Call, Scripted, errors, protocol, transport},
    };

    fn completion(partition: u16, dependents_pending: bool) -> CompletionPayload {
        let id = ExecutionId::from_parts(Partition::new(partition), Uuid::from_u128(1));
        let mut completion = CompletionPayload::new(id, None, Outcome::Success);
        completion.dependents_pending = dependents_pending;
        completion
    }

    fn more(more: bool) -> ResolveReport {
        let mut report = ResolveReport::default();
        (report.resolved, report.more) = (1, more);
        report
    }

    async fn dispatching(backend: &Arc<Scripted>) -> tokio::task::JoinHandle<Result<(), EngineError>> {
        let task = tokio::spawn(Dispatcher::new(Arc::clone(backend)).concurrency(2).run(CancellationToken::new()));
        backend.until(|calls| calls.contains(&Call::Subscribe)).await;
        task
    }

    #[tokio::test(start_paused = true)]
    async fn only_partitions_with_pending_dependents_are_resolved_until_nothing_is_left() {
        let backend = Scripted::new(4);
        backend.script(|script| script.resolve(2, [more(true), more(true), more(false)]));
        let _task = dispatching(&backend).await;
        backend.push(completion(1, false));
        backend.push(completion(99, true));
        backend.push(completion(2, true));
        backend.settle().await;
        assert_eq!(backend.resolved(), [2, 2, 2]);
    }

    #[tokio::test(start_paused = true)]
    async fn pending_work_of_other_engines_partitions_is_left_to_them() {
        let backend = Scripted::new(4);
        let (_sender, share) = watch::channel(Share::Of(Arc::new([Partition::new(2)].into())));
        tokio::spawn(Dispatcher::new(Arc::clone(&backend)).within(share).run(CancellationToken::new()));
        backend.until(|calls| calls.contains(&Call::Subscribe)).await;
        backend.push(completion(1, true));
        backend.push(completion(2, true));
        backend.settle().await;
        assert_eq!(backend.resolved(), [2]);
    }

    #[tokio::test(start_paused = true)]
    async fn completions_of_one_partition_coalesce_while_it_is_worked_on() {
        let backend = Scripted::new(4);
        backend.script(|script| script.resolve_takes = Duration::from_secs(1));
        let _task = dispatching(&backend).await;
        for _ in 0..100 {
            backend.push(completion(3, true));
        }
        backend.settle().await;
        assert!((1..=2).contains(&backend.resolved().len()), "{:?}", backend.resolved());
    }

    #[tokio::test(start_paused = true)]
    async fn no_more_partitions_are_worked_on_at_once_than_allowed() {
        let backend = Scripted::new(4);
        backend.script(|script| script.resolve_takes = Duration::from_secs(10));
        let _task = dispatching(&backend).await;
        (0..3).for_each(|partition| backend.push(completion(partition, true)));
        tokio::time::sleep(Duration::from_secs(15)).await;
        assert_eq!(backend.resolved().len(), 2);
        tokio::time::sleep(Duration::from_secs(10)).await;
        assert_eq!(backend.resolved().len(), 3);
    }

    #[tokio::test(start_paused = true)]
    async fn a_failing_partition_is_retried_and_does_not_delay_the_others() {
        let backend = Scripted::new(4);
        backend.script(|script| script.errors.extend((0..7).map(|_| ("resolve_dependents 1", transport()))));
        let _task = dispatching(&backend).await;
        backend.push(completion(1, true));
        backend.push(completion(2, true));
        backend.until(|calls| calls.contains(&Call::Resolve(2))).await;
        assert!(backend.resolved().len() < 7, "partition 2 did not wait for the retries of 1");
        backend.until(|calls| calls.iter().filter(|call| **call == Call::Resolve(1)).count() == 8).await;
    }

    #[tokio::test(start_paused = true)]
    async fn the_dispatcher_repeats_a_call_only_after_an_error_that_a_retry_can_repair() {
        for (error, is_repeated) in errors() {
            let backend = Scripted::new(4);
            backend.script(|script| script.errors.push_back(("resolve_dependents 1", error.clone())));
            let _task = dispatching(&backend).await;
            backend.push(completion(1, true));
            backend.settle().await;
            assert_eq!(backend.resolved(), vec![1; 1 + usize::from(is_repeated)], "{error:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_subscription_is_repeated_only_after_an_error_that_a_retry_can_repair() {
        for (error, is_repeated) in errors() {
            let backend = Scripted::new(4);
            backend.script(|script| script.errors.push_back(("subscribe_completions", error.clone())));
            let task = tokio::spawn(Dispatcher::new(Arc::clone(&backend)).run(CancellationToken::new()));
            backend.settle().await;
            assert_eq!(backend.calls().len(), 1 + usize::from(is_repeated), "{error:?}");
            assert_eq!(task.is_finished(), !is_repeated, "{error:?}");
        }
    }

    #[tokio::test(start_paused = true)]
    async fn a_partition_that_cannot_be_read_is_counted_and_left_to_the_reconciler() {
        let counters = Counters::default();
        let _recorder = metrics::set_default_local_recorder(&counters);
        let backend = Scripted::new(4);
        backend.script(|script| script.errors.extend((0..100).map(|_| ("resolve_dependents 1", protocol()))));
        let _task = dispatching(&backend).await;
        backend.push(completion(1, true));
        backend.push(completion(2, true));
        tokio::time::sleep(Duration::from_secs(60)).await;
        assert_eq!(backend.resolved(), [1, 2]);
        assert_eq!(counters.get("ff_engine_errors"), 1);
    }

    #[tokio::test(start_paused = true)]
    async fn a_refused_subscription_is_an_error_and_an_absent_server_is_waited_for() {
        let backend = Scripted::new(4);
        backend.script(|script| {
            script.errors.push_back(("subscribe_completions", transport()));
            script.errors.push_back(("subscribe_completions", EngineError::Unavailable { op: "subscribe" }));
        });
        let run = Dispatcher::new(Arc::clone(&backend)).run(CancellationToken::new()).await;
        assert!(matches!(run, Err(EngineError::Unavailable { .. })), "{run:?}");
        assert_eq!(backend.calls().len(), 2);
    }

    #[tokio::test(start_paused = true)]
    async fn a_stream_that_ends_is_subscribed_again() {
        let backend = Scripted::new(4);
        let _task = dispatching(&backend).await;
        backend.end_completions();
        backend.until(|calls| calls.iter().filter(|call| **call == Call::Subscribe).count() == 2).await;
        backend.push(completion(2, true));
        backend.until(|calls| calls.contains(&Call::Resolve(2))).await;
    }
}
