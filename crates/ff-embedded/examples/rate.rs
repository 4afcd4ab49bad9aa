//! Measures how many submit, claim, complete cycles per second one thread executes. `cargo run --release --example rate
//! [seconds [cycles]]`; with a number of cycles the work is the same each time, for profilers that count instructions.

use std::time::{Duration, Instant};

use bytes::Bytes;
use ff_core::{
    EngineError, ExecutionSpec, ExecutionSubmission, FlowSubmission, LaneId, Namespace, SubmitBackend, SweepPolicy,
    backend::{ClaimRequest, MaintenanceBackend, WorkBackend},
};
use ff_embedded::EmbeddedBackend;
use futures::executor::block_on;

fn main() -> Result<(), EngineError> {
    let mut arguments = std::env::args().skip(1);
    let seconds = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(3);
    let most = arguments.next().and_then(|text| text.parse().ok()).unwrap_or(u32::MAX);
    for (what, in_flow) in [("solo executions", false), ("flows of one", true)] {
        let backend = EmbeddedBackend::new();
        let begin = Instant::now();
        let mut cycles = 0_u32;
        while cycles < most && begin.elapsed() < Duration::from_secs(seconds) {
            block_on(cycle(&backend, in_flow))?;
            cycles += 1;
            if cycles.is_multiple_of(10_000) {
                block_on(forget_ended(&backend))?;
            }
        }
        let elapsed = begin.elapsed();
        println!(
            "{what}: {:.0} cycles/s, {:.1} us each",
            f64::from(cycles) / elapsed.as_secs_f64(),
            elapsed.as_secs_f64() * 1e6 / f64::from(cycles)
        );
    }
    Ok(())
}

async fn cycle(backend: &EmbeddedBackend, in_flow: bool) -> Result<(), EngineError> {
    let namespace = Namespace::new("rate")?;
    let spec = ExecutionSpec::new("work").payload("what to do");
    let id = if in_flow {
        backend.submit_flow(&FlowSubmission::new(namespace).execution(spec)).await?.executions[0].execution_id
    } else {
        backend.submit_execution(&ExecutionSubmission::new(namespace, spec)).await?.execution_id
    };
    let claim = backend
        .claim(
            &ClaimRequest::new("rate".parse()?, LaneId::default_lane(), id.partition())
                .max(1)
                .lease(Duration::from_secs(30)),
        )
        .await?;
    backend.complete(&claim.executions[0].lease, Bytes::from_static(b"done")).await
}

/// Bounds the memory, as a sweeper does.
async fn forget_ended(backend: &EmbeddedBackend) -> Result<(), EngineError> {
    let partitions: Vec<_> = backend.partition_count().partitions().collect();
    let policy = SweepPolicy::retention(Duration::ZERO);
    loop {
        let reports: Vec<_> = backend.sweep(&partitions, &policy).await.into_iter().collect::<Result<_, _>>()?;
        if !reports.iter().any(|report| report.more) {
            return Ok(());
        }
    }
}
