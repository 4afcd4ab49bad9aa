//! Private Valkey servers for tests, benches and `xtask`.
//!
//! A [`TestServer`] belongs to the test that started it: it can be killed, restarted, paused and configured. When the
//! value is dropped, the server ends and its data is deleted. A started server has answered a PING before `start`
//! returns.
//!
//! ```no_run
//! # async fn example() -> Result<(), ff_testserver::Error> {
//! let server = ff_testserver::TestServer::start().await?;
//! server.command(&["SET", "greeting", "hello"]).await?;
//! assert_eq!(server.command(&["GET", "greeting"]).await?.text(), "hello");
//! # Ok(()) }
//! ```
//!
//! # Where the server comes from
//!
//! | variable | meaning |
//! | --- | --- |
//! | `FF_TEST_PROVIDER` | `docker` or `process` forces that provider; any other value is an error |
//! | `FF_VALKEY_IMAGE` | the image for Docker, `name:tag`, instead of [`DEFAULT_IMAGE`] |
//! | `FF_VALKEY_SERVER` | the program for `process`, instead of the one found |
//! | `FF_TEST_VALKEY_URL` | a shared server that tests may wipe; overrides the others |
//!
//! Without a forced provider, the first available of these: Docker with a local image, a `valkey-server` on the `PATH`,
//! one unpacked under `target/valkey/` (`scripts/fetch-valkey.sh`), Docker with an image to be pulled. A test never
//! uses the network if a local server is available.
//!
//! [`Builder::clock_at`] gives a server a wall clock that only [`TestServer::set_clock`] moves. A library that is
//! compiled on demand (`preload/clock.c`) provides the time, so the server is always a process. [`Builder::slow_disk`]
//! does the same for the disk: a crash then loses data that a server with an idle disk would have written.
//!
//! A [`Proxy`] between a client and a server can swallow data, cut connections, or redirect them.
//!
//! # Failover
//!
//! [`Sentinels`] monitor a primary and its replicas and promote one when the primary is down, or on request. They are
//! processes, and so must be the servers that they monitor ([`Builder::process`]).
//!
//! # Cleanup
//!
//! Nothing is left behind when the value is dropped, including on a panic, nor when the test program is killed: a shell
//! beside each server monitors its owner (for containers it needs the `docker` program). If a container remains
//! nevertheless, `docker ps -aq --filter label=ff-testserver` lists it: all carry the label [`LABEL`].
//!
//! This crate depends on no other crate of the workspace and is independent of FlowFabric.
#![forbid(unsafe_code)]

mod builder;
mod docker;
mod error;
mod options;
mod port;
mod preload;
mod process;
mod provider;
mod proxy;
mod raw;
mod sentinel;
mod server;
mod shared;
mod tls;
mod watch;

pub use builder::Builder;
pub use docker::LABEL;
pub use error::{Error, Result};
pub use provider::{DEFAULT_IMAGE, Provider};
pub use proxy::Proxy;
pub use raw::{RawClient, Reply};
pub use sentinel::{Sentinels, SentinelsBuilder};
pub use server::TestServer;
pub use tls::TlsFiles;
