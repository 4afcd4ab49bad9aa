//! A submission that can be repeated: the key finds the flow that is there.

use std::error::Error;

use flowfabric::{EngineError, ExecutionSpec, FlowSubmission, Namespace};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let backend = flowfabric::connect("embedded:").await?;
    let order = |item: &str| -> Result<FlowSubmission, EngineError> {
        let charge = ExecutionSpec::new("charge").payload_json(item)?;
        Ok(FlowSubmission::new(Namespace::new("shop")?).idempotency_key("order-17").execution(charge))
    };
    let first = backend.submit_flow(&order("book")?).await?;
    // The answer was lost, or the message came twice: the same call again is safe.
    let second = backend.submit_flow(&order("book")?).await?;
    println!("the same flow: {}", first.flow_id == second.flow_id);
    // Another content under the same key is an error and changes nothing.
    let conflict = backend.submit_flow(&order("lamp")?).await;
    println!("refused: {}", matches!(conflict, Err(EngineError::Conflict { .. })));
    Ok(())
}
