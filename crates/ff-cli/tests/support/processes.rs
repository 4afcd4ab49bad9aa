//! Finds processes that a run of the program has left, by a mark in their environment.

use std::{fs, path::Path, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

/// The variable that marks a run and all processes that it starts.
const VARIABLE: &str = "MARK_OF_TEST";
/// The time limit of a wait, also on a busy machine.
const TIME_LIMIT: Duration = Duration::from_secs(60);

/// A mark that no other test uses.
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) fn new() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }

    pub(crate) fn put_on(&self, command: &mut std::process::Command) {
        command.env(VARIABLE, &self.0);
    }

    /// The processes with the mark, and their command lines.
    pub(crate) fn processes(&self) -> Vec<(Pid, String)> {
        let wanted = format!("{VARIABLE}={}", self.0);
        let mut found = Vec::new();
        for entry in fs::read_dir("/proc").unwrap().flatten() {
            let pid = entry.file_name().to_str().and_then(|name| name.parse().ok()).and_then(Pid::from_raw);
            let environment = fs::read(entry.path().join("environ")).unwrap_or_default();
            if let Some(pid) = pid
                && environment.split(|byte| *byte == 0).any(|variable| variable == wanted.as_bytes())
            {
                let arguments = fs::read(entry.path().join("cmdline")).unwrap_or_default();
                found.push((pid, String::from_utf8_lossy(&arguments).replace('\0', " ")));
            }
        }
        found
    }

    /// Waits until no process has the mark.
    pub(crate) async fn until_gone(&self) {
        let waiting = async {
            while !self.processes().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let gone = tokio::time::timeout(TIME_LIMIT, waiting).await;
        assert!(gone.is_ok(), "left: {:?}", self.processes());
    }

    /// Waits until a process with this text in its arguments has the mark.
    pub(crate) async fn until_runs(&self, part: &str) {
        let waiting = async {
            while !self.processes().iter().any(|(_, arguments)| arguments.contains(part)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let runs = tokio::time::timeout(TIME_LIMIT, waiting).await;
        assert!(runs.is_ok(), "no `{part}` among {:?}", self.processes());
    }
}

/// A failed test also leaves no process.
impl Drop for Mark {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// Processes of an attempt that wrote their ids into a file, whatever their environment. They are identified by id and
/// start time, so that no later process is mistaken for one of them.
#[derive(Debug)]
pub(crate) struct Registered(Vec<(Pid, String)>);

impl Registered {
    /// Waits until `count` processes have written their ids, a line each.
    pub(crate) async fn wait_for(file: &Path, count: usize) -> Self {
        let waiting = async {
            loop {
                let written = fs::read_to_string(file).unwrap_or_default();
                if written.ends_with('\n') && written.lines().count() == count {
                    return written;
                }
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let written = tokio::time::timeout(TIME_LIMIT, waiting).await.expect("they begin");
        let pids = written.lines().map(|line| Pid::from_raw(line.parse().unwrap()).unwrap());
        Self(pids.map(|pid| (pid, started_at(pid).expect("it runs"))).collect())
    }

    /// The processes that still run.
    pub(crate) fn left(&self) -> Vec<Pid> {
        let runs = |(pid, at): &&(Pid, String)| started_at(*pid).as_ref() == Some(at);
        self.0.iter().filter(runs).map(|(pid, _)| *pid).collect()
    }

    /// Waits until no process runs.
    pub(crate) async fn until_gone(&self) {
        let waiting = async {
            while !self.left().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let gone = tokio::time::timeout(TIME_LIMIT, waiting).await;
        assert!(gone.is_ok(), "left: {:?}", self.left());
    }
}

impl Drop for Registered {
    fn drop(&mut self) {
        for pid in self.left() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

/// When a process started, in the system's units; none if it has ended, also where its parent has not been notified.
fn started_at(pid: Pid) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name before it may contain anything, including parentheses.
    let fields: Vec<_> = stat.rsplit_once(')')?.1.split_whitespace().collect();
    (!matches!(fields[0], "Z" | "X")).then(|| fields[19].to_owned())
}

pub(crate) fn send(child: &std::process::Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}
