//! An HTTP handler that submits an execution and answers with its result.

use std::{error::Error, sync::Arc, time::Duration};

use axum::{Router, extract::State, http::StatusCode, routing::post};
use flowfabric::{
    Engine, ExecutionSpec, ExecutionSubmission, HandlerError, Namespace, WaitOptions, WorkContext, Worker, prelude::*,
};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

async fn shout(_: WorkContext, text: String) -> Result<String, HandlerError> {
    Ok(text.to_uppercase())
}

async fn answer(State(backend): State<Arc<dyn EngineBackend>>, text: String) -> Result<String, (StatusCode, String)> {
    let waited = async {
        let execution = ExecutionSpec::new("shout").payload_json(&text)?;
        let submission = ExecutionSubmission::new(Namespace::new("web")?, execution);
        let id = backend.submit_execution(&submission).await?.execution_id;
        // A client that goes away drops this future; the execution goes on.
        backend.wait_for(id, &WaitOptions::within(Duration::from_secs(10))).await
    };
    let ended = waited.await.map_err(|error| (StatusCode::SERVICE_UNAVAILABLE, error.to_string()))?;
    ended.result_json().map_err(|error| (StatusCode::INTERNAL_SERVER_ERROR, error.to_string()))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = flowfabric::connect("embedded:").await?;
    let _engine = Engine::builder(backend.clone()).start().await?;
    let _worker = Worker::builder().on("shout", shout).build(backend.clone())?.start();

    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await?;
    let address = listener.local_addr()?;
    let routes = Router::new().route("/shout", post(answer)).with_state(backend);
    tokio::spawn(async move { axum::serve(listener, routes).await });

    // What `curl -d hello http://…/shout` sends.
    let mut client = tokio::net::TcpStream::connect(address).await?;
    let request = "POST /shout HTTP/1.1\r\nHost: x\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello";
    client.write_all(request.as_bytes()).await?;
    let mut response = String::new();
    client.read_to_string(&mut response).await?;
    println!("{}", response.lines().last().unwrap_or_default());
    Ok(())
}
