//! Describing and cancelling.

use bytes::Bytes;
use ff_core::{
    CancelOutcome, EngineError, ExecutionId, ExecutionSnapshot, FlowCancellation, FlowId, FlowSnapshot, MemberSnapshot,
    Outcome, limits,
};

use super::{
    Operations, ReplyReader, arg, block_and, call, not_found, read,
    work::{read_tags, warn_if_publish_refused},
};
use crate::{host::ScriptHost, keys};

/// The most members that one call of `ff1_cancel_flow` visits.
const CANCELLED_AT_ONCE: u32 = 48;
/// The most members that one call of `ff1_describe_flow` reads.
const DESCRIBED_AT_ONCE: u32 = 200;

impl<H: ScriptHost> Operations<H> {
    /// See [`ff_core::ControlBackend::describe_execution`].
    ///
    /// # Errors
    /// As there.
    pub async fn describe_execution(&self, id: ExecutionId) -> Result<ExecutionSnapshot, EngineError> {
        self.check(id)?;
        let reply = self.run(read("ff1_describe_execution", vec![keys::execution_core(id)], vec![])).await?;
        if reply.is_empty() {
            return Err(not_found(id));
        }
        read_execution(&mut ReplyReader::new("describe execution", &reply), id)
    }

    /// See [`ff_core::ControlBackend::describe_flow`].
    ///
    /// # Errors
    /// As there.
    pub async fn describe_flow(&self, id: FlowId) -> Result<FlowSnapshot, EngineError> {
        let partition = self.partition_of(id);
        let (mut described, mut next) = (None, Some(1_u32));
        while let Some(first) = next {
            let args = vec![arg(partition), arg(first), arg(DESCRIBED_AT_ONCE)];
            let reply = self.run(read("ff1_describe_flow", vec![keys::flow_core(partition, id)], args)).await?;
            if reply.is_empty() {
                return Err(EngineError::NotFound { what: format!("flow {id}") });
            }
            let mut reader = ReplyReader::new("describe flow", &reply);
            let flow = read_flow(&mut reader, id)?;
            next = reader.optional()?;
            // The flow of the first page is kept: its state is then never ahead of its members' states.
            let members = &mut described.get_or_insert(flow).members;
            while !reader.is_at_end() {
                members.push(MemberSnapshot::new(
                    reader.text()?.to_owned(),
                    ExecutionId::from_parts(partition, reader.parse()?),
                    reader.parse()?,
                ));
            }
        }
        described.ok_or_else(|| EngineError::NotFound { what: format!("flow {id}") })
    }

    /// See [`ff_core::ControlBackend::cancel_execution`].
    ///
    /// # Errors
    /// As there.
    pub async fn cancel_execution(&self, id: ExecutionId, reason: &str) -> Result<CancelOutcome, EngineError> {
        self.check(id)?;
        let keys = block_and(id.partition(), [keys::execution_core(id)]);
        let args = vec![self.policy.argument(), arg(id.uuid()), reason_argument(reason)];
        let reply = self.run(call("ff1_cancel_execution", keys, args)).await?;
        let mut reader = ReplyReader::new("cancel execution", &reply);
        match reader.text()? {
            "ok" => warn_if_publish_refused(&mut reader).map(|()| CancelOutcome::Cancelled),
            "ended" => match Outcome::from_wire(reader.text()?) {
                Outcome::Cancelled => Ok(CancelOutcome::Cancelled),
                outcome => Ok(CancelOutcome::AlreadyEnded(outcome)),
            },
            "not_found" => Err(not_found(id)),
            other => Err(reader.malformed(other)),
        }
    }

    /// See [`ff_core::ControlBackend::cancel_flow`].
    ///
    /// # Errors
    /// As there.
    pub async fn cancel_flow(&self, id: FlowId, reason: &str) -> Result<FlowCancellation, EngineError> {
        let mut total = FlowCancellation::new(0, 0);
        let mut offset = Some(0);
        while let Some(first) = offset {
            offset = self.cancel_members(id, reason, first, &mut total).await?;
        }
        Ok(total)
    }

    /// Cancels the next members and returns where to continue.
    async fn cancel_members(
        &self,
        id: FlowId,
        reason: &str,
        first: u32,
        total: &mut FlowCancellation,
    ) -> Result<Option<u32>, EngineError> {
        let partition = self.partition_of(id);
        let keys = block_and(partition, [keys::flow_core(partition, id)]);
        let args = vec![self.policy.argument(), arg(id), reason_argument(reason), arg(first), arg(CANCELLED_AT_ONCE)];
        let reply = self.run(call("ff1_cancel_flow", keys, args)).await?;
        let mut reader = ReplyReader::new("cancel flow", &reply);
        match reader.text()? {
            "ok" => {
                total.cancelled = total.cancelled.saturating_add(reader.number()?);
                total.already_ended = total.already_ended.saturating_add(reader.number()?);
                reader.optional()
            }
            "ended" => {
                let flow = self.describe_flow(id).await?;
                // The members that were cancelled before the flow ended are among its members too.
                let members = u32::try_from(flow.members.len()).unwrap_or(u32::MAX);
                total.already_ended = members.saturating_sub(total.cancelled);
                Ok(None)
            }
            "not_found" => Err(EngineError::NotFound { what: format!("flow {id}") }),
            other => Err(reader.malformed(other)),
        }
    }
}

/// A reason, cut to its limit at a character boundary.
pub(super) fn reason_argument(reason: &str) -> Bytes {
    arg(&reason[..reason.floor_char_boundary(limits::REASON_BYTES)])
}

/// Reads the fields of the flow itself.
fn read_flow(reader: &mut ReplyReader<'_>, id: FlowId) -> Result<FlowSnapshot, EngineError> {
    let name = reader.optional_text()?.map(str::to_owned);
    let mut flow = FlowSnapshot::new(id, reader.parse()?, reader.parse()?);
    flow.name = name;
    flow.cancel_requested = reader.flag()?;
    flow.created_at_ms = reader.number()?;
    flow.completed_at_ms = reader.optional()?;
    Ok(flow)
}

fn read_execution(reader: &mut ReplyReader<'_>, id: ExecutionId) -> Result<ExecutionSnapshot, EngineError> {
    let name = reader.text()?.to_owned();
    let flow_id = reader.optional()?;
    let (namespace, lane) = (reader.parse()?, reader.parse()?);
    let priority = reader.number()?;
    let tags = read_tags(reader)?;
    let mut execution = ExecutionSnapshot::new(id, name, namespace, lane, reader.parse()?, reader.parse()?);
    execution.flow_id = flow_id;
    execution.priority = priority;
    execution.tags = tags;
    execution.outcome = Some(reader.text()?).filter(|word| *word != "none").map(Outcome::from_wire);
    execution.reason = reader.optional_text()?.map(Into::into);
    execution.last_error = reader.optional_text()?.map(Into::into);
    execution.attempt = reader.number()?;
    execution.failures = reader.optional()?.unwrap_or(0);
    execution.max_attempts = reader.number()?;
    execution.unmet_needs = reader.number()?;
    execution.generation = reader.number()?;
    execution.worker = reader.optional()?;
    execution.created_at_ms = reader.number()?;
    execution.started_at_ms = reader.optional()?;
    execution.completed_at_ms = reader.optional()?;
    execution.result = Some(reader.bytes()?).filter(|result| !result.is_empty());
    Ok(execution)
}
