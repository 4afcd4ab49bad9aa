//! Finds and ends the descendants of a process.

#[cfg(target_os = "linux")]
use std::fs;
use std::sync::{Mutex, MutexGuard, PoisonError};

use rustix::{
    io::Errno,
    process::{Pid, Signal, getpgid, kill_process, kill_process_group},
};

/// All descendants of `root`, nearest first. A snapshot: others may have started meanwhile.
#[cfg(target_os = "linux")]
pub(super) fn descendants(root: Pid) -> Vec<Pid> {
    let mut found = children(root);
    let mut next = 0;
    while let Some(pid) = found.get(next).copied() {
        found.extend(children(pid));
        next += 1;
    }
    found
}

/// The children of `pid`, of all its threads.
#[cfg(target_os = "linux")]
pub(super) fn children(pid: Pid) -> Vec<Pid> {
    let tasks = format!("/proc/{}/task", pid.as_raw_nonzero());
    let Ok(threads) = fs::read_dir(tasks) else { return Vec::new() };
    let mut found = Vec::new();
    for thread in threads.flatten() {
        match fs::read_to_string(thread.path().join("children")) {
            Ok(list) => found.extend(list.split_whitespace().filter_map(parse)),
            // The thread has ended, or the kernel has no such file.
            Err(_) if thread.path().exists() => return children_by_scan(pid),
            Err(_) => {}
        }
    }
    found
}

/// The same, by the parents of all processes.
#[cfg(target_os = "linux")]
fn children_by_scan(parent: Pid) -> Vec<Pid> {
    let Ok(processes) = fs::read_dir("/proc") else { return Vec::new() };
    let pids = processes.flatten().filter_map(|entry| entry.file_name().to_str().and_then(parse));
    pids.filter(|pid| parent_of(*pid) == Some(parent)).collect()
}

#[cfg(target_os = "linux")]
fn parent_of(pid: Pid) -> Option<Pid> {
    let stat = fs::read_to_string(format!("/proc/{}/stat", pid.as_raw_nonzero())).ok()?;
    // The name before it may contain anything, including parentheses.
    stat.rsplit_once(')')?.1.split_whitespace().nth(1).and_then(parse)
}

#[cfg(target_os = "linux")]
fn parse(text: &str) -> Option<Pid> {
    text.parse().ok().and_then(Pid::from_raw)
}

/// Sends a signal to a process group, and to the processes that have left it. Returns those that may not be signalled,
/// because they belong to another user.
pub(super) fn signal_all(group: Option<Pid>, processes: &[Pid], signal: Signal) -> Vec<Pid> {
    if let Some(group) = group {
        // All at once, so that no process sees another one end first. The group may have ended already.
        let _ = kill_process_group(group, signal);
    }
    let left_group = |pid: &Pid| group.is_none() || getpgid(Some(*pid)).ok() != group;
    let forbidden = |pid: &Pid| kill_process(*pid, signal) == Err(Errno::PERM);
    processes.iter().copied().filter(left_group).filter(forbidden).collect()
}

/// Ignores poisoning: the holders of these locks only insert and remove values.
pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(all(test, target_os = "linux"))]
mod tests {
    use std::process::{Child, Command, Stdio};

    use rustix::process::getpid;

    use super::*;

    /// A shell with a child.
    fn tree() -> Child {
        let mut shell = Command::new("sh");
        shell.arg("-c").arg("sh -c 'echo on; exec sleep 600' & wait").stdout(Stdio::piped());
        let mut child = shell.spawn().expect("a shell starts");
        let mut line = [0; 3];
        let printed = child.stdout.as_mut().map(|stdout| std::io::Read::read_exact(stdout, &mut line));
        assert!(printed.is_some_and(|printed| printed.is_ok()));
        child
    }

    #[test]
    fn children_and_their_children_are_found_in_both_ways() {
        let mut child = tree();
        let pid = Pid::from_child(&child);
        assert!(children(getpid()).contains(&pid) && children_by_scan(getpid()).contains(&pid));
        assert_eq!(parent_of(pid), Some(getpid()));
        let below = descendants(pid);
        assert_eq!(below, children_by_scan(pid));
        assert_eq!(signal_all(None, &[&below[..], &[pid]].concat(), Signal::KILL), []);
        child.wait().unwrap();
        assert_eq!(descendants(pid), []);
    }
}
