//! The handle of a server, independent of its provider.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use tokio::sync::Mutex;
use url::Url;

use crate::builder::Builder;
use crate::docker::DockerServer;
use crate::error::{Error, Result};
use crate::options::{Options, Primary};
use crate::port::Port;
use crate::preload::{ClockAhead, DiskDelay, SetClock};
use crate::process::{Extras, ProcessServer};
use crate::provider::{Choice, Provider};
use crate::raw::{RawClient, Reply};
use crate::shared::SharedServer;
use crate::tls::TlsFiles;

/// The time limit for a server's first answer.
const READY: Duration = Duration::from_secs(20);
/// The time limit for loading its data.
const LOADED: Duration = Duration::from_secs(180);
/// The time limit for each PING while the server starts.
const PING: Duration = Duration::from_secs(2);
const POLL: Duration = Duration::from_millis(3);

/// A Valkey server that lives as long as this value.
///
/// Dropping it ends the server and deletes its data. It may be shared between tasks: operations that change the
/// server's state ([`kill`](Self::kill), [`restart`](Self::restart), [`pause`](Self::pause), [`resume`](Self::resume))
/// run one at a time.
#[derive(Debug)]
pub struct TestServer {
    provider: Provider,
    url: String,
    port: u16,
    control: Control,
    tls: Option<TlsFiles>,
    clock: Option<SetClock>,
    disk: Option<DiskDelay>,
    ahead: Option<ClockAhead>,
    unix_socket: Option<PathBuf>,
    container_address: Option<String>,
    running: Mutex<Running>,
    _ports: Vec<Port>,
}

/// The settings of this crate's own connections. They use plain TCP, even if the server has a TLS port too.
#[derive(Debug, Clone)]
struct Control {
    host: String,
    port: u16,
    user: Option<String>,
    password: Option<String>,
}

#[derive(Debug)]
enum Running {
    Process(ProcessServer),
    Docker(Box<DockerServer>),
    Shared(#[expect(dead_code, reason = "holds the lock on the shared server")] SharedServer),
}

impl TestServer {
    /// Starts a server without options.
    ///
    /// # Errors
    /// As for [`Builder::build`].
    pub async fn start() -> Result<Self> {
        Self::builder().build().await
    }

    /// The builder of a server, for setting options.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(crate) async fn private(choice: &Choice, options: &Options) -> Result<Self> {
        let plain = Port::lease()?;
        let tls_port = options.tls.then(Port::lease).transpose()?;
        let (provider, running, Extras { tls, clock, disk, ahead }) = match choice {
            Choice::Docker { image } => {
                let (server, tls) = DockerServer::new(image, options, &plain, tls_port.as_ref()).await?;
                (
                    Provider::Docker,
                    Running::Docker(Box::new(server)),
                    Extras { tls, clock: None, disk: None, ahead: None },
                )
            }
            Choice::Process { program } => {
                let (server, extras) = ProcessServer::new(program, options, &plain, tls_port.as_ref())?;
                (Provider::Process, Running::Process(server), extras)
            }
            Choice::Shared { .. } => return Err(Error::NeedsPrivate { what: "a private server" }),
        };
        let port = tls_port.as_ref().unwrap_or(&plain).number();
        let control =
            Control { host: "127.0.0.1".into(), port: plain.number(), user: None, password: options.password.clone() };
        let mut server = Self {
            provider,
            url: url_of(options, port),
            port,
            control,
            tls,
            clock,
            disk,
            ahead,
            unix_socket: running.socket().filter(|_| options.unix_socket),
            container_address: None,
            running: Mutex::new(running),
            _ports: std::iter::once(plain).chain(tls_port).collect(),
        };
        let running = server.running.get_mut();
        running.start().await?;
        wait_ready(running, &server.control).await?;
        server.container_address = running.container_address().await;
        Ok(server)
    }

    /// Starts a sentinel. Port and address are added to `settings`.
    pub(crate) async fn sentinel(program: &Path, password: Option<String>, settings: &str) -> Result<Self> {
        let port = Port::lease()?;
        let number = port.number();
        let settings = format!("port {number}\nbind 127.0.0.1\nprotected-mode no\n{settings}");
        let options = Options { password: password.clone(), ..Options::default() };
        let mut server = Self {
            provider: Provider::Process,
            url: url_of(&options, number),
            port: number,
            control: Control { host: "127.0.0.1".into(), port: number, user: None, password },
            tls: None,
            clock: None,
            disk: None,
            ahead: None,
            unix_socket: None,
            container_address: None,
            running: Mutex::new(Running::Process(ProcessServer::sentinel(program, &settings)?)),
            _ports: vec![port],
        };
        let running = server.running.get_mut();
        running.start().await?;
        wait_ready(running, &server.control).await?;
        Ok(server)
    }

    pub(crate) fn shared(shared: SharedServer) -> Self {
        Self {
            provider: Provider::Shared,
            url: shared.url().to_owned(),
            port: shared.port(),
            control: Control {
                host: shared.host().to_owned(),
                port: shared.port(),
                user: shared.user(),
                password: shared.password(),
            },
            tls: None,
            clock: None,
            disk: None,
            ahead: None,
            unix_socket: None,
            container_address: None,
            running: Mutex::new(Running::Shared(shared)),
            _ports: Vec::new(),
        }
    }

    /// The URL for clients: `redis://127.0.0.1:PORT`, `rediss://…` with TLS, and with `:PASSWORD@` if there is a
    /// password.
    #[must_use]
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The port for clients; it stays the same across restarts.
    #[must_use]
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The provider of the server.
    #[must_use]
    pub fn provider(&self) -> Provider {
        self.provider
    }

    /// The certificates of a server with TLS.
    #[must_use]
    pub fn tls(&self) -> Option<&TlsFiles> {
        self.tls.as_ref()
    }

    /// The Unix socket, if it was requested.
    #[must_use]
    pub fn unix_socket(&self) -> Option<&Path> {
        self.unix_socket.as_deref()
    }

    /// Ends the server immediately, like a crash. Its port stays reserved for [`restart`](Self::restart). Has no effect
    /// on a server that does not run.
    ///
    /// # Errors
    /// If the server is shared, or Docker refuses.
    pub async fn kill(&self) -> Result<()> {
        self.running.lock().await.kill().await
    }

    /// Ends the server in order if it runs, and starts it on the same port with the same directory. Returns once it has
    /// answered. Data is kept only with [`Builder::persistent`].
    ///
    /// # Errors
    /// If the server is shared, or does not start.
    pub async fn restart(&self) -> Result<()> {
        let mut running = self.running.lock().await;
        running.stop().await?;
        running.start().await?;
        wait_ready(&mut running, &self.control).await
    }

    /// Freezes the server: connections stay open and nothing is answered until [`resume`](Self::resume).
    ///
    /// # Errors
    /// If the server is shared, or Docker refuses.
    pub async fn pause(&self) -> Result<()> {
        self.running.lock().await.pause().await
    }

    /// Continues a paused server.
    ///
    /// # Errors
    /// If the server is shared, or Docker refuses.
    pub async fn resume(&self) -> Result<()> {
        self.running.lock().await.resume().await
    }

    /// Sets the wall clock of a server with [`Builder::clock_at`], in milliseconds since 1970-01-01 UTC. The clock may
    /// be set back. The function returns after about a millisecond, when the server has the new time. The clock then
    /// stands at this millisecond; some servers still count the microseconds within it.
    ///
    /// # Errors
    /// If the server uses the machine's clock.
    pub fn set_clock(&self, millis: u64) -> Result<()> {
        self.clock.as_ref().ok_or(Error::NoClock)?.set(millis)
    }

    /// Sets how far the wall clock of a server with [`Builder::clock_ahead`] is ahead of the machine's, from now on and
    /// also after a restart.
    ///
    /// # Errors
    /// If the server uses the machine's clock.
    pub fn set_clock_ahead(&self, ahead: Duration) -> Result<()> {
        self.ahead.as_ref().ok_or(Error::NoClock)?.set(ahead)
    }

    /// Delays every sync of a server with [`Builder::slow_disk`] by this time, from now on.
    ///
    /// # Errors
    /// If the server uses the machine's disk.
    pub fn delay_syncs(&self, delay: Duration) -> Result<()> {
        self.disk.as_ref().ok_or(Error::NoSlowDisk)?.set(delay)
    }

    /// A plain, authenticated connection, even if [`url`](Self::url) uses TLS.
    ///
    /// # Errors
    /// If the server does not run or refuses the password.
    pub async fn client(&self) -> Result<RawClient> {
        let mut client = RawClient::connect_to(&self.control.host, self.control.port).await?;
        if let Some(reply) = self.control.authenticate(&mut client).await?
            && reply.is_error()
        {
            return Err(Error::Protocol(reply.text()));
        }
        Ok(client)
    }

    /// Sends one command on a separate connection. A refusal is a [`Reply::Error`], not an `Err`.
    ///
    /// # Errors
    /// If the server does not run or does not answer.
    pub async fn command<A: AsRef<[u8]>>(&self, args: &[A]) -> Result<Reply> {
        self.client().await?.command(args).await
    }

    /// Waits until this many replicas have everything that this server has now.
    ///
    /// # Errors
    /// If the server does not answer, or the wait exceeds the time limit of a start.
    pub async fn replicas_in_step(&self, count: usize) -> Result<()> {
        let mut client = self.client().await?;
        let started = Instant::now();
        let info = client.command(&["INFO", "replication"]).await?.text();
        // The offset is read once: the WAIT below adds to the replication stream and so increases the offset.
        let offset = replication_offset(&info).ok_or(Error::Protocol(info))?;
        loop {
            // Makes the replicas report their offsets, which they otherwise do only once a second.
            client.command(&["WAIT", &(count + 1).to_string(), "10"]).await?;
            let info = client.command(&["INFO", "replication"]).await?.text();
            if replicas_at(offset, &info) >= count {
                return Ok(());
            }
            let waited = started.elapsed();
            if waited > READY {
                return Err(Error::NotReady { waited, last: info, output: String::new() });
            }
            tokio::time::sleep(POLL).await;
        }
    }

    /// The program, if the server is a process of this machine.
    pub(crate) async fn program(&self) -> Option<PathBuf> {
        match &*self.running.lock().await {
            Running::Process(server) => Some(server.program().to_owned()),
            Running::Docker(_) | Running::Shared(_) => None,
        }
    }

    pub(crate) fn password(&self) -> Option<&str> {
        self.control.password.as_deref()
    }

    pub(crate) fn as_primary(&self) -> Primary {
        Primary {
            port: self.control.port,
            container_address: self.container_address.clone(),
            password: self.control.password.clone(),
        }
    }
}

impl Control {
    async fn authenticate(&self, client: &mut RawClient) -> Result<Option<Reply>> {
        let Some(password) = &self.password else { return Ok(None) };
        let args: Vec<&str> = ["AUTH"].into_iter().chain(self.user.as_deref()).chain([password.as_str()]).collect();
        client.command(&args).await.map(Some)
    }

    /// The reply to a PING; a refusal also shows that the server is up.
    async fn ping(&self) -> Result<Reply> {
        let mut client = RawClient::connect_to(&self.host, self.port).await?;
        self.authenticate(&mut client).await?;
        client.command(&["PING"]).await
    }
}

impl Running {
    async fn start(&mut self) -> Result<()> {
        match self {
            Self::Process(server) => server.start(),
            Self::Docker(server) => server.start().await,
            Self::Shared(_) => Err(Error::NeedsPrivate { what: "starting" }),
        }
    }

    async fn stop(&mut self) -> Result<()> {
        match self {
            Self::Process(server) => server.stop().await,
            Self::Docker(server) => server.stop().await,
            Self::Shared(_) => Err(Error::NeedsPrivate { what: "restart()" }),
        }
    }

    async fn kill(&mut self) -> Result<()> {
        match self {
            Self::Process(server) => {
                server.kill();
                Ok(())
            }
            Self::Docker(server) => server.kill().await,
            Self::Shared(_) => Err(Error::NeedsPrivate { what: "kill()" }),
        }
    }

    async fn pause(&mut self) -> Result<()> {
        match self {
            Self::Process(server) => server.pause(),
            Self::Docker(server) => server.pause().await,
            Self::Shared(_) => Err(Error::NeedsPrivate { what: "pause()" }),
        }
    }

    async fn resume(&mut self) -> Result<()> {
        match self {
            Self::Process(server) => server.resume(),
            Self::Docker(server) => server.resume().await,
            Self::Shared(_) => Err(Error::NeedsPrivate { what: "resume()" }),
        }
    }

    async fn ended(&mut self) -> Result<Option<String>> {
        match self {
            Self::Process(server) => server.ended(),
            Self::Docker(server) => server.ended().await,
            Self::Shared(_) => Ok(None),
        }
    }

    async fn last_lines(&self) -> String {
        match self {
            Self::Process(server) => server.last_lines(),
            Self::Docker(server) => server.last_lines().await,
            Self::Shared(_) => String::new(),
        }
    }

    async fn container_address(&self) -> Option<String> {
        match self {
            Self::Docker(server) => server.address().await,
            Self::Process(_) | Self::Shared(_) => None,
        }
    }

    fn socket(&self) -> Option<PathBuf> {
        match self {
            Self::Process(server) => Some(server.socket()),
            Self::Docker(server) => server.socket(),
            Self::Shared(_) => None,
        }
    }

    fn program(&self) -> String {
        match self {
            Self::Process(server) => server.program().display().to_string(),
            Self::Docker(server) => server.image().to_owned(),
            Self::Shared(_) => String::new(),
        }
    }
}

/// Waits until the server answers, ends, or the time limit has passed.
async fn wait_ready(running: &mut Running, control: &Control) -> Result<()> {
    let started = Instant::now();
    loop {
        let answer = tokio::time::timeout(PING, control.ping()).await;
        if let Some(output) = running.ended().await? {
            return Err(died(running, output));
        }
        let (last, limit) = match answer {
            Ok(Ok(Reply::Error(text))) if text.starts_with("LOADING") => (text, LOADED),
            Ok(Ok(_)) => return Ok(()),
            Ok(Err(error)) => (error.to_string(), READY),
            Err(_) => (format!("no reply to PING within {PING:?}"), READY),
        };
        let waited = started.elapsed();
        if waited > limit {
            return Err(Error::NotReady { waited, last, output: running.last_lines().await });
        }
        tokio::time::sleep(POLL).await;
    }
}

/// The replication offset of a server, from its INFO.
fn replication_offset(info: &str) -> Option<u64> {
    info.lines().find_map(|line| line.strip_prefix("master_repl_offset:"))?.trim().parse().ok()
}

/// The number of replicas that have reported at least `offset`, from the INFO of their primary.
fn replicas_at(offset: u64, info: &str) -> usize {
    let reported = |line: &str| {
        let (name, about) = line.split_once(':')?;
        let is_online = name.starts_with("slave") && about.contains("state=online,");
        is_online.then_some(about.split(',').find_map(|field| field.strip_prefix("offset="))?.parse().ok()?)
    };
    info.lines().filter_map(reported).filter(|reported: &u64| *reported >= offset).count()
}

fn died(running: &Running, output: String) -> Error {
    let refuses_tls = output.contains("Failed finding TLS support")
        || output.contains("Missing implement of connection type tls")
        || (output.contains("'tls-") && output.contains("Bad directive"));
    if refuses_tls { Error::NoTls { program: running.program() } } else { Error::Died { output } }
}

fn url_of(options: &Options, port: u16) -> String {
    let scheme = if options.tls { "rediss" } else { "redis" };
    let credentials = options.password.as_ref().map(|password| format!(":{}@", escape(password))).unwrap_or_default();
    format!("{scheme}://{credentials}127.0.0.1:{port}")
}

/// Escapes a password for use in a URL.
fn escape(password: &str) -> String {
    let mut url = Url::parse("redis://host").expect("a constant URL");
    // Fails only for URLs without a host.
    let _ = url.set_password(Some(password));
    url.password().unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_replica_is_in_sync_from_the_state_at_the_request() {
        let info = "role:master\r\nslave0:ip=a,port=1,state=online,offset=70,lag=0,type=replica\r\n\
                    slave1:ip=a,port=2,state=online,offset=7,lag=0\r\n\
                    slave2:ip=a,port=3,state=wait_bgsave,offset=0,lag=0\r\n\
                    master_repl_offset:107\r\n";
        assert_eq!(replication_offset(info), Some(107));
        assert_eq!([70, 33, 71, 7, 0].map(|offset| replicas_at(offset, info)), [1, 1, 0, 2, 2]);
        assert_eq!((replication_offset("role:slave\r\n"), replicas_at(0, "role:slave\r\n")), (None, 0));
    }

    #[test]
    fn the_url_carries_scheme_and_escaped_password() {
        assert_eq!(url_of(&Options::default(), 7), "redis://127.0.0.1:7");
        let options = Options { tls: true, password: Some("a@b/c".into()), ..Options::default() };
        assert_eq!(url_of(&options, 7), "rediss://:a%40b%2Fc@127.0.0.1:7");
    }
}
