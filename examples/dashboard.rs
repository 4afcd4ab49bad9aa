//! A dashboard: it would rather miss events than fall behind. What it misses is declared.

use std::{env, error::Error, num::NonZeroUsize, time::Duration};

use flowfabric::{
    Engine, ExecutionSpec, FlowSubmission, Frame, Namespace, Overflow, SubscribeOptions, WaitOptions, Worker,
    prelude::*,
};
use tokio::time::timeout;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    // Only a server sends faster than this program reads; the embedded backend waits for it.
    let url = env::var("FF_URL").unwrap_or_else(|_| "embedded:".to_owned());
    let backend = flowfabric::connect(&url).await?;
    let _engine = Engine::builder(backend.clone()).start().await?;
    let _worker = Worker::builder().handler(async |_| Ok("done".into())).build(backend.clone())?.start();
    let capacity = NonZeroUsize::new(4).ok_or("the capacity is zero")?;
    let options = SubscribeOptions::new().capacity(capacity).overflow(Overflow::DropOldest);
    let mut subscription = backend.subscribe(&options).await?;

    let mut flow = FlowSubmission::new(Namespace::new("demo")?);
    for number in 0..20 {
        flow = flow.execution(ExecutionSpec::new(format!("step-{number}")));
    }
    let flow = backend.submit_flow(&flow).await?;
    // The dashboard is busy with its drawing until the flow has ended.
    backend.wait_for_flow(flow.flow_id, &WaitOptions::default()).await?;
    let (mut shown, mut gaps) = (0, 0);
    while let Ok(Some(frame)) = timeout(Duration::from_millis(500), subscription.next()).await {
        match frame {
            Frame::Completion(_) => shown += 1,
            Frame::Gap(_) => gaps += 1,
            _ => {}
        }
    }
    println!("every event was shown or declared missing: {}", shown == 20 || gaps > 0);
    Ok(())
}
