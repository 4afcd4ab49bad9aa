//! Claiming, renewing and ending work.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use ff_core::{
    ClaimedExecution, EngineError, ExecutionId, Failure, FlowId, LaneId, Lease, Namespace, Partition, StateConflict,
    Tags, WorkerId,
    backend::{Claim, ClaimRequest, FailOutcome, ReleaseOutcome, RenewOutcome},
    limits,
};

use super::{Operations, ReplyReader, arg, block_and, call, control::reason_argument, flag, not_found, submit::millis};
use crate::{
    host::{Call, Reply, ScriptHost},
    keys,
};

/// The most leases that one call renews.
const RENEWED_AT_ONCE: usize = 48;
/// The most leases that one call gives back.
const RELEASED_AT_ONCE: usize = 24;
/// The most executions that one call completes, and the most bytes of their results unless the first has more.
const COMPLETED_AT_ONCE: usize = 16;
const COMPLETED_BYTES: usize = 64 << 10;

impl<H: ScriptHost> Operations<H> {
    /// See [`ff_core::backend::WorkBackend::await_work`].
    ///
    /// # Errors
    /// As there.
    pub async fn await_work(&self, lane: &LaneId, partitions: &[Partition]) -> Result<Vec<Partition>, EngineError> {
        let calls = partitions
            .iter()
            .map(|partition| {
                call("ff1_await_work", keys::partition_block(*partition), vec![arg(lane), arg(self.listener)])
            })
            .collect();
        let (mut ready, mut answered, mut failure) = (Vec::new(), 0_usize, None);
        for (partition, reply) in partitions.iter().zip(self.host.fcall_many(calls).await) {
            match reply.and_then(|reply| ReplyReader::new("await work", &reply).flag()) {
                Ok(has_work) => {
                    answered += 1;
                    ready.extend(has_work.then_some(*partition));
                }
                Err(error) => {
                    tracing::debug!(%partition, %error, "could not check the partition for work");
                    failure = Some(error);
                }
            }
        }
        // A partition that cannot be read must not hide the work in the others.
        failure.filter(|_| answered == 0).map_or(Ok(ready), Err)
    }

    /// See [`ff_core::backend::WorkBackend::claim`].
    ///
    /// # Errors
    /// As there.
    pub async fn claim(&self, request: &ClaimRequest) -> Result<Claim, EngineError> {
        limits::check_number("executions of a claim", request.max.into(), 1..=limits::CLAIM_BATCH as u64)?;
        check_lease(request.lease)?;
        let reply = self.run(claiming(request, &arg(self.listener))).await?;
        let mut reader = ReplyReader::new("claim", &reply);
        let more = reader.flag()?;
        let mut executions = Vec::new();
        while !reader.is_at_end() {
            executions.push(read_claimed(&mut reader, request.partition)?);
        }
        Ok(Claim::new(executions, more))
    }

    /// See [`ff_core::backend::WorkBackend::pass_on`].
    ///
    /// # Errors
    /// As there.
    pub async fn pass_on(&self, lane: &LaneId, partition: Partition) -> Result<bool, EngineError> {
        self.claim_nothing(lane, partition, &arg(self.listener)).await
    }

    /// Passes a work signal on that no worker of this process takes. The process is not registered again: it cannot use
    /// the next signal either.
    ///
    /// # Errors
    /// Transport errors.
    pub async fn decline(&self, lane: &LaneId, partition: Partition) -> Result<(), EngineError> {
        self.claim_nothing(lane, partition, &Bytes::new()).await.map(drop)
    }

    /// A claim of no executions.
    async fn claim_nothing(&self, lane: &LaneId, partition: Partition, listener: &Bytes) -> Result<bool, EngineError> {
        let request = ClaimRequest::new(WorkerId::new("none")?, lane.clone(), partition).max(0);
        let reply = self.run(claiming(&request, listener)).await?;
        ReplyReader::new("pass on", &reply).flag()
    }

    /// See [`ff_core::backend::WorkBackend::renew`].
    ///
    /// # Errors
    /// As there.
    pub async fn renew(&self, leases: &[Lease], lease: Duration) -> Result<Vec<RenewOutcome>, EngineError> {
        check_lease(lease)?;
        let read = |reader: &mut ReplyReader<'_>| match reader.text()? {
            "0" => Ok(RenewOutcome::LeaseLost),
            "1" => Ok(RenewOutcome::Renewed),
            "2" => Ok(RenewOutcome::TimedOut),
            "?" => Ok(RenewOutcome::Unknown),
            other => Err(reader.malformed(other)),
        };
        let first = millis(lease);
        let batches = Batches::new("ff1_renew", leases, RENEWED_AT_ONCE, &first);
        let replies = self.host.fcall_apart(batches.calls()).await;
        batches.read(replies, RenewOutcome::Unknown, read)
    }

    /// See [`ff_core::backend::WorkBackend::release`].
    ///
    /// # Errors
    /// As there.
    pub async fn release(&self, leases: &[Lease]) -> Result<Vec<ReleaseOutcome>, EngineError> {
        let read = |reader: &mut ReplyReader<'_>| match reader.text()? {
            "0" => Ok(ReleaseOutcome::LeaseLost),
            "1" => Ok(ReleaseOutcome::Released),
            "?" => Ok(ReleaseOutcome::Unknown),
            other => Err(reader.malformed(other)),
        };
        let first = self.policy.argument();
        let batches = Batches::new("ff1_release", leases, RELEASED_AT_ONCE, &first);
        let replies = self.host.fcall_many(batches.calls()).await;
        batches.read(replies, ReleaseOutcome::Unknown, read)
    }

    /// See [`ff_core::backend::WorkBackend::complete`].
    ///
    /// # Errors
    /// As there.
    pub async fn complete(&self, lease: &Lease, result: Bytes) -> Result<(), EngineError> {
        self.check_result(lease, &result)?;
        let is_text = std::str::from_utf8(&result).is_ok();
        let reply = self.end("ff1_complete", lease, [result, flag(is_text)]).await?;
        let mut reader = ReplyReader::new("complete", &reply);
        match reader.text()? {
            "ok" => warn_if_publish_refused(&mut reader),
            word => Err(refusal(word, lease, &reader)),
        }
    }

    /// See [`ff_core::backend::WorkBackend::complete_many`].
    pub async fn complete_many(&self, ended: &[(Lease, Bytes)]) -> Vec<Result<(), EngineError>> {
        let mut outcomes: Vec<_> = ended.iter().map(|(lease, result)| self.check_result(lease, result)).collect();
        let mut left: Vec<usize> = (0..ended.len()).filter(|index| outcomes[*index].is_ok()).collect();
        while !left.is_empty() {
            let parts = completion_parts(ended, &left);
            let calls = parts.iter().map(|part| self.completing(part.iter().map(|index| &ended[*index]))).collect();
            left.clear();
            for (part, reply) in parts.iter().zip(self.host.fcall_many(calls).await) {
                let answers =
                    reply.and_then(|reply| read_completions(&reply, part.iter().map(|index| &ended[*index].0)));
                match answers {
                    Ok(answers) => {
                        for (index, answer) in part.iter().zip(answers) {
                            match answer {
                                Some(answer) => outcomes[*index] = answer,
                                None => left.push(*index),
                            }
                        }
                    }
                    // A user of an earlier version has no right to the function.
                    Err(EngineError::PermissionDenied { .. }) => {
                        let singly = part.iter().map(|index| {
                            let (lease, result) = &ended[*index];
                            self.complete(lease, result.clone())
                        });
                        let answers = futures::future::join_all(singly).await;
                        part.iter().zip(answers).for_each(|(index, answer)| outcomes[*index] = answer);
                    }
                    Err(error) => part.iter().for_each(|index| outcomes[*index] = Err(error.clone())),
                }
            }
        }
        outcomes
    }

    fn completing<'a>(&self, ended: impl Iterator<Item = &'a (Lease, Bytes)> + Clone) -> Call {
        let partition = ended.clone().next().map_or(Partition::new(0), |(lease, _)| lease.execution_id.partition());
        let keys = ended.clone().flat_map(|(lease, _)| cores(lease));
        let mut args = vec![self.policy.argument()];
        for (lease, result) in ended {
            let is_text = flag(std::str::from_utf8(result).is_ok());
            args.extend([
                arg(lease.execution_id.uuid()),
                arg(lease.epoch),
                arg(lease.attempt),
                result.clone(),
                is_text,
            ]);
        }
        call("ff1_complete_many", block_and(partition, keys), args)
    }

    /// Refuses a result that is too long, and an id of another deployment.
    fn check_result(&self, lease: &Lease, result: &Bytes) -> Result<(), EngineError> {
        if result.len() > limits::PAYLOAD_BYTES {
            return Err(EngineError::invalid(
                format!("a result of {} bytes", result.len()),
                format!("at most {} are kept; store it elsewhere and return a reference", limits::PAYLOAD_BYTES),
            ));
        }
        self.check(lease.execution_id)
    }

    /// See [`ff_core::backend::WorkBackend::fail`].
    ///
    /// # Errors
    /// As there.
    pub async fn fail(&self, lease: &Lease, failure: &Failure) -> Result<FailOutcome, EngineError> {
        let reply = self.end("ff1_fail", lease, [reason_argument(&failure.reason), flag(failure.retryable)]).await?;
        let mut reader = ReplyReader::new("fail", &reply);
        match reader.text()? {
            "ok" => warn_if_publish_refused(&mut reader).map(|()| FailOutcome::Ended),
            "retry" => Ok(FailOutcome::Retry { after: Duration::from_millis(reader.number()?) }),
            word => Err(refusal(word, lease, &reader)),
        }
    }

    async fn end(&self, function: &'static str, lease: &Lease, rest: [Bytes; 2]) -> Result<Vec<Bytes>, EngineError> {
        let id = lease.execution_id;
        self.check(id)?;
        let keys = block_and(id.partition(), cores(lease));
        let mut args = vec![self.policy.argument(), arg(id.uuid()), arg(lease.epoch), arg(lease.attempt)];
        args.extend(rest);
        self.run(call(function, keys, args)).await
    }
}

/// The core of an execution, and of its flow if it has one.
fn cores(lease: &Lease) -> impl Iterator<Item = String> + use<> {
    let id = lease.execution_id;
    let flow = lease.flow_id.map(|flow| keys::flow_core(id.partition(), flow));
    std::iter::once(keys::execution_core(id)).chain(flow)
}

/// The executions (of the indices `left`) that each call completes.
fn completion_parts(ended: &[(Lease, Bytes)], left: &[usize]) -> Vec<Vec<usize>> {
    let mut by_partition: BTreeMap<Partition, Vec<usize>> = BTreeMap::new();
    for index in left {
        by_partition.entry(ended[*index].0.execution_id.partition()).or_default().push(*index);
    }
    let mut parts = Vec::new();
    for indices in by_partition.into_values() {
        let (mut part, mut bytes) = (Vec::new(), 0);
        for index in indices {
            let length = ended[index].1.len();
            if part.len() == COMPLETED_AT_ONCE || !part.is_empty() && bytes + length > COMPLETED_BYTES {
                parts.push(std::mem::take(&mut part));
                bytes = 0;
            }
            part.push(index);
            bytes += length;
        }
        parts.push(part);
    }
    parts
}

/// The outcome of each completion of a call; `None` for those that need another call.
fn read_completions<'a>(
    reply: &Reply,
    leases: impl Iterator<Item = &'a Lease>,
) -> Result<Vec<Option<Result<(), EngineError>>>, EngineError> {
    let mut reader = ReplyReader::new("complete", reply);
    warn_if_publish_refused(&mut reader)?;
    let mut answers = Vec::new();
    for lease in leases {
        let (word, detail) = (reader.text()?, reader.text()?);
        answers.push(match word {
            "ok" => Some(Ok(())),
            "later" => None,
            "?" => Some(Err(EngineError::protocol("complete", detail))),
            word => Some(Err(refusal(word, lease, &reader))),
        });
    }
    Ok(answers)
}

/// The completion is in the log; only its announcement was refused, so subscribers see it late.
pub(super) fn warn_if_publish_refused(reader: &mut ReplyReader<'_>) -> Result<(), EngineError> {
    if reader.flag()? {
        tracing::warn!("the server refused to publish a completion: this user lacks the channel permission &ff:*");
    }
    Ok(())
}

fn claiming(request: &ClaimRequest, listener: &Bytes) -> Call {
    let ClaimRequest { worker, lane, partition, max, lease, id, .. } = request;
    let keys = block_and(*partition, [keys::claim_record(*partition, worker)]);
    let id_text = id.map(|id| id.to_string()).unwrap_or_default();
    let args = vec![arg(lane), arg(worker), arg(max), millis(*lease), listener.clone(), arg(id_text)];
    // Without an id a repeated claim would take further executions, and the first ones would be lost until their leases
    // expire.
    Call { idempotent: id.is_some() || *max == 0, ..call("ff1_claim", keys, args) }
}

fn check_lease(lease: Duration) -> Result<(), EngineError> {
    limits::check_duration("lease", lease, Duration::from_millis(1))
}

/// The calls of a function that takes a limited number of leases of one partition.
struct Batches<'a> {
    function: &'static str,
    leases: &'a [Lease],
    first: &'a Bytes,
    /// The indices of each call's leases in the list.
    indices: Vec<(Partition, Vec<usize>)>,
}

impl<'a> Batches<'a> {
    fn new(function: &'static str, leases: &'a [Lease], at_once: usize, first: &'a Bytes) -> Self {
        let mut by_partition: BTreeMap<Partition, Vec<usize>> = BTreeMap::new();
        for (index, held) in leases.iter().enumerate() {
            by_partition.entry(held.execution_id.partition()).or_default().push(index);
        }
        let chunks = |(partition, indices): (&Partition, &Vec<usize>)| {
            let partition = *partition;
            indices.chunks(at_once).map(move |chunk| (partition, chunk.to_vec())).collect::<Vec<_>>()
        };
        let indices = by_partition.iter().flat_map(chunks).collect();
        Self { function, leases, first, indices }
    }

    fn calls(&self) -> Vec<Call> {
        self.indices.iter().map(|(partition, indices)| self.call(*partition, indices)).collect()
    }

    fn call(&self, partition: Partition, indices: &[usize]) -> Call {
        let held = || indices.iter().map(|index| &self.leases[*index]);
        let keys = block_and(partition, held().map(|held| keys::execution_core(held.execution_id)));
        let mut args = vec![self.first.clone()];
        for held in held() {
            args.extend([arg(held.execution_id.uuid()), arg(held.epoch), arg(held.attempt)]);
        }
        call(self.function, keys, args)
    }

    /// One outcome per lease, in the order of the leases.
    fn read<T: Copy>(
        &self,
        replies: Vec<Result<Reply, EngineError>>,
        without_reply: T,
        read: impl Fn(&mut ReplyReader<'_>) -> Result<T, EngineError>,
    ) -> Result<Vec<T>, EngineError> {
        let mut outcomes = vec![without_reply; self.leases.len()];
        let (mut answered, mut failure) = (0_usize, None);
        for ((partition, indices), reply) in self.indices.iter().zip(replies) {
            let reply = match reply {
                Ok(reply) => reply,
                Err(error) => {
                    tracing::debug!(%partition, %error, function = self.function, "a call for leases failed");
                    failure = Some(error);
                    continue;
                }
            };
            answered += 1;
            let mut reader = ReplyReader::new(self.function, &reply);
            for index in indices {
                outcomes[*index] = read(&mut reader)?;
            }
        }
        // A partition that cannot be read must not cost the leases in the others.
        failure.filter(|_| answered == 0).map_or(Ok(outcomes), Err)
    }
}

fn read_claimed(reader: &mut ReplyReader<'_>, partition: Partition) -> Result<ClaimedExecution, EngineError> {
    let execution_id = ExecutionId::from_parts(partition, reader.parse()?);
    let flow_id = reader.optional::<FlowId>()?;
    let name = reader.text()?.to_owned();
    let namespace: Namespace = reader.parse()?;
    let tags = read_tags(reader)?;
    let payload = reader.bytes()?;
    let lease = Lease { execution_id, flow_id, attempt: reader.number()?, epoch: reader.number()? };
    let mut claimed = ClaimedExecution::new(lease, name, namespace);
    claimed.tags = tags;
    claimed.payload = payload;
    claimed.max_attempts = reader.number()?;
    claimed.timeout = Some(reader.number()?).filter(|millis| *millis > 0).map(Duration::from_millis);
    claimed.unconfirmed_leases = reader.number()?;
    Ok(claimed)
}

pub(super) fn read_tags(reader: &mut ReplyReader<'_>) -> Result<Tags, EngineError> {
    let tags =
        serde_json::from_str(reader.text()?).map_err(|_| reader.malformed("the tags are not a JSON object of strings"));
    tags.map(Tags::recorded)
}

fn refusal(word: &str, lease: &Lease, reader: &ReplyReader<'_>) -> EngineError {
    let what = format!("execution {}", lease.execution_id);
    match word {
        "not_found" => not_found(lease.execution_id),
        "lease_lost" => EngineError::State { what, conflict: StateConflict::LeaseLost },
        "ended" => EngineError::State { what, conflict: StateConflict::AlreadyTerminal },
        other => reader.malformed(other),
    }
}
