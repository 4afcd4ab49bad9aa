//! Retries with a growing pause, a limit for each attempt, and a deadline for the whole.

use std::{error::Error, time::Duration};

use flowfabric::{
    Backoff, Engine, ExecutionSpec, FlowSubmission, HandlerError, Namespace, WaitOptions, WorkContext, Worker,
    prelude::*,
};

async fn flaky(work: WorkContext, (): ()) -> Result<u32, HandlerError> {
    if work.attempt() < 3 {
        return Err(HandlerError::retryable("the service is busy"));
    }
    Ok(work.attempt())
}

async fn slow(work: WorkContext, (): ()) -> Result<(), HandlerError> {
    // The timeout of the attempt cancels this token.
    work.cancelled().await;
    Err(HandlerError::retryable("stopped"))
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = flowfabric::connect("embedded:").await?;
    let _engine = Engine::builder(backend.clone()).start().await?;
    let worker = Worker::builder().on("flaky", flaky).on("slow", slow).build(backend.clone())?;
    let _worker = worker.start();

    let backoff = Backoff { initial: Duration::from_millis(20), max: Duration::from_secs(1) };
    let flow = FlowSubmission::new(Namespace::new("demo")?)
        .execution(ExecutionSpec::new("flaky").attempts(5, backoff).deadline(Duration::from_secs(60)))
        .execution(ExecutionSpec::new("slow").timeout(Duration::from_millis(50)))
        .execution(ExecutionSpec::new("late").delay(Duration::from_secs(9)).deadline(Duration::from_millis(50)));
    let submitted = backend.submit_flow(&flow).await?;
    for member in submitted.executions {
        let ended = backend.wait_for(member.execution_id, &WaitOptions::within(Duration::from_secs(30))).await?;
        println!("{}: {} after {} attempts", member.name, ended.state, ended.attempt);
    }
    Ok(())
}
