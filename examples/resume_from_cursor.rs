//! A reader that loses nothing over its own restarts: it saves its cursor and starts after it the next time.

use std::error::Error;

use flowfabric::{
    Engine, EngineError, ExecutionSpec, FlowSubmission, Frame, Namespace, Start, SubscribeOptions, Worker, prelude::*,
};

/// Reads `count` completions and returns the cursor to save.
async fn read(backend: &dyn EngineBackend, saved: Option<String>, count: usize) -> Result<String, EngineError> {
    let start = saved.map(|text| text.parse()).transpose()?.map_or(Start::Earliest, Start::After);
    let mut subscription = backend.subscribe(&SubscribeOptions::new().start(start)).await?;
    let mut seen = 0;
    while seen < count
        && let Some(frame) = subscription.next().await
    {
        match frame {
            Frame::Completion(ended) => {
                seen += 1;
                println!("{}", ended.outcome);
            }
            // What the log no longer holds is declared, with its exact positions.
            Frame::Gap(gap) => println!("missing: {gap}"),
            _ => {}
        }
    }
    Ok(subscription.cursor().to_string())
}

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = flowfabric::connect("embedded:").await?;
    let _engine = Engine::builder(backend.clone()).start().await?;
    let _worker = Worker::builder().handler(async |_| Ok("done".into())).build(backend.clone())?.start();
    let mut flow = FlowSubmission::new(Namespace::new("demo")?);
    for name in ["a", "b", "c"] {
        flow = flow.execution(ExecutionSpec::new(name));
    }
    backend.submit_flow(&flow).await?;

    let saved = read(&*backend, None, 2).await?;
    println!("restart");
    read(&*backend, Some(saved), 1).await?;
    Ok(())
}
