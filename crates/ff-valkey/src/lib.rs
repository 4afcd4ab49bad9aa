//! FlowFabric on Valkey: calls of the library, and completions that reach every subscription.
//!
//! [`ValkeyBackend`] is what a user holds. Below it, from the socket inwards:
//!
//! | folder or file | what it is for |
//! | --- | --- |
//! | `config` | the settings of a connection: values only |
//! | `net` | reaching a server: addresses, TLS, connections that lead to a primary, reasons where that fails |
//! | `host` | running functions of the library, and what an operator asks a server about itself |
//! | `completions` | from pushes and logs to subscriptions; start reading in `completions/hub.rs` |
//! | `wake` | signals that work has come |
//! | `tasks`, `telemetry` | what becomes of an internal task that ends; metrics |
//! | `backend` | what users hold: the traits, over the parts above |
//!
//! The parts use each other downwards only: `completions` the `host`, the `host` the `net`, the `net` the `config`.
#![forbid(unsafe_code)]

mod backend;
mod completions;
mod config;
mod host;
mod net;
mod tasks;
pub mod telemetry;
mod wake;

pub use backend::{Health, ValkeyBackend};
pub use config::ValkeyConfig;
pub use host::ValkeyHost;
pub use host::inspect::{LogSize, LogSizes};
pub use net::address::{Address, Endpoint};
