//! The worker against a scripted backend, in virtual time.

mod completing;
mod draining;
mod ending;
mod finding;
mod typed;

use std::{
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;
use ff_core::{EngineBackend, EngineError, Failure, Lease, StateConflict, Tags, backend::WorkSignal, limits};
use tokio::{
    sync::Notify,
    task::JoinHandle,
    time::{Instant, sleep},
};
use tokio_util::sync::CancellationToken;

use super::{WorkContext, Worker, WorkerBuilder};
use crate::testing::{Call, Scripted, execution, lease, lease_in, protocol, transport};

const LEASE: Duration = Duration::from_secs(30);
const HOUR: Duration = Duration::from_secs(3_600);

struct Running {
    backend: Arc<Scripted>,
    shutdown: CancellationToken,
    task: JoinHandle<Result<(), EngineError>>,
}

/// A worker that has subscribed and asked for work once.
async fn start(backend: &Arc<Scripted>, builder: WorkerBuilder) -> Running {
    let shutdown = CancellationToken::new();
    let worker = builder.build(Arc::clone(backend)).unwrap();
    let task = tokio::spawn(worker.run(shutdown.clone()));
    backend.until(|calls| calls.contains(&Call::AwaitWork)).await;
    Running { backend: Arc::clone(backend), shutdown, task }
}

impl Running {
    async fn stop(self) -> Vec<Call> {
        self.shutdown.cancel();
        self.task.await.unwrap().unwrap();
        self.backend.calls()
    }
}

async fn done(_: WorkContext) -> Result<Bytes, Failure> {
    Ok(Bytes::from_static(b"done"))
}

async fn sleeps_for_an_hour(_: WorkContext) -> Result<Bytes, Failure> {
    sleep(HOUR).await;
    Ok(Bytes::new())
}

async fn obeys_cancellation(context: WorkContext) -> Result<Bytes, Failure> {
    context.cancelled().await;
    Err(Failure::retryable("cancelled"))
}

fn one_execution(partitions: u16) -> Arc<Scripted> {
    let backend = Scripted::new(partitions);
    backend.script(|script| script.work([execution(lease(1), "one")]));
    backend
}

fn count(calls: &[Call], wanted: impl Fn(&Call) -> bool) -> usize {
    calls.iter().filter(|call| wanted(call)).count()
}

fn reports(calls: &[Call]) -> usize {
    let reported = |call: &Call| match call {
        Call::Complete(..) | Call::Fail(..) => 1,
        Call::CompleteMany(leases) => leases.len(),
        _ => 0,
    };
    calls.iter().map(reported).sum()
}

fn released(calls: &[Call]) -> Vec<Lease> {
    let released = |call: &Call| if let Call::Release(leases) = call { leases.clone() } else { Vec::new() };
    calls.iter().flat_map(released).collect()
}

fn failures(calls: &[Call]) -> Vec<(String, bool)> {
    let failure = |call: &Call| match call {
        Call::Fail(_, reason, retryable) => Some((reason.clone(), *retryable)),
        _ => None,
    };
    calls.iter().filter_map(failure).collect()
}

fn claims(calls: &[Call]) -> Vec<(u16, u32)> {
    let claim = |call: &Call| match call {
        Call::Claim(partition, max) => Some((*partition, *max)),
        _ => None,
    };
    calls.iter().filter_map(claim).collect()
}
