//! A way to a server that can fail where the server itself does not.

use tokio::io::copy;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::watch;
use tokio::task::JoinHandle;

use crate::error::{Doing, Result};

/// Passes on what comes to its port, until it is told otherwise. Dropping it cuts all connections.
///
/// ```no_run
/// # use ff_testserver::{Proxy, TestServer};
/// # async fn example() -> Result<(), ff_testserver::Error> {
/// let server = TestServer::start().await?;
/// let proxy = Proxy::open(server.port()).await?;
/// // … a client connects to proxy.port() …
/// proxy.swallow();
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Proxy {
    port: u16,
    way: watch::Sender<Way>,
    listening: JoinHandle<()>,
}

/// What connections do; those of an earlier age go by the last change.
#[derive(Debug, Clone, Copy)]
struct Way {
    target: u16,
    age: u64,
    swallowed: bool,
}

impl Proxy {
    /// Listens at a port of its own of this machine, and passes on to `target`.
    ///
    /// # Errors
    /// When no port is free.
    pub async fn open(target: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.doing("opening a proxy")?;
        let port = listener.local_addr().doing("opening a proxy")?.port();
        let (way, now) = watch::channel(Way { target, age: 0, swallowed: false });
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, now.clone()));
            }
        });
        Ok(Self { port, way, listening })
    }

    /// The port for clients.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on nothing passes over the connections that there are, and neither end is told. New ones work.
    pub fn swallow(&self) {
        self.end_age(|way| way.swallowed = true);
    }

    /// Cuts the connections that there are. New ones work.
    pub fn cut(&self) {
        self.end_age(|way| way.swallowed = false);
    }

    /// Cuts the connections that there are, and leads new ones to this port.
    pub fn lead_to(&self, target: u16) {
        self.end_age(|way| {
            way.swallowed = false;
            way.target = target;
        });
    }

    fn end_age(&self, change: impl FnOnce(&mut Way)) {
        self.way.send_modify(|way| {
            way.age += 1;
            change(way);
        });
    }
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.listening.abort();
    }
}

async fn pass_on(client: TcpStream, mut now: watch::Receiver<Way>) {
    let Way { target, age, .. } = *now.borrow_and_update();
    // A server that is gone refuses, and so does the proxy by dropping the client.
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    // Small writes are passed on at once.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (mut from_client, mut to_client) = client.into_split();
    let (mut from_server, mut to_server) = server.into_split();
    let swallowed = async { now.wait_for(|way| way.age != age).await.is_ok_and(|way| way.swallowed) };
    let swallowed = tokio::select! {
        _ = copy(&mut from_client, &mut to_server) => false,
        _ = copy(&mut from_server, &mut to_client) => false,
        swallowed = swallowed => swallowed,
    };
    if swallowed {
        // Both ends stay open, and nobody reads them.
        let _ = now.wait_for(|way| !way.swallowed).await;
    }
}
