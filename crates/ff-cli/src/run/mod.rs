//! `ff run`: submits a flow, executes it in this process, shows it, and checks that each completion arrived exactly
//! once and in order.

mod critical_path;
mod details;
mod handler;
mod job;
mod live;
mod outputs;
mod session;
mod summary;
mod tracker;
mod view;

use std::{process::ExitCode, sync::Arc, thread::available_parallelism};

use ff_core::{CompletionStream, FlowState, Frame, SubscribeOptions, Subscription};
use futures::{StreamExt, future::ready};
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

pub(crate) use self::view::ShowOutput;
use self::{
    handler::{CommandDefaults, Handler},
    outputs::Outputs,
    session::{Session, SessionInputs},
    summary::{RunFacts, Summary},
    view::View,
};
use crate::{
    cli::RunArgs,
    connect::ConnectArgs,
    failure::{CliError, code},
    local_runtime::LocalRuntime,
    metrics, open_files, out, secrets,
    signals::Interrupts,
    work::adopt_orphans,
};

/// How many sleeps run at once by default.
const SIMULATED_WORKERS: usize = 64;
/// The most messages of attempts and lines of output that wait to be shown.
const LINES_WAITING: usize = 256;

pub(crate) async fn run(args: RunArgs, connect: &ConnectArgs) -> Result<ExitCode, CliError> {
    metrics::serve(args.metrics)?;
    prepare_process();
    let request = job::request_of(&args)?;
    let outputs = args.keep_outputs.as_deref().map(Outputs::prepare).transpose()?;
    let mut interrupts = Interrupts::listen()?;
    let opening = async {
        let backend = request.open(connect).await?;
        let facts = request.facts(&*backend).await?;
        // By id, because a member whose record was lost ends without its tags.
        let options = SubscribeOptions::new().only(facts.members.iter().copied());
        let completions = completions_of(backend.subscribe(&options).await?);
        let runtime = LocalRuntime::start(&backend).await?;
        Ok((backend, facts, completions, runtime))
    };
    let (backend, facts, completions, mut runtime) = interrupts.or(opening).await?;
    let job = match request.begin(&*backend, facts).await {
        Ok(job) => job,
        Err(error) => {
            runtime.stop().await;
            return Err(error);
        }
    };
    let outlives = !connect.is_embedded();
    let view = View::new(args.json, args.show_output, &job.tracker);
    view.announce(&job, outlives);
    if let Err(error) = job.submit(&*backend).await {
        runtime.stop().await;
        return Err(error);
    }

    let (events_in, events) = mpsc::unbounded_channel();
    let (lines_in, lines) = mpsc::channel(LINES_WAITING);
    let stop = CancellationToken::new();
    let defaults = CommandDefaults { grace: args.grace, stop_signal: args.stop_signal };
    let grace = defaults.longest_grace(job.longest_grace);
    let handler = Handler {
        events: events_in,
        printed: view.wants_lines().then_some(lines_in),
        outputs,
        defaults,
        stop: stop.clone(),
    };
    let workers = args.workers.map_or_else(|| default_workers(job.simulated), usize::from);
    let worker = LocalRuntime::worker(job.lane, workers, grace).accept(job.accept);
    runtime.work(worker.handler(move |context| handler.clone().perform(context)), grace)?;
    let mut session = Session::new(Arc::clone(&backend), job.flow_id, job.tracker, view, stop, outlives);
    let ended = session.follow(SessionInputs { completions, events, lines, interrupts, runtime }).await;
    let wall = session.end();
    let state = ended?;

    let summary = Summary::of(
        &session.tracker,
        RunFacts { run: job.run, flow_id: job.flow_id, name: job.name, namespace: job.namespace, state, wall },
    );
    if args.json {
        let _: out::Reader = out::json(&summary);
    } else {
        out::text(&format!("\n{}", summary.to_text(&session.tracker.members)));
    }
    if !summary.audit_passed {
        return Err(CliError::failed(
            format!("flow {}", summary.flow_id),
            "its completions did not all arrive exactly once and after those of their needs; see the summary",
        ));
    }
    Ok(exit_code(state))
}

/// Gaps are logged by the backend, and the audit finds what is missing.
fn completions_of(subscription: Subscription) -> CompletionStream {
    Box::pin(subscription.filter_map(|frame| match frame {
        Frame::Completion(completion) => ready(Some(completion)),
        _ => ready(None),
    }))
}

/// How to finish a flow that this run leaves.
fn resume_hint(flow_id: ff_core::FlowId) -> String {
    format!("`ff run --resume {flow_id}` resumes it")
}

fn exit_code(state: FlowState) -> ExitCode {
    ExitCode::from(match state {
        FlowState::Success => 0,
        FlowState::Cancelled => code::CANCELLED,
        _ => code::FAILED,
    })
}

/// Protects this process from its commands, and prepares it to run many of them.
fn prepare_process() {
    for prepared in [secrets::protect_process(), adopt_orphans()] {
        if let Err(error) = prepared {
            tracing::warn!(%error, "the system does not let ff isolate its commands");
        }
    }
    open_files::raise();
}

fn default_workers(simulated: bool) -> usize {
    if simulated { SIMULATED_WORKERS } else { available_parallelism().map_or(4, usize::from) }
}
