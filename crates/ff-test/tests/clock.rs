//! A server whose clock is set: leases keep their length, and retention trusts a clock only once it is stable.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{sync::Arc, time::Duration};

use ff_conformance::Fixture;
use ff_core::{
    ClaimId, EngineBackend, ExecutionId, Lease, Partition, PartitionCount, PublicState, SweepPolicy,
    backend::{RenewOutcome, WorkBackend, WorkSignal},
};
use ff_testserver::TestServer;
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use futures::StreamExt;

const BEGIN: u64 = 1_800_000_000_000;
const SECOND: u64 = 1_000;
const DAY: u64 = 24 * 3_600 * SECOND;
const LEASE: Duration = Duration::from_secs(30);

struct Stand {
    server: TestServer,
    config: ValkeyConfig,
    fixture: Fixture,
}

impl Stand {
    async fn start() -> Self {
        let server = TestServer::builder().clock_at(BEGIN).build().await.unwrap();
        let one = PartitionCount::new(1).unwrap();
        let config = ValkeyConfig::from_url(server.url()).unwrap().partition_count(one);
        let backend: Arc<dyn EngineBackend> = Arc::new(ValkeyBackend::connect_with(config.clone()).await.unwrap());
        Self { server, config, fixture: Fixture::new(backend) }
    }

    async fn claimed(&self) -> ExecutionId {
        let id = self.fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
        self.fixture.claim_for(id, LEASE).await;
        self.fixture.sweep(id.partition()).await;
        id
    }

    /// Sweeps at this time after the start, and returns the state of an execution.
    async fn state_at(&self, after: i64, id: ExecutionId) -> PublicState {
        self.server.set_clock(BEGIN.saturating_add_signed(after)).unwrap();
        self.fixture.sweep(id.partition()).await;
        self.fixture.state(id).await
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_keeps_its_remaining_time_when_the_clock_is_set_ahead() {
    let stand = Stand::start().await;
    let id = stand.claimed().await;
    let hour = 3_600_000;
    for after in [0, 10_000, 20_000, 29_000] {
        assert_eq!(stand.state_at(hour + after, id).await, PublicState::Active, "{after} ms after the leap");
    }
    assert_eq!(stand.state_at(hour + 30_001, id).await, PublicState::Waiting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_does_not_last_longer_when_the_clock_is_set_back() {
    let stand = Stand::start().await;
    let id = stand.claimed().await;
    let hour = -3_600_000;
    for after in [0, 10_000, 20_000, 29_000] {
        assert_eq!(stand.state_at(hour + after, id).await, PublicState::Active, "{after} ms after the leap");
    }
    assert_eq!(stand.state_at(hour + 30_001, id).await, PublicState::Waiting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_keeps_its_remaining_time_when_the_clock_is_set_ahead_and_partly_back() {
    let stand = Stand::start().await;
    let id = stand.claimed().await;
    let hour = 3_600_000;
    // A call that visits no lease sees the leap.
    stand.server.set_clock(BEGIN + hour).unwrap();
    assert!(stand.fixture.claim_some(id.partition(), 1, LEASE).await.is_empty());
    let half = i64::try_from(hour).unwrap() / 2;
    for after in [0, 10_000, 20_000, 29_000] {
        assert_eq!(stand.state_at(half + after, id).await, PublicState::Active, "{after} ms after both");
    }
    assert_eq!(stand.state_at(half + 30_001, id).await, PublicState::Waiting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_lease_given_after_both_changes_of_the_clock_expires_on_time() {
    let stand = Stand::start().await;
    stand.claimed().await;
    stand.server.set_clock(BEGIN + 3_600_000).unwrap();
    stand.fixture.end_one().await;
    stand.server.set_clock(BEGIN + 1_800_000).unwrap();
    let id = stand.claimed().await;
    assert_eq!(stand.state_at(1_829_999, id).await, PublicState::Active);
    assert_eq!(stand.state_at(1_830_001, id).await, PublicState::Waiting);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_attempt_does_not_time_out_when_the_clock_is_set_ahead() {
    let stand = Stand::start().await;
    let timeout = Duration::from_secs(60);
    let mut flow = stand.fixture.flow(&[("a", &[])]);
    flow.executions[0].timeout = Some(timeout);
    let id = stand.fixture.submit(&flow).await.executions[0].execution_id;
    let lease = stand.fixture.claim_confirmed(id, LEASE).await.lease;
    let hour = 3_600 * SECOND;
    for (after, expected) in [
        (0, RenewOutcome::Renewed),
        (9 * SECOND, RenewOutcome::Renewed),
        (18 * SECOND, RenewOutcome::Renewed),
        (27 * SECOND, RenewOutcome::Renewed),
        (36 * SECOND, RenewOutcome::Renewed),
        (45 * SECOND, RenewOutcome::Renewed),
        (54 * SECOND, RenewOutcome::Renewed),
        (61 * SECOND, RenewOutcome::TimedOut),
    ] {
        stand.server.set_clock(BEGIN + hour + after).unwrap();
        let renewed = stand.fixture.backend.renew(&[lease], LEASE).await.unwrap();
        assert_eq!(renewed, [expected], "{after} ms after the leap");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_time_of_an_attempt_begins_with_the_repeated_claim_that_delivers_it() {
    let stand = Stand::start().await;
    let mut flow = stand.fixture.flow(&[("a", &[])]);
    flow.executions[0].timeout = Some(Duration::from_secs(5));
    let id = stand.fixture.submit(&flow).await.executions[0].execution_id;
    let claim = Some(ClaimId::generate());
    let claimed = async |at: u64| {
        stand.server.set_clock(BEGIN + at).unwrap();
        stand.fixture.claim_as(claim, id.partition(), 1, LEASE).await.remove(0).lease
    };
    let renewed = async |lease: &Lease, at: u64| {
        stand.server.set_clock(BEGIN + at).unwrap();
        stand.fixture.backend.renew(&[*lease], LEASE).await.unwrap().remove(0)
    };
    // The first reply is lost.
    let lease = claimed(0).await;
    assert_eq!(claimed(8 * SECOND).await, lease);
    assert_eq!(renewed(&lease, 12 * SECOND).await, RenewOutcome::Renewed);
    // A worker has it now, so a late copy of the claim changes nothing.
    assert_eq!(claimed(12_500).await, lease);
    assert_eq!(renewed(&lease, 13 * SECOND).await, RenewOutcome::TimedOut);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn waiting_work_is_passed_on_although_the_clock_was_set_back() {
    let stand = Stand::start().await;
    let mut waiting = Vec::new();
    for _ in 0..2 {
        let backend = ValkeyBackend::connect_with(stand.config.clone()).await.unwrap();
        let signals = backend.work_signals(&stand.fixture.lane).await.unwrap();
        backend.await_work(&stand.fixture.lane, &[Partition::new(0)]).await.unwrap();
        waiting.push((backend, signals));
    }
    let id = stand.fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    stand.state_at(-3_600_000, id).await;
    for (_, signals) in &mut waiting {
        let signal = tokio::time::timeout(Duration::from_secs(60), async {
            while signals.next().await != Some(WorkSignal::Ready(id.partition())) {}
        });
        signal.await.expect("both processes are signalled");
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_clock_that_is_a_day_ahead_for_a_short_time_deletes_nothing() {
    let stand = Stand::start().await;
    let id = stand.fixture.end_one().await;
    stand.fixture.sweep(id.partition()).await;
    let removed = async |at: u64| {
        stand.server.set_clock(at).unwrap();
        let policy = SweepPolicy::default();
        stand.fixture.backend.sweep(&[id.partition()], &policy).await.remove(0).unwrap().removed
    };
    for at in [BEGIN + 25 * DAY, BEGIN + 25 * DAY + 3 * SECOND, BEGIN + 5 * SECOND] {
        assert_eq!(removed(at).await, 0);
    }
    assert_eq!(stand.fixture.state(id).await, PublicState::Success);
    // A clock that stays there is trusted after ten minutes.
    let steps = (0..).map(|step| BEGIN + 2 * DAY + step * 100 * SECOND).take(7);
    let mut deleted = Vec::new();
    for at in steps {
        deleted.push(removed(at).await);
    }
    assert_eq!(deleted, [0, 0, 0, 0, 0, 0, 1]);
}
