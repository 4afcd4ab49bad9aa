//! A flow that is cancelled while one of its executions runs.

use std::{error::Error, sync::Arc};

use flowfabric::{
    Engine, ExecutionSpec, FlowSubmission, HandlerError, Namespace, WaitOptions, WorkContext, Worker, prelude::*,
};
use tokio::sync::Notify;

/// Shared with the handler, so that the program cancels when the handler has started.
struct Started(Arc<Notify>);

async fn long(work: WorkContext, (): ()) -> Result<(), HandlerError> {
    work.state::<Started>()?.0.notify_one();
    work.cancelled().await; // the worker is notified within milliseconds
    println!("the handler stops");
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = flowfabric::connect("embedded:").await?;
    let _engine = Engine::builder(backend.clone()).start().await?;
    let started = Arc::new(Notify::new());
    let worker = Worker::builder().state(Started(started.clone())).on("long", long).build(backend.clone())?.start();

    let after = ExecutionSpec::new("after").needs(["long"]);
    let flow = FlowSubmission::new(Namespace::new("demo")?).execution(ExecutionSpec::new("long")).execution(after);
    let submitted = backend.submit_flow(&flow).await?;
    started.notified().await;
    backend.cancel_flow(submitted.flow_id, "the customer left").await?;
    worker.shutdown().await?;
    let ended = backend.wait_for_flow(submitted.flow_id, &WaitOptions::default()).await?;
    println!("the flow is {}", ended.state);
    for member in ended.members {
        println!("{}: {}", member.name, member.state);
    }
    Ok(())
}
