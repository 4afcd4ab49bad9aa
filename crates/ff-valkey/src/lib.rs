//! FlowFabric on Valkey: calls of the library, and the delivery of completions to every subscription.
//!
//! [`ValkeyBackend`] is the handle for users. Below it, from the socket inwards:
//!
//! | folder or file | purpose |
//! | --- | --- |
//! | `config` | the settings of a connection: values only |
//! | `net` | reaching a server: addresses, TLS, connections that lead to a primary, clear errors |
//! | `host` | running functions of the library, and queries by an operator |
//! | `completions` | from pushes and logs to subscriptions; start reading in `completions/hub.rs` |
//! | `wake` | signals for new work |
//! | `tasks`, `telemetry` | supervision of internal tasks; metrics |
//! | `backend` | the handle for users: the traits, on top of the parts above |
//!
//! The parts depend on each other downwards only: `completions` on `host`, `host` on `net`, `net` on `config`.
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
