//! A server behind TLS or Sentinel. The URL says which:
//! `rediss://app:secret@db.example:6379`, or
//! `rediss-sentinel://app:secret@10.0.0.1:26379,10.0.0.2:26379/orders?sentinelUser=app&sentinelPass=secret`.

use std::{env, error::Error, sync::Arc};

use flowfabric::{
    ExecutionSpec, FlowSubmission, Namespace,
    prelude::*,
    valkey::{ValkeyBackend, ValkeyConfig},
};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let url = env::var("FF_URL").map_err(|_| "set FF_URL to the URL of a server")?;
    let mut config = ValkeyConfig::from_url(&url)?;
    // The system's certificates are trusted, unless a file names others.
    if let Ok(file) = env::var("FF_CA") {
        config = config.ca_file(file);
    }
    let backend = Arc::new(ValkeyBackend::connect_with(config).await?);
    let flow = FlowSubmission::new(Namespace::new("demo")?).execution(ExecutionSpec::new("a"));
    let submitted = backend.submit_flow(&flow).await?;
    println!("submitted a flow of {} execution", submitted.executions.len());
    // After a failover the client goes to the new primary; this shows when it is connected again.
    println!("connected: {}", backend.health().connected);
    Ok(())
}
