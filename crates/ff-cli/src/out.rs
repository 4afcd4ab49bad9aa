//! The output of commands.
//!
//! A closed reader (`ff watch | head -1`) is neither an error nor a panic. Any other failure to write is an error: the
//! caller continues or stops, and the program ends with the failure and exit code 1.

use std::{
    io::{self, Write},
    os::fd::{AsFd, BorrowedFd},
    sync::OnceLock,
};

use rustix::{
    event::{PollFd, PollFlags, poll},
    fs::OFlags,
    io::Errno,
};
use serde::Serialize;

use crate::failure::CliError;

/// The first failure to write.
static FAILED: OnceLock<(String, String)> = OnceLock::new();

/// Whether stdout still has a reader.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[must_use]
pub(crate) enum Reader {
    Listening,
    /// The reader has closed stdout, or writing fails.
    Gone,
}

/// Refuses a stdout to which nothing can be written. Writing to it would succeed without effect.
///
/// # Errors
/// If stdout is closed (see `closed_stdout.c`), or open for reading only.
pub(crate) fn check() -> Result<(), CliError> {
    match rustix::fs::fcntl_getfl(io::stdout().as_fd()) {
        Ok(flags) if flags & OFlags::RWMODE == OFlags::RDONLY => {
            Err(CliError::usage("stdout is closed or read-only", "redirect it to /dev/null to print nothing"))
        }
        _ => Ok(()),
    }
}

/// Prints one line on stdout.
pub(crate) fn line(text: &str) -> Reader {
    let mut stdout = io::stdout().lock();
    let written = patiently(&mut stdout, format!("{text}\n").as_bytes());
    judged(written)
}

/// Prints a text that may have several lines, for commands that end after it.
pub(crate) fn text(text: &str) {
    let _: Reader = line(text.trim_end_matches('\n'));
}

/// Prints a value as one line of JSON.
pub(crate) fn json(value: &impl Serialize) -> Reader {
    match serde_json::to_string(value) {
        Ok(json) => line(&json),
        Err(error) => judged(Err(error.into())),
    }
}

/// Prints one line on stderr. A failure to write it cannot be reported.
pub(crate) fn note(text: &str) {
    let _ = writeln!(io::stderr().lock(), "{text}");
}

/// Syncs stdout to disk if it is a file, so that the printed lines survive a crash of the machine.
pub(crate) fn sync() -> Reader {
    match rustix::fs::fsync(io::stdout().as_fd()) {
        // Not a file.
        Err(Errno::INVAL | Errno::ROFS | Errno::NOTSUP) => Reader::Listening,
        synced => judged(synced.map_err(Into::into)),
    }
}

/// Records a failure to write; the program ends with the first one.
pub(crate) fn failed(what: &str, why: &io::Error) {
    let _ = FAILED.set((what.to_owned(), why.to_string()));
}

/// The first failure to write, if there was one.
pub(crate) fn failure() -> Option<CliError> {
    FAILED.get().map(|(what, why)| CliError::failed(what, why))
}

/// Returns when the reader of stdout has closed it. This can only be detected for pipes and sockets.
pub(crate) async fn reader_gone() {
    let (gone, waiting) = tokio::sync::oneshot::channel();
    // A separate thread, which does not delay the end of the program.
    let watching = std::thread::Builder::new().name("stdout".into()).spawn(move || {
        if hung_up(io::stdout().as_fd()) {
            let _ = gone.send(());
        }
    });
    if watching.is_err() || waiting.await.is_err() {
        std::future::pending::<()>().await;
    }
}

fn hung_up(stdout: BorrowedFd<'_>) -> bool {
    loop {
        let mut asked = [PollFd::new(&stdout, PollFlags::empty())];
        match poll(&mut asked, None) {
            Ok(_) => return asked[0].revents().intersects(PollFlags::ERR | PollFlags::HUP),
            Err(Errno::INTR) => {}
            Err(_) => return false,
        }
    }
}

/// Writes and flushes, even if another program has made stdout non-blocking.
fn patiently(stdout: &mut (impl Write + AsFd), mut bytes: &[u8]) -> io::Result<()> {
    loop {
        let step =
            if bytes.is_empty() { stdout.flush() } else { stdout.write(bytes).map(|count| bytes = &bytes[count..]) };
        match step {
            Ok(()) if bytes.is_empty() => match stdout.flush() {
                Err(error) if is_for_later(&error) => wait_for_room(stdout.as_fd()),
                flushed => return flushed,
            },
            Ok(()) => {}
            Err(error) if is_for_later(&error) => wait_for_room(stdout.as_fd()),
            Err(error) => return Err(error),
        }
    }
}

fn is_for_later(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted)
}

fn wait_for_room(stdout: BorrowedFd<'_>) {
    // The result does not matter: the next write reports an error.
    let _ = poll(&mut [PollFd::new(&stdout, PollFlags::OUT)], None);
}

fn judged(written: io::Result<()>) -> Reader {
    match written {
        Ok(()) => Reader::Listening,
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Reader::Gone,
        Err(error) => {
            failed("stdout cannot be written", &error);
            Reader::Gone
        }
    }
}
