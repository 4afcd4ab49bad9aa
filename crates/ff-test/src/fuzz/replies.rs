//! Checks the parsing of the library's replies, over a host that replies with the input.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::{
    EngineError, ExecutionId, ExecutionSpec, ExecutionSubmission, Failure, FlowId, LaneId, Lease, Namespace, Partition,
    PartitionCount, SweepPolicy, backend::ClaimRequest,
};
use ff_script::{
    host::{Call, Reply, ScriptHost, ServerVersion},
    operations::{LogPolicy, Operations},
};
use futures::FutureExt;
use uuid::Uuid;

/// Separates replies.
const NEXT_REPLY: u8 = 0x1e;
/// Separates the elements of a reply.
const NEXT_ELEMENT: u8 = 0x1f;

/// Replies to calls with these replies in turn, and then with errors.
struct FixedReplies(Mutex<VecDeque<Reply>>);

impl FixedReplies {
    fn new(bytes: &[u8]) -> Self {
        let reply = |bytes: &[u8]| -> Reply {
            if bytes.is_empty() {
                return Reply::new();
            }
            bytes.split(|byte| *byte == NEXT_ELEMENT).map(Bytes::copy_from_slice).collect()
        };
        Self(Mutex::new(bytes.split(|byte| *byte == NEXT_REPLY).map(reply).collect()))
    }

    fn answer(&self) -> Result<Reply, EngineError> {
        let next = self.0.lock().expect("nothing panics while it holds the lock").pop_front();
        next.ok_or_else(|| EngineError::transport("fuzz", "there are no more replies"))
    }
}

#[async_trait]
impl ScriptHost for FixedReplies {
    async fn fcall(&self, _: Call) -> Result<Reply, EngineError> {
        self.answer()
    }

    async fn fcall_many(&self, calls: Vec<Call>) -> Vec<Result<Reply, EngineError>> {
        calls.iter().map(|_| self.answer()).collect()
    }

    async fn load_library(&self, _: &str) -> Result<(), EngineError> {
        Ok(())
    }

    async fn probe(&self, _: Call) -> Result<Option<Reply>, EngineError> {
        self.answer().map(Some)
    }

    async fn server_version(&self) -> Result<ServerVersion, EngineError> {
        Ok(ServerVersion { name: "parrot".to_owned(), version: (0, 0, 0) })
    }
}

/// Checks the replies to one operation. The first byte names the operation, from `a`; then come strings, separated by
/// 0x1f, and replies, separated by 0x1e.
///
/// A parsed reply matches its request: it names nothing of another partition, and has one result per item.
pub fn replies(bytes: &[u8]) -> bool {
    let Some((operation, replies)) = bytes.split_first() else { return false };
    let host = Arc::new(FixedReplies::new(replies));
    let operations = Operations::new(host, PartitionCount::DEFAULT, LogPolicy::default(), Uuid::nil());
    let read = ask(&operations, operation.wrapping_sub(b'a') % OPERATIONS);
    read.now_or_never().expect("the host answers at once").is_ok()
}

const OPERATIONS: u8 = 15;

async fn ask(ops: &Operations<FixedReplies>, operation: u8) -> Result<(), EngineError> {
    let partition = Partition::new(7);
    let id = ExecutionId::from_parts(partition, Uuid::from_u128(1));
    let flow = FlowId::from_uuid(Uuid::from_u128(2));
    let lease = Lease { execution_id: id, flow_id: Some(flow), attempt: 1, epoch: 1 };
    match operation {
        0 => ops.submit_execution(&submission()).await.map(drop),
        1 => claim(ops, partition).await,
        2 => {
            let outcomes = ops.renew(&[lease, lease], Duration::from_secs(60)).await?;
            assert_eq!(outcomes.len(), 2);
            Ok(())
        }
        3 => ops.complete(&lease, Bytes::new()).await,
        4 => ops.fail(&lease, &Failure::retryable("x")).await.map(drop),
        5 => ops.describe_execution(id).await.map(|execution| assert_eq!(execution.execution_id, id)),
        6 => describe_flow(ops, flow).await,
        7 => ops.cancel_execution(id, "x").await.map(drop),
        8 => ops.cancel_flow(flow, "x").await.map(drop),
        9 => {
            let reports = ops.sweep(&[partition, partition], &SweepPolicy::default()).await;
            assert_eq!(reports.len(), 2);
            reports.into_iter().try_for_each(|report| report.map(drop))
        }
        10 => ops.resolve_dependents(partition).await.map(drop),
        11 => reconcile(ops, partition).await,
        12 => ops.verify_deployment().await,
        13 => {
            let ready = ops.await_work(&LaneId::default_lane(), &[partition]).await?;
            assert!(ready.is_empty() || ready == [partition]);
            Ok(())
        }
        _ => {
            let outcomes = ops.release(&[lease, lease]).await?;
            assert_eq!(outcomes.len(), 2);
            Ok(())
        }
    }
}

fn submission() -> ExecutionSubmission {
    ExecutionSubmission::new(Namespace::default_namespace(), ExecutionSpec::new("a"))
}

async fn claim(operations: &Operations<FixedReplies>, partition: Partition) -> Result<(), EngineError> {
    let request =
        ClaimRequest::new("worker".parse()?, LaneId::default_lane(), partition).max(10).lease(Duration::from_secs(60));
    let claim = operations.claim(&request).await?;
    assert!(claim.executions.iter().all(|claimed| claimed.lease.execution_id.partition() == partition));
    Ok(())
}

async fn describe_flow(operations: &Operations<FixedReplies>, id: FlowId) -> Result<(), EngineError> {
    let flow = operations.describe_flow(id).await?;
    assert_eq!(flow.flow_id, id);
    let home = id.partition(PartitionCount::DEFAULT);
    assert!(flow.members.iter().all(|member| member.execution_id.partition() == home));
    Ok(())
}

async fn reconcile(operations: &Operations<FixedReplies>, partition: Partition) -> Result<(), EngineError> {
    let report = operations.reconcile(partition, None, 10).await?;
    assert!(report.next.is_none_or(|cursor| cursor.0.partition() == partition));
    Ok(())
}
