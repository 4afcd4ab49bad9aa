//! Submission.

use std::time::Duration;

use bytes::Bytes;
use ff_core::{
    EngineError, ExecutionId, ExecutionSpec, ExecutionSubmission, FlowSubmission, Namespace, Partition,
    SubmittedExecution, SubmittedFlow,
};
use sha2::{Digest as _, Sha256};

use super::{Operations, Reader, arg, block_and, call};
use crate::{host::ScriptHost, keys};

/// What the server holds after a submission.
enum Accepted {
    Now,
    Before,
}

impl<H: ScriptHost> Operations<H> {
    /// See [`ff_core::backend::SubmitBackend::submit_flow`].
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
        let head = Head {
            partition,
            key: keys::flow_core(partition, id),
            flow_id: id.to_string(),
            namespace: &flow.namespace,
            name: flow.name.as_deref().unwrap_or_default(),
        };
        let accepted = self.submit(&head, members).await?;
        let repeated = matches!(accepted, Accepted::Before) && flow.idempotency_key.is_some();
        let names = flow.executions.iter().map(|spec| spec.name.clone());
        Ok(SubmittedFlow::new(id, names.zip(ids.iter().copied()).collect(), repeated))
    }

    /// See [`ff_core::backend::SubmitBackend::submit_execution`].
    ///
    /// # Errors
    /// As there.
    pub async fn submit_execution(&self, solo: &ExecutionSubmission) -> Result<SubmittedExecution, EngineError> {
        solo.validate()?;
        let id = match &solo.idempotency_key {
            Some(key) => ExecutionId::from_idempotency_key(&solo.namespace, key, self.partitions),
            None => ExecutionId::generate_solo(self.partitions),
        };
        let head = Head {
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
        head: &Head<'_>,
        members: impl Iterator<Item = Member<'_>>,
    ) -> Result<Accepted, EngineError> {
        let mut keys = block_and(head.partition, [head.key.clone()]);
        let mut content = Vec::new();
        for member in members {
            keys.extend([keys::execution_core(member.id), keys::execution_tags(member.id)]);
            member.push_arguments(&mut content)?;
        }
        let mut args = vec![
            self.policy.argument(),
            arg(&head.flow_id),
            arg(head.namespace),
            arg(head.name),
            fingerprint(head, &content),
        ];
        args.extend(content);
        let reply = self.run(call("ff1_submit", keys, args)).await?;
        let mut reader = Reader::new("submit", &reply);
        match reader.text()? {
            "ok" => Ok(Accepted::Now),
            "exists" => Ok(Accepted::Before),
            "conflict" => Err(EngineError::Conflict {
                what: "the idempotency key".to_owned(),
                reason: "it was used for a submission with other content; use another key, or the same content"
                    .to_owned(),
            }),
            other => Err(reader.malformed(other)),
        }
    }
}

struct Head<'a> {
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

impl Member<'_> {
    fn push_arguments(self, args: &mut Vec<Bytes>) -> Result<(), EngineError> {
        let spec = self.spec;
        let tags = serde_json::to_string(&spec.tags)
            .map_err(|error| EngineError::invalid(format!("tags of `{}`", spec.name), error.to_string()))?;
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
        Ok(())
    }
}

pub(super) fn millis(duration: Duration) -> Bytes {
    arg(duration.as_millis())
}

/// Tells whether a repeated submission has the same content: SHA-256 over all parts, each with its length.
fn fingerprint(head: &Head<'_>, content: &[Bytes]) -> Bytes {
    let mut hash = Sha256::new();
    let parts = [head.flow_id.as_bytes(), head.namespace.as_str().as_bytes(), head.name.as_bytes()];
    for part in parts.into_iter().chain(content.iter().map(AsRef::as_ref)) {
        hash.update((part.len() as u64).to_le_bytes());
        hash.update(part);
    }
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    let digit = |half: u8| DIGITS[usize::from(half)];
    Bytes::from_iter(hash.finalize().into_iter().flat_map(|byte| [digit(byte >> 4), digit(byte & 15)]))
}
