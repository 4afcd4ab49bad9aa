//! Ends a server whose owner was killed: a shell waits on a pipe held by this program. If the program ends without
//! dropping its servers, the pipe closes, and the shell ends the server and removes its directory. That needs neither
//! unsafe code nor a signal handler, and it also works after a SIGKILL.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, Command, Stdio};

use crate::error::{Error, Result};

const PROCESS: &str = r#"trap "" HUP INT TERM; read -r _; kill -9 "$1"; rm -rf "$2""#;
const CONTAINER: &str = r#"trap "" HUP INT TERM; read -r _; docker rm --force --volumes "$1"; rm -rf "$2""#;

/// The watch over one server; dropping it ends the watch.
#[derive(Debug)]
pub(crate) struct Watch(Child);

impl Watch {
    /// Watches over a process.
    pub(crate) fn over_process(id: u32, dir: &Path) -> Result<Self> {
        Self::start(PROCESS, &id.to_string(), dir)
    }

    /// Watches over a container by its name; works if the `docker` program is installed.
    pub(crate) fn over_container(name: &str, dir: &Path) -> Result<Self> {
        Self::start(CONTAINER, name, dir)
    }

    fn start(script: &str, server: &str, dir: &Path) -> Result<Self> {
        Command::new("sh")
            .args(["-c", script, "ff-testserver-watch", server])
            .arg(dir)
            .current_dir("/")
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .process_group(0)
            .spawn()
            .map(Self)
            .map_err(|source| Error::Spawn { program: "sh".into(), source })
    }
}

impl Drop for Watch {
    fn drop(&mut self) {
        end(&mut self.0);
    }
}

/// Kills a child and waits for it. A child that has already ended is not an error.
pub(crate) fn end(child: &mut Child) {
    let _ = child.kill();
    let _ = child.wait();
}
