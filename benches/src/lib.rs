//! Shared helpers of the benches: a private server with a backend, and bulk work for it.
#![forbid(unsafe_code)]

use std::{sync::Arc, time::Duration};

use ff_conformance::Fixture;
use ff_core::{ClaimedExecution, EngineBackend, SubmittedFlow};
use ff_script::operations::LogPolicy;
use ff_testserver::TestServer;
use ff_valkey::{ValkeyBackend, ValkeyConfig};
use futures::StreamExt;
use tokio::runtime::Runtime;

/// A private server, a backend on it, and the runtime that drives it.
pub struct Bench {
    /// With two threads, the number of cores of the machine of the recorded figures.
    pub runtime: Runtime,
    /// Kept alive for as long as the bench runs.
    pub server: TestServer,
    /// The backend.
    pub backend: Arc<dyn EngineBackend>,
    /// A lane and a namespace.
    pub fixture: Fixture,
}

impl Bench {
    /// Starts everything.
    ///
    /// # Panics
    /// If no server can be started.
    #[must_use]
    pub fn start() -> Self {
        Self::keeping(LogPolicy::default())
    }

    /// Starts everything, with this log policy.
    ///
    /// # Panics
    /// As [`Bench::start`].
    #[must_use]
    pub fn keeping(logs: LogPolicy) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(2)
            .enable_all()
            .build()
            .expect("a bench needs a runtime");
        let (server, backend) = runtime.block_on(async {
            let server = TestServer::start().await.expect("a bench needs a server");
            let config = ValkeyConfig::from_url(server.url()).expect("a server has a URL").log_policy(logs);
            let backend = ValkeyBackend::connect_with(config).await.expect("a bench needs a backend");
            (server, backend)
        });
        let backend: Arc<dyn EngineBackend> = Arc::new(backend);
        let fixture = Fixture::new(backend.clone());
        Self { runtime, server, backend, fixture }
    }

    /// Deletes all keys, so that a long bench does not fill the memory.
    pub async fn wipe(&self) {
        self.server.command(&["FLUSHALL"]).await.expect("the server is up");
        self.backend.verify_deployment().await.expect("the server is up");
    }

    /// A flow of independent members.
    pub async fn submit(&self, members: usize) -> SubmittedFlow {
        let names: Vec<_> = (0..members).map(|n| n.to_string()).collect();
        let members: Vec<_> = names.iter().map(|name| (name.as_str(), &[] as &[&str])).collect();
        self.fixture.submit_members(&members).await
    }

    /// Submits independent members and claims all of them.
    pub async fn claimed(&self, members: usize) -> Vec<ClaimedExecution> {
        let partition = self.submit(members).await.executions[0].execution_id.partition();
        let mut claimed = Vec::new();
        while claimed.len() < members {
            claimed.extend(self.fixture.claim_some(partition, 128, Duration::from_secs(600)).await);
        }
        claimed
    }

    /// Completes claimed executions, `at_once` at a time.
    pub async fn complete(&self, claimed: &[ClaimedExecution], at_once: usize) {
        let results = futures::stream::iter(claimed)
            .map(|claimed| self.backend.complete(&claimed.lease, bytes::Bytes::from_static(b"{\"ok\":true}")))
            .buffer_unordered(at_once)
            .collect::<Vec<_>>()
            .await;
        assert!(results.iter().all(Result::is_ok), "a bench of errors measures nothing");
    }
}
