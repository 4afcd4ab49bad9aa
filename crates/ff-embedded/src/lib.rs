//! FlowFabric without a server: the same Lua library, in this process, over a keyspace in memory.
//!
//! For demos, for tests of programs that use FlowFabric, and for simulations. [`EmbeddedBackend::new`] is all that a
//! test needs; nothing outlives the process.
//!
//! The state machine is not written a second time. The library's own text runs on a Lua 5.1 built into this crate, in
//! a sandbox like the server's, and each command that it uses is implemented here with the server's replies and
//! errors; the tests run one table of edge cases against both. What a server does beyond those commands (persistence,
//! replication, other clients) does not exist here.
//!
//! [`EmbeddedHost`] has the tools for tests: a clock that stands until it is moved ([`VirtualClock`]), faults at an
//! exact command ([`Fault`]), the loss of the library's own variables, and a look at all keys.
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

pub use backend::{Builder, EmbeddedBackend};
pub use clock::{Clock, VirtualClock};
pub use fault::Fault;
pub use host::EmbeddedHost;
pub use keyspace::{CommandError, KeyValue, StreamEntry, Value};
