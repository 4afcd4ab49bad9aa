//! A backend by its URL.

#![allow(clippy::unwrap_used, reason = "tests and their helpers")]

use ff_testserver::TestServer;
use flowfabric::{EngineError, ExecutionSpec, FlowSubmission, Namespace, connect};

async fn submits(url: &str) {
    let backend = connect(url).await.unwrap();
    let flow = FlowSubmission::new(Namespace::new("a").unwrap()).execution(ExecutionSpec::new("a"));
    let submitted = backend.submit_flow(&flow).await.unwrap();
    assert_eq!(backend.describe_flow(submitted.flow_id).await.unwrap().members.len(), 1);
}

#[tokio::test]
async fn a_url_of_a_server_opens_a_backend_on_it() {
    let server = TestServer::start().await.unwrap();
    submits(server.url()).await;
}

#[tokio::test]
async fn the_url_embedded_opens_a_backend_in_this_process() {
    submits("embedded:").await;
}

#[tokio::test]
async fn an_unknown_scheme_is_refused_with_the_schemes_that_are_known() {
    let Err(error) = connect("http://localhost").await else { panic!("it is accepted") };
    assert!(matches!(error, EngineError::InvalidInput { .. }), "{error:?}");
    assert!(error.to_string().contains("redis://"), "{error}");
}
