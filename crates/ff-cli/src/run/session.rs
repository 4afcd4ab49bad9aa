//! The loop of a run: completions, attempts, Ctrl-C and time, until every execution's completion has arrived.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ff_core::{CompletionPayload, CompletionStream, EngineBackend, EngineError, ExecutionId, FlowId, FlowState};
use futures::StreamExt;
use tokio::{sync::mpsc::UnboundedReceiver, time::timeout};
use tokio_util::sync::CancellationToken;

use super::{
    tracker::{Arrival, Tracker},
    view::View,
};
use crate::{
    crew::Crew,
    failure::{CliError, code},
    signals::Interrupts,
};

/// How often the view moves.
const FRAME: Duration = Duration::from_millis(100);
/// How long a completion that comes once too often may take to show up at the end.
const SETTLE: Duration = Duration::from_millis(100);
/// After so long without a completion the server is asked whether the flow is over all the same.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a cancelled flow may take to end.
const CANCEL_PATIENCE: Duration = Duration::from_secs(15);

/// So many failures are looked at more closely.
const FAILURES_SHOWN: usize = 50;

/// What the worker tells.
#[derive(Debug)]
pub(super) enum Event {
    Began { id: ExecutionId },
    Ended { id: ExecutionId, failure: Option<String> },
}

pub(super) struct Session {
    backend: Arc<dyn EngineBackend>,
    flow_id: FlowId,
    pub(super) tracker: Tracker,
    view: View,
    stop: CancellationToken,
    started: Instant,
    last_arrival: Instant,
    /// When the server was last asked whether the flow is over.
    looked: Instant,
    cancelled_at: Option<Instant>,
    /// Whether the last look found the flow over while completions were missing.
    seemed_over: bool,
}

impl Session {
    pub(super) fn new(
        backend: Arc<dyn EngineBackend>,
        flow_id: FlowId,
        tracker: Tracker,
        view: View,
        stop: CancellationToken,
    ) -> Self {
        let now = Instant::now();
        Self {
            backend,
            flow_id,
            tracker,
            view,
            stop,
            started: now,
            last_arrival: now,
            looked: now,
            cancelled_at: None,
            seemed_over: false,
        }
    }

    /// Follows the run to its end and stops the crew; the answer is the flow's state at the end.
    pub(super) async fn follow(
        &mut self,
        mut completions: CompletionStream,
        mut events: UnboundedReceiver<Event>,
        mut interrupts: Interrupts,
        mut crew: Crew,
    ) -> Result<FlowState, CliError> {
        let followed = self.until_all_arrived(&mut completions, &mut events, &mut interrupts, &mut crew).await;
        // What has ended may still be on its way from the worker to here.
        while let Ok(event) = events.try_recv() {
            self.event(event);
        }
        self.stop.cancel();
        crew.stop().await;
        followed?;
        let settled = async {
            while let Some(completion) = completions.next().await {
                self.completion(&completion);
            }
        };
        let _ = timeout(SETTLE, settled).await;
        self.look_at_failures().await;
        Ok(self.backend.describe_flow(self.flow_id).await?.state)
    }

    /// Asks what the first failures failed with: where the server ended an attempt, the worker never learned why.
    async fn look_at_failures(&mut self) {
        let failed: Vec<ExecutionId> = self.tracker.failed().take(FAILURES_SHOWN).collect();
        for id in failed {
            match self.backend.describe_execution(id).await {
                Ok(execution) => {
                    if let Some(last_error) = &execution.last_error {
                        self.tracker.recorded_error(id, execution.reason.as_deref(), last_error);
                    }
                }
                // The summary says less then.
                Err(error) => tracing::warn!(%error, "a failed execution cannot be described"),
            }
        }
    }

    async fn until_all_arrived(
        &mut self,
        completions: &mut CompletionStream,
        events: &mut UnboundedReceiver<Event>,
        interrupts: &mut Interrupts,
        crew: &mut Crew,
    ) -> Result<(), CliError> {
        let mut frame = tokio::time::interval(FRAME);
        frame.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !self.tracker.all_arrived() {
            tokio::select! {
                // Attempts first: a completion can only follow them.
                biased;
                () = interrupts.next() => self.interrupted(interrupts).await?,
                Some(event) = events.recv() => self.event(event),
                Some(completion) = completions.next() => self.completion(&completion),
                error = crew.worker_ended() => return Err(error),
                _ = frame.tick() => {
                    self.view.tick(&self.tracker, self.started.elapsed());
                    if self.gave_up().await? {
                        return Ok(());
                    }
                }
            }
        }
        Ok(())
    }

    fn event(&mut self, event: Event) {
        let now = self.started.elapsed();
        match event {
            Event::Began { id } => {
                if let Some(index) = self.tracker.attempt_began(id, now) {
                    self.view.attempt_began(&self.tracker.members[index], now);
                }
            }
            Event::Ended { id, failure } => {
                let index = self.tracker.attempt_ended(id, failure.as_deref(), now);
                if let (Some(index), Some(reason)) = (index, failure) {
                    self.view.attempt_failed(&self.tracker.members[index], &reason, now);
                }
            }
        }
    }

    fn completion(&mut self, completion: &CompletionPayload) {
        let now = self.started.elapsed();
        self.last_arrival = Instant::now();
        match self.tracker.completion(completion, now) {
            Arrival::First(index) => self.view.arrived(&self.tracker.members[index], completion, now),
            Arrival::Repeated(_) | Arrival::Stranger => {
                tracing::warn!(execution_id = %completion.execution_id, "a completion arrived that should not have");
            }
        }
    }

    /// The first Ctrl-C cancels the flow and waits for its end, the second does not wait.
    async fn interrupted(&mut self, interrupts: &mut Interrupts) -> Result<(), CliError> {
        if self.cancelled_at.is_some() {
            return Err(self.interrupted_again());
        }
        self.cancelled_at = Some(Instant::now());
        self.view.announce("cancelling; Ctrl-C again to leave at once");
        // First the flow, so that the attempts that are stopped next are not taken for failures to retry.
        let asked = tokio::select! {
            asked = timeout(CANCEL_PATIENCE, self.cancel_flow()) => asked,
            () = interrupts.next() => return Err(self.interrupted_again()),
        };
        self.stop.cancel();
        match asked {
            Ok(Ok(())) => Ok(()),
            Ok(Err(error)) => {
                Err(CliError::from(error).about("the flow could not be cancelled").with_code(code::CANCELLED))
            }
            Err(_) => Err(self.not_confirmed()),
        }
    }

    fn interrupted_again(&self) -> CliError {
        let why = "interrupted again; it may still be ending, see `ff describe`";
        CliError::cancelled(format!("flow {}", self.flow_id), why)
    }

    async fn cancel_flow(&self) -> Result<(), EngineError> {
        loop {
            match self.backend.cancel_flow(self.flow_id, "interrupted by its user").await {
                Ok(_) => return Ok(()),
                Err(error) if error.is_retryable() => tokio::time::sleep(2 * FRAME).await,
                Err(error) => return Err(error),
            }
        }
    }

    fn not_confirmed(&self) -> CliError {
        let why = format!("its cancellation was not confirmed within {CANCEL_PATIENCE:?}; see `ff describe`");
        CliError::cancelled(format!("flow {}", self.flow_id), why)
    }

    /// Whether waiting on is of no use: the flow is over and its completions have not come.
    async fn gave_up(&mut self) -> Result<bool, CliError> {
        if self.cancelled_at.is_some_and(|at| at.elapsed() > CANCEL_PATIENCE) {
            return Err(self.not_confirmed());
        }
        if self.last_arrival.elapsed() < SILENCE {
            self.seemed_over = false;
            return Ok(false);
        }
        if self.looked.elapsed() < SILENCE {
            return Ok(false);
        }
        self.looked = Instant::now();
        let looked = timeout(SILENCE, self.backend.describe_flow(self.flow_id)).await;
        let over = match looked {
            Ok(Ok(flow)) => flow.state != FlowState::Running,
            Ok(Err(error)) if !error.is_retryable() => return Err(error.into()),
            Ok(Err(_)) | Err(_) => false,
        };
        // Only the second time: the last completions may be on their way.
        Ok(std::mem::replace(&mut self.seemed_over, over) && over)
    }

    /// Ends the view; the answer is how long the run took.
    pub(super) fn end(&self) -> Duration {
        let complete = self.tracker.all_arrived();
        let wall = if complete { self.last_arrival.duration_since(self.started) } else { self.started.elapsed() };
        self.view.end(&self.tracker, wall);
        wall
    }
}
