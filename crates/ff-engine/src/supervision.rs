//! Detects a part of the engine that ends although it was not stopped.

use std::{
    panic::AssertUnwindSafe,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use futures::FutureExt;
use metrics::counter;
use tokio_util::sync::CancellationToken;

/// Which parts have ended.
#[derive(Debug, Clone, Default)]
pub(crate) struct Supervision(Arc<Mutex<Vec<&'static str>>>);

impl Supervision {
    /// Runs a part until `stop` is cancelled. If it ends earlier, by its own panic or one of the backend, this is
    /// logged and counted, and the part is listed as ended.
    pub(crate) async fn run(self, name: &'static str, part: impl Future<Output = ()>, stop: CancellationToken) {
        let outcome = AssertUnwindSafe(part).catch_unwind().await;
        if outcome.is_ok() && stop.is_cancelled() {
            return;
        }
        let why = match &outcome {
            Ok(()) => "it returned",
            Err(panic) => match (panic.downcast_ref::<&str>(), panic.downcast_ref::<String>()) {
                (Some(text), _) => text,
                (None, Some(text)) => text.as_str(),
                (None, None) => "it panicked",
            },
        };
        tracing::error!(part = name, why, "a part of the engine has ended; restart the engine");
        counter!("ff_engine_parts_ended", "part" => name).increment(1);
        self.lock().push(name);
    }

    pub(crate) fn ended(&self) -> Vec<&'static str> {
        self.lock().clone()
    }

    fn lock(&self) -> MutexGuard<'_, Vec<&'static str>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
