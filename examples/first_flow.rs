//! The first flow: one execution, and its result.

use flowfabric::{Engine, ExecutionSpec, FlowSubmission, Namespace, WaitOptions, Worker, connect, prelude::*};

#[tokio::main]
async fn main() -> Result<(), Box<dyn std::error::Error>> {
    let backend = connect("embedded:").await?; // or redis://host:6379
    let _engine = Engine::builder(backend.clone()).start().await?;
    let greet = |_, name: String| async move { Ok(format!("Hello, {name}!")) };
    let _worker = Worker::builder().on("greet", greet).build(backend.clone())?.start();
    let greeting = ExecutionSpec::new("greet").payload_json("world")?;
    let flow = backend.submit_flow(&FlowSubmission::new(Namespace::new("demo")?).execution(greeting)).await?;
    let ended = backend.wait_for(flow.executions[0].execution_id, &WaitOptions::default()).await?;
    println!("{}", ended.result_json::<String>()?);
    Ok(())
}
