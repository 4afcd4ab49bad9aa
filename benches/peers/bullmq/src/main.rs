//! BullMQ in its Rust port, which runs the Lua scripts of BullMQ for Node.js. A worker with a concurrency, events of a
//! worker in its process and of the queue elsewhere, and flows as trees: all as its README shows.
#![forbid(unsafe_code)]

use std::collections::HashMap;
use std::process::ExitCode;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use bullmq::flow_producer::FlowProducerOptions;
use bullmq::options::{QueueOptions, RedisConnectionOptions, WorkerOptions};
use bullmq::worker::WorkerEvent;
use bullmq::{
    BulkJob, FlowJob, FlowProducer, Job as BullJob, Queue, QueueEvent, QueueEvents, QueueEventsOptions, Worker,
};
use peers_kit::{Contender, Filter, Job, Role, SLOTS, Shape, Work};
use serde_json::Value;
use tokio::sync::mpsc::UnboundedReceiver;
use tokio::task::JoinHandle;

const QUEUE: &str = "work";
/// The job whose handler adds the rest of a fan: a tree has no job before its leaves.
const FIRST: &str = "first";
/// The job that ends last: the root of the tree.
const LAST: &str = "last";
/// How long a stop waits for running jobs, ms.
const GRACE: u64 = 1_000;
/// Longer than any workload, ms.
const LONG_LOCK: u64 = 3_600_000;

struct BullMq {
    url: String,
    queue: Queue,
    producer: Arc<FlowProducer>,
    ended: Arc<AtomicUsize>,
    /// The flows whose last job is known, by the id of that job. The name of a fan is the id of its first job.
    flows: Arc<Mutex<HashMap<String, String>>>,
}

/// Running workers, and the task that reads their events.
type Running = (Arc<Worker>, JoinHandle<()>);

fn connection(url: &str) -> RedisConnectionOptions {
    RedisConnectionOptions { url: url.to_owned(), ..Default::default() }
}

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn job(name: impl ToString) -> Result<FlowJob> {
    Ok(FlowJob::new(name.to_string(), QUEUE, ())?)
}

/// The last job of a chain is the root; each has the one before as its child.
fn chain(length: usize) -> Result<FlowJob> {
    let before_last = (1..length - 1).try_fold(job(0)?, |before, index| anyhow::Ok(job(index)?.add_child(before)))?;
    Ok(job(LAST)?.add_child(before_last))
}

impl BullMq {
    async fn events(&self) -> Result<QueueEvents> {
        let options = QueueEventsOptions { connection: connection(&self.url), ..Default::default() };
        Ok(QueueEvents::with_options(QUEUE, options).await?)
    }

    /// Counts the jobs that a worker has completed.
    fn count(&self, worker: Arc<Worker>) -> Running {
        let (ended, events) = (self.ended.clone(), worker.clone());
        let counting = tokio::spawn(async move {
            while let Some(event) = events.next_event().await {
                if let WorkerEvent::Completed { .. } = event {
                    ended.fetch_add(1, Ordering::Relaxed);
                }
            }
        });
        (worker, counting)
    }
}

impl Contender for BullMq {
    type Workers = Running;
    type FlowId = String;
    type Claimed = BullJob;
    type ExecutionId = String;
    type Subscription = QueueEvents;

    const NAME: &'static str = "bullmq";

    fn refusal(work: &Work) -> Option<&'static str> {
        matches!(work, Work::Filter(filter, _) if *filter != Filter::None).then_some("its events have no filter")
    }

    async fn connect(url: &str, _role: Role) -> Result<Self> {
        let queue =
            Queue::with_options(QUEUE, QueueOptions { connection: connection(url), ..Default::default() }).await?;
        let producer = FlowProducer::with_options(FlowProducerOptions::new().connection(connection(url))).await?;
        let (ended, flows) = (Arc::default(), Arc::default());
        Ok(Self { url: url.to_owned(), queue, producer: Arc::new(producer), ended, flows })
    }

    async fn submit(&self, payload: String) -> Result<()> {
        self.queue.add("job", payload).await?;
        Ok(())
    }

    async fn submit_bulk(&self, payloads: Vec<String>) -> Result<()> {
        self.queue.add_bulk(payloads.into_iter().map(|payload| BulkJob::new("job", payload)).collect()).await?;
        Ok(())
    }

    async fn start(&self, work: Job) -> Result<Running> {
        let width = if let Job::Flow(Shape::Fan(width)) = work { width } else { 0 };
        let (producer, flows) = (self.producer.clone(), self.flows.clone());
        let handler = move |job: BullJob, _| {
            let (producer, flows) = (producer.clone(), flows.clone());
            async move {
                if job.name() == FIRST {
                    let leaves = (0..width).map(|index| FlowJob::new(index.to_string(), QUEUE, ()));
                    let leaves = leaves.collect::<Result<Vec<_>, _>>()?;
                    let root = producer.add(FlowJob::new(LAST, QUEUE, ())?.children(leaves)).await?;
                    lock(&flows).insert(root.job.id().to_owned(), job.id().to_owned());
                } else if job.name() == LAST && width == 0 {
                    lock(&flows).insert(job.id().to_owned(), job.id().to_owned());
                }
                Ok(Value::Null)
            }
        };
        let options = WorkerOptions { connection: connection(&self.url), concurrency: SLOTS, ..Default::default() };
        Ok(self.count(Arc::new(Worker::with_options(QUEUE, handler, options).await?)))
    }

    async fn stop(&self, (worker, counting): Running) -> Result<()> {
        worker.close(GRACE).await?;
        counting.abort();
        Ok(())
    }

    async fn until_ended(&self, count: usize) -> Result<()> {
        while self.ended.load(Ordering::Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn submit_flow(&self, shape: Shape) -> Result<String> {
        Ok(match shape {
            Shape::Chain(length) => self.producer.add(chain(length)?).await?.job.id().to_owned(),
            Shape::Fan(_) => self.queue.add(FIRST, ()).await?.id().to_owned(),
        })
    }

    async fn flow_ends(&self, _shape: Shape) -> Result<UnboundedReceiver<(String, Instant)>> {
        let (events, flows) = (self.events().await?, self.flows.clone());
        let (sender, receiver) = tokio::sync::mpsc::unbounded_channel();
        tokio::spawn(async move {
            while let Some(entry) = events.next_event().await {
                let QueueEvent::Completed { job_id, .. } = entry.event else { continue };
                let flow = lock(&flows).remove(&job_id);
                if flow.is_some_and(|flow| sender.send((flow, Instant::now())).is_err()) {
                    return;
                }
            }
        });
        Ok(receiver)
    }

    async fn claim_many(&self, count: usize) -> Result<Vec<BullJob>> {
        self.submit_bulk(vec![String::new(); count]).await?;
        let options = WorkerOptions {
            connection: connection(&self.url),
            autorun: false,
            lock_duration: LONG_LOCK,
            skip_stalled_check: true,
            skip_lock_renewal: true,
            ..Default::default()
        };
        let worker = Worker::with_options(QUEUE, |_: BullJob, _| async { Ok(Value::Null) }, options).await?;
        let mut jobs = Vec::with_capacity(count);
        while jobs.len() < count {
            jobs.push(worker.get_next_job_nonblocking("holder").await?.context("a job is waiting")?);
        }
        Ok(jobs)
    }

    fn id(claimed: &BullJob) -> String {
        claimed.id().to_owned()
    }

    async fn complete(&self, mut claimed: BullJob) -> Result<()> {
        claimed.move_to_completed("{\"ok\":true}").await?;
        Ok(())
    }

    async fn subscribe(&self, _filter: Filter) -> Result<QueueEvents> {
        self.events().await
    }

    async fn next(subscription: &mut QueueEvents) -> Result<String> {
        loop {
            let entry = subscription.next_event().await.context("the events ended")?;
            if let QueueEvent::Completed { job_id, .. } = entry.event {
                return Ok(job_id);
            }
        }
    }
}

fn main() -> ExitCode {
    peers_kit::run::<BullMq>()
}
