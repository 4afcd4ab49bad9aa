//! Submission.

use std::{ops::Range, time::Duration};

use bytes::Bytes;
use ff_core::{
    EngineError, ExecutionId, ExecutionSpec, ExecutionSubmission, FlowSubmission, Namespace, Partition,
    SubmittedExecution, SubmittedFlow, SubmittedMember,
};
use sha2::{Digest as _, Sha256};

use super::{Operations, ReplyReader, arg, block_and, call};
use crate::{
    host::{Call, Reply, ScriptHost},
    keys, telemetry,
};

/// The most members that one call writes, and the most bytes of their arguments unless the first has more.
/// ARCHITECTURE.md has the measured times.
const MEMBERS_AT_ONCE: usize = 32;
const BYTES_AT_ONCE: usize = 256 << 10;
/// The most members that one call queues.
const ENQUEUED_AT_ONCE: usize = 48;
/// The most calls that are sent together.
const CALLS_AT_ONCE: usize = 8;
/// How often a submission in parts is tried if its parts expire meanwhile.
const TRIES: usize = 3;

/// When the server accepted a submission.
#[derive(Debug, Clone, Copy)]
enum Accepted {
    Now,
    Before,
}

impl<H: ScriptHost> Operations<H> {
    /// See [`ff_core::SubmitBackend::submit_flow`].
    ///
    /// # Errors
    /// As there.
    pub async fn submit_flow(&self, flow: &FlowSubmission) -> Result<SubmittedFlow, EngineError> {
        let topology = flow.topology()?;
        let id = flow.flow_id();
        let partition = self.partition_of(id);
        let ids: Vec<_> =
            flow.executions.iter().map(|spec| ExecutionId::member(id, &spec.name, self.partitions)).collect();
        let uuids = |indices: &[usize]| {
            let list: Vec<_> = indices.iter().map(|index| ids[*index].uuid().to_string()).collect();
            list.join(",")
        };
        let members = flow.executions.iter().enumerate().map(|(index, spec)| Member {
            id: ids[index],
            spec,
            need_count: topology.needs[index].len(),
            needs: uuids(&topology.needs[index]),
            dependents: uuids(&topology.dependents[index]),
        });
        let head = SubmissionHead {
            partition,
            key: keys::flow_core(partition, id),
            flow_id: id.to_string(),
            namespace: &flow.namespace,
            name: flow.name.as_deref().unwrap_or_default(),
        };
        let accepted = self.submit(&head, members).await?;
        let repeated = matches!(accepted, Accepted::Before) && flow.idempotency_key.is_some();
        let members = flow.executions.iter().zip(&ids).map(|(spec, id)| SubmittedMember::new(spec.name.clone(), *id));
        Ok(SubmittedFlow::new(id, members.collect(), repeated))
    }

    /// See [`ff_core::SubmitBackend::submit_execution`].
    ///
    /// # Errors
    /// As there.
    pub async fn submit_execution(&self, solo: &ExecutionSubmission) -> Result<SubmittedExecution, EngineError> {
        solo.validate()?;
        let id = match &solo.idempotency_key {
            Some(key) => ExecutionId::from_idempotency_key(&solo.namespace, key, self.partitions),
            None => ExecutionId::generate_solo(self.partitions),
        };
        let head = SubmissionHead {
            partition: id.partition(),
            key: keys::execution_core(id),
            flow_id: String::new(),
            namespace: &solo.namespace,
            name: "",
        };
        let member =
            Member { id, spec: &solo.execution, need_count: 0, needs: String::new(), dependents: String::new() };
        let accepted = self.submit(&head, std::iter::once(member)).await?;
        let repeated = matches!(accepted, Accepted::Before) && solo.idempotency_key.is_some();
        Ok(SubmittedExecution::new(id, repeated))
    }

    async fn submit(
        &self,
        head: &SubmissionHead<'_>,
        members: impl Iterator<Item = Member<'_>>,
    ) -> Result<Accepted, EngineError> {
        let members = members.map(Member::encode).collect::<Result<Vec<_>, _>>()?;
        let fingerprint = fingerprint(head, &members);
        let parts = parts(&members);
        if let [_] = parts[..] {
            let reply = self.run(self.part(head, &fingerprint, "whole", &members, 0)).await?;
            return match accepted(&reply)? {
                Some(accepted) => Ok(accepted),
                None => {
                    Err(ReplyReader::new("submit", &reply).malformed("a submission as a whole was asked for its parts"))
                }
            };
        }
        for _ in 0..TRIES {
            match self.submit_parts(head, &fingerprint, &members, &parts).await? {
                Some(Accepted::Now) => {
                    telemetry::count(telemetry::IN_PARTS);
                    return Ok(Accepted::Now);
                }
                Some(Accepted::Before) => return Ok(Accepted::Before),
                None => telemetry::count(telemetry::PARTS_DISCARDED),
            }
        }
        Err(EngineError::Contention {
            op: "submit".to_owned(),
            reason: format!("the parts of flow {} were discarded before all of them were written", head.flow_id),
        })
    }

    /// Submits a flow that is too large for one call. `None` if its parts have expired meanwhile.
    async fn submit_parts(
        &self,
        head: &SubmissionHead<'_>,
        fingerprint: &Bytes,
        members: &[EncodedMember],
        parts: &[Range<usize>],
    ) -> Result<Option<Accepted>, EngineError> {
        let call_of =
            |name, part: &Range<usize>| self.part(head, fingerprint, name, &members[part.clone()], part.start);
        // The first part creates the flow's record; the others may then come in any order.
        let first = self.run(call_of("first", &parts[0])).await?;
        if let Some(Accepted::Before) = accepted(&first)? {
            return Ok(Some(Accepted::Before));
        }
        for group in parts[1..].chunks(CALLS_AT_ONCE) {
            let calls = group.iter().map(|part| call_of("further", part)).collect();
            for reply in self.host.fcall_many(calls).await {
                match accepted(&reply?)? {
                    Some(Accepted::Now) => {}
                    other => return Ok(other),
                }
            }
        }
        let started = accepted(&self.run(start(head, fingerprint, members)).await?)?;
        if started.is_some() {
            self.enqueue(head.partition, members).await;
        }
        Ok(started)
    }

    /// Queues the members that wait for no other, and lets delays and deadlines count from the start of the flow. If
    /// this fails, the reconciler does it, since the flow is accepted.
    async fn enqueue(&self, partition: Partition, members: &[EncodedMember]) {
        let waiting: Vec<Bytes> =
            members.iter().filter(|member| member.needs_enqueue).map(|member| member.args[0].clone()).collect();
        let call = |uuids: &[Bytes]| call("ff1_enqueue", keys::partition_block(partition), uuids.to_vec());
        let calls = waiting.chunks(ENQUEUED_AT_ONCE).map(call).collect();
        for error in self.host.fcall_many(calls).await.into_iter().filter_map(Result::err) {
            tracing::warn!(%partition, %error, "members of an accepted flow wait for the reconciler to queue them");
        }
    }

    fn part(
        &self,
        head: &SubmissionHead<'_>,
        fingerprint: &Bytes,
        name: &str,
        members: &[EncodedMember],
        first: usize,
    ) -> Call {
        let cores = |member: &EncodedMember| [keys::execution_core(member.id), keys::execution_tags(member.id)];
        let keys = std::iter::once(head.key.clone()).chain(members.iter().flat_map(cores));
        let mut args = vec![
            self.policy.argument(),
            arg(&head.flow_id),
            arg(head.namespace),
            arg(head.name),
            fingerprint.clone(),
            arg(first),
            arg(name),
        ];
        args.extend(members.iter().flat_map(|member| member.args.iter().cloned()));
        call("ff1_submit", block_and(head.partition, keys), args)
    }
}

fn start(head: &SubmissionHead<'_>, fingerprint: &Bytes, members: &[EncodedMember]) -> Call {
    let uuids: Vec<_> = members.iter().map(|member| member.id.uuid().to_string()).collect();
    let args = vec![arg(&head.flow_id), arg(head.namespace), arg(head.name), fingerprint.clone(), arg(uuids.join(","))];
    call("ff1_start_flow", block_and(head.partition, [head.key.clone()]), args)
}

/// Parses a reply; `None` if the parts must be written again.
fn accepted(reply: &Reply) -> Result<Option<Accepted>, EngineError> {
    let mut reader = ReplyReader::new("submit", reply);
    match reader.text()? {
        "ok" => Ok(Some(Accepted::Now)),
        "exists" => Ok(Some(Accepted::Before)),
        "restart" => Ok(None),
        "conflict" => Err(EngineError::Conflict {
            what: "the idempotency key".to_owned(),
            reason: "it was used for a submission with other content; use another key, or the same content".to_owned(),
        }),
        other => Err(reader.malformed(other)),
    }
}

/// The members that each call writes.
fn parts(members: &[EncodedMember]) -> Vec<Range<usize>> {
    let (mut parts, mut first, mut bytes) = (Vec::new(), 0, 0);
    for (index, member) in members.iter().enumerate() {
        let is_full = index - first == MEMBERS_AT_ONCE || bytes + member.bytes() > BYTES_AT_ONCE;
        if index > first && is_full {
            parts.push(first..index);
            (first, bytes) = (index, 0);
        }
        bytes += member.bytes();
    }
    parts.push(first..members.len());
    parts
}

struct SubmissionHead<'a> {
    partition: Partition,
    key: String,
    flow_id: String,
    namespace: &'a Namespace,
    name: &'a str,
}

struct Member<'a> {
    id: ExecutionId,
    spec: &'a ExecutionSpec,
    need_count: usize,
    needs: String,
    dependents: String,
}

/// A member, encoded as arguments.
struct EncodedMember {
    id: ExecutionId,
    /// Whether `ff1_enqueue` must visit it: it is runnable, or has a delay or a deadline.
    needs_enqueue: bool,
    /// The first is its uuid.
    args: Vec<Bytes>,
}

impl EncodedMember {
    fn bytes(&self) -> usize {
        self.args.iter().map(Bytes::len).sum()
    }
}

impl Member<'_> {
    fn encode(self) -> Result<EncodedMember, EngineError> {
        let spec = self.spec;
        let tags = serde_json::to_string(&spec.tags)
            .map_err(|error| EngineError::invalid(format!("tags of `{}`", spec.name), error.to_string()))?;
        let needs_enqueue = self.need_count == 0 || spec.deadline.is_some() || !spec.delay.is_zero();
        let mut args = Vec::with_capacity(17 + 2 * spec.tags.iter().count());
        args.extend([
            arg(self.id.uuid()),
            arg(&spec.name),
            arg(&spec.lane),
            arg(spec.priority),
            arg(tags),
            spec.payload.clone(),
            arg(spec.max_attempts),
            millis(spec.backoff.initial),
            millis(spec.backoff.max),
            arg(spec.max_lease_expiries),
            millis(spec.delay),
            millis(spec.deadline.unwrap_or_default()),
            millis(spec.timeout.unwrap_or_default()),
            arg(self.need_count),
            Bytes::from(self.needs),
            Bytes::from(self.dependents),
            arg(spec.tags.iter().count()),
        ]);
        for (key, value) in spec.tags.iter() {
            args.extend([arg(key), arg(value)]);
        }
        Ok(EncodedMember { id: self.id, needs_enqueue, args })
    }
}

pub(super) fn millis(duration: Duration) -> Bytes {
    arg(duration.as_millis())
}

/// Identifies the content, to compare a repeated submission: SHA-256 over all texts, each with its length.
fn fingerprint(head: &SubmissionHead<'_>, members: &[EncodedMember]) -> Bytes {
    let content = members.iter().flat_map(|member| &member.args);
    let mut hash = Sha256::new();
    let parts = [head.flow_id.as_bytes(), head.namespace.as_str().as_bytes(), head.name.as_bytes()];
    for part in parts.into_iter().chain(content.map(AsRef::as_ref)) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| DIGITS[usize::from(half)];
    Bytes::from_iter(hash.finalize().into_iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]))
}
