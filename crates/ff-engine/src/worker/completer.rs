//! Completes executions of one partition together while another call for that partition is under way.
//!
//! A completion that finds no call under way is sent at once, with those that end at the same moment. Those that arrive
//! meanwhile wait; when the call ends, the first of them sends them all in one call. Batches thus grow with the load,
//! and no completion waits for a timer.
//!
//! There is no task that could be lost: each call is driven by the future of one of its completions. If that future is
//! dropped or panics, the other completions of its call start again, which is safe, because completing twice under one
//! lease gives the same answer.

use std::{
    collections::HashMap,
    mem,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use bytes::Bytes;
use ff_core::{EngineError, Lease, Partition, backend::WorkBackend};
use tokio::{sync::oneshot, task::yield_now};

#[derive(Debug, Default)]
pub(super) struct Completer {
    /// The partitions with a call under way, and the completions that wait for its end.
    waiting: Mutex<HashMap<Partition, Vec<Waiting>>>,
}

#[derive(Debug)]
struct Waiting {
    lease: Lease,
    result: Bytes,
    turn: oneshot::Sender<Turn>,
}

/// What a waiting completion receives.
#[derive(Debug)]
enum Turn {
    Answered(Result<(), EngineError>),
    /// It sends the next call, for itself and for these.
    Lead(Lead, Vec<Waiting>),
}

/// The right to send calls for a partition. When it is dropped, the first waiting completion gets it.
#[derive(Debug)]
struct Lead {
    completer: Arc<Completer>,
    partition: Partition,
}

impl Completer {
    fn waiting(&self) -> MutexGuard<'_, HashMap<Partition, Vec<Waiting>>> {
        // No holder can panic with the table half-changed.
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Ends an execution with success. If it `waits`, completions that the runtime has ready now go in the same call.
    ///
    /// # Errors
    /// As [`WorkBackend::complete`].
    ///
    /// # Cancel safety
    /// The completion may have been sent.
    pub(super) async fn complete<B: WorkBackend + ?Sized>(
        self: &Arc<Self>,
        backend: &B,
        lease: &Lease,
        result: &Bytes,
        waits: bool,
    ) -> Result<(), EngineError> {
        loop {
            let (lead, others) = match self.enter(lease, result) {
                Ok(lead) => {
                    if waits {
                        yield_now().await;
                    }
                    let others = lead.take_waiting();
                    (lead, others)
                }
                Err(turn) => match turn.await {
                    Ok(Turn::Answered(answer)) => return answer,
                    Ok(Turn::Lead(lead, others)) => (lead, others),
                    // The future that drove the call is gone.
                    Err(_) => continue,
                },
            };
            let answer = send(backend, lease, result, others).await;
            drop(lead);
            return answer;
        }
    }

    /// The right to send, if no call is under way for the partition; otherwise the turn to wait for.
    fn enter(self: &Arc<Self>, lease: &Lease, result: &Bytes) -> Result<Lead, oneshot::Receiver<Turn>> {
        let partition = lease.execution_id.partition();
        let mut partitions = self.waiting();
        let Some(waiting) = partitions.get_mut(&partition) else {
            partitions.insert(partition, Vec::new());
            return Ok(Lead { completer: Arc::clone(self), partition });
        };
        let (turn, receiver) = oneshot::channel();
        waiting.push(Waiting { lease: *lease, result: result.clone(), turn });
        Err(receiver)
    }
}

impl Lead {
    fn take_waiting(&self) -> Vec<Waiting> {
        self.completer.waiting().get_mut(&self.partition).map(mem::take).unwrap_or_default()
    }
}

impl Drop for Lead {
    fn drop(&mut self) {
        let mut partitions = self.completer.waiting();
        let mut waiting = match partitions.get_mut(&self.partition) {
            Some(waiting) if !waiting.is_empty() => mem::take(waiting),
            _ => {
                partitions.remove(&self.partition);
                return;
            }
        };
        drop(partitions);
        let first = waiting.remove(0);
        let lead = Self { completer: Arc::clone(&self.completer), partition: self.partition };
        // If the first one is gone, this drops the right again, and the others start again.
        let _ = first.turn.send(Turn::Lead(lead, waiting));
    }
}

/// Sends one completion with those that waited, and gives them their answers.
async fn send<B: WorkBackend + ?Sized>(
    backend: &B,
    lease: &Lease,
    result: &Bytes,
    others: Vec<Waiting>,
) -> Result<(), EngineError> {
    if others.is_empty() {
        return backend.complete(lease, result.clone()).await;
    }
    let rest = others.iter().map(|waiting| (waiting.lease, waiting.result.clone()));
    let ended: Vec<_> = std::iter::once((*lease, result.clone())).chain(rest).collect();
    let mut answers = backend.complete_many(&ended).await.into_iter();
    let unanswered = || Err(EngineError::protocol("complete", "the backend did not answer for all executions"));
    let own = answers.next().unwrap_or_else(unanswered);
    for waiting in others {
        // A receiver that is gone needs no answer.
        let _ = waiting.turn.send(Turn::Answered(answers.next().unwrap_or_else(unanswered)));
    }
    own
}
