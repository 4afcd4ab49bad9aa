//! Runs one command under a supervisor, keeps its output, and lets the supervisor end all its processes when it must
//! stop.

use std::{
    collections::BTreeMap,
    io,
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    process::Stdio,
    sync::atomic::{AtomicBool, Ordering},
    time::Duration,
};

use bytes::Bytes;
use ff_core::Failure;
use rustix::{io::Errno, process::Pid};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{UnixStream, unix::pipe::Receiver},
    process::Child,
};
use tokio_util::sync::CancellationToken;

use super::{
    Attempt, Ended, Exit, Output, STOPPED, program,
    stop::{GRACE, StopSignal},
    strays,
    supervisor::{self, Order, Report},
};
use crate::text::without_error_numbers;

/// How long output is still read after all processes have ended.
const DRAIN: Duration = Duration::from_secs(1);
/// The pause before a start is tried again.
const LATER: Duration = Duration::from_millis(200);
/// The prefix of variables that are not passed on to commands.
const OWN_VARIABLES: &str = "FF_";

/// A command of a flow file with its settings.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct ShellCommand {
    pub(crate) run: String,
    #[serde(default)]
    pub(crate) env: BTreeMap<String, String>,
    #[serde(default)]
    pub(crate) working_dir: Option<PathBuf>,
    /// The interpreter, which gets the command as its last argument; absent for a strict shell.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) shell: Option<Vec<String>>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) stop_signal: Option<StopSignal>,
    #[serde(default, rename = "grace_ms", skip_serializing_if = "Option::is_none")]
    grace: Option<u64>,
}

impl ShellCommand {
    pub(crate) fn new(run: impl Into<String>) -> Self {
        Self { run: run.into(), env: BTreeMap::new(), working_dir: None, shell: None, stop_signal: None, grace: None }
    }

    /// How long it may take to end after the stop signal.
    pub(crate) fn grace(&self) -> Duration {
        self.grace.map_or(GRACE, Duration::from_millis)
    }

    pub(crate) const fn has_grace(&self) -> bool {
        self.grace.is_some()
    }

    pub(crate) fn set_grace(&mut self, grace: Option<Duration>) {
        self.grace = grace.map(|grace| u64::try_from(grace.as_millis()).unwrap_or(u64::MAX));
    }

    fn order(&self, attempt: &Attempt) -> Order {
        let mut env = self.env.clone();
        env.insert("FF_EXECUTION_ID".to_owned(), attempt.execution_id.to_string());
        env.insert("FF_FLOW_ID".to_owned(), attempt.flow_id.map(|id| id.to_string()).unwrap_or_default());
        env.insert("FF_ATTEMPT".to_owned(), attempt.number.to_string());
        Order {
            script: self.run.clone(),
            env,
            working_dir: self.working_dir.clone(),
            shell: self.shell.clone(),
            stop_signal: self.stop_signal.unwrap_or_default(),
            grace: self.grace(),
            open_files: crate::open_files::at_start(),
        }
    }
}

pub(super) async fn run(command: &ShellCommand, attempt: &Attempt) -> Ended {
    if let Some(directory) = command.working_dir.as_deref().filter(|directory| !directory.is_dir()) {
        return Ended::without_process(Err(no_directory(directory)));
    }
    let order = command.order(attempt);
    let mut waits = false;
    loop {
        let why = match once(&order, attempt).await {
            Ok(Some(ended)) => return ended,
            Ok(None) => "the system cannot start another process now".to_owned(),
            Err(error) if is_for_later(&error) => without_error_numbers(&error.to_string()),
            Err(error) => {
                let failure = Failure::retryable(supervisor::start_failure(&error.to_string()));
                return Ended::without_process(Err(failure));
            }
        };
        if !std::mem::replace(&mut waits, true) {
            started_later(attempt, &why);
        }
        tokio::select! {
            () = attempt.stop.cancelled() => return Ended::without_process(Err(Failure::retryable(STOPPED))),
            () = tokio::time::sleep(LATER) => {}
        }
    }
}

/// One warning per process: where one command waits, many do.
fn started_later(attempt: &Attempt, why: &str) {
    static WARNED: AtomicBool = AtomicBool::new(false);
    let execution_id = attempt.execution_id;
    if WARNED.swap(true, Ordering::Relaxed) {
        tracing::info!(%execution_id, why, "the command will be started later");
    } else {
        tracing::warn!(%execution_id, why, "the command will be started later, and so may others");
    }
}

fn no_directory(directory: &Path) -> Failure {
    Failure::permanent(format!("working_dir `{}` is not a directory", directory.display()))
}

/// Whether the start may succeed when other commands have ended.
fn is_for_later(error: &io::Error) -> bool {
    error.raw_os_error().is_some_and(supervisor::is_for_later)
}

/// Runs the command; `None` if its supervisor could not start it now.
async fn once(order: &Order, attempt: &Attempt) -> io::Result<Option<Ended>> {
    let live = attempt.printed.clone().map(|printed| (attempt.execution_id, printed));
    let mut output = match Output::open(attempt.output_file.as_deref(), live).await {
        Ok(output) => output,
        Err(failure) => return Ok(Some(Ended::without_process(Err(failure)))),
    };
    let (mut supervised, printed) = Supervised::start()?;
    let report = {
        let reading = output.read(printed);
        let ending = supervised.work(order, &attempt.stop);
        tokio::pin!(reading, ending);
        tokio::select! {
            report = &mut ending => {
                // Only processes that could not be ended keep the pipe open.
                let _ = tokio::time::timeout(DRAIN, reading).await;
                report
            }
            () = &mut reading => ending.await,
        }
    };
    output.finish().await;
    Ok(verdict(report, output, attempt))
}

fn verdict(report: Option<Report>, output: Output, attempt: &Attempt) -> Option<Ended> {
    let tail = output.tail;
    let with_last_line = |what: String| match tail.last_line() {
        Some(line) => format!("{what}: {line}"),
        None => what,
    };
    let last_lines = tail.last_lines();
    let stopped = attempt.stop.is_cancelled();
    let (exit, failure) = match report {
        Some(Report::Later) => return None,
        Some(Report::NotStarted { why }) => (None, Some(Failure::permanent(why))),
        None => (None, Some(Failure::retryable("the command was killed together with its supervisor"))),
        Some(Report::Ended { .. }) if stopped => (None, Some(Failure::retryable(with_last_line(STOPPED.into())))),
        Some(Report::Ended { exit: Exit::ExitStatus(0) }) => (Some(Exit::ExitStatus(0)), None),
        Some(Report::Ended { exit }) => (Some(exit), Some(Failure::retryable(with_last_line(exit.to_string())))),
    };
    let result: Result<Bytes, Failure> = match failure {
        Some(failure) => Err(failure),
        None => Ok(tail.into_bytes()),
    };
    Some(Ended { result, exit, last_lines })
}

impl std::fmt::Display for Exit {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::ExitStatus(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => match signal_name(*signal) {
                Some(name) => write!(f, "killed by signal {signal} ({name})"),
                None => write!(f, "killed by signal {signal}"),
            },
        }
    }
}

fn signal_name(signal: i32) -> Option<&'static str> {
    use rustix::process::Signal;
    const NAMES: [(Signal, &str); 12] = [
        (Signal::HUP, "SIGHUP"),
        (Signal::INT, "SIGINT"),
        (Signal::QUIT, "SIGQUIT"),
        (Signal::ILL, "SIGILL"),
        (Signal::ABORT, "SIGABRT"),
        (Signal::BUS, "SIGBUS"),
        (Signal::FPE, "SIGFPE"),
        (Signal::KILL, "SIGKILL"),
        (Signal::SEGV, "SIGSEGV"),
        (Signal::PIPE, "SIGPIPE"),
        (Signal::TERM, "SIGTERM"),
        (Signal::XCPU, "SIGXCPU"),
    ];
    NAMES.iter().find(|(known, _)| known.as_raw() == signal).map(|(_, name)| *name)
}

/// A running supervisor. Dropping it kills all processes of the command.
struct Supervised {
    /// When this end closes, the supervisor knows that this process has ended.
    control: UnixStream,
    process: Child,
    pid: Pid,
}

impl Supervised {
    fn start() -> io::Result<(Self, Receiver)> {
        let (ours, theirs) = std::os::unix::net::UnixStream::pair()?;
        ours.set_nonblocking(true)?;
        // One pipe for both streams keeps their output in order.
        let (reader, writer) = io::pipe()?;
        let printed = Receiver::from_owned_fd(reader.into())?;
        let mut command = tokio::process::Command::new(program());
        command.arg0("ff").arg(supervisor::ARGUMENT);
        for (name, _) in std::env::vars_os().filter(|(name, _)| name.to_string_lossy().starts_with(OWN_VARIABLES)) {
            command.env_remove(name);
        }
        command.stdin(OwnedFd::from(theirs)).stdout(Stdio::null()).stderr(writer);
        // In its own process group, so that a signal to this program's group leaves it time to clean up.
        command.process_group(0);
        let (process, pid) = strays::start(|| {
            let process = command.spawn()?;
            let pid = process.id().and_then(|id| i32::try_from(id).ok()).and_then(Pid::from_raw);
            let pid = pid.ok_or_else(|| io::Error::other("the supervisor has no process id"))?;
            Ok((pid, (process, pid)))
        })?;
        Ok((Self { control: UnixStream::from_std(ours)?, process, pid }, printed))
    }

    /// Sends the order and waits for the report. `None` if the supervisor was killed.
    async fn work(&mut self, order: &Order, stop: &CancellationToken) -> Option<Report> {
        // If the supervisor is gone already, its exit is seen below.
        let _ = self.control.write_all(&order.to_frame()).await;
        let mut report = Vec::new();
        let mut asked = false;
        loop {
            let (mut reader, mut writer) = self.control.split();
            tokio::select! {
                read = reader.read_buf(&mut report) => if read.unwrap_or(0) == 0 { break },
                () = stop.cancelled(), if !asked => {
                    asked = true;
                    let _ = writer.write_all(supervisor::STOP).await;
                }
            }
        }
        let ended = self.process.wait().await;
        strays::ended(self.pid);
        if let Some(report) = Report::parse(&report) {
            return Some(report);
        }
        strays::end_all().await;
        let is_for_later = ended.is_ok_and(|status| status.code() == Some(supervisor::LATER.into()));
        is_for_later.then_some(Report::Later)
    }
}

/// The errors of a start that are temporary: they pass when other processes end.
pub(super) const LATER_ERRORS: [Errno; 4] = [Errno::MFILE, Errno::NFILE, Errno::AGAIN, Errno::NOMEM];
