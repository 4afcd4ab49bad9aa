//! A proxy in front of a server, for network failures that the server itself does not have.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, sleep_until};

use crate::error::{Doing, Result};

/// Forwards data in both directions until a method changes that. Dropping it cuts all connections.
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
    way: Arc<watch::Sender<Way>>,
    trap: Arc<Mutex<Option<Trap>>>,
    listening: JoinHandle<()>,
}

/// The behaviour of connections; connections of an earlier age follow the last change.
#[derive(Debug, Clone, Copy)]
struct Way {
    target: u16,
    age: u64,
    swallowed: bool,
    /// The delay of all data, in each direction.
    delay: Duration,
    /// The bytes per second from the server, on each connection.
    rate: Option<u32>,
}

/// The condition that cuts a connection.
#[derive(Debug)]
struct Trap {
    text: Vec<u8>,
    times: usize,
    then: u16,
}

impl Trap {
    /// How many of these bytes may pass, if the rest may not.
    fn springs_in(&mut self, bytes: &[u8]) -> Option<usize> {
        let mut from = 0;
        while let Some(at) = bytes[from..].windows(self.text.len()).position(|window| window == self.text) {
            from += at + self.text.len();
            self.times -= 1;
            if self.times == 0 {
                return Some(from);
            }
        }
        None
    }
}

impl Proxy {
    /// Listens at its own port of this machine, and forwards to `target`.
    ///
    /// # Errors
    /// If no port is free.
    pub async fn open(target: u16) -> Result<Self> {
        let listener = TcpListener::bind("127.0.0.1:0").await.doing("opening a proxy")?;
        let port = listener.local_addr().doing("opening a proxy")?.port();
        let start = Way { target, age: 0, swallowed: false, delay: Duration::ZERO, rate: None };
        let way = Arc::new(watch::Sender::new(start));
        let trap = Arc::<Mutex<Option<Trap>>>::default();
        let (ways, traps) = (way.clone(), trap.clone());
        let listening = tokio::spawn(async move {
            while let Ok((client, _)) = listener.accept().await {
                tokio::spawn(pass_on(client, ways.clone(), traps.clone()));
            }
        });
        Ok(Self { port, way, trap, listening })
    }

    /// The port for clients.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on the existing connections swallow all data, and neither end notices. New connections work.
    pub fn swallow(&self) {
        self.end_age(|way| way.swallowed = true);
    }

    /// Cuts the existing connections. New connections work.
    pub fn cut(&self) {
        self.end_age(|way| way.swallowed = false);
    }

    /// Cuts the existing connections, and leads new ones to this port.
    pub fn lead_to(&self, target: u16) {
        self.end_age(|way| {
            way.swallowed = false;
            way.target = target;
        });
    }

    /// From now on all data is delayed by this time, in each direction.
    pub fn delay(&self, delay: Duration) {
        self.way.send_modify(|way| way.delay = delay);
    }

    /// From now on the server's data is limited to this many bytes per second, on each connection.
    pub fn throttle(&self, bytes_per_second: u32) {
        self.way.send_modify(|way| way.rate = Some(bytes_per_second));
    }

    /// Waits until this text has come from the server this many times, in pieces that each contain the whole text. Then
    /// the connection with the last one is cut directly after it. New connections lead to `target`; the others are not
    /// affected.
    pub fn cut_after(&self, text: &str, times: usize, target: u16) {
        let trap = Trap { text: text.into(), times, then: target };
        *self.trap.lock().unwrap_or_else(PoisonError::into_inner) = Some(trap);
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

async fn pass_on(client: TcpStream, way: Arc<watch::Sender<Way>>, trap: Arc<Mutex<Option<Trap>>>) {
    let mut now = way.subscribe();
    let Way { target, age, .. } = *now.borrow_and_update();
    // A stopped server refuses the connection, and so does the proxy by dropping the client.
    let Ok(server) = TcpStream::connect(("127.0.0.1", target)).await else { return };
    // Small writes are forwarded immediately.
    let _ = (client.set_nodelay(true), server.set_nodelay(true));
    let (from_client, to_client) = client.into_split();
    let (from_server, to_server) = server.into_split();
    let spring = |bytes: &[u8]| {
        let mut trap = trap.lock().unwrap_or_else(PoisonError::into_inner);
        let passed = trap.as_mut()?.springs_in(bytes)?;
        let then = trap.take()?.then;
        way.send_modify(|way| way.target = then);
        Some(passed)
    };
    let swallowed = async { now.wait_for(|way| way.age != age).await.is_ok_and(|way| way.swallowed) };
    let up = carry(from_client, to_server, way.subscribe(), |_| None, |_| None);
    let down = carry(from_server, to_client, way.subscribe(), |way| way.rate, spring);
    tokio::pin!(up, down);
    let swallowed = tokio::select! {
        () = &mut up => false,
        () = &mut down => false,
        swallowed = swallowed => swallowed,
    };
    if swallowed {
        // Both ends stay open, and their data is not read.
        let _ = way.subscribe().wait_for(|way| !way.swallowed).await;
    }
}

/// Copies bytes from one end to the other until either closes, or until `spring` names the last byte to pass.
async fn carry(
    mut from: impl AsyncRead + Unpin,
    mut to: impl AsyncWrite + Unpin,
    way: watch::Receiver<Way>,
    rate: impl Fn(&Way) -> Option<u32>,
    spring: impl Fn(&[u8]) -> Option<usize>,
) {
    // Data in transit, with its arrival time.
    let (send, mut under_way) = mpsc::channel::<(Instant, Vec<u8>)>(64);
    let now = &way;
    let read = async move {
        let mut buffer = vec![0; 16 << 10];
        while let Ok(len @ 1..) = from.read(&mut buffer).await {
            let last = spring(&buffer[..len]);
            let piece = buffer[..last.unwrap_or(len)].to_vec();
            let delay = now.borrow().delay;
            if send.send((Instant::now() + delay, piece)).await.is_err() || last.is_some() {
                return;
            }
        }
    };
    let write = async move {
        while let Some((at, piece)) = under_way.recv().await {
            sleep_until(at).await;
            if to.write_all(&piece).await.is_err() {
                return;
            }
            let rate = rate(&now.borrow());
            if let (Some(rate), Ok(len)) = (rate, u32::try_from(piece.len())) {
                sleep(Duration::from_secs(1) * len / rate).await;
            }
        }
    };
    // After the reading side has ended, data in transit still arrives.
    tokio::join!(read, write);
}
