//! `ff demo`: two tenants, four flows and four watchers. At the end it compares the committed completions with those
//! that each watcher received.

mod flows;
mod tally;

use std::{
    process::ExitCode,
    sync::Arc,
    time::{Duration, Instant},
};

use console::style;
use ff_core::{CompletionPayload, EngineBackend, ExecutionId, FlowId, Outcome, ScannerFilter};
use ff_engine::WorkContext;
use futures::{
    StreamExt,
    stream::{BoxStream, SelectAll},
};
use tokio::{sync::mpsc, time::timeout};
use tokio_util::sync::CancellationToken;
use uuid::Uuid;

use self::{
    flows::{COLOUR, DemoFlows},
    tally::{Row, Tally},
};
use crate::{
    cli::DemoArgs,
    connect::ConnectArgs,
    failure::{CliError, code, one_line},
    local_runtime::LocalRuntime,
    out,
    signals::Interrupts,
    text,
    watch::coloured,
};

/// The time limit of the demo; it takes about three seconds.
const TIME_LIMIT: Duration = Duration::from_secs(16);
/// When the flow that takes a minute is cancelled.
const CANCEL_AFTER: Duration = Duration::from_millis(1_200);
/// How long to wait at the end for repeated completions.
const SETTLE: Duration = Duration::from_millis(300);
const WORKERS: usize = 32;

/// One received completion, with the watcher that received it.
type Received = (usize, CompletionPayload);

pub(crate) async fn demo(args: &DemoArgs, connect: &ConnectArgs) -> Result<ExitCode, CliError> {
    let mut interrupts = Interrupts::listen()?;
    let backend = interrupts.or(connect.open()).await?;
    let id = Uuid::new_v4().simple().to_string();
    let demo_flows = DemoFlows::new(&id[..8])?;
    let mut demo = Demo::open(Arc::clone(&backend), &demo_flows).await?;
    let (retries_in, retries) = mpsc::unbounded_channel();
    let stop = CancellationToken::new();
    let until = stop.clone();
    let mut runtime = LocalRuntime::start(&backend).await?;
    let worker =
        LocalRuntime::worker(demo_flows.lane.clone(), WORKERS, Duration::ZERO).handler(move |context: WorkContext| {
            let (retries, stop) = (retries_in.clone(), until.clone());
            async move {
                let (name, attempt) = (context.name().to_owned(), context.attempt());
                let result = flows::perform(context, stop).await;
                if let Err(failure) = &result {
                    // For the output only.
                    let _ = retries.send(format!("{name}, attempt {attempt}: {}", one_line(&failure.reason)));
                }
                result
            }
        });
    runtime.work(worker, Duration::ZERO)?;
    let played = tokio::select! {
        played = demo.play(&demo_flows, args.fan_out, retries) => played.map(|()| true),
        _ = interrupts.next() => Ok(false),
    };
    let complete = matches!(played, Ok(true)) && demo.tally.is_complete();
    if !complete {
        demo.cancel_all().await;
    }
    stop.cancel();
    runtime.stop().await;
    if !played? {
        return Ok(ExitCode::from(code::CANCELLED));
    }
    demo.conclude().await
}

struct Demo {
    backend: Arc<dyn EngineBackend>,
    received: SelectAll<BoxStream<'static, Received>>,
    tally: Tally,
    flows: Vec<(String, FlowId)>,
    wide_cells: usize,
    started: Instant,
}

impl Demo {
    /// Subscribes all watchers, before anything is submitted.
    async fn open(backend: Arc<dyn EngineBackend>, demo_flows: &DemoFlows) -> Result<Self, CliError> {
        let watchers = vec![
            ("all", ScannerFilter::new()),
            ("tenant A", ScannerFilter::new().namespace(demo_flows.tenant_a.clone())),
            ("tenant B", ScannerFilter::new().namespace(demo_flows.tenant_b.clone())),
            ("blue", ScannerFilter::new().instance_tag(COLOUR.0, COLOUR.1)),
        ];
        let mut received = SelectAll::new();
        for (index, (_, filter)) in watchers.iter().enumerate() {
            let completions = backend.subscribe_completions_filtered(filter).await?;
            received.push(completions.map(move |completion| (index, completion)).boxed());
        }
        let tally = Tally::new(watchers);
        Ok(Self { backend, received, tally, flows: Vec::new(), wide_cells: 0, started: Instant::now() })
    }

    /// Submits the flows and follows them until every watcher has received what its filter passes, or the time limit.
    async fn play(
        &mut self,
        demo_flows: &DemoFlows,
        width: u16,
        mut retries: mpsc::UnboundedReceiver<String>,
    ) -> Result<(), CliError> {
        self.say(&format!("Four watchers listen: all, tenant A, tenant B, and {}={}", COLOUR.0, COLOUR.1));
        for flow in [demo_flows.orders()?, demo_flows.nightly()?, demo_flows.crawl()?, demo_flows.wide(width)?] {
            let submitted = self.backend.submit_flow(&flow).await?;
            let name = flow.name.clone().unwrap_or_default();
            self.say(&format!("{name}: {} of {}", text::count(flow.executions.len(), "execution"), flow.namespace));
            self.tally.add(&flow, &submitted);
            self.flows.push((name, submitted.flow_id));
        }
        let cancel = tokio::time::sleep(CANCEL_AFTER);
        let patience = tokio::time::sleep(TIME_LIMIT);
        tokio::pin!(cancel, patience);
        let mut cancelled = false;
        while !self.tally.is_complete() {
            tokio::select! {
                // An attempt's report comes before the completion that it led to.
                biased;
                Some(retry) = retries.recv() => self.say(&format!("{} {retry}", style("attempt failed:").yellow())),
                Some((watcher, completion)) = self.received.next() => self.receive(watcher, &completion),
                () = &mut cancel, if !cancelled => {
                    cancelled = true;
                    self.cancel_crawl().await?;
                }
                () = &mut patience => return Ok(()),
            }
        }
        let more = async {
            while let Some((watcher, completion)) = self.received.next().await {
                self.tally.receive(watcher, &completion);
            }
        };
        let _ = timeout(SETTLE, more).await;
        Ok(())
    }

    async fn cancel_crawl(&self) -> Result<(), CliError> {
        let Some((name, flow)) = self.flows.iter().find(|(name, _)| name == "crawl") else { return Ok(()) };
        let cancellation = self.backend.cancel_flow(*flow, "the demo cannot wait a minute").await?;
        let ended = text::count(cancellation.cancelled as usize, "execution");
        self.say(&format!("{} {name}: {ended} ended", style("cancelled:").yellow()));
        Ok(())
    }

    fn receive(&mut self, watcher: usize, completion: &CompletionPayload) {
        self.tally.receive(watcher, completion);
        // The first watcher receives everything, so its completions are printed.
        if watcher == 0
            && let Some(known) = self.tally.known(completion.execution_id)
        {
            let (flow, name) = (self.flows[known.flow].0.clone(), known.name.clone());
            self.print(&flow, &name, completion);
        }
    }

    fn print(&mut self, flow: &str, name: &str, completion: &CompletionPayload) {
        if flow == "wide" && name.starts_with("cell-") && completion.outcome == Outcome::Success {
            self.wide_cells += 1;
            return;
        }
        if flow == "wide" && name == "total" {
            self.say(&format!("{} wide: {} cells side by side", coloured(Outcome::Success), self.wide_cells));
        }
        let mut line = format!("{} {flow}: {name}", coloured(completion.outcome));
        if completion.attempt > 1 {
            line.push_str(&format!(", attempt {}", completion.attempt));
        }
        if let Some(reason) = &completion.reason {
            line.push_str(&format!(": {}", one_line(reason)));
        }
        self.say(&line);
    }

    fn say(&self, line: &str) {
        // If the reader is gone, the demo still ends in order.
        let _: out::Reader = out::line(&format!("{:>7}  {line}", text::span(self.started.elapsed())));
    }

    /// Cancels all flows when the demo ends early.
    async fn cancel_all(&self) {
        for (name, flow) in &self.flows {
            if let Err(error) = self.backend.cancel_flow(*flow, "the demo ended early").await {
                tracing::warn!(%error, flow = name, "a flow of the demo could not be cancelled");
            }
        }
    }

    /// Compares the executions that ended on the server with the received completions.
    async fn conclude(&self) -> Result<ExitCode, CliError> {
        let mut ended: Vec<ExecutionId> = Vec::new();
        let mut members = 0;
        for (_, flow) in &self.flows {
            let snapshot = self.backend.describe_flow(*flow).await?;
            members += snapshot.members.len();
            let of_flow = snapshot.members.iter().filter(|member| member.state.outcome().is_some());
            ended.extend(of_flow.map(|member| member.execution_id));
        }
        let rows = self.tally.rows(&ended);
        out::text(&format!(
            "\n{} executions of {} flows, {} completions committed in {}\n\n{}",
            members,
            self.flows.len(),
            ended.len(),
            text::span(self.started.elapsed()),
            table(&rows)
        ));
        if ended.len() != members {
            return Err(CliError::failed(
                "demo",
                format!("only {} of {members} executions ended in time", ended.len()),
            ));
        }
        match rows.iter().find(|row| !row.is_correct()) {
            None => {
                out::text("\nEvery watcher saw every completion that its filter passes, once, and no other.");
                Ok(ExitCode::SUCCESS)
            }
            Some(row) => Err(CliError::failed(
                format!("watcher {}", row.watcher),
                format!("saw {} of {} committed; see the table", row.seen, row.committed),
            )),
        }
    }
}

fn table(rows: &[Row]) -> String {
    let mut table = text::table_of(["watcher", "filter", "committed", "seen", "missing", "repeated", "unexpected"]);
    for row in rows {
        let counts =
            [row.committed, row.seen, row.missing, row.repeated, row.unexpected].map(|count| count.to_string());
        let names = [row.watcher.to_owned(), row.filter.clone()];
        table.add_row(names.into_iter().chain(counts));
    }
    table.trim_fmt()
}
