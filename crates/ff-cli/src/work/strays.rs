//! The net below the supervisors: what one of them leaves because it was killed itself becomes a child of this process
//! (on Linux), and is ended here.

use std::{collections::HashSet, io, sync::Mutex};

#[cfg(target_os = "linux")]
use std::time::Duration;

use rustix::process::Pid;

use super::processes::locked;

/// The supervisors that live. All other children of this process are strays.
static SUPERVISORS: Mutex<Option<HashSet<Pid>>> = Mutex::new(None);

/// Makes this process the parent of what loses its own. Before that strays are not ended here.
///
/// # Errors
/// What the system answers.
pub(crate) fn adopt_orphans() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))?;
    locked(&SUPERVISORS).get_or_insert_default();
    Ok(())
}

/// Starts a supervisor in such a way that it never looks like a stray.
pub(super) fn start<T>(spawn: impl FnOnce() -> io::Result<(Pid, T)>) -> io::Result<T> {
    let mut supervisors = locked(&SUPERVISORS);
    let (pid, started) = spawn()?;
    if let Some(supervisors) = supervisors.as_mut() {
        supervisors.insert(pid);
    }
    Ok(started)
}

/// A supervisor has ended and was waited for.
pub(super) fn ended(pid: Pid) {
    if let Some(supervisors) = locked(&SUPERVISORS).as_mut() {
        supervisors.remove(&pid);
    }
}

/// Kills what supervisors have left until there is nothing more.
#[cfg(target_os = "linux")]
pub(super) async fn end_all() {
    while kill_some() {
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[cfg(not(target_os = "linux"))]
pub(super) async fn end_all() {}

#[cfg(target_os = "linux")]
fn kill_some() -> bool {
    use rustix::process::{Signal, WaitOptions, getpid, waitpid};

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
