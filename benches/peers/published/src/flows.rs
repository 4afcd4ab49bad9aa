//! Flows of the published FlowFabric: three calls a member and two a dependency. Each call names the revision of the
//! graph that the one before answered, so those of a flow go out one after the other.

use std::collections::HashMap;

use anyhow::{Result, bail};
use ff_backend_valkey::ValkeyBackend;
use ff_core::contracts::{
    AddExecutionToFlowArgs, ApplyDependencyToChildArgs, CreateFlowArgs, StageDependencyEdgeArgs,
    StageDependencyEdgeResult,
};
use ff_core::engine_backend::EngineBackend;
use ff_core::types::{EdgeId, ExecutionId, FlowId, Namespace, TimestampMs};
use futures::{StreamExt, TryStreamExt};
use peers_kit::Filter;

use crate::execution;

/// Submits a flow whose member at each index needs the members at these indexes.
pub(crate) async fn submit(backend: &ValkeyBackend, needs: &[Vec<usize>]) -> Result<FlowId> {
    let flow = create(backend).await?;
    let (mut members, mut revision): (Vec<ExecutionId>, u64) = (Vec::new(), 0);
    for needs in needs {
        let member = add(backend, &flow, HashMap::new()).await?;
        revision += 1;
        for need in needs {
            revision = depend(backend, &flow, (&members[*need], &member), revision).await?;
        }
        members.push(member);
    }
    Ok(flow)
}

/// Submits members without dependencies, in flows of a hundred, that pass every filter.
pub(crate) async fn submit_members(backend: &ValkeyBackend, count: usize) -> Result<()> {
    const MEMBERS: usize = 100;
    let flow = |part: usize| async move {
        let flow = create(backend).await?;
        let tags = HashMap::from([(Filter::TAG.0.to_owned(), Filter::TAG.1.to_owned())]);
        for _ in part * MEMBERS..count.min((part + 1) * MEMBERS) {
            add(backend, &flow, tags.clone()).await?;
        }
        anyhow::Ok(())
    };
    futures::stream::iter((0..count.div_ceil(MEMBERS)).map(flow)).buffer_unordered(32).try_collect().await
}

async fn create(backend: &ValkeyBackend) -> Result<FlowId> {
    let flow_id = FlowId::new();
    let args = CreateFlowArgs {
        flow_id: flow_id.clone(),
        flow_kind: "flow".to_owned(),
        namespace: Namespace::new(Filter::NAMESPACE),
        now: TimestampMs::now(),
    };
    backend.create_flow(args).await?;
    Ok(flow_id)
}

async fn add(backend: &ValkeyBackend, flow: &FlowId, tags: HashMap<String, String>) -> Result<ExecutionId> {
    let args = execution(flow, Vec::new(), tags);
    let execution_id = args.execution_id.clone();
    backend.create_execution(args).await?;
    let args =
        AddExecutionToFlowArgs { flow_id: flow.clone(), execution_id: execution_id.clone(), now: TimestampMs::now() };
    backend.add_execution_to_flow(args).await?;
    Ok(execution_id)
}

/// Adds a dependency of the second on the first; returns the new revision.
async fn depend(
    backend: &ValkeyBackend,
    flow_id: &FlowId,
    (upstream, downstream): (&ExecutionId, &ExecutionId),
    revision: u64,
) -> Result<u64> {
    let edge_id = EdgeId::new();
    let stage = StageDependencyEdgeArgs {
        flow_id: flow_id.clone(),
        edge_id: edge_id.clone(),
        upstream_execution_id: upstream.clone(),
        downstream_execution_id: downstream.clone(),
        dependency_kind: "success_only".to_owned(),
        data_passing_ref: None,
        expected_graph_revision: revision,
        now: TimestampMs::now(),
    };
    let staged = backend.stage_dependency_edge(stage).await?;
    #[allow(unreachable_patterns, reason = "the type may have further variants")]
    let graph_revision = match staged {
        StageDependencyEdgeResult::Staged { new_graph_revision, .. } => new_graph_revision,
        other => bail!("the dependency was not staged: {other:?}"),
    };
    let apply = ApplyDependencyToChildArgs {
        flow_id: flow_id.clone(),
        edge_id,
        downstream_execution_id: downstream.clone(),
        upstream_execution_id: upstream.clone(),
        graph_revision,
        dependency_kind: "success_only".to_owned(),
        data_passing_ref: None,
        now: TimestampMs::now(),
    };
    backend.apply_dependency_to_child(apply).await?;
    Ok(graph_revision)
}
