//! Waits until executions and flows have ended.

use std::{
    collections::{BTreeMap, BTreeSet},
    num::NonZeroUsize,
    time::Duration,
};

use async_trait::async_trait;
use futures::{StreamExt, stream};
use tokio::time::MissedTickBehavior;

use ff_core::{
    ControlBackend, EngineError, ExecutionId, ExecutionSnapshot, FlowId, FlowSnapshot, FlowState, Frame, Partition,
    SubscribeBackend, SubscribeOptions, Subscription, SubscriptionScope, limits,
};

/// How many executions are described concurrently.
const LOOKS_AT_ONCE: usize = 32;
/// The polling interval for a change that no event reports.
const LOOK_AGAIN: Duration = Duration::from_millis(200);

/// The limits of a wait.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct WaitOptions {
    /// The longest wait.
    pub deadline: Duration,
    /// Whether the wait includes an execution or flow that does not exist yet, until the deadline.
    pub may_be_missing: bool,
}

impl Default for WaitOptions {
    /// Waits at most 30 s.
    fn default() -> Self {
        Self::within(Duration::from_secs(30))
    }
}

impl WaitOptions {
    /// Waits at most this long. An execution or flow that does not exist is an error immediately.
    #[must_use]
    pub const fn within(deadline: Duration) -> Self {
        Self { deadline, may_be_missing: false }
    }

    /// Also waits for an execution or flow that does not exist yet.
    #[must_use]
    pub const fn even_if_missing(self) -> Self {
        Self { may_be_missing: true, ..self }
    }
}

/// Waits until members of flows and solo executions have ended; also returns those that ended before the call. Every
/// backend that subscribes and describes implements it.
///
/// The wait does not poll: it first subscribes to exactly these executions and then describes them, so that no
/// completion is missed in between. Results come from the snapshots, so their size does not matter.
///
/// # Cancel safety
/// Dropping a wait releases its subscription and changes nothing.
///
/// ```
/// use std::time::Duration;
///
/// use ff_core::{EngineBackend, EngineError, ExecutionId};
/// use ff_engine::{WaitExt, WaitOptions};
///
/// async fn result(backend: &dyn EngineBackend, id: ExecutionId) -> Result<(), EngineError> {
///     let ended = backend.wait_for(id, &WaitOptions::within(Duration::from_secs(30))).await?;
///     println!("{:?}: {:?}", ended.outcome, ended.result);
///     Ok(())
/// }
/// ```
#[async_trait]
pub trait WaitExt: SubscribeBackend + ControlBackend {
    /// Waits until an execution has ended.
    ///
    /// # Errors
    /// [`EngineError::NotFound`] if it does not exist, [`EngineError::Timeout`] at the deadline, [`EngineError::Ended`]
    /// if the subscription of the wait ends, and the errors of subscribing and describing.
    async fn wait_for(&self, id: ExecutionId, options: &WaitOptions) -> Result<ExecutionSnapshot, EngineError> {
        self.wait_for_any(&[id], options).await
    }

    /// Waits until one of several executions has ended.
    ///
    /// # Errors
    /// As [`WaitExt::wait_for`]; [`EngineError::InvalidInput`] if `ids` is empty.
    async fn wait_for_any(&self, ids: &[ExecutionId], options: &WaitOptions) -> Result<ExecutionSnapshot, EngineError> {
        let mut ended = limited(&named(ids)?, options, wait(self, ids, 1, options)).await?;
        ended.pop().ok_or_else(|| EngineError::ended("the wait"))
    }

    /// Waits until all of several executions have ended; the snapshots are in the order of `ids`.
    ///
    /// # Errors
    /// As [`WaitExt::wait_for_any`].
    async fn wait_for_all(
        &self,
        ids: &[ExecutionId],
        options: &WaitOptions,
    ) -> Result<Vec<ExecutionSnapshot>, EngineError> {
        let distinct: BTreeSet<ExecutionId> = ids.iter().copied().collect();
        let ended = limited(&named(ids)?, options, wait(self, ids, distinct.len(), options)).await?;
        let ended: BTreeMap<_, _> = ended.into_iter().map(|snapshot| (snapshot.execution_id, snapshot)).collect();
        Ok(ids.iter().filter_map(|id| ended.get(id).cloned()).collect())
    }

    /// Waits until a flow has ended.
    ///
    /// # Errors
    /// As [`WaitExt::wait_for`].
    async fn wait_for_flow(&self, id: FlowId, options: &WaitOptions) -> Result<FlowSnapshot, EngineError> {
        limited(&format!("flow {id}"), options, wait_for_flow(self, id, options)).await
    }
}

impl<B: SubscribeBackend + ControlBackend + ?Sized> WaitExt for B {}

fn named(ids: &[ExecutionId]) -> Result<String, EngineError> {
    match ids {
        [] => Err(EngineError::invalid("no executions", "name at least one to wait for")),
        [one] => Ok(format!("execution {one}")),
        [first, rest @ ..] => Ok(format!("execution {first} and {} more", rest.len())),
    }
}

async fn limited<T>(
    what: &str,
    options: &WaitOptions,
    wait: impl Future<Output = Result<T, EngineError>>,
) -> Result<T, EngineError> {
    let timeout = |_| EngineError::Timeout { op: format!("waiting for {what}"), after: options.deadline };
    tokio::time::timeout(options.deadline, wait).await.map_err(timeout)?
}

/// The executions that have not ended yet, and those that have.
struct Waiting<'a, B: ?Sized> {
    backend: &'a B,
    may_be_missing: bool,
    pending: BTreeSet<ExecutionId>,
    /// Pending executions whose completion was received but whose record did not show it yet: a demoted primary was
    /// read, or an interrupted call was not repaired yet. No second completion will arrive, so they are polled.
    announced: BTreeSet<ExecutionId>,
    ended: Vec<ExecutionSnapshot>,
    /// Whether some of the pending may be solo executions.
    solo: bool,
}

impl<B: ControlBackend + ?Sized> Waiting<'_, B> {
    /// Describes executions and removes those that have ended from the pending ones.
    async fn look_at(&mut self, ids: Vec<ExecutionId>) -> Result<(), EngineError> {
        let backend = self.backend;
        let look = |id| async move { (id, backend.describe_execution(id).await) };
        let looked: Vec<_> = stream::iter(ids).map(look).buffer_unordered(LOOKS_AT_ONCE).collect().await;
        self.solo = false;
        for (id, found) in looked {
            match found {
                Ok(snapshot) if snapshot.outcome.is_some() => {
                    self.pending.remove(&id);
                    self.announced.remove(&id);
                    self.ended.push(snapshot);
                }
                Ok(snapshot) => self.solo |= snapshot.flow_id.is_none(),
                Err(EngineError::NotFound { .. }) if self.may_be_missing => self.solo = true,
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    /// Describes the pending executions of a partition with a gap: the gap may cover the completion of any of them.
    async fn look_at_partition(&mut self, partition: Partition) -> Result<(), EngineError> {
        let concerned = self.pending.iter().filter(|id| id.partition() == partition);
        self.look_at(concerned.copied().collect()).await
    }

    async fn look_at_all(&mut self) -> Result<(), EngineError> {
        self.look_at(self.pending.iter().copied().collect()).await
    }
}

/// Waits until `wanted` of the executions have ended.
async fn wait<B: SubscribeBackend + ControlBackend + ?Sized>(
    backend: &B,
    ids: &[ExecutionId],
    wanted: usize,
    options: &WaitOptions,
) -> Result<Vec<ExecutionSnapshot>, EngineError> {
    let mut waiting = Waiting {
        backend,
        may_be_missing: options.may_be_missing,
        pending: ids.iter().copied().collect(),
        announced: BTreeSet::new(),
        ended: Vec::new(),
        solo: false,
    };
    // Most often this is sufficient. It also shows whether the subscription must include solo executions.
    waiting.look_at_all().await?;
    if waiting.ended.len() >= wanted {
        return Ok(waiting.ended);
    }
    let scope = if waiting.solo { SubscriptionScope::FlowsAndSolo } else { SubscriptionScope::Flows };
    let mut frames = listen(backend, &waiting.pending, scope).await?;
    waiting.look_at_all().await?;
    let mut again = tokio::time::interval(LOOK_AGAIN);
    again.set_missed_tick_behavior(MissedTickBehavior::Delay);
    while waiting.ended.len() < wanted {
        let frame = tokio::select! {
            frame = frames.next() => frame,
            _ = again.tick(), if !waiting.announced.is_empty() => {
                waiting.look_at(waiting.announced.iter().copied().collect()).await?;
                continue;
            }
        };
        match frame {
            Some(Frame::Completion(completion)) if waiting.pending.contains(&completion.execution_id) => {
                waiting.announced.insert(completion.execution_id);
                waiting.look_at(vec![completion.execution_id]).await?;
            }
            Some(Frame::Gap(gap)) => waiting.look_at_partition(gap.log.partition).await?,
            Some(_) => {}
            None => return Err(EngineError::ended("the subscription of the wait")),
        }
    }
    Ok(waiting.ended)
}

async fn listen<B: SubscribeBackend + ?Sized>(
    backend: &B,
    only: &BTreeSet<ExecutionId>,
    scope: SubscriptionScope,
) -> Result<Subscription, EngineError> {
    // Capacity for each of them and a few other frames. A fuller queue only causes a catch-up.
    let capacity = NonZeroUsize::MIN.saturating_add((only.len() + 15).min(limits::QUEUE - 1));
    let options = SubscribeOptions::new().only(only.iter().copied()).scope(scope).capacity(capacity);
    backend.subscribe(&options).await
}

async fn wait_for_flow<B: SubscribeBackend + ControlBackend + ?Sized>(
    backend: &B,
    id: FlowId,
    options: &WaitOptions,
) -> Result<FlowSnapshot, EngineError> {
    let mut flow = loop {
        match backend.describe_flow(id).await {
            Ok(flow) => break flow,
            // Nothing announces that a flow was submitted.
            Err(EngineError::NotFound { .. }) if options.may_be_missing => tokio::time::sleep(LOOK_AGAIN).await,
            Err(error) => return Err(error),
        }
    };
    if flow.state != FlowState::Running {
        return Ok(flow);
    }
    let members: BTreeSet<ExecutionId> = flow.members.iter().map(|member| member.execution_id).collect();
    let mut frames = listen(backend, &members, SubscriptionScope::Flows).await?;
    let mut announced = BTreeSet::new();
    loop {
        flow = backend.describe_flow(id).await?;
        if flow.state != FlowState::Running {
            return Ok(flow);
        }
        let open = flow.members.iter().filter(|member| member.state.outcome().is_none());
        let open = open.map(|member| member.execution_id).filter(|id| !announced.contains(id));
        let mut open: BTreeSet<ExecutionId> = open.collect();
        if open.is_empty() {
            // The record does not show the last completion yet, or the call was interrupted before it updated the flow.
            tokio::time::sleep(LOOK_AGAIN).await;
        }
        while !open.is_empty() {
            match frames.next().await {
                Some(Frame::Completion(completion)) => {
                    open.remove(&completion.execution_id);
                    announced.insert(completion.execution_id);
                }
                Some(Frame::Gap(_)) => break,
                Some(_) => {}
                None => return Err(EngineError::ended("the subscription of the wait")),
            }
        }
    }
}
