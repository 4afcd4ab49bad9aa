//! A server as a child process, with its data in a temporary directory.
//!
//! The child has its own process group, so Ctrl-C at a test run does not reach it; its watch ends it.

use std::fs::File;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rustix::process::{Pid, Signal, kill_process};
use tempfile::TempDir;

use crate::error::{Doing, Error, Result};
use crate::options::{Layout, Options, server_args};
use crate::port::Port;
use crate::preload::{self, ClockAhead, DiskDelay, Preload, SetClock};
use crate::tls::TlsFiles;
use crate::watch::{Watch, end};

/// How long a server may take to end on its own before it is killed.
const STOP_GRACE: Duration = Duration::from_secs(5);
const POLL: Duration = Duration::from_millis(2);

#[derive(Debug)]
pub(crate) struct ProcessServer {
    program: PathBuf,
    args: Vec<String>,
    dir: TempDir,
    preloads: Vec<Preload>,
    running: Option<Running>,
}

/// The additional parts of a server that is a process.
#[derive(Debug)]
pub(crate) struct Extras {
    pub(crate) tls: Option<TlsFiles>,
    pub(crate) clock: Option<SetClock>,
    pub(crate) disk: Option<DiskDelay>,
    pub(crate) ahead: Option<ClockAhead>,
}

#[derive(Debug)]
struct Running {
    server: Child,
    watch: Watch,
}

impl ProcessServer {
    /// Prepares the directory and the arguments; nothing runs yet.
    pub(crate) fn new(program: &Path, options: &Options, plain: &Port, tls: Option<&Port>) -> Result<(Self, Extras)> {
        let dir = tempfile::Builder::new().prefix("ff-valkey-").tempdir().doing("making a data directory")?;
        let data = dir.path().join("data");
        std::fs::create_dir(&data).doing("making a data directory")?;
        let tls_files = options.tls.then(|| TlsFiles::generate(dir.path())).transpose()?;
        let clock = options.clock.map(|millis| SetClock::new(dir.path(), millis)).transpose()?;
        let (clock, for_clock): (Option<_>, Option<_>) = clock.unzip();
        let disk = options.slow_disk.then(|| DiskDelay::new(dir.path())).transpose()?;
        let (disk, for_disk): (Option<_>, Option<_>) = disk.unzip();
        let ahead = options.clock_ahead.then(|| ClockAhead::new(dir.path())).transpose()?;
        let (ahead, for_ahead): (Option<_>, Option<_>) = ahead.unzip();
        let path = |path: &Path| path.to_string_lossy().into_owned();
        let layout = Layout {
            plain_port: plain.number(),
            tls_port: tls.map(Port::number),
            bind: "127.0.0.1",
            data_dir: path(&data),
            tls_dir: path(dir.path()),
            socket: path(&dir.path().join("valkey.sock")),
            primary: options.replica_of.as_ref().map(|primary| ("127.0.0.1".to_owned(), primary.port)),
        };
        let args = server_args(options, &layout);
        let preloads = for_clock.into_iter().chain(for_disk).chain(for_ahead).collect();
        let server = Self { program: program.to_owned(), args, dir, preloads, running: None };
        Ok((server, Extras { tls: tls_files, clock, disk, ahead }))
    }

    /// The same program as a sentinel, which keeps its settings in a separate file.
    pub(crate) fn sentinel(program: &Path, settings: &str) -> Result<Self> {
        let dir = tempfile::Builder::new().prefix("ff-valkey-").tempdir().doing("making a data directory")?;
        let file = dir.path().join("sentinel.conf");
        std::fs::write(&file, settings).doing("writing a sentinel's settings")?;
        let args = vec![file.to_string_lossy().into_owned(), "--sentinel".into()];
        Ok(Self { program: program.to_owned(), args, dir, preloads: Vec::new(), running: None })
    }

    pub(crate) fn socket(&self) -> PathBuf {
        self.dir.path().join("valkey.sock")
    }

    pub(crate) fn program(&self) -> &Path {
        &self.program
    }

    fn log(&self) -> PathBuf {
        self.dir.path().join("server.log")
    }

    /// Starts the process; it may not answer yet.
    pub(crate) fn start(&mut self) -> Result<()> {
        let log = File::create(self.log()).doing("opening the server's log")?;
        let errors = log.try_clone().doing("opening the server's log")?;
        let mut server = Command::new(&self.program)
            .args(&self.args)
            .envs(preload::environment(&self.preloads))
            .current_dir(self.dir.path())
            .stdin(Stdio::null())
            .stdout(log)
            .stderr(errors)
            .process_group(0)
            .spawn()
            .map_err(|source| Error::Spawn { program: self.program.clone(), source })?;
        match Watch::over_process(server.id(), self.dir.path()) {
            Ok(watch) => {
                self.running = Some(Running { server, watch });
                Ok(())
            }
            Err(error) => {
                end(&mut server);
                Err(error)
            }
        }
    }

    /// The last lines of a server that ended on its own.
    pub(crate) fn ended(&mut self) -> Result<Option<String>> {
        let Some(running) = &mut self.running else { return Ok(Some(self.last_lines())) };
        let status = running.server.try_wait().doing("watching the server")?;
        Ok(status.map(|_| self.last_lines()))
    }

    pub(crate) fn last_lines(&self) -> String {
        let text = std::fs::read(self.log()).unwrap_or_default();
        last_lines(&String::from_utf8_lossy(&text))
    }

    /// Ends the process at once, as a crash would.
    pub(crate) fn kill(&mut self) {
        if let Some(Running { mut server, watch }) = self.running.take() {
            // The watch ends first, so that it never kills another process that has got the same id.
            drop(watch);
            end(&mut server);
        }
    }

    /// Asks the process to end, and kills it when it does not.
    pub(crate) async fn stop(&mut self) -> Result<()> {
        self.signal(Signal::CONT)?;
        self.signal(Signal::TERM)?;
        let deadline = Instant::now() + STOP_GRACE;
        while self.ended()?.is_none() && Instant::now() < deadline {
            tokio::time::sleep(POLL).await;
        }
        self.kill();
        Ok(())
    }

    pub(crate) fn pause(&mut self) -> Result<()> {
        self.signal(Signal::STOP)
    }

    pub(crate) fn resume(&mut self) -> Result<()> {
        self.signal(Signal::CONT)
    }

    /// Does nothing if the server does not run.
    fn signal(&mut self, signal: Signal) -> Result<()> {
        let Some(running) = &mut self.running else { return Ok(()) };
        // A child that was waited for has released its id, which may belong to another process now.
        if running.server.try_wait().doing("watching the server")?.is_some() {
            return Ok(());
        }
        let pid = i32::try_from(running.server.id()).ok().and_then(Pid::from_raw);
        let Some(pid) = pid else { return Ok(()) };
        kill_process(pid, signal).map_err(std::io::Error::from).doing("signalling the server")
    }
}

impl Drop for ProcessServer {
    fn drop(&mut self) {
        self.kill();
    }
}

/// The last lines of a log, for an error.
pub(crate) fn last_lines(text: &str) -> String {
    let lines: Vec<_> = text.lines().filter(|line| !line.trim().is_empty()).collect();
    lines[lines.len().saturating_sub(12)..].join("\n")
}
