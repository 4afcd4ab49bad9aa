//! Waiting for the end of executions and flows.

use std::time::Duration;

use bytes::Bytes;
use ff_core::{
    EngineError, ExecutionId, ExecutionSubmission, FlowId, FlowState, Outcome, PartitionCount, WaitBackend, WaitOptions,
};
use futures::FutureExt;

use super::Backend;
use crate::fixture::Fixture;

/// Far longer than anything here takes.
const LONG: WaitOptions = WaitOptions::within(Duration::from_secs(60));

async fn solo(fixture: &Fixture) -> ExecutionId {
    let solo = ExecutionSubmission::new(fixture.namespace.clone(), fixture.spec("solo"));
    fixture.backend.submit_execution(&solo).await.expect("accepted").execution_id
}

async fn member(fixture: &Fixture) -> ExecutionId {
    fixture.submit_members(&[("a", &[])]).await.executions[0].1
}

pub async fn what_has_ended_already_is_answered_at_once(backend: Backend) {
    let fixture = Fixture::new(backend);
    for id in [solo(&fixture).await, member(&fixture).await] {
        fixture.complete(id).await;
        let ended = fixture.backend.wait_for(id, &LONG).await.expect("it has ended");
        assert_eq!((ended.execution_id, ended.outcome), (id, Some(Outcome::Success)));
    }
}

pub async fn what_ends_later_is_answered_with_its_result_however_large(backend: Backend) {
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

pub async fn an_end_at_the_very_time_of_the_call_is_not_missed(backend: Backend) {
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

pub async fn any_of_several_is_the_one_that_ends_and_all_come_in_the_order_asked_for(backend: Backend) {
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

pub async fn a_flow_is_waited_for_until_its_last_member(backend: Backend) {
    let fixture = Fixture::new(backend);
    let flow = fixture.submit_members(&[("a", &[]), ("b", &["a"]), ("c", &["a"])]).await;
    let end = async {
        fixture.complete(flow.executions[0].1).await;
        fixture.fail(flow.executions[1].1).await;
        fixture.complete(flow.executions[2].1).await;
    };
    let (ended, ()) = futures::join!(fixture.backend.wait_for_flow(flow.flow_id, &LONG), end);
    assert_eq!(ended.expect("it ends").state, FlowState::Failed);
    let again = fixture.backend.wait_for_flow(flow.flow_id, &LONG).await.expect("it has ended");
    assert!(again.members.iter().all(|member| member.state.outcome().is_some()));
}

pub async fn a_wait_ends_at_its_deadline_and_names_what_it_was_for(backend: Backend) {
    let fixture = Fixture::new(backend);
    let short = WaitOptions::within(Duration::from_millis(30));
    let id = member(&fixture).await;
    let late = fixture.backend.wait_for(id, &short).await.expect_err("it does not end");
    assert!(matches!(late, EngineError::Timeout { .. }) && late.to_string().contains(&id.to_string()), "{late}");
    assert!(fixture.backend.wait_for_any(&[], &short).await.is_err());
}

pub async fn what_does_not_exist_is_not_waited_for_unless_that_is_asked_for(backend: Backend) {
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
