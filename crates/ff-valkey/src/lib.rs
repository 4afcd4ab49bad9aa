//! FlowFabric on Valkey: calls of the library, and completions that reach every subscription.
//!
//! [`ValkeyBackend`] is what a user holds. Below it, from the socket inwards:
//!
//! | module | what it is for |
//! | --- | --- |
//! | `config`, `address`, `tls`, `connection`, `error`, `wording`, `mismatch` | reaching a server, and saying clearly why not |
//! | `outage`, `quiet` | few lines in the log where much goes wrong |
//! | `primary`, `sentinel` | which server that is, and that it is a primary |
//! | `host`, `value` | running functions of the library, and the shapes of replies |
//! | `together` | reads whose answers must be of one primary |
//! | `subscriber` | the one connection that receives |
//! | `hub` | where pushes and log pages meet; start reading here |
//! | `vector` | how far this process is in every log (pure) |
//! | `fanout`, `ring`, `queue` | from one event to many queues (pure) |
//! | `catchup`, `stream` | a subscription that is behind, and one as its owner polls it |
//! | `bare` | events of other publishers |
//! | `wake` | signals that work has come |
//! | `tasks` | what becomes of an internal task that ends |
//! | `inspect` | what an operator asks a server about itself |
#![forbid(unsafe_code)]

mod address;
mod apart;
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
mod mismatch;
mod outage;
mod page;
mod primary;
mod queue;
mod quiet;
mod ring;
mod sentinel;
#[cfg(test)]
mod simulated;
mod source;
mod stream;
mod subscriber;
mod tasks;
pub mod telemetry;
mod tls;
mod together;
mod value;
mod vector;
mod wake;
mod wording;

pub use address::{Address, Endpoint};
pub use backend::{Health, ValkeyBackend};
pub use config::ValkeyConfig;
pub use host::ValkeyHost;
pub use inspect::{LogSize, LogSizes};
