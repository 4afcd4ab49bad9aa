//! Calls that are interrupted at an exact command, one after the other, in process.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use ff_core::{ClaimId, ClaimRequest, EngineError, Lease, Partition, PartitionCount, WorkBackend, WorkerId};
use ff_embedded::{EmbeddedBackend, Fault};
use ff_test::Fixture;

const PARTITION: Partition = Partition::new(0);

struct Stand {
    backend: Arc<EmbeddedBackend>,
    fixture: Fixture,
}

impl Stand {
    fn start() -> Self {
        let one = PartitionCount::new(1).unwrap();
        let backend = Arc::new(EmbeddedBackend::builder().partitions(one).build().unwrap());
        Self { fixture: Fixture::new(backend.clone()), backend }
    }

    /// Stops the next call before its `command`-th command (from 1).
    fn stop_at(&self, command: u64) {
        self.backend.host().inject(Fault::stop(command));
    }

    async fn claim(&self, id: ClaimId) -> Result<Vec<Lease>, EngineError> {
        let request = ClaimRequest {
            worker: WorkerId::new("worker").unwrap(),
            lane: self.fixture.lane.clone(),
            partition: PARTITION,
            max: 2,
            lease: Duration::from_secs(600),
            id: Some(id),
        };
        let claim = self.backend.claim(&request).await?;
        Ok(claim.executions.into_iter().map(|claimed| claimed.lease).collect())
    }
}

#[tokio::test]
async fn a_claim_whose_repetitions_are_interrupted_anywhere_still_gives_what_it_took_first() {
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
        stand.claim(id).await.unwrap_err();
        assert_eq!(stand.claim(id).await.unwrap(), taken, "interrupted twice before command {command}");
        let others = stand.claim(ClaimId::generate()).await.unwrap();
        assert!(others.len() == 2 && !others.iter().any(|lease| taken.contains(lease)), "{others:?}");
    }
}
