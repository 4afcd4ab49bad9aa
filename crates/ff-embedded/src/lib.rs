//! FlowFabric without a server: the same Lua library, in this process, over a keyspace in memory.
//!
//! For demos, for tests of programs that use FlowFabric, and for simulations. A test needs only
//! [`EmbeddedBackend::new`]; nothing is kept after the process ends.
//!
//! The state machine is not implemented a second time. The library's own text runs on a Lua 5.1 built into this crate,
//! in a sandbox like the server's. Each command that it uses is implemented here with the server's replies and errors;
//! the tests run one table of edge cases against both. Features of a server beyond those commands (persistence,
//! replication, other clients) do not exist here.
//!
//! [`EmbeddedHost`] has the tools for tests: a clock that only a test moves ([`VirtualClock`]), faults at an exact
//! command ([`Fault`]), the loss of the library's variables, and a snapshot of all keys.
#![forbid(unsafe_code)]

mod backend;
mod clock;
mod completions;
mod fault;
mod feed;
mod host;
mod keyspace;
mod listeners;
mod script;
pub mod telemetry;

pub use backend::{EmbeddedBackend, EmbeddedBuilder};
pub use clock::{Clock, VirtualClock};
pub use fault::Fault;
pub use host::EmbeddedHost;
pub use keyspace::{CommandError, KeyValue, StreamEntry, Value};
