//! What a contender offers to the workloads.

use std::future::Future;
use std::hash::Hash;
use std::time::Instant;

use anyhow::{Result, bail};
use tokio::sync::mpsc::UnboundedReceiver;

use crate::work::Work;

/// What a process of a contender is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Role {
    /// Everything that one deployment needs.
    Whole,
    /// A further process of the same deployment, which only works.
    Worker,
}

/// What the workers are for. Some contenders have workers of another type for flows.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Job {
    /// Executions without dependencies.
    Solo,
    /// The members of flows of this shape.
    Flow(Shape),
}

/// The dependencies within a flow.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Shape {
    /// So many executions, each of which needs the one before.
    Chain(usize),
    /// One execution, so many that need it, and one that needs all of these.
    Fan(usize),
}

impl Shape {
    /// How many executions a flow has.
    #[must_use]
    pub fn members(self) -> usize {
        match self {
            Self::Chain(length) => length,
            Self::Fan(width) => width + 2,
        }
    }

    /// The members that each member needs, by their indexes. A member needs only earlier ones.
    #[must_use]
    pub fn needs(self) -> Vec<Vec<usize>> {
        match self {
            Self::Chain(length) => (0..length).map(|at| at.checked_sub(1).into_iter().collect()).collect(),
            Self::Fan(width) => {
                let middle = (0..width).map(|_| vec![0]);
                std::iter::once(Vec::new()).chain(middle).chain([(1..=width).collect()]).collect()
            }
        }
    }
}

/// Which completions a subscriber asks for. All executions of the workload pass each of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Filter {
    /// All.
    None,
    /// Those of the namespace [`Filter::NAMESPACE`].
    Namespace,
    /// Those with the tag [`Filter::TAG`].
    Tag,
}

impl Filter {
    /// The namespace of all executions that are delivered.
    pub const NAMESPACE: &str = "tenant";
    /// The tag of all executions that are delivered.
    pub const TAG: (&str, &str) = ("region", "eu");
}

/// A library that is compared, connected to a server.
///
/// Handlers do nothing. A contender that cannot do a [`Work`] says why in [`refusal`](Contender::refusal), and its
/// methods for it are never called.
pub trait Contender: Sized + Send + Sync + 'static {
    /// Running workers.
    type Workers: Send;
    /// Names a flow.
    type FlowId: Eq + Hash + Send + 'static;
    /// An execution that this process has claimed.
    type Claimed: Send + 'static;
    /// Names an execution.
    type ExecutionId: Eq + Hash + Send + 'static;
    /// A stream of completions.
    type Subscription: Send + 'static;

    /// The name in records and on the command line.
    const NAME: &'static str;
    /// The largest number of waiting executions with which its workers can start.
    const BACKLOG: usize = usize::MAX;
    /// Whether it is so slow that it gets fewer rounds and executions.
    const FEWER: bool = false;
    /// Whether its workers have to stand still while a flow is written.
    const HOLDS_WORKERS: bool = false;

    /// Why it cannot do this work, if so.
    fn refusal(_work: &Work) -> Option<&'static str> {
        None
    }

    /// Connects, and starts what its documentation asks a deployment to run beside its workers.
    fn connect(url: &str, role: Role) -> impl Future<Output = Result<Self>> + Send;

    /// Submits one execution without dependencies.
    fn submit(&self, payload: String) -> impl Future<Output = Result<()>> + Send;

    /// Submits many executions without dependencies in the way that is meant for many.
    fn submit_bulk(&self, _payloads: Vec<String>) -> impl Future<Output = Result<()>> + Send {
        async { bail!("{} has no submission in bulk", Self::NAME) }
    }

    /// Starts workers with [`SLOTS`](crate::SLOTS) slots in all.
    fn start(&self, job: Job) -> impl Future<Output = Result<Self::Workers>> + Send;

    /// Stops workers and waits until they have ended.
    fn stop(&self, workers: Self::Workers) -> impl Future<Output = Result<()>> + Send;

    /// Returns once so many executions without dependencies have ended since [`connect`](Contender::connect).
    fn until_ended(&self, count: usize) -> impl Future<Output = Result<()>> + Send;

    /// Lets workers stand still or continue, if [`HOLDS_WORKERS`](Contender::HOLDS_WORKERS).
    fn hold(&self, _hold: bool) {}

    /// Submits a flow.
    fn submit_flow(&self, shape: Shape) -> impl Future<Output = Result<Self::FlowId>> + Send;

    /// The flows of this shape that end from now on, with the time at which this process learned of it.
    fn flow_ends(
        &self,
        shape: Shape,
    ) -> impl Future<Output = Result<UnboundedReceiver<(Self::FlowId, Instant)>>> + Send;

    /// Submits so many executions that pass every [`Filter`], and claims all of them.
    fn claim_many(&self, _count: usize) -> impl Future<Output = Result<Vec<Self::Claimed>>> + Send {
        async { bail!("{} does not deliver", Self::NAME) }
    }

    /// The name of a claimed execution.
    fn id(claimed: &Self::Claimed) -> Self::ExecutionId;

    /// Ends an execution. Returns once that is committed.
    fn complete(&self, claimed: Self::Claimed) -> impl Future<Output = Result<()>> + Send;

    /// Opens a subscription.
    fn subscribe(&self, _filter: Filter) -> impl Future<Output = Result<Self::Subscription>> + Send {
        async { bail!("{} does not deliver", Self::NAME) }
    }

    /// The next execution of which the subscription reports the end.
    fn next(subscription: &mut Self::Subscription) -> impl Future<Output = Result<Self::ExecutionId>> + Send;
}
