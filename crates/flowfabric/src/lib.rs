//! Durable flows of executions on Valkey. When an execution ends, every subscriber is notified exactly once.
//!
//! This crate is all that a service depends on. [`connect`] opens a backend by URL, and everything below takes it as an
//! `Arc<dyn EngineBackend>`.
//!
//! ```
#![doc = include_str!("../../../examples/first_flow.rs")]
//! ```
//!
//! # Where to go
//!
//! | task | type | example |
//! | --- | --- | --- |
//! | submit a flow | [`FlowSubmission`], [`ExecutionSpec`], [`SubmitBackend`] | `first_flow` |
//! | run work | [`Worker`], [`WorkContext`] | `worker`, `typed_handlers` |
//! | keep flows moving (once per deployment or more) | [`Engine`] | `first_flow` |
//! | receive completions | [`CompletionBackend`], [`ScannerFilter`] | `subscribe` |
//! | lose nothing over a restart | [`SubscribeBackend`], [`SubscribeOptions`], [`Cursor`] | `resume_from_cursor` |
//! | wait for one result | [`WaitExt`], [`WaitOptions`] | `wait_for_result` |
//! | cancel | [`ControlBackend`] | `cancel` |
//! | implement a backend | [`backend`], [`reader`] | `examples/own-backend` |
//!
//! The examples are in the folder `examples/` of the repository; its `README.md` has the commands.
//!
//! # Features
//!
//! | feature | what it adds | default |
//! | --- | --- | --- |
//! | `valkey` | `valkey`: flows on a server | yes |
//! | `engine` | [`Engine`], [`Worker`] and what they need | yes |
//! | `embedded` | `embedded`: flows in this process, for tests and demos | no |
#![forbid(unsafe_code)]

mod connect;

pub use bytes::Bytes;
pub use connect::connect;
pub use ff_core::*;
#[cfg(feature = "embedded")]
pub use ff_embedded as embedded;
#[cfg(feature = "engine")]
pub use ff_engine::{
    DependencyReconciler, Dispatcher, Engine, EngineBuilder, EngineHealth, HandlerError, PermanentExt, Sweeper,
    WaitExt, WaitOptions, WorkContext, Worker, WorkerBuilder, WorkerHandle,
};
pub use ff_script::operations::LogPolicy;
#[cfg(feature = "valkey")]
pub use ff_valkey as valkey;
pub use futures::StreamExt;
#[cfg(feature = "engine")]
pub use tokio_util::sync::CancellationToken;

/// The traits whose methods a program calls: `use flowfabric::prelude::*`.
pub mod prelude {
    pub use ff_core::{CompletionBackend, ControlBackend, EngineBackend, SubmitBackend, SubscribeBackend};
    #[cfg(feature = "engine")]
    pub use ff_engine::{PermanentExt, WaitExt};
    pub use futures::StreamExt;
}

/// The examples of the project's README, which must run.
#[cfg(doctest)]
#[doc = include_str!("../../../README.md")]
struct Readme;
