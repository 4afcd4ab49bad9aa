//! The handler of a run's attempts.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ff_core::{ExecutionId, Failure};
use ff_engine::WorkContext;
use tokio::sync::mpsc::UnboundedSender;
use tokio_util::sync::CancellationToken;

use super::{outputs::Outputs, tracker::AttemptEnd};
use crate::work::{Attempt, Ended, LineSender, STOPPED, Work, stop::StopSignal};

/// The worker's timer starts slightly before the work.
const TIMER_SLACK: Duration = Duration::from_millis(100);

/// The events of a worker's attempts.
#[derive(Debug)]
pub(super) enum Event {
    Began { id: ExecutionId },
    Ended { id: ExecutionId, end: AttemptEnd },
}

/// The defaults for commands whose flow does not set these values.
#[derive(Debug, Clone, Copy, Default)]
pub(super) struct CommandDefaults {
    pub(super) grace: Option<Duration>,
    pub(super) stop_signal: Option<StopSignal>,
}

impl CommandDefaults {
    fn complete(self, work: &mut Work) {
        if let Work::Shell(command) = work {
            command.stop_signal = command.stop_signal.or(self.stop_signal);
            if !command.has_grace() {
                command.set_grace(self.grace);
            }
        }
    }

    /// The longer of the flow's grace and the default.
    pub(super) fn longest_grace(self, of_the_flow: Duration) -> Duration {
        of_the_flow.max(self.grace.unwrap_or_default())
    }
}

#[derive(Clone)]
pub(super) struct Handler {
    pub(super) events: UnboundedSender<Event>,
    /// Where lines of output are sent, if they are shown as they are printed.
    pub(super) printed: Option<LineSender>,
    pub(super) outputs: Option<Outputs>,
    pub(super) defaults: CommandDefaults,
    /// Cancelled when the whole run must stop.
    pub(super) stop: CancellationToken,
}

impl Handler {
    pub(super) async fn perform(self, context: WorkContext) -> Result<Bytes, Failure> {
        let id = context.id();
        self.send(Event::Began { id });
        let started = Instant::now();
        let ended = self.work(&context).await;
        let failure = ended.result.as_ref().err().map(|failure| match context.execution().timeout {
            // In the words of the worker's report.
            Some(timeout) if context.is_cancelled() && started.elapsed() + TIMER_SLACK >= timeout => {
                format!("the attempt took longer than its timeout of {timeout:?}")
            }
            _ if context.is_cancelled() && failure.reason.starts_with(STOPPED) => {
                failure.reason.replacen(STOPPED, "stopped, because its lease was lost", 1)
            }
            _ => failure.reason.clone(),
        });
        if let Some(cause) = &failure {
            let (name, attempt, exit) = (context.name(), context.attempt(), ended.exit);
            tracing::info!(execution_id = %id, name, attempt, cause, ?exit, "an attempt failed");
        }
        let end = AttemptEnd { failure, exit: ended.exit, last_lines: ended.last_lines };
        self.send(Event::Ended { id, end });
        ended.result
    }

    async fn work(&self, context: &WorkContext) -> Ended {
        let mut work = match Work::from_payload(context.payload()) {
            Ok(work) => work,
            Err(failure) => return Ended::without_process(Err(failure)),
        };
        self.defaults.complete(&mut work);
        let stop = context.cancellation().child_token();
        let attempt = Attempt {
            execution_id: context.id(),
            flow_id: context.flow_id(),
            number: context.attempt(),
            stop: stop.clone(),
            output_file: self.outputs.as_ref().map(|kept| kept.file(context.name(), context.id(), context.attempt())),
            printed: self.printed.clone(),
        };
        let forward_stop = async {
            self.stop.cancelled().await;
            stop.cancel();
            std::future::pending::<Ended>().await
        };
        tokio::select! {
            ended = work.perform(&attempt) => ended,
            never = forward_stop => never,
        }
    }

    fn send(&self, event: Event) {
        // The session may be over while the last attempts are stopped; their events are not needed.
        let _ = self.events.send(event);
    }
}
