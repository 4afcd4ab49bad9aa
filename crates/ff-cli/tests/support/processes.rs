//! Processes that a run of the program has left, found by a mark in their environment.

use std::{fs, time::Duration};

use rustix::process::{Pid, Signal, kill_process};

/// The variable that marks a run and all that it starts.
const VARIABLE: &str = "MARK_OF_TEST";
/// Nothing here takes longer, also on a busy machine.
const PATIENCE: Duration = Duration::from_secs(60);

/// A mark that no other test has.
pub(crate) struct Mark(String);

impl Mark {
    pub(crate) fn new() -> Self {
        Self(uuid::Uuid::new_v4().to_string())
    }

    pub(crate) fn put_on(&self, command: &mut std::process::Command) {
        command.env(VARIABLE, &self.0);
    }

    /// The processes that carry it, with what they are.
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

    /// Waits until no process carries it.
    pub(crate) async fn until_gone(&self) {
        let waiting = async {
            while !self.processes().is_empty() {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let gone = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(gone.is_ok(), "left: {:?}", self.processes());
    }

    /// Waits until a process whose arguments have this in them carries it.
    pub(crate) async fn until_runs(&self, part: &str) {
        let waiting = async {
            while !self.processes().iter().any(|(_, arguments)| arguments.contains(part)) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        };
        let runs = tokio::time::timeout(PATIENCE, waiting).await;
        assert!(runs.is_ok(), "no `{part}` among {:?}", self.processes());
    }
}

/// A failed test leaves nothing either.
impl Drop for Mark {
    fn drop(&mut self) {
        for (pid, _) in self.processes() {
            let _ = kill_process(pid, Signal::KILL);
        }
    }
}

pub(crate) fn send(child: &std::process::Child, signal: Signal) {
    kill_process(Pid::from_child(child), signal).unwrap();
}
