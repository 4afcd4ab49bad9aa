//! Invalid input is refused and leaves nothing behind.

use std::time::Duration;

use ff_core::{EngineError, ExecutionId, FlowId, Partition, PartitionCount, WorkerId, backend::ClaimRequest, limits};
use uuid::Uuid;

use super::Backend;
use crate::fixture::{Fixture, name};

pub async fn a_refused_submission_writes_nothing(backend: Backend) {
    let fixture = Fixture::new(backend);
    let mut oversized = fixture.flow(&[("a", &[])]);
    oversized.executions[0].payload = vec![0; limits::PAYLOAD_BYTES + 1].into();
    let refused = [
        fixture.flow(&[]),
        fixture.flow(&[("a", &["b"]), ("b", &["a"])]),
        fixture.flow(&[("a", &["ghost"])]),
        fixture.flow(&[("a", &[]), ("a", &[])]),
        oversized,
    ];
    for flow in refused {
        let flow = flow.idempotency_key("refused");
        let error = fixture.backend.submit_flow(&flow).await.expect_err("it is refused");
        assert!(matches!(error, EngineError::InvalidInput { .. }), "{error}");
        let id = FlowId::from_idempotency_key(&fixture.namespace, "refused");
        let described = fixture.backend.describe_flow(id).await;
        assert!(matches!(described, Err(EngineError::NotFound { .. })), "{described:?}");
        let partition = id.partition(fixture.backend.partition_count());
        assert!(fixture.claim_some(partition, 10, Duration::from_secs(60)).await.is_empty());
    }
}

pub async fn an_id_of_another_deployment_is_refused(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = ExecutionId::from_parts(Partition::new(PartitionCount::MAX - 1), Uuid::new_v4());
    let error = fixture.backend.describe_execution(id).await.expect_err("there is no such partition");
    assert!(matches!(error, EngineError::InvalidInput { .. }) && error.to_string().contains(&id.to_string()));
}

pub async fn a_result_beyond_the_limit_is_refused_and_the_lease_stays_valid(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let claimed = fixture.claim(id).await;
    let large = vec![0; limits::PAYLOAD_BYTES + 1];
    let error = fixture.backend.complete(&claimed.lease, large.into()).await.expect_err("it is refused");
    assert!(error.to_string().contains("1048577"), "{error}");
    fixture.backend.complete(&claimed.lease, "small".into()).await.expect("the lease still holds");
}

pub async fn a_claim_of_no_or_too_many_executions_is_refused(backend: Backend) {
    let fixture = Fixture::new(backend);
    let id = fixture.submit_members(&[("a", &[])]).await.executions[0].execution_id;
    let most = u32::try_from(limits::CLAIM_BATCH).expect("it is small");
    for max in [0, most + 1] {
        let request = ClaimRequest::new(name::<WorkerId>("worker"), fixture.lane.clone(), id.partition());
        let error = fixture.backend.claim(&request.max(max)).await.expect_err("it is refused");
        assert!(matches!(error, EngineError::InvalidInput { .. }), "{error}");
    }
    assert_eq!(fixture.claim_some(id.partition(), most, Duration::from_secs(60)).await.len(), 1);
}
