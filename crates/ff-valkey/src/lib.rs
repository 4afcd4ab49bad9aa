//! FlowFabric on Valkey: calls of the library, and completions that reach every subscription.
//!
//! [`ValkeyBackend`] is what a user holds. Below it, from the socket inwards:
//!
//! | module | what it is for |
//! | --- | --- |
//! | `config`, `tls`, `connection`, `error` | reaching a server, and saying clearly why not |
//! | `host`, `value` | running functions of the library, and the shapes of replies |
//! | `subscriber` | the one connection that receives |
//! | `hub` | where pushes and log pages meet; start reading here |
//! | `vector` | how far this process is in every log (pure) |
//! | `fanout`, `ring`, `queue` | from one event to many queues (pure) |
//! | `catchup`, `stream` | a subscription that is behind, and one as its owner polls it |
//! | `bare` | events of other publishers |
//! | `wake` | signals that work has come |
//! | `inspect` | what an operator asks a server about itself |
#![forbid(unsafe_code)]

mod backend;
mod backoff;
mod bare;
mod catchup;
mod config;
mod connection;
mod error;
mod fanout;
mod host;
mod hub;
mod inspect;
mod lag;
mod page;
mod queue;
mod ring;
#[cfg(test)]
mod simulated;
mod source;
mod stream;
mod subscriber;
pub mod telemetry;
mod tls;
mod value;
mod vector;
mod wake;

pub use backend::{Health, ValkeyBackend};
pub use config::{Endpoint, ValkeyConfig};
pub use host::ValkeyHost;
pub use inspect::LogSize;
