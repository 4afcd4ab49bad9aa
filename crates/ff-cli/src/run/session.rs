//! The loop of a run: completions, attempts, Ctrl-C and time, until every execution's completion has arrived.

use std::{
    sync::Arc,
    time::{Duration, Instant},
};

use ff_core::{CompletionPayload, CompletionStream, EngineBackend, EngineError, ExecutionId, FlowId, FlowState};
use futures::StreamExt;
use tokio::{
    sync::mpsc::{Receiver, UnboundedReceiver},
    time::timeout,
};
use tokio_util::sync::CancellationToken;

use super::{
    handler::Event,
    tracker::{Arrival, Tracker},
    view::View,
};
use crate::{
    crew::Crew,
    failure::{CliError, code},
    signals::{Interrupts, Request},
    work::Lines,
};

/// How often the view moves.
const FRAME: Duration = Duration::from_millis(100);
/// How long a completion that comes once too often may take to show up at the end.
const SETTLE: Duration = Duration::from_millis(100);
/// After this time without a completion the server is asked whether the flow is over.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a cancelled flow may take to end.
const CANCEL_PATIENCE: Duration = Duration::from_secs(15);

/// How many failed executions are described at the end.
const FAILURES_SHOWN: usize = 50;

/// What a session follows, and who works for it.
pub(super) struct Follow {
    pub(super) completions: CompletionStream,
    pub(super) events: UnboundedReceiver<Event>,
    pub(super) lines: Receiver<Lines>,
    pub(super) interrupts: Interrupts,
    pub(super) crew: Crew,
}

/// Why a session ends before the flow does.
enum Left {
    /// What is under way is given back first.
    InOrder(CliError),
    /// Nothing is waited for.
    AtOnce(CliError),
}

impl From<EngineError> for Left {
    fn from(error: EngineError) -> Self {
        Self::InOrder(error.into())
    }
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
    pub(super) async fn follow(&mut self, mut run: Follow) -> Result<FlowState, CliError> {
        let followed = self.until_all_arrived(&mut run).await;
        // What has ended may still be on its way from the worker to here.
        while let Ok(lines) = run.lines.try_recv() {
            self.printed(&lines);
        }
        while let Ok(event) = run.events.try_recv() {
            self.event(event);
        }
        // Processes that still print are not waited for.
        drop(run.lines);
        let left = match followed {
            Ok(()) => None,
            Err(Left::AtOnce(error)) => return Err(error),
            Err(Left::InOrder(error)) => Some(error),
        };
        if left.is_none() {
            self.stop.cancel();
        }
        tokio::select! {
            () = run.crew.stop() => {}
            _ = run.interrupts.next() => return Err(left.unwrap_or_else(|| self.interrupted_again())),
        }
        if let Some(error) = left {
            return Err(error);
        }
        let settled = async {
            while let Some(completion) = run.completions.next().await {
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
                        let (reason, attempts) = (execution.reason.as_deref(), execution.attempt);
                        self.tracker.recorded_error(id, reason, last_error, attempts);
                    }
                }
                // The summary says less then.
                Err(error) => tracing::warn!(%error, "a failed execution cannot be described"),
            }
        }
    }

    async fn until_all_arrived(&mut self, run: &mut Follow) -> Result<(), Left> {
        let mut frame = tokio::time::interval(FRAME);
        frame.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !self.tracker.all_arrived() {
            tokio::select! {
                // Output first, then attempts: a completion can only follow them.
                biased;
                request = run.interrupts.next() => self.interrupted(request, run).await?,
                Some(lines) = run.lines.recv() => self.printed(&lines),
                Some(event) = run.events.recv() => self.event(event),
                Some(completion) = run.completions.next() => self.completion(&completion),
                error = run.crew.worker_ended() => return Err(Left::InOrder(error)),
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

    fn printed(&self, printed: &Lines) {
        if let Some(member) = self.tracker.member(printed.execution_id) {
            self.view.printed(member, &printed.lines);
        }
    }

    fn event(&mut self, event: Event) {
        let now = self.started.elapsed();
        match event {
            Event::Began { id } => {
                if let Some(index) = self.tracker.attempt_began(id, now) {
                    self.view.attempt_began(&self.tracker.members[index], now);
                }
            }
            Event::Ended { id, end } => {
                if let Some(index) = self.tracker.attempt_ended(id, end, now) {
                    self.view.attempt_ended(&self.tracker.members[index], now);
                }
            }
        }
    }

    fn completion(&mut self, completion: &CompletionPayload) {
        let now = self.started.elapsed();
        self.last_arrival = Instant::now();
        match self.tracker.completion(completion, now) {
            Arrival::First(index) => self.view.arrived(&self.tracker.members[index], completion, now),
            Arrival::Known => {}
            Arrival::Repeated(_) | Arrival::Stranger => {
                tracing::warn!(execution_id = %completion.execution_id, "a completion arrived that should not have");
            }
        }
    }

    /// The first Ctrl-C cancels the flow and waits for its end, the second does not wait. Where the terminal has gone,
    /// the flow stays as it is.
    async fn interrupted(&mut self, request: Request, run: &mut Follow) -> Result<(), Left> {
        if request == Request::HangUp {
            let error = CliError::failed(
                format!("flow {}", self.flow_id),
                "the terminal was closed; the flow was left unfinished",
            );
            return Err(Left::InOrder(error.with_code(code::HUNG_UP)));
        }
        if self.cancelled_at.is_some() {
            return Err(Left::AtOnce(self.interrupted_again()));
        }
        self.cancelled_at = Some(Instant::now());
        self.view.say("cancelling; Ctrl-C again to leave at once");
        // First the flow, so that the attempts that are stopped next are not taken for failures to retry.
        let asked = tokio::select! {
            asked = timeout(CANCEL_PATIENCE, self.cancel_flow()) => asked,
            _ = run.interrupts.next() => return Err(Left::AtOnce(self.interrupted_again())),
        };
        match asked {
            Ok(Ok(())) => {
                self.stop.cancel();
                Ok(())
            }
            Ok(Err(error)) => {
                let error = CliError::from(error).about("the flow could not be cancelled").with_code(code::CANCELLED);
                Err(Left::InOrder(error))
            }
            Err(_) => Err(Left::InOrder(self.not_confirmed())),
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
    async fn gave_up(&mut self) -> Result<bool, Left> {
        if self.cancelled_at.is_some_and(|at| at.elapsed() > CANCEL_PATIENCE) {
            return Err(Left::InOrder(self.not_confirmed()));
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
