//! Ends the processes that a killed supervisor leaves: on Linux they become children of this process.

use std::{
    collections::HashSet,
    io,
    sync::Mutex,
    time::{Duration, Instant},
};

use rustix::process::{Pid, WaitOptions, waitpid};

use super::processes::locked;

/// The running supervisors. All other children of this process are strays.
static SUPERVISORS: Mutex<Option<HashSet<Pid>>> = Mutex::new(None);

/// Makes this process the parent of orphaned descendants. Without this call strays are not ended.
///
/// # Errors
/// If the system refuses.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    locked(&SUPERVISORS).get_or_insert_default();
    Ok(())
}

/// Starts a supervisor so that it is never mistaken for a stray.
pub(super) fn start<T>(spawn: impl FnOnce() -> io::Result<(Pid, T)>) -> io::Result<T> {
    let mut supervisors = locked(&SUPERVISORS);
    let (pid, started) = spawn()?;
    if let Some(supervisors) = supervisors.as_mut() {
        supervisors.insert(pid);
    }
    Ok(started)
}

/// Records that a supervisor has ended and was reaped.
pub(super) fn ended(pid: Pid) {
    if let Some(supervisors) = locked(&SUPERVISORS).as_mut() {
        supervisors.remove(&pid);
    }
}

/// The pause before what is left is looked for again.
const AGAIN: Duration = Duration::from_millis(5);
/// How long the end of the program waits for supervisors and strays.
const LAST_LIMIT: Duration = Duration::from_secs(2);

/// At the end of the program, when its supervisors are ending: waits for them, and kills what killed ones have left.
pub(crate) fn end_last() {
    let until = Instant::now() + LAST_LIMIT;
    while (supervisors_are_left() | kill_some()) && Instant::now() < until {
        std::thread::sleep(AGAIN);
    }
}

fn supervisors_are_left() -> bool {
    let mut supervisors = locked(&SUPERVISORS);
    let Some(supervisors) = supervisors.as_mut() else { return false };
    supervisors.retain(|pid| matches!(waitpid(Some(*pid), WaitOptions::NOHANG), Ok(None)));
    !supervisors.is_empty()
}

/// Kills the strays until none is left.
#[cfg(target_os = "linux")]
pub(super) async fn end_all() {
    while kill_some() {
        tokio::time::sleep(AGAIN).await;
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) async fn end_all() {}

#[cfg(not(target_os = "linux"))]
fn kill_some() -> bool {
    false
}

#[cfg(target_os = "linux")]
fn kill_some() -> bool {
    use rustix::process::{Signal, getpid};

    use super::processes::{children, descendants, signal_all};

    let supervisors = locked(&SUPERVISORS);
    let Some(supervisors) = supervisors.as_ref() else { return false };
    let mut left = false;
    for stray in children(getpid()).into_iter().filter(|pid| !supervisors.contains(pid)) {
        let mut tree = descendants(stray);
        tree.insert(0, stray);
        let forbidden = signal_all(None, &tree, Signal::KILL);
        let _ = waitpid(Some(stray), WaitOptions::NOHANG);
        left |= !forbidden.contains(&stray);
    }
    left
}
