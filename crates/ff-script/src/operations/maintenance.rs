//! Sweeping, resolving and reconciling.

use std::time::Duration;

use bytes::Bytes;
use ff_core::{
    EngineError, EngineId, ExecutionId, FlowId, Partition, PartitionCount, SweepPolicy,
    backend::{ReconcileCursor, ReconcileReport, ResolveReport, SweepReport},
};
use uuid::Uuid;

use super::{Operations, ReplyReader, arg, block_and, call, read, submit::millis};
use crate::{host::ScriptHost, keys};

/// The most dependents that one call of `ff1_resolve` gets, with their keys.
const RESOLVED_AT_ONCE: u32 = 32;
/// The most suspects that one call of `ff1_settle` gets, with their keys.
const SETTLED_AT_ONCE: usize = 16;

/// An index entry without an execution, or an execution without its flow; with the flow's id if that is known.
type Suspect = (ExecutionId, Option<FlowId>);

/// The counts of settled suspects.
#[derive(Debug, Default)]
struct SettleCounts {
    removed: u32,
    lost: u32,
}

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
    pub async fn sweep(&self, partitions: &[Partition], policy: &SweepPolicy) -> Vec<Result<SweepReport, EngineError>> {
        if policy.check().is_err() {
            return partitions.iter().map(|_| policy.check().map(|()| SweepReport::default())).collect();
        }
        let args = vec![self.policy.argument(), millis(policy.retention), millis(policy.idempotency)];
        let calls = partitions
            .iter()
            .map(|partition| call("ff1_sweep", keys::partition_block(*partition), args.clone()))
            .collect();
        let mut reports = Vec::with_capacity(partitions.len());
        for (partition, reply) in partitions.iter().zip(self.host.fcall_many(calls).await) {
            reports.push(self.swept(*partition, reply).await);
        }
        reports
    }

    /// Reads the report of one partition's sweep and settles the suspects that it names.
    async fn swept(
        &self,
        partition: Partition,
        reply: Result<Vec<Bytes>, EngineError>,
    ) -> Result<SweepReport, EngineError> {
        let reply = reply?;
        let mut reader = ReplyReader::new("sweep", &reply);
        let mut report = read_sweep(&mut reader)?;
        let suspects = read_suspects(&mut reader, partition)?;
        report.lost = self.settle(partition, &suspects).await?.lost;
        Ok(report)
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
        let mut reader = ReplyReader::new("read pending dependents", &pending);
        let (parent, flow): (Uuid, Option<FlowId>) = (reader.parse()?, reader.optional()?);
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
        let mut reader = ReplyReader::new("resolve dependents", &reply);
        let mut report = ResolveReport::default();
        (report.resolved, report.more) = (reader.number()?, reader.flag()?);
        Ok(report)
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
        let mut reader = ReplyReader::new("reconcile", &reply);
        let (examined, repaired): (_, u32) = (reader.number()?, reader.number()?);
        let next = reader.optional::<Uuid>()?;
        let (unreadable, one_unreadable) = (reader.number()?, reader.optional::<Uuid>()?);
        let suspects = read_suspects(&mut reader, partition)?;
        let settled = self.settle(partition, &suspects).await?;
        let of_partition = |uuid| ExecutionId::from_parts(partition, uuid);
        let mut report = ReconcileReport::default();
        (report.examined, report.repaired) = (examined, repaired.saturating_add(settled.removed));
        (report.lost, report.unreadable) = (settled.lost, unreadable);
        report.one_unreadable = one_unreadable.map(of_partition);
        report.next = next.map(|uuid| ReconcileCursor(of_partition(uuid)));
        Ok(report)
    }

    /// Lets the library settle suspects, with all their keys in KEYS.
    async fn settle(&self, partition: Partition, suspects: &[Suspect]) -> Result<SettleCounts, EngineError> {
        let mut settled = SettleCounts::default();
        for suspects in suspects.chunks(SETTLED_AT_ONCE) {
            let keys = suspects.iter().flat_map(|(id, flow)| {
                let core = keys::execution_core(*id);
                let head = flow.map_or_else(|| core.clone(), |flow| keys::flow_core(partition, flow));
                [core, keys::execution_tags(*id), head]
            });
            let mut args = vec![self.policy.argument()];
            args.extend(suspects.iter().flat_map(|(id, flow)| [arg(id.uuid()), flow.map_or_else(Bytes::new, arg)]));
            let reply = self.run(call("ff1_settle", block_and(partition, keys), args)).await?;
            let mut reader = ReplyReader::new("settle", &reply);
            settled.removed = settled.removed.saturating_add(reader.number()?);
            settled.lost = settled.lost.saturating_add(reader.number()?);
        }
        if settled.lost > 0 {
            tracing::warn!(%partition, lost = settled.lost, "ended executions whose record was deleted or evicted");
        }
        Ok(settled)
    }

    /// See [`ff_core::backend::MaintenanceBackend::verify_deployment`].
    ///
    /// # Errors
    /// As there.
    pub async fn verify_deployment(&self) -> Result<(), EngineError> {
        Self::join_deployment(&self.host, Some(self.partitions)).await.map(drop)
    }

    /// See [`ff_core::backend::MaintenanceBackend::note_engine`].
    ///
    /// # Errors
    /// As there.
    pub async fn note_engine(&self, engine: &EngineId, stays: Duration) -> Result<Vec<EngineId>, EngineError> {
        let args = vec![arg(engine), millis(stays)];
        let reply = self.run(call("ff1_engine", vec![keys::ENGINES.to_owned()], args)).await?;
        let mut reader = ReplyReader::new("note an engine", &reply);
        let mut engines = Vec::new();
        while !reader.is_at_end() {
            engines.push(reader.parse()?);
        }
        Ok(engines)
    }
}

fn read_suspects(reader: &mut ReplyReader<'_>, partition: Partition) -> Result<Vec<Suspect>, EngineError> {
    let mut suspects = Vec::new();
    while !reader.is_at_end() {
        let id = ExecutionId::from_parts(partition, reader.parse()?);
        suspects.push((id, reader.optional()?));
    }
    Ok(suspects)
}

fn read_sweep(reader: &mut ReplyReader<'_>) -> Result<SweepReport, EngineError> {
    let mut report = SweepReport::default();
    report.released = reader.number()?;
    report.reclaimed = reader.number()?;
    report.ended = reader.number()?;
    report.resolved = reader.number()?;
    report.removed = reader.number()?;
    report.more = reader.flag()?;
    report.next_due = reader.optional()?.map(Duration::from_millis);
    Ok(report)
}
