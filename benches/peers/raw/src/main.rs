//! The limit: the writes that FlowFabric made when it was first measured. Each call is one function of three to nine
//! commands without a check, a plan or a read. Client library, connection and calls at once are those of FlowFabric.
//! The process itself knows what is to be done next. It delivers by a function that only publishes.
#![forbid(unsafe_code)]

mod calls;

use std::process::ExitCode;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use fred::prelude::{Builder, ClientLike, Config, EventInterface, PubsubInterface};
use fred::types::{Message, RespVersion};
use peers_kit::{Contender, Filter, How, Job, Role, SLOTS, Shape, Work};
use tokio::sync::broadcast::Receiver;
use tokio::sync::mpsc::{UnboundedReceiver, UnboundedSender, unbounded_channel};
use tokio::sync::{Mutex, broadcast::error::RecvError};
use tokio::task::JoinHandle;

use crate::calls::{Calls, FLOWS, Flow, PARTITIONS};

/// How many dependents one call promotes.
const DEPENDENTS: usize = 256;
/// Messages that a subscriber may lag behind.
const ROOM: usize = 131_072;

/// One execution that can be claimed.
enum Waiting {
    Solo(usize),
    /// A member by its index.
    Member(Arc<Run>, usize),
}

/// A flow that runs.
struct Run {
    flow: Flow,
    shape: Shape,
    ended: AtomicUsize,
}

/// What the workers share.
struct Shared {
    calls: Calls,
    waiting: UnboundedSender<Waiting>,
    next: Mutex<UnboundedReceiver<Waiting>>,
    ended: AtomicUsize,
    flow_ends: std::sync::Mutex<Option<UnboundedSender<(String, Instant)>>>,
}

struct Raw {
    url: String,
    shared: Arc<Shared>,
    submitted: AtomicUsize,
}

impl Shared {
    fn add(&self, waiting: impl IntoIterator<Item = Waiting>) {
        for one in waiting {
            // The receiver lives as long as this.
            let _ = self.waiting.send(one);
        }
    }

    async fn work(self: Arc<Self>) -> Result<()> {
        loop {
            let next = self.next.lock().await.recv().await;
            match next.context("the queue ended")? {
                Waiting::Solo(partition) => {
                    let uuid = self.calls.claim(partition).await?;
                    self.calls.complete(partition, &uuid).await?;
                    self.ended.fetch_add(1, Ordering::Relaxed);
                }
                Waiting::Member(run, index) => self.run_member(&run, index).await?,
            }
        }
    }

    /// Any waiting member may be claimed; the one that is completed is the one at `index`.
    async fn run_member(&self, run: &Arc<Run>, index: usize) -> Result<()> {
        let flow = &run.flow;
        self.calls.claim(flow.partition).await?;
        let (members, uuid) = (flow.members.len(), &flow.members[index]);
        let ended = run.ended.fetch_add(1, Ordering::Relaxed) + 1;
        let left = members - ended;
        let next = match run.shape {
            Shape::Chain(_) => index + 1..members.min(index + 2),
            Shape::Fan(width) if index == 0 => 1..width + 1,
            Shape::Fan(_) if index == members - 1 => members..members,
            Shape::Fan(_) => members - 1..members,
        };
        // The last member of a fan can be claimed when it alone is left.
        let promote = index == 0 || matches!(run.shape, Shape::Chain(_)) || left == 1;
        if next.is_empty() {
            self.calls.complete_member(flow, uuid, left, (&[], false)).await?;
        }
        for some in flow.members[next.clone()].chunks(DEPENDENTS) {
            self.calls.complete_member(flow, uuid, left, (some, promote)).await?;
        }
        if promote {
            self.add(next.map(|index| Waiting::Member(run.clone(), index)));
        }
        if left == 0 {
            let sender = self.flow_ends.lock().ok().and_then(|sender| sender.clone());
            sender.context("nobody waits for flows")?.send((flow.id.clone(), Instant::now()))?;
        }
        Ok(())
    }
}

impl Raw {
    fn partition(&self) -> usize {
        self.submitted.fetch_add(1, Ordering::Relaxed) % PARTITIONS
    }
}

impl Contender for Raw {
    type Workers = Vec<JoinHandle<()>>;
    type FlowId = String;
    type Claimed = (usize, String);
    type ExecutionId = String;
    type Subscription = (fred::prelude::Client, Receiver<Message>);

    const NAME: &'static str = "raw";

    fn refusal(work: &Work) -> Option<&'static str> {
        match work {
            Work::Cycle(_, How::Bulk) => Some("its functions take one execution"),
            Work::Filter(filter, _) if *filter != Filter::None => Some("Pub/Sub has no filter"),
            Work::Filter(_, 100) => Some("one connection serves all subscribers of a process"),
            Work::Idle => Some("it has no processes that wait"),
            _ => None,
        }
    }

    async fn connect(url: &str, _role: Role) -> Result<Self> {
        let (waiting, next) = unbounded_channel();
        let shared = Shared {
            calls: Calls::connect(url).await?,
            waiting,
            next: Mutex::new(next),
            ended: AtomicUsize::new(0),
            flow_ends: std::sync::Mutex::default(),
        };
        Ok(Self { url: url.to_owned(), shared: Arc::new(shared), submitted: AtomicUsize::new(0) })
    }

    async fn submit(&self, payload: String) -> Result<()> {
        let partition = self.partition();
        self.shared.calls.submit(partition, &payload).await?;
        self.shared.add([Waiting::Solo(partition)]);
        Ok(())
    }

    async fn start(&self, _job: Job) -> Result<Self::Workers> {
        let worker = |_| {
            let shared = self.shared.clone();
            tokio::spawn(async move { shared.work().await.expect("a function does not fail") })
        };
        Ok((0..SLOTS).map(worker).collect())
    }

    async fn stop(&self, workers: Self::Workers) -> Result<()> {
        workers.iter().for_each(JoinHandle::abort);
        Ok(())
    }

    async fn until_ended(&self, count: usize) -> Result<()> {
        while self.shared.ended.load(Ordering::Relaxed) < count {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    async fn submit_flow(&self, shape: Shape) -> Result<String> {
        let flow = self.shared.calls.submit_flow(self.partition(), shape.members()).await?;
        let id = flow.id.clone();
        self.shared.add([Waiting::Member(Arc::new(Run { flow, shape, ended: AtomicUsize::new(0) }), 0)]);
        Ok(id)
    }

    async fn flow_ends(&self, _shape: Shape) -> Result<UnboundedReceiver<(String, Instant)>> {
        let (sender, receiver) = unbounded_channel();
        if let Ok(mut ends) = self.shared.flow_ends.lock() {
            *ends = Some(sender);
        }
        Ok(receiver)
    }

    async fn claim_many(&self, count: usize) -> Result<Vec<(usize, String)>> {
        Ok((0..count).map(|_| (self.partition(), calls::new_uuid())).collect())
    }

    fn id((_, uuid): &(usize, String)) -> String {
        uuid.clone()
    }

    async fn complete(&self, (partition, uuid): (usize, String)) -> Result<()> {
        self.shared.calls.publish(partition, &uuid).await
    }

    async fn subscribe(&self, _filter: Filter) -> Result<Self::Subscription> {
        let mut config = Config::from_url(&self.url)?;
        config.version = RespVersion::RESP3;
        let mut builder = Builder::from_config(config);
        builder.with_performance_config(|performance| performance.broadcast_channel_capacity = ROOM);
        let client = builder.build()?;
        client.init().await?;
        let messages = client.message_rx();
        let () = client.subscribe(FLOWS).await?;
        Ok((client, messages))
    }

    async fn next((_, messages): &mut Self::Subscription) -> Result<String> {
        let message = match messages.recv().await {
            Err(RecvError::Lagged(missed)) => anyhow::bail!("{missed} messages were dropped"),
            other => other?,
        };
        let text = message.value.as_string().context("an event is a text")?;
        calls::uuid_of(&text).context("an event names its execution")
    }
}

fn main() -> ExitCode {
    peers_kit::run::<Raw>()
}
