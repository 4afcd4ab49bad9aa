//! Metrics for Prometheus and logs by `tracing`: FlowFabric records both, the program chooses where they go.

use std::error::Error;

use flowfabric::{Engine, ExecutionSpec, ExecutionSubmission, Namespace, WaitOptions, Worker, prelude::*};
use metrics_exporter_prometheus::PrometheusBuilder;

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    tracing_subscriber::fmt().with_max_level(tracing_subscriber::filter::LevelFilter::INFO).init();
    // `PrometheusBuilder::new().with_http_listener(address).install()` serves them over HTTP.
    let metrics = PrometheusBuilder::new().install_recorder()?;

    let backend = flowfabric::connect("embedded:").await?;
    let _engine = Engine::builder(backend.clone()).start().await?;
    let worker = Worker::builder().handler(async |_| Ok("done".into())).build(backend.clone())?.start();
    let execution = ExecutionSubmission::new(Namespace::new("demo")?, ExecutionSpec::new("a"));
    let submitted = backend.submit_execution(&execution).await?;
    backend.wait_for(submitted.execution_id, &WaitOptions::default()).await?;
    worker.shutdown().await?;
    for line in metrics.render().lines().filter(|line| line.starts_with("ff_worker_completed")) {
        println!("{line}");
    }
    Ok(())
}
