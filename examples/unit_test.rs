//! A unit test of time: the clock stands until the test moves it.

use std::{error::Error, sync::Arc, time::Duration};

use flowfabric::{
    Engine, ExecutionSpec, ExecutionSubmission, Namespace, PublicState, WaitOptions,
    embedded::{Clock, EmbeddedBackend, VirtualClock},
    prelude::*,
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let clock = VirtualClock::at_millis(1_700_000_000_000);
    let backend = Arc::new(EmbeddedBackend::builder().clock(Clock::Virtual(clock.clone())).build()?);
    let engine = Engine::builder(backend.clone()).sweep_interval(Duration::from_millis(10));
    let _engine = engine.start().await?;

    let day = Duration::from_secs(86_400);
    let offer = ExecutionSpec::new("offer").deadline(day);
    let offer = backend.submit_execution(&ExecutionSubmission::new(Namespace::new("shop")?, offer)).await?;
    assert_eq!(backend.describe_execution(offer.execution_id).await?.state, PublicState::Waiting);
    clock.advance(day);
    let ended = backend.wait_for(offer.execution_id, &WaitOptions::default()).await?;
    assert_eq!(ended.state, PublicState::Expired);
    println!("the offer expired after a day that took no time");
    Ok(())
}
