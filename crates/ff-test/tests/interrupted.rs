//! Calls that are interrupted at an exact command, one after the other, in process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use ff_conformance::Fixture;
use ff_core::{
    ClaimId, ControlBackend, EngineError, FlowState, Lease, LogId, Partition, PartitionCount, Scope, SubmitBackend,
    WorkerId,
    backend::{ClaimRequest, WorkBackend},
};
use ff_embedded::{EmbeddedBackend, Fault, Value};
use ff_script::keys;

const PARTITION: Partition = Partition::new(0);

struct Stand {
    backend: Arc<EmbeddedBackend>,
    fixture: Fixture,
}

impl Stand {
    fn start() -> Self {
        let one = PartitionCount::new(1).unwrap();
        let backend = Arc::new(EmbeddedBackend::builder().partition_count(one).build().unwrap());
        Self { fixture: Fixture::new(backend.clone()), backend }
    }

    /// Stops the next call before its `command`-th command (from 1).
    fn stop_at(&self, command: u64) {
        self.backend.host().inject(Fault::stop(command));
    }

    fn command(&self, args: &[&str]) {
        self.backend.host().command(args).unwrap();
    }

    async fn reconcile(&self) {
        let mut cursor = None;
        loop {
            cursor = self.fixture.backend.reconcile(PARTITION, cursor, 100).await.unwrap().next;
            if cursor.is_none() {
                return;
            }
        }
    }

    async fn claim(&self, id: ClaimId) -> Result<Vec<Lease>, EngineError> {
        let request = ClaimRequest::new(WorkerId::new("worker").unwrap(), self.fixture.lane.clone(), PARTITION)
            .max(2)
            .lease(Duration::from_secs(600))
            .id(id);
        let claim = self.backend.claim(&request).await?;
        Ok(claim.executions.into_iter().map(|claimed| claimed.lease).collect())
    }
}

#[tokio::test]
async fn a_claim_whose_repetitions_are_interrupted_still_gets_its_first_executions() {
    for command in 1.. {
        let stand = Stand::start();
        stand.fixture.submit_members(&[("a", &[]), ("b", &[]), ("c", &[]), ("d", &[]), ("e", &[])]).await;
        let id = ClaimId::generate();
        let taken = stand.claim(id).await.unwrap();
        stand.stop_at(command);
        if stand.claim(id).await.is_ok() {
            assert!(command > 5, "the fault was not met");
            break;
        }
        stand.stop_at(command);
        // Within one millisecond the call has one command fewer, so its last command may not be reached.
        drop(stand.claim(id).await);
        assert_eq!(stand.claim(id).await.unwrap(), taken, "interrupted twice before command {command}");
        let others = stand.claim(ClaimId::generate()).await.unwrap();
        assert!(others.len() == 2 && !others.iter().any(|lease| taken.contains(lease)), "{others:?}");
    }
}

#[tokio::test]
async fn a_lease_named_twice_in_one_release_ends_its_cancelled_execution_once() {
    for command in 1.. {
        let stand = Stand::start();
        let flow = stand.fixture.submit_members(&[("a", &[])]).await;
        let lease = stand.fixture.claim(flow.executions[0].execution_id).await.lease;
        stand.stop_at(command);
        let cancelled = stand.backend.cancel_flow(flow.flow_id, "enough").await.is_ok();
        stand.backend.release(&[lease, lease]).await.unwrap();
        stand.reconcile().await;
        let log = keys::completion_log(LogId { partition: PARTITION, scope: Scope::Flows });
        let ends = stand.backend.host().command(&["XLEN", &log]).unwrap();
        assert!(matches!(ends, Value::Integer(0 | 1)), "{ends:?} completions, stopped before command {command}");
        if cancelled {
            assert!(command > 5, "the fault was not met");
            return;
        }
    }
}

#[tokio::test]
async fn an_interrupted_whole_submission_over_existing_parts_gives_a_flow_that_runs() {
    for command in 1.. {
        let stand = Stand::start();
        let flow = stand.fixture.flow(&[("a", &[]), ("b", &["a"])]).idempotency_key("key");
        let written = stand.fixture.submit(&flow).await;
        // Like another program that has written all parts and then crashed.
        let core = keys::flow_core(PARTITION, written.flow_id);
        stand.command(&["HSET", &core, "state", "submitting", "part:0", "1", "part:1", "1"]);
        stand.command(&["HDEL", &core, "members", "total", "remaining"]);
        stand.command(&["PEXPIRE", &core, "60000"]);
        stand.command(&["DEL", &keys::partition_block(PARTITION)[0]]);
        stand.stop_at(command);
        let accepted = stand.backend.submit_flow(&flow).await;
        let done = accepted.is_ok();
        assert!(!accepted.is_ok_and(|accepted| accepted.already_submitted), "nothing was submitted before");
        if !done {
            stand.backend.submit_flow(&flow).await.unwrap();
        }
        stand.reconcile().await;
        for id in written.ids() {
            stand.fixture.complete(id).await;
        }
        let found = stand.fixture.backend.describe_flow(written.flow_id).await.unwrap();
        assert_eq!(found.state, FlowState::Success, "interrupted before command {command}");
        if done {
            assert!(command > 10, "the fault was not met");
            return;
        }
    }
}
