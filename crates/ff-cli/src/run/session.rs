//! The loop of a run: handles completions, attempts, signals and timers until every execution's completion has arrived.

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
    resume_hint,
    tracker::{Arrival, Tracker},
    view::View,
};
use crate::{
    failure::{CliError, code},
    local_runtime::LocalRuntime,
    signals::{Interrupts, Request},
    work::Lines,
};

/// How often the view is redrawn.
const FRAME: Duration = Duration::from_millis(100);
/// How long to wait at the end for repeated completions.
const SETTLE: Duration = Duration::from_millis(100);
/// After this time without a completion, the flow's state is read from the server.
const SILENCE: Duration = Duration::from_secs(5);
/// How long a cancelled flow may take to end.
const CANCEL_LIMIT: Duration = Duration::from_secs(15);

/// How many failed executions are described at the end.
const FAILURES_SHOWN: usize = 50;

/// The inputs of a session, and the runtime that executes its flow.
pub(super) struct SessionInputs {
    pub(super) completions: CompletionStream,
    pub(super) events: UnboundedReceiver<Event>,
    pub(super) lines: Receiver<Lines>,
    pub(super) interrupts: Interrupts,
    pub(super) runtime: LocalRuntime,
}

/// Why a session ends before its flow.
enum EarlyEnd {
    /// After the running executions are given back.
    InOrder(CliError),
    /// Immediately.
    AtOnce(CliError),
}

pub(super) struct Session {
    backend: Arc<dyn EngineBackend>,
    flow_id: FlowId,
    pub(super) tracker: Tracker,
    view: View,
    stop: CancellationToken,
    started: Instant,
    last_arrival: Instant,
    /// When the flow's state was last read.
    checked: Instant,
    cancelled_at: Option<Instant>,
    /// Whether the flow is on a server, where it remains when this program ends.
    outlives: bool,
    /// Whether the flow had ended at the last check although completions were missing.
    seemed_over: bool,
}

impl Session {
    pub(super) fn new(
        backend: Arc<dyn EngineBackend>,
        flow_id: FlowId,
        tracker: Tracker,
        view: View,
        stop: CancellationToken,
        outlives: bool,
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
            checked: now,
            cancelled_at: None,
            outlives,
            seemed_over: false,
        }
    }

    /// Follows the run to its end and stops the runtime. Returns the final state of the flow.
    pub(super) async fn follow(&mut self, mut run: SessionInputs) -> Result<FlowState, CliError> {
        let followed = self.until_all_arrived(&mut run).await;
        // Messages of attempts that have ended may still be queued.
        while let Ok(lines) = run.lines.try_recv() {
            self.printed(&lines);
        }
        while let Ok(event) = run.events.try_recv() {
            self.event(event);
        }
        // Do not wait for processes that still print.
        drop(run.lines);
        let left = match followed {
            Ok(()) => None,
            Err(EarlyEnd::AtOnce(error)) => return Err(error),
            Err(EarlyEnd::InOrder(error)) => Some(error),
        };
        if left.is_none() {
            self.stop.cancel();
        }
        tokio::select! {
            () = run.runtime.stop() => {}
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
        self.read_failures().await;
        let flow = self.backend.describe_flow(self.flow_id).await.map_err(|error| self.unfollowed(error))?;
        Ok(flow.state)
    }

    /// Reads the errors of the first failed executions: if the server ended an attempt, the worker does not know why.
    async fn read_failures(&mut self) {
        let failed: Vec<ExecutionId> = self.tracker.failed().take(FAILURES_SHOWN).collect();
        for id in failed {
            match self.backend.describe_execution(id).await {
                Ok(execution) => {
                    if let Some(last_error) = &execution.last_error {
                        let (reason, attempts) = (execution.reason.as_deref(), execution.attempt);
                        self.tracker.recorded_error(id, reason, last_error, attempts);
                    }
                }
                // The summary then has less detail.
                Err(error) => tracing::warn!(%error, "a failed execution cannot be described"),
            }
        }
    }

    async fn until_all_arrived(&mut self, run: &mut SessionInputs) -> Result<(), EarlyEnd> {
        let mut frame = tokio::time::interval(FRAME);
        frame.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Skip);
        while !self.tracker.all_arrived() {
            tokio::select! {
                // Output first, then attempts, since a completion follows both.
                biased;
                request = run.interrupts.next() => self.interrupted(request, run).await?,
                Some(lines) = run.lines.recv() => self.printed(&lines),
                Some(event) = run.events.recv() => self.event(event),
                Some(completion) = run.completions.next() => self.completion(&completion),
                error = run.runtime.worker_ended() => return Err(EarlyEnd::InOrder(self.hinted(error))),
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
                tracing::warn!(execution_id = %completion.execution_id, "an unexpected completion arrived");
            }
        }
    }

    /// The first Ctrl-C cancels the flow and waits for its end, the second one does not wait. If the terminal was
    /// closed, the flow is left as it is.
    async fn interrupted(&mut self, request: Request, run: &mut SessionInputs) -> Result<(), EarlyEnd> {
        if request == Request::HangUp {
            let what_became = if self.outlives { "was left unfinished" } else { "ended with this program" };
            let why = format!("the terminal was closed; the flow {what_became}");
            let error = CliError::failed(format!("flow {}", self.flow_id), why);
            return Err(EarlyEnd::InOrder(self.hinted(error.with_code(code::HUNG_UP))));
        }
        if self.cancelled_at.is_some() {
            return Err(EarlyEnd::AtOnce(self.interrupted_again()));
        }
        self.cancelled_at = Some(Instant::now());
        self.view.say("cancelling; Ctrl-C again to leave at once");
        // The flow is cancelled first, so that the attempts stopped next are not retried as failures.
        let asked = tokio::select! {
            asked = timeout(CANCEL_LIMIT, self.cancel_flow()) => asked,
            _ = run.interrupts.next() => return Err(EarlyEnd::AtOnce(self.interrupted_again())),
        };
        match asked {
            Ok(Ok(())) => {
                self.stop.cancel();
                Ok(())
            }
            Ok(Err(error)) => {
                let error = self.unfollowed(error).about("the flow could not be cancelled");
                Err(EarlyEnd::InOrder(error.with_code(code::CANCELLED)))
            }
            Err(_) => Err(EarlyEnd::InOrder(self.not_confirmed())),
        }
    }

    fn interrupted_again(&self) -> CliError {
        let why = "interrupted again; it may still be ending, see `ff describe`";
        self.hinted(CliError::cancelled(format!("flow {}", self.flow_id), why))
    }

    /// The error with the command that finishes the flow, if the flow remains when this program ends.
    fn hinted(&self, error: CliError) -> CliError {
        if self.outlives { error.with_hint(&resume_hint(self.flow_id)) } else { error }
    }

    /// An error of the server about the flow. A flow that is not found cannot be resumed.
    fn unfollowed(&self, error: EngineError) -> CliError {
        match error {
            EngineError::NotFound { .. } => CliError::failed(
                format!("flow {}", self.flow_id),
                "the server no longer has it: its record was deleted or evicted, and it cannot be resumed",
            ),
            error => self.hinted(error.into()),
        }
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
        let why = format!("its cancellation was not confirmed within {CANCEL_LIMIT:?}; see `ff describe`");
        self.hinted(CliError::cancelled(format!("flow {}", self.flow_id), why))
    }

    /// Whether waiting longer is useless: the flow has ended and its completions have not arrived.
    async fn gave_up(&mut self) -> Result<bool, EarlyEnd> {
        if self.cancelled_at.is_some_and(|at| at.elapsed() > CANCEL_LIMIT) {
            return Err(EarlyEnd::InOrder(self.not_confirmed()));
        }
        if self.last_arrival.elapsed() < SILENCE {
            self.seemed_over = false;
            return Ok(false);
        }
        if self.checked.elapsed() < SILENCE {
            return Ok(false);
        }
        self.checked = Instant::now();
        let looked = timeout(SILENCE, self.backend.describe_flow(self.flow_id)).await;
        let over = match looked {
            Ok(Ok(flow)) => flow.state != FlowState::Running,
            Ok(Err(error)) if !error.is_retryable() => return Err(EarlyEnd::InOrder(self.unfollowed(error))),
            Ok(Err(_)) | Err(_) => false,
        };
        // Only at the second check: the last completions may be in flight.
        Ok(std::mem::replace(&mut self.seemed_over, over) && over)
    }

    /// Ends the view. Returns how long the run took.
    pub(super) fn end(&self) -> Duration {
        let complete = self.tracker.all_arrived();
        let wall = if complete { self.last_arrival.duration_since(self.started) } else { self.started.elapsed() };
        self.view.end(&self.tracker, wall);
        wall
    }
}
