//! What the library answers, over a host that answers with the input.

use std::{
    collections::VecDeque,
    sync::{Arc, Mutex},
    time::Duration,
};

use async_trait::async_trait;
use bytes::Bytes;
use ff_core::{
    ClaimRequest, EngineError, ExecutionId, ExecutionSpec, ExecutionSubmission, Failure, FlowId, LaneId, Lease, Namespace, Partition,
    PartitionCount, SweepPolicy,
};
use ff_script::{
    host::{Call, Reply, ScriptHost, ServerVersion},
    operations::{LogPolicy, Operations},
};
use futures::FutureExt;
use uuid::Uuid;

/// Ends one reply; what follows is the next.
const NEXT_REPLY: u8 = 0x1e;
/// Ends one element of a reply.
const NEXT_ELEMENT: u8 = 0x1f;

/// Answers calls with these replies in turn, and then not any more.
struct Parrot(Mutex<VecDeque<Reply>>);

impl Parrot {
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
        let next = self.0.lock().expect("nothing panics while it holds this").pop_front();
        next.ok_or_else(|| EngineError::transport("fuzz", "there are no more replies"))
    }
}

#[async_trait]
impl ScriptHost for Parrot {
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

/// Replies of the library, of strings that a byte 0x1f separates; 0x1e separates replies. Every operation reads them.
///
/// Whatever an operation makes of a reply is about what was asked: nothing of another partition, an answer for each
/// question. Accepted is what at least one operation can read.
pub fn replies(bytes: &[u8]) -> bool {
    let partition = Partition::new(7);
    let id = ExecutionId::from_parts(partition, Uuid::from_u128(1));
    let flow = FlowId::from_uuid(Uuid::from_u128(2));
    let lease = Lease { execution_id: id, flow_id: Some(flow), attempt: 1, epoch: 1 };
    [
        run(bytes, async |ops| ops.submit_execution(&submission()).await.map(drop)),
        run(bytes, async |ops| claim(ops, partition).await),
        run(bytes, async |ops| {
            let minute = Duration::from_secs(60);
            ops.renew(&[lease, lease], minute).await.map(|outcomes| assert_eq!(outcomes.len(), 2))
        }),
        run(bytes, async |ops| ops.complete(&lease, Bytes::new()).await),
        run(bytes, async |ops| ops.fail(&lease, &Failure::retryable("x")).await.map(drop)),
        run(bytes, async |ops| {
            ops.describe_execution(id).await.map(|snapshot| assert_eq!(snapshot.execution_id, id))
        }),
        run(bytes, async |ops| describe_flow(ops, flow).await),
        run(bytes, async |ops| ops.cancel_execution(id, "x").await.map(drop)),
        run(bytes, async |ops| ops.cancel_flow(flow, "x").await.map(drop)),
        run(bytes, async |ops| {
            let reports = ops.sweep(&[partition, partition], &SweepPolicy::default()).await;
            reports.map(|reports| assert_eq!(reports.len(), 2))
        }),
        run(bytes, async |ops| ops.resolve_dependents(partition).await.map(drop)),
        run(bytes, async |ops| reconcile(ops, partition).await),
        run(bytes, async |ops| ops.verify_deployment().await),
        run(bytes, async |ops| {
            let lane = LaneId::default_lane();
            ops.await_work(&lane, &[partition]).await.map(|ready| assert!(ready.is_empty() || ready == [partition]))
        }),
    ]
    .contains(&true)
}

/// Runs one operation over the replies and returns whether it could read them.
fn run(bytes: &[u8], operation: impl AsyncFnOnce(&Operations<Parrot>) -> Result<(), EngineError>) -> bool {
    let host = Arc::new(Parrot::new(bytes));
    let operations = Operations::new(host, PartitionCount::DEFAULT, LogPolicy::default(), Uuid::nil());
    operation(&operations).now_or_never().expect("the host answers at once").is_ok()
}

fn submission() -> ExecutionSubmission {
    ExecutionSubmission::new(Namespace::default_namespace(), ExecutionSpec::new("a"))
}

async fn claim(operations: &Operations<Parrot>, partition: Partition) -> Result<(), EngineError> {
    let request = ClaimRequest {
        worker: "worker".parse()?,
        lane: LaneId::default_lane(),
        partition,
        max: 10,
        lease: Duration::from_secs(60),
    };
    let claim = operations.claim(&request).await?;
    assert!(claim.executions.iter().all(|claimed| claimed.lease.execution_id.partition() == partition));
    Ok(())
}

async fn describe_flow(operations: &Operations<Parrot>, id: FlowId) -> Result<(), EngineError> {
    let flow = operations.describe_flow(id).await?;
    assert_eq!(flow.flow_id, id);
    let home = id.partition(PartitionCount::DEFAULT);
    assert!(flow.members.iter().all(|member| member.execution_id.partition() == home));
    Ok(())
}

async fn reconcile(operations: &Operations<Parrot>, partition: Partition) -> Result<(), EngineError> {
    let report = operations.reconcile(partition, None, 10).await?;
    assert!(report.next.is_none_or(|cursor| cursor.0.partition() == partition));
    Ok(())
}
