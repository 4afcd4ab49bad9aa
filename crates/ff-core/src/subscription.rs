//! The extended subscription: completions with everything that a consumer needs who must not lose any of them.

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
    Scope, error::shown, limits,
};

/// Opens extended subscriptions.
///
/// # What an implementation must do
///
/// All that [`CompletionBackend`] demands, and:
///
/// - **Nothing silent.** Every position after the start is either delivered, rejected by the filter, or within a
///   declared [`Gap`] whose range is exact.
/// - **A cursor resumes exactly.** A subscription that starts after another one's [`Subscription::cursor`] yields what
///   that one would have yielded next, in another process too.
#[async_trait]
pub trait SubscribeBackend: CompletionBackend {
    /// Subscribes. Completions committed after this returns arrive, whatever the start.
    ///
    /// # Errors
    /// [`EngineError::Unavailable`] where a backend does not offer it, which is the default; as [`CompletionBackend::subscribe_completions`]; [`EngineError::InvalidInput`] for a cursor of another deployment
    /// or scope.
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
/// let tenant = ScannerFilter::new().with_namespace(Namespace::new("tenant-a")?);
/// let options = SubscribeOptions::new().filter(tenant).start(Start::Earliest).overflow(Overflow::CatchUp);
/// # let _ = options;
/// # Ok::<(), ff_core::EngineError>(())
/// ```
#[derive(Debug, Clone, Default)]
#[non_exhaustive]
pub struct SubscribeOptions {
    /// Which completions; all of them unless said otherwise.
    pub filter: ScannerFilter,
    /// Only those of these executions, besides the filter. Gaps then are those of the logs in which these executions end.
    pub only: Option<Arc<BTreeSet<ExecutionId>>>,
    /// From where.
    pub start: Start,
    /// Of which executions.
    pub scope: SubscriptionScope,
    /// How many frames its queue holds; the backend's own number if none.
    pub capacity: Option<NonZeroUsize>,
    /// What happens when its queue is full.
    pub overflow: Overflow,
    /// Under which name metrics tell of it; without one they tell of all unnamed ones together.
    pub name: Option<Arc<str>>,
}

impl SubscribeOptions {
    /// All completions of flows from now on.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Wants only what passes this filter.
    #[must_use]
    pub fn filter(self, filter: ScannerFilter) -> Self {
        Self { filter, ..self }
    }

    /// Wants only completions of these executions.
    #[must_use]
    pub fn only(self, executions: impl IntoIterator<Item = ExecutionId>) -> Self {
        Self { only: Some(Arc::new(executions.into_iter().collect())), ..self }
    }

    /// Starts there.
    #[must_use]
    pub fn start(self, start: Start) -> Self {
        Self { start, ..self }
    }

    /// Wants completions of these executions.
    #[must_use]
    pub fn scope(self, scope: SubscriptionScope) -> Self {
        Self { scope, ..self }
    }

    /// Queues this many frames.
    #[must_use]
    pub fn capacity(self, capacity: NonZeroUsize) -> Self {
        Self { capacity: Some(capacity), ..self }
    }

    /// Does this when the queue is full.
    #[must_use]
    pub fn overflow(self, overflow: Overflow) -> Self {
        Self { overflow, ..self }
    }

    /// Appears in metrics under this name. Names are few: each is a label.
    #[must_use]
    pub fn name(self, name: impl Into<Arc<str>>) -> Self {
        Self { name: Some(name.into()), ..self }
    }

    /// Whether completions of a partition can be wanted, and so its gaps matter: not if only executions of others are.
    #[must_use]
    pub fn concerns(&self, partition: Partition) -> bool {
        let Some(only) = &self.only else { return true };
        let first = ExecutionId::from_parts(partition, Uuid::nil());
        only.range(first..).next().is_some_and(|id| id.partition() == partition)
    }

    /// Checks what the types leave open; every backend calls it.
    ///
    /// # Errors
    /// [`EngineError::InvalidInput`] that names the setting and its range.
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

    /// Whether a completion that carries its own namespace and tags is wanted.
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
    /// With what is committed from now on. A few that were committed shortly before may come too.
    #[default]
    Now,
    /// With the oldest completion that the logs still hold.
    Earliest,
    /// With what follows a cursor. What the logs no longer hold of it is a gap.
    After(Cursor),
}

/// Whose completions a subscription is about.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Hash)]
#[non_exhaustive]
pub enum SubscriptionScope {
    /// Those of members of flows.
    #[default]
    Flows,
    /// Those of solo executions too.
    FlowsAndSolo,
}

impl SubscriptionScope {
    /// The logs that it is about.
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
    /// It reads the log at its own pace and becomes live again: nothing is lost that the log still holds.
    #[default]
    CatchUp,
    /// The oldest frames of its queue give way to new ones; a [`Gap`] says which. For dashboards.
    DropOldest,
    /// It ends, once what is queued was read; its cursor resumes it.
    Close,
}

/// One item of a subscription.
#[derive(Debug, Clone, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
#[non_exhaustive]
pub enum Frame {
    /// An execution has ended.
    Completion(CompletionPayload),
    /// Positions that do not come, or that came and were undone.
    Gap(Gap),
    /// Everything that was committed before the subscription was opened, or while it was behind, has come.
    CaughtUp,
    /// The cursor here, also when the filter lets nothing pass for long. About one a second where something happens.
    Checkpoint(Cursor),
}

/// How a subscription has fared.
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
    /// Whether it reads the log by itself at present.
    pub catching_up: bool,
}

/// How far a subscription is behind what is committed.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
#[non_exhaustive]
pub struct Lag {
    /// Log entries after its cursor, those that its filter rejects included.
    pub events: u64,
    /// The age of the oldest of them, by the server's clock.
    pub oldest_unread: Option<Duration>,
    /// When the log will remove the oldest of them, if it grows as it does now. `None` when nothing is unread.
    pub until_forgotten: Option<Duration>,
    /// Logs that cannot be read, and why. What they hold is in no other figure.
    pub unreadable: Vec<(LogId, String)>,
}

/// What a backend provides behind a [`Subscription`].
#[async_trait]
pub trait SubscriptionSource: FusedStream<Item = Frame> + Send {
    /// See [`Subscription::cursor`].
    fn cursor(&self) -> Cursor;
    /// See [`Subscription::stats`].
    fn stats(&self) -> SubscriptionStats;
    /// The means to ask for the lag of a cursor, detached from the stream.
    fn lag_probe(&self) -> Arc<dyn LagProbe>;
}

/// Tells how far a cursor is behind.
#[async_trait]
pub trait LagProbe: Send + Sync {
    /// The lag of this cursor.
    ///
    /// # Errors
    /// Transport errors.
    async fn lag_of(&self, cursor: &Cursor) -> Result<Lag, EngineError>;
}

/// A stream of [`Frame`]s. It ends only when its overflow policy is [`Overflow::Close`]; dropping it releases what the
/// backend holds for it.
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

    /// Where it stands: after everything that it has yielded.
    #[must_use]
    pub fn cursor(&self) -> Cursor {
        self.0.cursor()
    }

    /// How it has fared.
    #[must_use]
    pub fn stats(&self) -> SubscriptionStats {
        self.0.stats()
    }

    /// How far it is behind. Asks the server.
    ///
    /// # Errors
    /// Transport errors.
    pub async fn lag(&self) -> Result<Lag, EngineError> {
        let (probe, cursor) = (self.0.lag_probe(), self.0.cursor());
        probe.lag_of(&cursor).await
    }

    /// Ends it, and returns where it stood.
    #[must_use = "the cursor is what resumes it"]
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
