//! `ff run`: submits a flow, works it off in this process, shows it, and checks that each completion arrived exactly
//! once and in order.

mod critical_path;
mod live;
mod outputs;
mod session;
mod summary;
mod tracker;
mod view;

use std::{
    process::ExitCode,
    sync::Arc,
    thread::available_parallelism,
    time::{Duration, Instant},
};

use bytes::Bytes;
use ff_core::{EngineBackend, EngineError, Failure, FlowState, FlowSubmission, ScannerFilter, SubmittedFlow};
use ff_engine::WorkContext;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    outputs::Outputs,
    session::{Event, Session},
    summary::{Facts, Summary},
    tracker::Tracker,
    view::View,
};
use crate::{
    cli::RunArgs,
    connect::ConnectArgs,
    crew::Crew,
    failure::{CliError, code},
    metrics, out,
    plan::{Plan, RUN_TAG},
    signals::Interrupts,
    text,
    work::{Attempt, Work},
};

/// How many sleeps run at once unless something else is asked for.
const SIMULATED_WORKERS: usize = 64;
/// The worker's timer begins a little before the work does.
const TIMER_SLACK: Duration = Duration::from_millis(100);
/// How often a submission whose answer was lost is sent again; the idempotency key makes that safe.
const SUBMIT_TRIES: u32 = 5;

pub(crate) async fn run(args: RunArgs, connect: &ConnectArgs) -> Result<ExitCode, CliError> {
    metrics::serve(args.metrics)?;
    let run = Uuid::now_v7();
    let plan = Plan::load(&args.flow, args.time_scale)?;
    let flow = plan.submission(run, args.namespace)?;
    let topology = flow.topology()?;
    let outputs = args.keep_outputs.as_deref().map(Outputs::prepare).transpose()?;
    let mut interrupts = Interrupts::listen()?;
    let filter =
        ScannerFilter::new().with_namespace(flow.namespace.clone()).with_instance_tag(RUN_TAG, run.to_string());
    let subscribing = async {
        let backend = connect.open().await?;
        let completions = backend.subscribe_completions_filtered(&filter).await?;
        Ok((backend, completions))
    };
    let (backend, completions) = interrupts.or(subscribing).await?;
    let (events_in, events) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let handler = Handler { events: events_in, outputs, stop: stop.clone() };
    let workers = args.workers.map_or_else(|| default_workers(&plan), usize::from);
    let crew = Crew::start(&backend, plan.run_lane(run)?, workers, move |context| handler.clone().perform(context));
    let crew = crew.await?;
    let submitted = match submit(&*backend, &flow).await {
        Ok(submitted) => submitted,
        Err(error) => {
            crew.stop().await;
            return Err(error.into());
        }
    };

    let tracker = Tracker::new(&submitted, topology);
    let view = View::new(args.json, &tracker);
    let name = plan.name.as_deref().unwrap_or("flow");
    view.announce(&format!(
        "{name}: {} in namespace {}, flow {}",
        text::count(submitted.executions.len(), "execution"),
        flow.namespace,
        submitted.flow_id
    ));
    let mut session = Session::new(Arc::clone(&backend), submitted.flow_id, tracker, view, stop);
    let ended = session.follow(completions, events, interrupts, crew).await;
    let wall = session.end();
    let state = ended?;

    let facts = Facts { run, flow_id: submitted.flow_id, name: plan.name, namespace: flow.namespace, state, wall };
    let summary = Summary::of(&session.tracker, facts);
    if args.json {
        let _: out::Reader = out::json(&summary);
    } else {
        out::text(&format!("\n{}", summary.to_text(&session.tracker.members)));
    }
    if !summary.audit_passed {
        return Err(CliError::failed(
            format!("flow {}", submitted.flow_id),
            "its completions did not each arrive exactly once and after those of what they need; see the summary",
        ));
    }
    Ok(ExitCode::from(match state {
        FlowState::Success => 0,
        FlowState::Cancelled => code::CANCELLED,
        _ => code::FAILED,
    }))
}

fn default_workers(plan: &Plan) -> usize {
    if plan.simulated { SIMULATED_WORKERS } else { available_parallelism().map_or(4, usize::from) }
}

async fn submit(backend: &dyn EngineBackend, flow: &FlowSubmission) -> Result<SubmittedFlow, EngineError> {
    for pause in 1..SUBMIT_TRIES {
        match backend.submit_flow(flow).await {
            Err(error) if error.is_retryable() => {
                tracing::warn!(%error, "the submission is sent again");
                tokio::time::sleep(Duration::from_millis(200) * pause).await;
            }
            answered => return answered,
        }
    }
    backend.submit_flow(flow).await
}

/// What each attempt of the run goes through.
#[derive(Clone)]
struct Handler {
    events: mpsc::UnboundedSender<Event>,
    outputs: Option<Outputs>,
    /// Fires when the whole run is to stop.
    stop: CancellationToken,
}

impl Handler {
    async fn perform(self, context: WorkContext) -> Result<Bytes, Failure> {
        let id = context.id();
        self.tell(Event::Began { id });
        let started = Instant::now();
        let result = self.work(&context).await;
        let failure = result.as_ref().err().map(|failure| match context.execution().timeout {
            // The worker reports it in its own words; here it is for the one who watches.
            Some(timeout) if context.is_cancelled() && started.elapsed() + TIMER_SLACK >= timeout => {
                format!("timeout of {} passed, {}", text::span(timeout), failure.reason)
            }
            _ => failure.reason.clone(),
        });
        self.tell(Event::Ended { id, failure });
        result
    }

    async fn work(&self, context: &WorkContext) -> Result<Bytes, Failure> {
        let work = Work::from_payload(context.payload())?;
        let stop = context.cancellation().child_token();
        let attempt = Attempt {
            execution_id: context.id(),
            flow_id: context.flow_id(),
            number: context.attempt(),
            stop: stop.clone(),
            output_file: self.outputs.as_ref().map(|kept| kept.file(context.name(), context.id(), context.attempt())),
        };
        let pass_on = async {
            self.stop.cancelled().await;
            stop.cancel();
            std::future::pending::<()>().await;
        };
        tokio::select! {
            result = work.perform(&attempt) => result,
            () = pass_on => Err(Failure::retryable("stopped")),
        }
    }

    fn tell(&self, event: Event) {
        // The session may be over while the last attempts are stopped; nobody needs to know of those.
        let _ = self.events.send(event);
    }
}
