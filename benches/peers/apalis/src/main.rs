//! apalis with its Redis storage, and its workflows for flows. Its workers poll: every 5 ms, 100 tasks at a time, which
//! favours it over its defaults (10 tasks).
#![forbid(unsafe_code)]

use std::convert::Infallible;
use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Result, anyhow, bail};
use apalis::prelude::*;
use apalis_redis::{Config, RedisStorage};
use apalis_workflow::{SteppedFlow, WorkflowSink};
use futures::future::LocalBoxFuture;
use peers_kit::{Contender, Filter, Probe, Role, SLOTS, Shape, Work};
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender};
use tokio::sync::{Mutex, broadcast, oneshot};

const QUEUE: &str = "work";
/// The set of the tasks that have ended.
const DONE: &str = "work:done";
const BATCH: usize = 100;
const POLL: Duration = Duration::from_millis(5);
/// Numbers of the leaves of a fan begin at the flow's number times this.
const LEAVES: u64 = 10_000;

type Stop = broadcast::Receiver<()>;
type Ends = UnboundedSender<(u64, Instant)>;

struct Apalis {
    url: String,
    tasks: RedisStorage<String>,
    flows: RedisStorage<u64>,
    numbers: AtomicU64,
    ends: std::sync::Mutex<Option<Ends>>,
    probe: Mutex<Probe>,
}

async fn storage<T>(url: &str) -> Result<RedisStorage<T>> {
    let connection = apalis_redis::connect(url).await.map_err(|error| anyhow!("{error}"))?;
    Ok(RedisStorage::new(connection).with_config(Config::default().queue(QUEUE).batch_size(BATCH)))
}

/// Runs a worker until the signal comes.
macro_rules! worker {
    ($storage:expr, $name:expr, $stop:expr, $handler:expr) => {{
        let backend = $storage.poll_with_interval(POLL);
        let worker = WorkerBuilder::new($name).backend(backend).parallelize(tokio::spawn).build($handler);
        let mut stop: Stop = $stop;
        Box::pin(async move {
            let signal = async move {
                let _ = stop.recv().await;
                Ok::<(), std::io::Error>(())
            };
            if let Err(error) = worker.run_until(signal).await {
                eprintln!("worker: {error}");
            }
        }) as LocalBoxFuture<'static, ()>
    }};
}

async fn step(number: u64) -> Result<u64, BoxDynError> {
    Ok(number)
}

fn chain_worker(storage: RedisStorage<u64>, name: String, stop: Stop, ends: Ends) -> LocalBoxFuture<'static, ()> {
    let flow = SteppedFlow::new("chain")
        .and_then(step)
        .and_then(step)
        .and_then(step)
        .and_then(step)
        .and_then(step)
        .and_then(step)
        .and_then(step)
        .and_then(step)
        .and_then(step)
        .and_then(move |number: u64| {
            let sent = ends.send((number, Instant::now()));
            async move { sent.map_err(|error| BoxDynError::from(error.to_string())) }
        });
    worker!(storage, name, stop, flow)
}

fn fan_worker(
    width: u64,
    storage: RedisStorage<u64>,
    name: String,
    stop: Stop,
    ends: Ends,
) -> LocalBoxFuture<'static, ()> {
    let flow = SteppedFlow::new("fan")
        .and_then(move |number: u64| async move {
            Ok::<Vec<u64>, BoxDynError>((0..width).map(|leaf| number * LEAVES + leaf).collect())
        })
        .filter_map(|leaf: u64| async move { Some(leaf) })
        .fold(|(_, leaf): (u64, u64)| async move { Ok::<u64, BoxDynError>(leaf / LEAVES) })
        .and_then(move |number: u64| {
            let sent = ends.send((number, Instant::now()));
            async move { sent.map_err(|error| BoxDynError::from(error.to_string())) }
        });
    worker!(storage, name, stop, flow)
}

/// Workers that share a thread, because what drives a worker cannot move between threads. Their handlers run on the
/// runtime.
struct Workers {
    stop: broadcast::Sender<()>,
    ended: oneshot::Receiver<()>,
}

impl Workers {
    fn run<T: Send + 'static>(
        storages: Vec<RedisStorage<T>>,
        worker: impl Fn(RedisStorage<T>, String, Stop) -> LocalBoxFuture<'static, ()> + Send + 'static,
    ) -> Self {
        /// Names of workers differ, also between processes.
        static STARTED: AtomicU64 = AtomicU64::new(0);
        let (stop, _) = broadcast::channel(1);
        let (sender, ended) = oneshot::channel();
        let (stopped, runtime) = (stop.clone(), tokio::runtime::Handle::current());
        let stops: Vec<_> = storages.iter().map(|_| stopped.subscribe()).collect();
        std::thread::spawn(move || {
            runtime.block_on(async move {
                let each = storages.into_iter().zip(stops).map(|(storage, stop)| {
                    let number = STARTED.fetch_add(1, Ordering::Relaxed);
                    worker(storage, format!("worker-{}-{number}", std::process::id()), stop)
                });
                futures::future::join_all(each).await;
                let _ = sender.send(());
            });
        });
        Self { stop, ended }
    }
}

impl Apalis {
    async fn storages<T>(&self) -> Result<Vec<RedisStorage<T>>> {
        let mut all = Vec::new();
        for _ in 0..SLOTS {
            all.push(storage(&self.url).await?);
        }
        Ok(all)
    }
}

impl Contender for Apalis {
    type Workers = Workers;
    type FlowId = u64;
    type Claimed = Infallible;
    type ExecutionId = u64;
    type Subscription = Infallible;

    const NAME: &'static str = "apalis";
    /// Its script passes all waiting tasks as arguments of one command when the workers start. 8,000 are too many.
    const BACKLOG: usize = 6_000;

    fn refusal(work: &Work) -> Option<&'static str> {
        matches!(work, Work::Delivery(_) | Work::Filter(..)).then_some("it has no stream of completions")
    }

    async fn connect(url: &str, _role: Role) -> Result<Self> {
        Ok(Self {
            url: url.to_owned(),
            tasks: storage(url).await?,
            flows: storage(url).await?,
            numbers: AtomicU64::new(1),
            ends: std::sync::Mutex::default(),
            probe: Mutex::new(Probe::connect(url).await?),
        })
    }

    async fn submit(&self, payload: String) -> Result<()> {
        self.tasks.clone().push(payload).await.map_err(|error| anyhow!("{error}"))
    }

    async fn submit_bulk(&self, payloads: Vec<String>) -> Result<()> {
        self.tasks.clone().push_bulk(payloads).await.map_err(|error| anyhow!("{error}"))
    }

    async fn start(&self, job: peers_kit::Job) -> Result<Workers> {
        let ends = self.ends.lock().ok().and_then(|ends| ends.clone());
        match (job, ends) {
            (peers_kit::Job::Solo, _) => Ok(Workers::run(self.storages::<String>().await?, |storage, name, stop| {
                worker!(storage, name, stop, |_: String| async { Ok::<(), BoxDynError>(()) })
            })),
            (peers_kit::Job::Flow(Shape::Chain(10)), Some(ends)) => {
                Ok(Workers::run(self.storages().await?, move |storage, name, stop| {
                    chain_worker(storage, name, stop, ends.clone())
                }))
            }
            (peers_kit::Job::Flow(Shape::Fan(width)), Some(ends)) => {
                Ok(Workers::run(self.storages().await?, move |storage, name, stop| {
                    fan_worker(width as u64, storage, name, stop, ends.clone())
                }))
            }
            _ => bail!("a workflow has a fixed shape, and its ends have a receiver"),
        }
    }

    async fn stop(&self, workers: Workers) -> Result<()> {
        let _ = workers.stop.send(());
        // A worker may wait for its next poll or heartbeat; what it has taken has ended.
        let _ = tokio::time::timeout(Duration::from_secs(3), workers.ended).await;
        Ok(())
    }

    async fn until_ended(&self, count: usize) -> Result<()> {
        self.probe.lock().await.until(&["SCARD", DONE], count).await
    }

    async fn submit_flow(&self, _shape: Shape) -> Result<u64> {
        let number = self.numbers.fetch_add(1, Ordering::Relaxed);
        self.flows.clone().push_start(number).await.map_err(|error| anyhow!("{error}"))?;
        Ok(number)
    }

    /// A flow has ended when its last step runs: nothing else reports it.
    async fn flow_ends(&self, _shape: Shape) -> Result<UnboundedReceiver<(u64, Instant)>> {
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        if let Ok(mut ends) = self.ends.lock() {
            *ends = Some(sender);
        }
        Ok(receiver)
    }

    fn id(claimed: &Infallible) -> u64 {
        match *claimed {}
    }

    async fn complete(&self, claimed: Infallible) -> Result<()> {
        match claimed {}
    }

    async fn subscribe(&self, _filter: Filter) -> Result<Infallible> {
        bail!("it has no stream of completions")
    }

    async fn next(subscription: &mut Infallible) -> Result<u64> {
        match *subscription {}
    }
}

fn main() -> ExitCode {
    peers_kit::run::<Apalis>()
}
