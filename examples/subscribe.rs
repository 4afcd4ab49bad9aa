//! Completions of one tenant, as a stream.

use std::error::Error;

use flowfabric::{Engine, ExecutionSpec, FlowSubmission, Namespace, ScannerFilter, Worker, prelude::*};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = flowfabric::connect("embedded:").await?;
    let _engine = Engine::builder(backend.clone()).start().await?;
    let _worker = Worker::builder().handler(async |_| Ok("done".into())).build(backend.clone())?.start();

    let ours = Namespace::new("team-a")?;
    let filter = ScannerFilter::new().namespace(ours.clone());
    let completions = backend.subscribe_completions_filtered(&filter).await?;
    for tenant in [Namespace::new("team-b")?, ours] {
        let second = ExecutionSpec::new("second").needs(["first"]);
        let flow = FlowSubmission::new(tenant).execution(ExecutionSpec::new("first")).execution(second);
        backend.submit_flow(&flow).await?;
    }
    // Those of team-b do not come.
    let mut completions = completions.take(2);
    while let Some(ended) = completions.next().await {
        let tenant = ended.namespace.ok_or("the event names no tenant")?;
        println!("{tenant}: {}", ended.outcome);
    }
    Ok(())
}
