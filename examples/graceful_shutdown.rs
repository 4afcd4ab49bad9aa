//! A process that stops on Ctrl-C: it claims nothing more, lets handlers finish, and gives back the rest.

use std::{error::Error, sync::Arc, time::Duration};

use flowfabric::{Engine, ExecutionSpec, FlowSubmission, HandlerError, Namespace, WorkContext, Worker};
use tokio::sync::Notify;

struct Started(Arc<Notify>);

async fn work(context: WorkContext, (): ()) -> Result<(), HandlerError> {
    context.state::<Started>()?.0.notify_one();
    tokio::time::sleep(Duration::from_millis(100)).await;
    Ok(())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = flowfabric::connect("embedded:").await?;
    let engine = Engine::builder(backend.clone()).start().await?;
    let started = Arc::new(Notify::new());
    let worker = Worker::builder()
        .concurrency(1)
        .state(Started(started.clone()))
        .on("work", work)
        .drain_grace(Duration::from_secs(20))
        .build(backend.clone())?
        .start();
    let later = ExecutionSpec::new("later").kind("work")?.needs(["work"]);
    let flow = FlowSubmission::new(Namespace::new("demo")?).execution(ExecutionSpec::new("work")).execution(later);
    let flow = backend.submit_flow(&flow).await?;

    tokio::select! {
        signal = tokio::signal::ctrl_c() => signal?,
        () = started.notified() => println!("a deploy stops the process while `work` runs"),
    }
    worker.shutdown().await?; // waits for `work`, and claims nothing more
    engine.shutdown().await;
    for member in backend.describe_flow(flow.flow_id).await?.members {
        println!("{}: {}", member.name, if member.state.outcome().is_some() { "ended" } else { "left to others" });
    }
    Ok(())
}
