//! Private Valkey servers for tests, benches and `xtask`.
//!
//! A [`TestServer`] belongs to whoever started it: it can be killed, restarted, paused and configured, and it is gone
//! with its data when the value is dropped. A started server has answered a PING before `start` returns.
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
//! | `FF_TEST_PROVIDER` | `docker` or `process` forces one; anything else is an error |
//! | `FF_VALKEY_IMAGE` | the image for Docker, `name:tag`, in place of [`DEFAULT_IMAGE`] |
//! | `FF_VALKEY_SERVER` | the program for `process`, in place of the one found |
//! | `FF_TEST_VALKEY_URL` | a shared server that tests may wipe; wins over the others |
//!
//! Unforced, the first of these that is there: Docker with the image at hand, a `valkey-server` on the `PATH`, one
//! unpacked under `target/valkey/` (`scripts/fetch-valkey.sh`), Docker with an image to be pulled. A test never goes
//! to the network while a local server would do.
//!
//! [`Builder::clock_at`] gives a server whose wall clock stands until [`TestServer::set_clock`] moves it. A library that
//! is compiled on the spot (`preload/clock.c`) tells it the time, so it is always a process. [`Builder::slow_disk`] does
//! the same to the disk: a crash then loses what a server with an idle disk would have written.
//!
//! A [`Proxy`] stands between a client and a server and can swallow what passes, cut connections, or lead elsewhere.
//!
//! # Failover
//!
//! [`Sentinels`] watch over a primary and its replicas and promote one when the primary is gone, or when told to. They are
//! processes, and so must be the servers that they watch ([`Builder::process`]).
//!
//! # What is left behind
//!
//! Nothing when the value is dropped, as on a panic; and nothing when the test program is killed, since a shell beside
//! each server watches over its owner (for containers it needs the `docker` program). Should a container stay all the
//! same, `docker ps -aq --filter label=ff-testserver` names it: all carry the label [`LABEL`].
//!
//! This crate depends on no other crate of the workspace and knows nothing of FlowFabric.
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
