//! Waits for executions and flows, on both hosts.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod support;

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use ff_conformance::Fixture;
use ff_core::{
    EngineBackend, EngineError, ExecutionId, ExecutionSubmission, FlowId, FlowState, Outcome, PartitionCount,
};
use ff_embedded::EmbeddedBackend;
use ff_engine::{WaitExt, WaitOptions};
use futures::FutureExt;

type Backend = Arc<dyn EngineBackend>;

/// Far longer than any case here takes.
const LONG: WaitOptions = WaitOptions::within(Duration::from_secs(60));

async fn solo(fixture: &Fixture) -> ExecutionId {
    let solo = ExecutionSubmission::new(fixture.namespace.clone(), fixture.spec("solo"));
    fixture.backend.submit_execution(&solo).await.expect("accepted").execution_id
}

async fn member(fixture: &Fixture) -> ExecutionId {
    fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id
}

async fn a_wait_for_an_ended_execution_returns_at_once(backend: Backend) {
    let fixture = Fixture::new(backend);
    for id in [solo(&fixture).await, member(&fixture).await] {
        fixture.complete(id).await;
        let ended = fixture.backend.wait_for(id, &LONG).await.expect("it has ended");
        assert_eq!((ended.execution_id, ended.outcome), (id, Some(Outcome::Success)));
    }
}

async fn a_wait_returns_the_result_of_any_size(backend: Backend) {
    let fixture = Fixture::new(backend);
    for id in [solo(&fixture).await, member(&fixture).await] {
        let result = Bytes::from(vec![b'x'; 100_000]);
        let wait = fixture.backend.wait_for(id, &LONG);
        let end = async {
            let claimed = fixture.claim(id).await;
            fixture.backend.complete(&claimed.lease, result.clone()).await.expect("completed");
        };
        let (ended, ()) = futures::join!(wait, end);
        assert_eq!(ended.expect("it ends").result, Some(result));
    }
}

async fn a_completion_during_the_call_is_not_missed(backend: Backend) {
    let fixture = Fixture::new(backend);
    for round in 0..50 {
        let id = if round % 2 == 0 { member(&fixture).await } else { solo(&fixture).await };
        let claimed = fixture.claim(id).await;
        let wait = fixture.backend.wait_for(id, &LONG);
        let end = fixture.backend.complete(&claimed.lease, Bytes::new());
        let (ended, completed) = futures::join!(wait, end);
        completed.expect("completed");
        assert_eq!(ended.expect("it ends").execution_id, id);
    }
}

async fn several_executions_are_awaited_until_one_or_all_have_ended(backend: Backend) {
    let fixture = Fixture::new(backend);
    let ids = [member(&fixture).await, solo(&fixture).await, member(&fixture).await];
    let (any, ()) = futures::join!(fixture.backend.wait_for_any(&ids, &LONG), fixture.complete(ids[1]));
    assert_eq!(any.expect("one ends").execution_id, ids[1]);
    let rest = async {
        fixture.complete(ids[2]).await;
        fixture.fail(ids[0]).await;
    };
    let (all, ()) = futures::join!(fixture.backend.wait_for_all(&ids, &LONG), rest);
    let all: Vec<_> = all.expect("all end").iter().map(|ended| (ended.execution_id, ended.outcome)).collect();
    let expected = [Outcome::Failed, Outcome::Success, Outcome::Success].map(Some);
    assert_eq!(all, ids.into_iter().zip(expected).collect::<Vec<_>>());
}

async fn a_flow_is_awaited_until_its_last_member_has_ended(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &["a"]), ("c", &["a"])]).await;
    let end = async {
        fixture.complete(flow.executions[0].execution_id).await;
        fixture.fail(flow.executions[1].execution_id).await;
        fixture.complete(flow.executions[2].execution_id).await;
    };
    let (ended, ()) = futures::join!(fixture.backend.wait_for_flow(flow.flow_id, &LONG), end);
    assert_eq!(ended.expect("it ends").state, FlowState::Failed);
    let again = fixture.backend.wait_for_flow(flow.flow_id, &LONG).await.expect("it has ended");
    assert!(again.members.iter().all(|member| member.state.outcome().is_some()));
}

async fn a_wait_ends_at_its_deadline_and_names_the_execution(backend: Backend) {
    let fixture = Fixture::new(backend);
    let short = WaitOptions::within(Duration::from_millis(30));
    let id = member(&fixture).await;
    let late = fixture.backend.wait_for(id, &short).await.expect_err("it does not end");
    assert!(matches!(late, EngineError::Timeout { .. }) && late.to_string().contains(&id.to_string()), "{late}");
    assert!(fixture.backend.wait_for_any(&[], &short).await.is_err());
}

async fn a_missing_execution_is_awaited_only_on_request(backend: Backend) {
    let fixture = Fixture::new(backend);
    let partitions: PartitionCount = fixture.backend.partition_count();
    let (id, flow) = (ExecutionId::generate_solo(partitions), FlowId::generate());
    let missing = fixture.backend.wait_for(id, &LONG).await.expect_err("it is not there");
    assert!(matches!(missing, EngineError::NotFound { .. }), "{missing}");
    let missing = fixture.backend.wait_for_flow(flow, &LONG).await.expect_err("it is not there");
    assert!(matches!(missing, EngineError::NotFound { .. }), "{missing}");
    let short = WaitOptions::within(Duration::from_millis(30)).even_if_missing();
    let late = fixture.backend.wait_for(id, &short).await.expect_err("it never comes");
    assert!(matches!(late, EngineError::Timeout { .. }), "{late}");
    let late = fixture.backend.wait_for_flow(flow, &short).await.expect_err("it never comes");
    assert!(matches!(late, EngineError::Timeout { .. }), "{late}");
    // Later is not now.
    assert!(fixture.backend.wait_for(id, &LONG.even_if_missing()).now_or_never().is_none());
}

/// One test per wait and host.
macro_rules! on_both_hosts {
    ($($wait:ident)+) => {
        mod embedded {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $wait() {
                    super::$wait(super::Arc::new(super::EmbeddedBackend::new())).await;
                }
            )+
        }

        mod valkey {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $wait() {
                    let stand = super::support::Stand::start().await;
                    super::$wait(stand.backend.clone()).await;
                }
            )+
        }
    };
}

on_both_hosts! {
    a_wait_for_an_ended_execution_returns_at_once
    a_wait_returns_the_result_of_any_size
    a_completion_during_the_call_is_not_missed
    several_executions_are_awaited_until_one_or_all_have_ended
    a_flow_is_awaited_until_its_last_member_has_ended
    a_wait_ends_at_its_deadline_and_names_the_execution
    a_missing_execution_is_awaited_only_on_request
}
