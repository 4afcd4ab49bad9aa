//! The Lua library and everything about it: its source, assembly and digest, the loader, the keys, the typed calls, and
//! the decoding of events. The operations are written once here, over [`host::ScriptHost`], for all backends.
#![forbid(unsafe_code)]

pub mod assemble;
pub mod host;
pub mod keys;
pub mod loader;
#[doc(hidden)]
pub mod macros;
pub mod operations;
pub mod permissions;
pub mod telemetry;
pub mod timers;
pub mod wake;
pub mod wire;

/// The library as a server loads it.
pub const SOURCE: &str = include_str!("flowfabric.lua");
