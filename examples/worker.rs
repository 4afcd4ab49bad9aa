//! A worker with one handler over bytes: what it returns ends the execution or fails the attempt.

use std::error::Error;

use flowfabric::{
    Bytes, Engine, ExecutionSpec, ExecutionSubmission, Failure, LaneId, Namespace, WaitOptions, WorkContext, Worker,
    prelude::*,
};

async fn count_words(work: WorkContext) -> Result<Bytes, Failure> {
    // Bad input stays bad: no retry.
    let text = str::from_utf8(work.payload()).map_err(|error| Failure::permanent(error.to_string()))?;
    Ok(text.split_whitespace().count().to_string().into())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = flowfabric::connect("embedded:").await?;
    let _engine = Engine::builder(backend.clone()).start().await?;
    let lane = LaneId::new("texts")?;
    let worker = Worker::builder().lane(lane.clone()).concurrency(4).handler(count_words).build(backend.clone())?;
    let worker = worker.start();

    let execution = ExecutionSpec::new("count").lane(lane).payload("three short words");
    let submitted = backend.submit_execution(&ExecutionSubmission::new(Namespace::new("demo")?, execution)).await?;
    let ended = backend.wait_for(submitted.execution_id, &WaitOptions::default()).await?;
    println!("words: {}", String::from_utf8_lossy(&ended.result.unwrap_or_default()));

    worker.shutdown().await?;
    Ok(())
}
