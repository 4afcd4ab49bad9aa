//! Connections whose tasks run on a separate thread: handlers may occupy all threads of the user's runtime, and lease
//! renewals must get through nevertheless.

use std::sync::{Arc, OnceLock};

use ff_core::EngineError;
use tokio::{
    runtime::{Builder, Runtime},
    sync::OnceCell,
};

use crate::{ValkeyConfig, ValkeyHost};

/// The runtime of all such connections of this process; it is never dropped.
fn runtime() -> Result<&'static Runtime, EngineError> {
    static RUNTIME: OnceLock<Option<Runtime>> = OnceLock::new();
    let start = || Builder::new_multi_thread().worker_threads(1).thread_name("ff-valkey").enable_all().build().ok();
    let no_thread = || EngineError::transport("connecting apart", "there is no thread for it");
    RUNTIME.get_or_init(start).as_ref().ok_or_else(no_thread)
}

/// A second host for the same server, connected on first use.
#[derive(Default)]
pub(crate) struct Apart(OnceCell<Arc<ValkeyHost>>);

impl Apart {
    /// The host, if it was connected.
    pub(crate) fn get(&self) -> Option<&Arc<ValkeyHost>> {
        self.0.get()
    }

    /// # Errors
    /// As for connecting.
    pub(crate) async fn host(&self, config: &ValkeyConfig) -> Result<&Arc<ValkeyHost>, EngineError> {
        let connect = async || {
            let config = config.clone();
            let connecting = runtime()?.spawn(async move { ValkeyHost::connect(config).await.map(Arc::new) });
            connecting.await.map_err(|error| EngineError::transport("connecting apart", error.to_string()))?
        };
        self.0.get_or_try_init(connect).await
    }
}
