//! The extended subscription, for consumers that must not lose a completion: cursors, gaps, checkpoints and lag.

use std::{
    collections::BTreeSet,
    fmt,
    num::NonZeroUsize,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll},
    time::Duration,
};

use async_trait::async_trait;
use futures::{Stream, stream::FusedStream};
use serde::Serialize;
use uuid::Uuid;

use crate::{
    CompletionBackend, CompletionPayload, Cursor, EngineError, ExecutionId, Gap, LogId, Partition, ScannerFilter,
    Scope, backend::SubscriptionSource, error::shown, limits,
};

/// Opens extended subscriptions.
///
/// # What an implementation must do
///
/// All that [`CompletionBackend`] demands, and:
///
/// - **No silent loss.** Every position after the start is delivered, rejected by the filter, or within a declared
///   [`Gap`] whose range is exact.
/// - **A cursor resumes exactly.** A subscription that starts after another one's [`Subscription::cursor`] yields what
///   that one would have yielded next, also in another process.
#[async_trait]
pub trait SubscribeBackend: CompletionBackend {
    /// Subscribes. Completions committed after this returns are delivered, for every start.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] if the backend does not offer extended subscriptions, which is the default;
    /// [`EngineError::InvalidInput`] for a cursor of another deployment or scope; and the errors of
    /// [`CompletionBackend::subscribe_completions`].
    ///
    /// # Cancel safety
    /// Dropping the future opens no subscription.
    async fn subscribe(&self, options: &SubscribeOptions) -> Result<Subscription, EngineError> {
        let _ = options;
        Err(EngineError::Unavailable { op: "subscribe" })
    }
}

const _: fn(&dyn SubscribeBackend) = |_| {};

/// What to subscribe to, from where, and what happens when the reader is slow.
///
/// ```
/// use ff_core::{Namespace, Overflow, ScannerFilter, Start, SubscribeOptions};
///
/// let tenant = ScannerFilter::new().namespace(Namespace::new("tenant-a")?);
/// let options = SubscribeOptions::new().filter(tenant).start(Start::Earliest).overflow(Overflow::CatchUp);
/// # let _ = options;
/// # Ok::<(), ff_core::EngineError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// The filter. The default passes all completions.
    pub filter: ScannerFilter,
    /// If set, only completions of these executions, in addition to the filter. Gaps are then limited to the logs of
    /// these executions.
    pub only: Option<Arc<BTreeSet<ExecutionId>>>,
    /// The start.
    pub start: Start,
    /// The kinds of executions.
    pub scope: SubscriptionScope,
    /// The capacity of the queue in frames; `None` for the backend's default.
    pub capacity: Option<NonZeroUsize>,
    /// The behaviour when the queue is full.
    pub overflow: Overflow,
    /// The name in metrics. Metrics report all subscriptions without a name together.
    pub name: Option<Arc<str>>,
}

impl SubscribeOptions {
    /// All completions of flows from now on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Delivers only completions that pass this filter.
    #[must_use]
    pub fn filter(self, filter: ScannerFilter) -> Self {
        Self { filter, ..self }
    }

    /// Delivers only completions of these executions.
    #[must_use]
    pub fn only(self, executions: impl IntoIterator<Item = ExecutionId>) -> Self {
        Self { only: Some(Arc::new(executions.into_iter().collect())), ..self }
    }

    /// Sets the start.
    #[must_use]
    pub fn start(self, start: Start) -> Self {
        Self { start, ..self }
    }

    /// Sets the kinds of executions.
    #[must_use]
    pub fn scope(self, scope: SubscriptionScope) -> Self {
        Self { scope, ..self }
    }

    /// Sets the capacity of the queue in frames.
    #[must_use]
    pub fn capacity(self, capacity: NonZeroUsize) -> Self {
        Self { capacity: Some(capacity), ..self }
    }

    /// Sets the behaviour when the queue is full.
    #[must_use]
    pub fn overflow(self, overflow: Overflow) -> Self {
        Self { overflow, ..self }
    }

    /// Sets the name in metrics. Use few names: each one is a label value.
    #[must_use]
    pub fn name(self, name: impl Into<Arc<str>>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Whether the subscription can match completions of a partition, so that the partition's gaps matter to it.
    /// `false` if [`Self::only`] contains executions of other partitions only.
    #[must_use]
    pub fn concerns(&self, partition: Partition) -> bool {
        let Some(only) = &self.only else { return true };
        let first = ExecutionId::from_parts(partition, Uuid::nil());
        only.range(first..).next().is_some_and(|id| id.partition() == partition)
    }

    /// Checks the ranges that the types do not enforce. Every backend calls it.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] with the setting and its range.
    pub fn check(&self) -> Result<(), EngineError> {
        if let Some(capacity) = self.capacity {
            limits::check_number("subscription queue", capacity.get() as u64, 1..=limits::QUEUE as u64)?;
        }
        match &self.name {
            Some(name) if name.is_empty() || name.len() > 128 || name.chars().any(char::is_control) => {
                let expected = "expected 1 to 128 bytes without control characters";
                Err(EngineError::invalid(format!("subscription name `{}`", shown(name)), expected))
            }
            _ => Ok(()),
        }
    }

    /// Whether the subscription matches a completion that carries its own namespace and tags.
    #[must_use]
    pub fn wants(&self, completion: &CompletionPayload) -> bool {
        self.only.as_ref().is_none_or(|only| only.contains(&completion.execution_id))
            && self.filter.matches_completion(completion)
    }
}

/// Where a subscription starts.
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub enum Start {
    /// At the current end of the logs. A few completions that were committed shortly before may be delivered too.
    #[default]
    Now,
    /// At the oldest completion that the logs still hold.
    Earliest,
    /// After a cursor. Entries that follow it and that the logs no longer hold are reported as a gap.
    After(Cursor),
}

/// The kinds of executions whose completions a subscription delivers.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubscriptionScope {
    /// Members of flows.
    #[default]
    Flows,
    /// Members of flows and solo executions.
    FlowsAndSolo,
}

impl SubscriptionScope {
    /// The logs that the subscription reads.
    #[must_use]
    pub const fn logs(self) -> &'static [Scope] {
        match self {
            Self::Flows => &[Scope::Flows],
            Self::FlowsAndSolo => &[Scope::Flows, Scope::Solo],
        }
    }
}

impl fmt::Display for SubscriptionScope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Flows => "flows",
            Self::FlowsAndSolo => "flows and solo executions",
        })
    }
}

/// What happens to a subscription whose queue is full.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum Overflow {
    /// The subscription reads the log at its own pace and then becomes live again. Nothing is lost that the log still
    /// holds.
    #[default]
    CatchUp,
    /// New frames replace the oldest frames of the queue; a [`Gap`] reports the dropped range. For dashboards.
    DropOldest,
    /// The subscription ends after the queued frames were read. Its cursor resumes it.
    Close,
}

/// One item of a subscription.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Frame {
    /// An execution has ended.
    Completion(CompletionPayload),
    /// Positions that will not be delivered, or that were delivered and then rolled back.
    Gap(Gap),
    /// Everything that was committed before the subscription was opened, or while it was behind, has been delivered.
    CaughtUp,
    /// The cursor at this point of the stream. About one per second while the logs grow, also if the filter rejects
    /// everything.
    Checkpoint(Cursor),
}

/// Statistics of a subscription.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct SubscriptionStats {
    /// Completions yielded.
    pub delivered: u64,
    /// Gaps yielded.
    pub gaps: u64,
    /// Frames that wait to be polled.
    pub queued: usize,
    /// How often its queue was full.
    pub overflows: u64,
    /// Completions dropped from its queue ([`Overflow::DropOldest`]).
    pub dropped: u64,
    /// Whether it is catching up from the log at present.
    pub catching_up: bool,
}

/// The distance of a subscription from the ends of its logs.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lag {
    /// Log entries after its cursor, including entries that its filter rejects.
    pub events: u64,
    /// The age of the oldest of them, by the server's clock.
    pub oldest_unread: Option<Duration>,
    /// The time until a log removes the oldest of them, at the current growth. `None` if nothing is unread.
    pub until_forgotten: Option<Duration>,
    /// Logs that cannot be read, each with the reason. The other figures do not include them.
    pub unreadable: Vec<(LogId, String)>,
}

/// A stream of [`Frame`]s. It ends only if its overflow policy is [`Overflow::Close`]; dropping it releases the
/// backend's resources for it.
///
/// # Cancel safety
/// Polling is cancel safe: a frame that was not returned is returned by the next poll.
///
/// ```
/// use ff_core::{EngineError, Frame, Start, SubscribeBackend, SubscribeOptions};
/// use futures::StreamExt;
///
/// async fn mirror(backend: &dyn SubscribeBackend, saved: Option<&str>) -> Result<(), EngineError> {
///     let start = saved.map(str::parse).transpose()?.map_or(Start::Earliest, Start::After);
///     let mut subscription = backend.subscribe(&SubscribeOptions::new().start(start)).await?;
///     while let Some(frame) = subscription.next().await {
///         match frame {
///             Frame::Completion(completion) => println!("{} ended", completion.execution_id),
///             Frame::Gap(gap) => println!("missing: {gap}"),
///             Frame::Checkpoint(cursor) => println!("save this: {cursor}"),
///             _ => {}
///         }
///     }
///     Ok(())
/// }
/// ```
pub struct Subscription(Pin<Box<dyn SubscriptionSource>>);

impl Subscription {
    /// Wraps what a backend provides.
    #[must_use]
    pub fn new(source: impl SubscriptionSource + 'static) -> Self {
        Self(Box::pin(source))
    }

    /// The cursor after everything that the stream has yielded.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.0.cursor()
    }

    /// The statistics up to now.
    #[must_use]
    pub fn stats(&self) -> SubscriptionStats {
        self.0.stats()
    }

    /// The distance from the ends of the logs. Asks the server.
    ///
    /// # Errors
    /// Transport errors.
    pub async fn lag(&self) -> Result<Lag, EngineError> {
        let (probe, cursor) = (self.0.lag_probe(), self.0.cursor());
        probe.lag_of(&cursor).await
    }

    /// Ends the subscription and returns its cursor.
    #[must_use = "the cursor resumes the subscription"]
    pub async fn close(self) -> Cursor {
        self.0.cursor()
    }
}

impl Stream for Subscription {
    type Item = Frame;

    fn poll_next(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Option<Frame>> {
        self.0.as_mut().poll_next(context)
    }
}

impl FusedStream for Subscription {
    fn is_terminated(&self) -> bool {
        self.0.is_terminated()
    }
}

impl fmt::Debug for Subscription {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Subscription").field("stats", &self.stats()).finish_non_exhaustive()
    }
}
