//! The process between `ff` and one command: it starts the command, ends all of its processes when they must stop, and
//! outlives `ff` as long as that takes, however `ff` ended.
//!
//! It is this same program, started with [`ARGUMENT`]. Its stdin is a socket to `ff`: the order comes from there first,
//! then [`STOP`] if the command must be stopped; end of file means that `ff` has ended. The report goes the other way.
//! Its stderr is the pipe for the output of the command.
//!
//! On Linux it becomes the parent of orphaned descendants, so that it finds all processes of the command even if they
//! have left its process group and its session. On other systems it knows the command's process group only.

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
use crate::text::without_error_numbers;

/// The argument that starts this program as a supervisor.
pub(crate) const ARGUMENT: &str = "supervise-attempt";
/// The message that stops the command.
pub(super) const STOP: &[u8] = b"s";
/// The exit code of a supervisor that cannot start now.
pub(super) const LATER: u8 = 75;
/// How often killed processes are checked.
const AGAIN: Duration = Duration::from_millis(10);
/// How long to wait for processes that may not be killed.
const FORBIDDEN_LIMIT: Duration = Duration::from_secs(2);

/// The command to run, and how to stop it.
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

/// The result, sent when no process is left.
#[derive(Debug, Serialize, Deserialize)]
pub(super) enum Report {
    Ended {
        exit: Exit,
    },
    /// It can never be started.
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
    // Not the name of the program: `killall -9 ff` must not kill supervisors too, or nobody ends their commands.
    #[cfg(target_os = "linux")]
    let _ = rustix::thread::set_name(c"supervisor");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    // Without a report, `ff` reports that the supervisor is gone.
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
    let report = match SupervisedCommand::start(&order) {
        Ok(attempt) => Report::Ended { exit: attempt?.run(&mut control).await },
        Err(report) => report,
    };
    control.write_all(&serde_json::to_vec(&report)?).await
}

/// The running command.
struct SupervisedCommand<'a> {
    order: &'a Order,
    /// The command's own process, and the group that it leads.
    command: Pid,
    exit: Option<Exit>,
    ended: tokio::signal::unix::Signal,
    requests: [tokio::signal::unix::Signal; 3],
    /// Processes of other users.
    forbidden: Vec<Pid>,
}

impl<'a> SupervisedCommand<'a> {
    fn start(order: &'a Order) -> Result<io::Result<Self>, Report> {
        restore_open_files(order.open_files);
        // Registered before the command can end.
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

    /// Runs the command to its end. Afterwards none of its processes is left.
    async fn run(mut self, control: &mut UnixStream) -> Exit {
        if self.until_ended(control).await {
            self.stop_in_time(control).await;
        }
        self.kill_all().await;
        // Without an exit status it was killed here.
        self.exit.unwrap_or(Exit::Signal(Signal::KILL.as_raw()))
    }

    /// Waits until the command ends or must be ended. Returns whether it gets the stop signal first.
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

    /// Sends the stop signal to all processes and waits for the grace, unless `ff` is gone.
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
                let until = *patience.get_or_insert_with(|| Instant::now() + FORBIDDEN_LIMIT);
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

    /// Reaps ended processes. Returns whether none is left.
    fn reap(&mut self) -> bool {
        loop {
            match wait(WaitOptions::NOHANG) {
                Ok(Some((pid, status))) if pid == self.command => self.exit = exit_of(status),
                Ok(Some(_)) => {}
                Ok(None) => return false,
                Err(rustix::io::Errno::INTR) => {}
                // There is no child, and every descendant has one of them as an ancestor.
                Err(_) => return !self.group_is_left(),
            }
        }
    }

    /// Whether the process group still has members that are not children of this process; not possible on Linux.
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

/// Why a command did not start, from the system's error.
pub(super) fn start_failure(why: &str) -> String {
    format!("the command could not be started: {}", without_error_numbers(why))
}

fn start_command(order: &Order) -> Result<std::process::Child, Report> {
    let path = order.env.get("PATH").cloned().or_else(|| env::var("PATH").ok());
    let interpreter =
        Interpreter::choose(order.shell.as_deref(), path.as_deref()).map_err(|why| Report::NotStarted { why })?;
    let not_started = |error: io::Error| match error.raw_os_error() {
        Some(errno) if is_for_later(errno) => Report::Later,
        Some(errno) if errno == rustix::io::Errno::TOOBIG.raw_os_error() => Report::NotStarted {
            why: "the command could not be started: its environment, including that of ff, is larger than this system \
                  allows"
                .to_owned(),
        },
        _ => Report::NotStarted { why: start_failure(&format!("{}: {error}", interpreter.name())) },
    };
    // Kept open until the command has inherited it.
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
