//! Claiming, renewing and ending work.

use std::{collections::BTreeMap, time::Duration};

use bytes::Bytes;
use ff_core::{
    Claim, ClaimRequest, ClaimedExecution, EngineError, ExecutionId, FailOutcome, Failure, FlowId, LaneId, Lease,
    Namespace, Partition, RenewOutcome, StateConflict, Tags, limits,
};

use super::{Operations, Reader, arg, block_and, call, flag, not_found, submit::millis};
use crate::{
    host::{Call, ScriptHost},
    keys,
};

/// Leases renewed by one call of a function.
const RENEWED_AT_ONCE: usize = 128;

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
        let mut ready = Vec::new();
        for (partition, reply) in partitions.iter().zip(self.host.fcall_many(calls).await) {
            if Reader::new("await work", &reply?).flag()? {
                ready.push(*partition);
            }
        }
        Ok(ready)
    }

    /// See [`ff_core::backend::WorkBackend::claim`].
    ///
    /// # Errors
    /// As there.
    pub async fn claim(&self, request: &ClaimRequest) -> Result<Claim, EngineError> {
        if request.max as usize > limits::CLAIM_BATCH {
            return Err(EngineError::invalid(
                format!("a claim of {} executions", request.max),
                format!("at most {} can be claimed at once", limits::CLAIM_BATCH),
            ));
        }
        check_lease(request.lease)?;
        let args =
            vec![arg(&request.lane), arg(&request.worker), arg(request.max), millis(request.lease), arg(self.listener)];
        let call = call("ff1_claim", keys::partition_block(request.partition), args);
        // A repeated claim would take further executions and lose the first ones until their leases run out.
        let reply = self.run(Call { idempotent: false, ..call }).await?;
        let mut reader = Reader::new("claim", &reply);
        let more = reader.flag()?;
        let mut executions = Vec::new();
        while !reader.is_at_end() {
            executions.push(read_claimed(&mut reader, request.partition)?);
        }
        Ok(Claim { executions, more })
    }

    /// See [`ff_core::backend::WorkBackend::renew`].
    ///
    /// # Errors
    /// As there.
    pub async fn renew(&self, leases: &[Lease], lease: Duration) -> Result<Vec<RenewOutcome>, EngineError> {
        check_lease(lease)?;
        let mut by_partition: BTreeMap<Partition, Vec<usize>> = BTreeMap::new();
        for (index, held) in leases.iter().enumerate() {
            by_partition.entry(held.execution_id.partition()).or_default().push(index);
        }
        let batches: Vec<(Partition, &[usize])> = by_partition
            .iter()
            .flat_map(|(partition, indices)| indices.chunks(RENEWED_AT_ONCE).map(|chunk| (*partition, chunk)))
            .collect();
        let calls = batches.iter().map(|(partition, indices)| renewal(*partition, leases, indices, lease)).collect();
        let mut outcomes = vec![RenewOutcome::LeaseLost; leases.len()];
        for ((_, indices), reply) in batches.iter().zip(self.host.fcall_many(calls).await) {
            let reply = reply?;
            let mut reader = Reader::new("renew", &reply);
            for index in *indices {
                if reader.flag()? {
                    outcomes[*index] = RenewOutcome::Renewed;
                }
            }
        }
        Ok(outcomes)
    }

    /// See [`ff_core::backend::WorkBackend::complete`].
    ///
    /// # Errors
    /// As there.
    pub async fn complete(&self, lease: &Lease, result: Bytes) -> Result<(), EngineError> {
        if result.len() > limits::PAYLOAD_BYTES {
            return Err(EngineError::invalid(
                format!("a result of {} bytes", result.len()),
                format!("at most {} are kept; store it elsewhere and return a reference", limits::PAYLOAD_BYTES),
            ));
        }
        let is_text = std::str::from_utf8(&result).is_ok();
        let reply = self.end("ff1_complete", lease, [result, flag(is_text)]).await?;
        let mut reader = Reader::new("complete", &reply);
        match reader.text()? {
            "ok" => self.warn_if_refused(&mut reader),
            word => Err(refusal(word, lease, &reader)),
        }
    }

    /// See [`ff_core::backend::WorkBackend::fail`].
    ///
    /// # Errors
    /// As there.
    pub async fn fail(&self, lease: &Lease, failure: &Failure) -> Result<FailOutcome, EngineError> {
        let reply = self.end("ff1_fail", lease, [arg(&failure.reason), flag(failure.retryable)]).await?;
        let mut reader = Reader::new("fail", &reply);
        match reader.text()? {
            "ok" => self.warn_if_refused(&mut reader).map(|()| FailOutcome::Ended),
            "retry" => Ok(FailOutcome::Retry { after: Duration::from_millis(reader.number()?) }),
            word => Err(refusal(word, lease, &reader)),
        }
    }

    async fn end(&self, function: &'static str, lease: &Lease, rest: [Bytes; 2]) -> Result<Vec<Bytes>, EngineError> {
        let id = lease.execution_id;
        self.check(id)?;
        let flow = lease.flow_id.map(|flow| keys::flow_core(id.partition(), flow));
        let keys = block_and(id.partition(), std::iter::once(keys::execution_core(id)).chain(flow));
        let mut args = vec![self.policy.argument(), arg(id.uuid()), arg(lease.epoch), arg(lease.attempt)];
        args.extend(rest);
        self.run(call(function, keys, args)).await
    }

    /// The completion is in the log; only its announcement was refused, so subscribers see it late.
    #[allow(clippy::unused_self)]
    pub(super) fn warn_if_refused(&self, reader: &mut Reader<'_>) -> Result<(), EngineError> {
        if reader.flag()? {
            tracing::warn!("the server refused to publish a completion: this user lacks the channel permission &ff:*");
        }
        Ok(())
    }
}

fn check_lease(lease: Duration) -> Result<(), EngineError> {
    if (Duration::from_millis(1)..=limits::DURATION).contains(&lease) {
        return Ok(());
    }
    Err(EngineError::invalid(format!("a lease of {lease:?}"), "expected at least a millisecond"))
}

fn renewal(partition: Partition, leases: &[Lease], indices: &[usize], lease: Duration) -> Call {
    let keys = block_and(partition, indices.iter().map(|index| keys::execution_core(leases[*index].execution_id)));
    let mut args = vec![millis(lease)];
    for index in indices {
        let held = &leases[*index];
        args.extend([arg(held.execution_id.uuid()), arg(held.epoch), arg(held.attempt)]);
    }
    call("ff1_renew", keys, args)
}

fn read_claimed(reader: &mut Reader<'_>, partition: Partition) -> Result<ClaimedExecution, EngineError> {
    let execution_id = ExecutionId::from_parts(partition, reader.parse()?);
    let flow_id = reader.optional_text()?.map(str::parse::<FlowId>).transpose()?;
    let name = reader.text()?.to_owned();
    let namespace = Namespace::new(reader.text()?)?;
    let tags = read_tags(reader)?;
    let payload = reader.bytes()?;
    let lease = Lease { execution_id, flow_id, attempt: reader.number()?, epoch: reader.number()? };
    let mut claimed = ClaimedExecution::new(lease, name, namespace);
    claimed.tags = tags;
    claimed.payload = payload;
    claimed.max_attempts = reader.number()?;
    claimed.timeout = Some(reader.number()?).filter(|millis| *millis > 0).map(Duration::from_millis);
    Ok(claimed)
}

pub(super) fn read_tags(reader: &mut Reader<'_>) -> Result<Tags, EngineError> {
    serde_json::from_str(reader.text()?).map_err(|_| reader.malformed("the tags are no JSON object of texts"))
}

fn refusal(word: &str, lease: &Lease, reader: &Reader<'_>) -> EngineError {
    let what = format!("execution {}", lease.execution_id);
    match word {
        "not_found" => not_found(lease.execution_id),
        "lease_lost" => EngineError::State { what, conflict: StateConflict::LeaseLost },
        "ended" => EngineError::State { what, conflict: StateConflict::AlreadyTerminal },
        other => reader.malformed(other),
    }
}
