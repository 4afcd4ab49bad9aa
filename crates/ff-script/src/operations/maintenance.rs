//! Sweeping, resolving and reconciling.

use std::time::Duration;

use bytes::Bytes;
use ff_core::{
    EngineError, ExecutionId, FlowId, Partition, PartitionCount, ReconcileCursor, ReconcileReport, ResolveReport,
    SweepPolicy, SweepReport,
};
use uuid::Uuid;

use super::{Operations, Reader, arg, block_and, call, read, submit::millis};
use crate::{host::ScriptHost, keys};

/// Dependents that one call of `ff1_resolve` is shown, with their keys.
const RESOLVED_AT_ONCE: u32 = 128;

impl<H: ScriptHost> Operations<H> {
    /// See [`ff_core::backend::MaintenanceBackend::partition_count`].
    #[must_use]
    pub const fn partition_count(&self) -> PartitionCount {
        self.partitions
    }

    /// See [`ff_core::backend::MaintenanceBackend::sweep`].
    ///
    /// # Errors
    /// As there.
    pub async fn sweep(&self, partitions: &[Partition], policy: &SweepPolicy) -> Result<Vec<SweepReport>, EngineError> {
        let args = vec![self.policy.argument(), millis(policy.retention)];
        let calls = partitions
            .iter()
            .map(|partition| call("ff1_sweep", keys::partition_block(*partition), args.clone()))
            .collect();
        self.host.fcall_many(calls).await.into_iter().map(|reply| read_sweep(&reply?)).collect()
    }

    /// See [`ff_core::backend::MaintenanceBackend::resolve_dependents`].
    ///
    /// # Errors
    /// As there.
    pub async fn resolve_dependents(&self, partition: Partition) -> Result<ResolveReport, EngineError> {
        let block = keys::partition_block(partition);
        let pending = self.run(read("ff1_pending", block, vec![arg(RESOLVED_AT_ONCE)])).await?;
        if pending.is_empty() {
            return Ok(ResolveReport::default());
        }
        let mut reader = Reader::new("read pending dependents", &pending);
        let (parent, flow): (Uuid, Option<FlowId>) =
            (reader.parse()?, reader.optional_text()?.map(str::parse).transpose()?);
        let mut uuids = vec![parent];
        while !reader.is_at_end() {
            uuids.push(reader.parse()?);
        }
        self.resolve(partition, flow, &uuids).await
    }

    /// `uuids` are the ended execution, then its next dependents.
    async fn resolve(
        &self,
        partition: Partition,
        flow: Option<FlowId>,
        uuids: &[Uuid],
    ) -> Result<ResolveReport, EngineError> {
        let mut cores = uuids.iter().map(|uuid| keys::execution_core(ExecutionId::from_parts(partition, *uuid)));
        let flow = flow.map(|flow| keys::flow_core(partition, flow));
        let keys = block_and(partition, cores.next().into_iter().chain(flow).chain(cores));
        let mut args: Vec<Bytes> = vec![self.policy.argument()];
        args.extend(uuids.iter().map(arg));
        let reply = self.run(call("ff1_resolve", keys, args)).await?;
        let mut reader = Reader::new("resolve dependents", &reply);
        Ok(ResolveReport { resolved: reader.number()?, more: reader.flag()? })
    }

    /// See [`ff_core::backend::MaintenanceBackend::reconcile`].
    ///
    /// # Errors
    /// As there.
    pub async fn reconcile(
        &self,
        partition: Partition,
        cursor: Option<ReconcileCursor>,
        limit: u32,
    ) -> Result<ReconcileReport, EngineError> {
        let after = cursor.map(|cursor| cursor.0.uuid().to_string()).unwrap_or_default();
        let args = vec![self.policy.argument(), arg(after), arg(limit)];
        let reply = self.run(call("ff1_reconcile", keys::partition_block(partition), args)).await?;
        let mut reader = Reader::new("reconcile", &reply);
        let (examined, repaired): (_, u32) = (reader.number()?, reader.number()?);
        let next = reader.optional_number::<Uuid>()?;
        let mut suspects = Vec::new();
        while !reader.is_at_end() {
            let id = ExecutionId::from_parts(partition, reader.parse()?);
            suspects.push((id, reader.optional_text()?.map(str::parse).transpose()?));
        }
        let discarded = self.discard(partition, &suspects).await?;
        Ok(ReconcileReport {
            examined,
            repaired: repaired.saturating_add(discarded),
            next: next.map(|uuid| ReconcileCursor(ExecutionId::from_parts(partition, uuid))),
        })
    }

    /// Removes those of the executions that an interrupted submission has left; returns how many that were.
    async fn discard(
        &self,
        partition: Partition,
        suspects: &[(ExecutionId, Option<FlowId>)],
    ) -> Result<u32, EngineError> {
        if suspects.is_empty() {
            return Ok(0);
        }
        let keys = suspects.iter().flat_map(|(id, flow)| {
            let core = keys::execution_core(*id);
            let head = flow.map_or_else(|| core.clone(), |flow| keys::flow_core(partition, flow));
            [core, keys::execution_tags(*id), head]
        });
        let args = suspects.iter().map(|(id, _)| arg(id.uuid())).collect();
        let reply = self.run(call("ff1_discard", block_and(partition, keys), args)).await?;
        Reader::new("discard", &reply).number()
    }

    /// See [`ff_core::backend::MaintenanceBackend::verify_deployment`].
    ///
    /// # Errors
    /// As there.
    pub async fn verify_deployment(&self) -> Result<(), EngineError> {
        Self::join_deployment(&self.host, Some(self.partitions)).await.map(drop)
    }
}

fn read_sweep(reply: &[Bytes]) -> Result<SweepReport, EngineError> {
    let mut reader = Reader::new("sweep", reply);
    let mut report = SweepReport::default();
    report.released = reader.number()?;
    report.reclaimed = reader.number()?;
    report.ended = reader.number()?;
    report.resolved = reader.number()?;
    report.removed = reader.number()?;
    report.more = reader.flag()?;
    report.next_due = reader.optional_number()?.map(Duration::from_millis);
    Ok(report)
}
