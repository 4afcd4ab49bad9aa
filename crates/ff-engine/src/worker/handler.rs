//! The handlers of a worker, and which executions they take.

use std::{any::Any, collections::HashMap, fmt, future::Future, sync::Arc};

use bytes::Bytes;
use ff_core::{ClaimedExecution, Failure, KIND_TAG};
use futures::{FutureExt, future::BoxFuture};
use serde::{Serialize, de::DeserializeOwned};
use tokio::task::JoinHandle;
use tracing::Instrument;

use super::{WorkContext, error::HandlerError, execute::HandlerResult};

/// The state that a worker shares with its handlers.
pub(super) type State = Arc<dyn Any + Send + Sync>;

/// A handler behind one type, so that a worker has no type parameter for it.
#[derive(Clone)]
pub(super) enum Handler {
    Async(Arc<dyn Fn(WorkContext) -> BoxFuture<'static, HandlerResult> + Send + Sync>),
    Blocking(Arc<dyn Fn(WorkContext) -> HandlerResult + Send + Sync>),
}

impl Handler {
    pub(super) fn bytes<F, Fut>(handler: F) -> Self
    where
        F: Fn(WorkContext) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = HandlerResult> + Send + 'static,
    {
        Self::Async(Arc::new(move |context| handler(context).boxed()))
    }

    /// A handler over values that travel as JSON.
    pub(super) fn typed<T, R, F, Fut>(handler: F) -> Self
    where
        T: DeserializeOwned + Send + 'static,
        R: Serialize + Send + 'static,
        F: Fn(WorkContext, T) -> Fut + Send + Sync + 'static,
        Fut: Future<Output = Result<R, HandlerError>> + Send + 'static,
    {
        Self::bytes(move |context| {
            let running = context.payload_json().map(|input| handler(context, input));
            async move {
                let result = match running {
                    Ok(running) => running.await,
                    Err(error) => Err(error),
                };
                let result = result.map_err(HandlerError::into_failure)?;
                let bytes = serde_json::to_vec(&result);
                let bytes = bytes.map_err(|error| Failure::permanent(format!("the result is not JSON: {error}")))?;
                Ok(Bytes::from(bytes))
            }
        })
    }

    /// Starts it in a task of its own, so that neither a panic nor a computation without awaits reaches what watches
    /// over it.
    pub(super) fn start(&self, context: WorkContext) -> JoinHandle<HandlerResult> {
        match self {
            Self::Async(handler) => {
                let handler = Arc::clone(handler);
                tokio::spawn(async move { handler(context).await }.in_current_span())
            }
            Self::Blocking(handler) => {
                let (handler, span) = (Arc::clone(handler), tracing::Span::current());
                tokio::task::spawn_blocking(move || span.in_scope(|| handler(context)))
            }
        }
    }
}

/// Says which executions a worker takes.
type Accept = Arc<dyn Fn(&ClaimedExecution) -> bool + Send + Sync>;

/// The handlers of a worker: one per kind or name, and one for the rest.
#[derive(Clone, Default)]
pub(super) struct Handlers {
    pub(super) routes: HashMap<String, Handler>,
    pub(super) fallback: Option<Handler>,
    /// Absent where everything is taken that has a handler.
    pub(super) accept: Option<Accept>,
    pub(super) state: Option<State>,
}

impl Handlers {
    pub(super) fn is_empty(&self) -> bool {
        self.routes.is_empty() && self.fallback.is_none()
    }

    /// The handler of an execution: that of its kind, which is its name where it has no tag of this name.
    pub(super) fn of(&self, execution: &ClaimedExecution) -> Option<&Handler> {
        let kind = execution.tags.get(KIND_TAG).unwrap_or(&execution.name);
        self.routes.get(kind).or(self.fallback.as_ref())
    }

    /// Whether the worker takes the execution.
    pub(super) fn take(&self, execution: &ClaimedExecution) -> bool {
        self.of(execution).is_some() && self.accept.as_ref().is_none_or(|accept| accept(execution))
    }
}

impl fmt::Debug for Handlers {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Handlers").field("routes", &self.routes.keys()).finish_non_exhaustive()
    }
}
