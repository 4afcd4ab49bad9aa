//! The process between `ff` and one command: it starts the command, ends all of its processes when they are to end, and
//! outlives `ff` for as long as that takes, whatever ended `ff`.
//!
//! It is this same program, started with [`ARGUMENT`]. Its stdin is a socket to `ff`: the order comes from there first,
//! then [`STOP`] if the command must be stopped; end of file means that `ff` has ended. The report goes the other way.
//! Its stderr is the pipe into which the command prints.
//!
//! On Linux it is the parent of whatever loses its own below it, so that it finds what the command started even where
//! that has left its process group and its session. Elsewhere it knows the command's process group only.

use std::{
    collections::BTreeMap,
    env, io,
    os::{fd::AsFd as _, unix::process::CommandExt as _},
    path::PathBuf,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use rustix::process::{Pid, Signal, WaitOptions, WaitStatus, wait};
use serde::{Deserialize, Serialize};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    signal::unix::{SignalKind, signal},
    time::{Instant, sleep, sleep_until},
};

use super::{Exit, interpreter::Interpreter, processes::signal_all, shell::LATER_ERRORS, stop::StopSignal};

/// Makes this program a supervisor.
pub(crate) const ARGUMENT: &str = "supervise-attempt";
/// Asks for the command's end.
pub(super) const STOP: &[u8] = b"s";
/// The exit code of a supervisor that could not start now.
pub(super) const LATER: u8 = 75;
/// How often what was killed is looked at again.
const AGAIN: Duration = Duration::from_millis(10);
/// How long is waited for the end of processes that may not be killed.
const FORBIDDEN_PATIENCE: Duration = Duration::from_secs(2);

/// What is to be run, and how it is to end.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct Order {
    pub(super) script: String,
    pub(super) env: BTreeMap<String, String>,
    pub(super) working_dir: Option<PathBuf>,
    pub(super) shell: Option<Vec<String>>,
    pub(super) stop_signal: StopSignal,
    pub(super) grace: Duration,
    /// How many files the command may open.
    pub(super) open_files: Option<u64>,
}

/// How it went. Sent when no process is left.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    Ended {
        exit: Exit,
    },
    /// It can never be started as it is.
    NotStarted {
        why: String,
    },
    /// It could not be started now.
    Later,
}

impl Order {
    /// The order as it is sent: its length first.
    pub(super) fn to_frame(&self) -> Vec<u8> {
        let json = serde_json::to_vec(self).expect("strings and numbers can always be written as JSON");
        let length = u32::try_from(json.len()).expect("an order is as large as a payload");
        [&length.to_le_bytes()[..], &json].concat()
    }

    async fn read(control: &mut UnixStream) -> io::Result<Self> {
        let length = control.read_u32_le().await?;
        let mut json = vec![0; length as usize];
        control.read_exact(&mut json).await?;
        serde_json::from_slice(&json).map_err(io::Error::other)
    }
}

impl Report {
    pub(super) fn parse(sent: &[u8]) -> Option<Self> {
        serde_json::from_slice(sent).ok()
    }
}

pub(super) fn is_for_later(errno: i32) -> bool {
    LATER_ERRORS.iter().any(|later| later.raw_os_error() == errno)
}

/// The whole life of a supervisor.
pub(crate) fn main() -> ExitCode {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Without a report `ff` says that the supervisor is gone.
    match runtime.and_then(|runtime| runtime.block_on(supervise())) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) if error.raw_os_error().is_some_and(is_for_later) => ExitCode::from(LATER),
        Err(_) => ExitCode::FAILURE,
    }
}

async fn supervise() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    let control = std::os::unix::net::UnixStream::from(io::stdin().as_fd().try_clone_to_owned()?);
    control.set_nonblocking(true)?;
    let mut control = UnixStream::from_std(control)?;
    let order = Order::read(&mut control).await?;
    let report = match Attempt::start(&order) {
        Ok(attempt) => Report::Ended { exit: attempt?.run(&mut control).await },
        Err(report) => report,
    };
    control.write_all(&serde_json::to_vec(&report)?).await
}

/// The command at work.
struct Attempt<'a> {
    order: &'a Order,
    /// The command's own process, and the group that it leads.
    command: Pid,
    exit: Option<Exit>,
    ended: tokio::signal::unix::Signal,
    requests: [tokio::signal::unix::Signal; 3],
    /// Processes of other users.
    forbidden: Vec<Pid>,
}

impl<'a> Attempt<'a> {
    fn start(order: &'a Order) -> Result<io::Result<Self>, Report> {
        restore_open_files(order.open_files);
        // Before the command can end.
        let signals = || {
            let requests = [SignalKind::terminate(), SignalKind::interrupt(), SignalKind::hangup()];
            let [one, two, three] = requests.map(signal);
            io::Result::Ok((signal(SignalKind::child())?, [one?, two?, three?]))
        };
        let (ended, requests) = match signals() {
            Ok(signals) => signals,
            Err(error) => return Ok(Err(error)),
        };
        let child = start_command(order)?;
        let command = Pid::from_child(&child);
        Ok(Ok(Self { order, command, exit: None, ended, requests, forbidden: Vec::new() }))
    }

    /// Runs the command to its end; then none of its processes is left.
    async fn run(mut self, control: &mut UnixStream) -> Exit {
        if self.until_ended(control).await {
            self.stop_in_time(control).await;
        }
        self.kill_all().await;
        // What was killed with its status unseen was killed here.
        self.exit.unwrap_or(Exit::Signal(Signal::KILL.as_raw()))
    }

    /// Waits for the command to end or for a reason to end it; whether it is to be asked for that first.
    async fn until_ended(&mut self, control: &mut UnixStream) -> bool {
        while self.exit.is_none() {
            let [terminate, interrupt, hangup] = &mut self.requests;
            let mut byte = [0];
            tokio::select! {
                _ = self.ended.recv() => {
                    self.reap();
                }
                read = control.read(&mut byte) => return read.unwrap_or(0) > 0,
                _ = terminate.recv() => return true,
                _ = interrupt.recv() => return true,
                _ = hangup.recv() => return true,
            }
        }
        false
    }

    /// Asks all processes to end and gives them the time for it, unless `ff` is gone.
    async fn stop_in_time(&mut self, control: &mut UnixStream) {
        let until = Instant::now() + self.order.grace;
        self.signal(self.order.stop_signal.signal());
        while !self.reap() {
            let mut byte = [0];
            tokio::select! {
                _ = self.ended.recv() => {}
                () = sleep_until(until) => return,
                read = control.read(&mut byte) => if read.unwrap_or(0) == 0 { return },
            }
        }
    }

    async fn kill_all(&mut self) {
        let mut patience = None;
        while !self.reap() {
            self.signal(Signal::KILL);
            if self.only_forbidden_left() {
                let until = *patience.get_or_insert_with(|| Instant::now() + FORBIDDEN_PATIENCE);
                if Instant::now() > until {
                    eprintln!("ff: processes of another user are left: {:?}", self.forbidden);
                    return;
                }
            }
            tokio::select! {
                _ = self.ended.recv() => {}
                () = sleep(AGAIN) => {}
            }
        }
    }

    /// Takes note of what has ended; whether nothing is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.command => self.exit = exit_of(status),
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(rustix::io::Errno::INTR) => {}
                // There is no child, and whatever lives below has one of them above itself.
                Err(_) => return !self.group_is_left(),
            }
        }
    }

    /// Whether the group has members that are nobody's business here: only where orphans go elsewhere.
    fn group_is_left(&self) -> bool {
        !cfg!(target_os = "linux") && rustix::process::test_kill_process_group(self.command).is_ok()
    }

    fn signal(&mut self, signal: Signal) {
        self.forbidden = signal_all(Some(self.command), &self.processes(), signal);
    }

    #[cfg(target_os = "linux")]
    fn processes(&self) -> Vec<Pid> {
        super::processes::descendants(rustix::process::getpid())
    }

    #[cfg(not(target_os = "linux"))]
    fn processes(&self) -> Vec<Pid> {
        Vec::new()
    }

    fn only_forbidden_left(&self) -> bool {
        let left = self.processes();
        !left.is_empty() && left.iter().all(|pid| self.forbidden.contains(pid))
    }
}

fn exit_of(status: WaitStatus) -> Option<Exit> {
    status.exit_status().map(Exit::ExitStatus).or_else(|| status.terminating_signal().map(Exit::Signal))
}

fn start_command(order: &Order) -> Result<std::process::Child, Report> {
    let path = order.env.get("PATH").cloned().or_else(|| env::var("PATH").ok());
    let interpreter =
        Interpreter::choose(order.shell.as_deref(), path.as_deref()).map_err(|why| Report::NotStarted { why })?;
    let not_started = |error: io::Error| match error.raw_os_error() {
        Some(errno) if is_for_later(errno) => Report::Later,
        Some(errno) if errno == rustix::io::Errno::TOOBIG.raw_os_error() => Report::NotStarted {
            why: "the command could not be started: its environment, with what ff was given itself, is larger than \
                  this system allows"
                .to_owned(),
        },
        _ => Report::NotStarted { why: format!("the command could not be started: {}: {error}", interpreter.name()) },
    };
    // Lives until the command has it.
    let (arguments, _file) = interpreter.arguments(&order.script).map_err(&not_started)?;
    let mut command = Command::new(interpreter.program());
    command.args(arguments).envs(&order.env).process_group(0);
    if let Some(name) = interpreter.program().file_name() {
        command.arg0(name);
    }
    if let Some(directory) = &order.working_dir {
        command.current_dir(directory);
    }
    let output = || io::stderr().as_fd().try_clone_to_owned().map(Stdio::from);
    command.stdin(Stdio::null()).stdout(output().map_err(&not_started)?).stderr(output().map_err(&not_started)?);
    command.spawn().map_err(&not_started)
}

/// The command gets the limit that `ff` was started with: many programs do not support a higher limit.
fn restore_open_files(soft: Option<u64>) {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    if let Some(soft) = soft {
        let maximum = getrlimit(Resource::Nofile).maximum;
        let _ = setrlimit(Resource::Nofile, Rlimit { current: Some(soft), maximum });
    }
}
