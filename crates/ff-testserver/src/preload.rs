//! Libraries in C that are preloaded into a server, to create situations that a test could not wait for. They are
//! compiled on first use; each reads its settings from its own environment variables.

use std::{
    fs::File,
    os::unix::fs::FileExt,
    path::{Path, PathBuf},
    process::Command,
    time::Duration,
};

use crate::error::{Doing, Error, Result};
use crate::provider::target;

/// Newer servers read the wall clock at most once a millisecond and extrapolate in between.
const SEEN_AFTER: Duration = Duration::from_micros(1_050);

/// A library, and its environment variables.
#[derive(Debug)]
pub(crate) struct Preload {
    pub(crate) library: PathBuf,
    pub(crate) variables: Vec<(&'static str, PathBuf)>,
}

/// The environment variables of a process that preloads these libraries.
pub(crate) fn environment(preloads: &[Preload]) -> Vec<(&'static str, PathBuf)> {
    if preloads.is_empty() {
        return Vec::new();
    }
    let libraries: Vec<_> = preloads.iter().map(|preload| preload.library.to_string_lossy()).collect();
    let variables = preloads.iter().flat_map(|preload| preload.variables.iter().cloned());
    variables.chain([("LD_PRELOAD", libraries.join(":").into())]).collect()
}

/// Compiles `source` into a library with that name under the target directory.
pub(crate) fn compiled(name: &str, source: &str) -> Result<PathBuf> {
    let dir = target().join("preload");
    std::fs::create_dir_all(&dir).doing("making the directory for preloaded libraries")?;
    let dir = tempfile::Builder::new().prefix(name).tempdir_in(&dir).doing("compiling a preloaded library")?;
    let (text, made) = (dir.path().join(format!("{name}.c")), dir.path().join("made.so"));
    std::fs::write(&text, source).doing("compiling a preloaded library")?;
    let cc = std::env::var_os("CC").unwrap_or_else(|| "cc".into());
    let output = Command::new(&cc)
        .args(["-shared", "-fPIC", "-O1", "-o"])
        .args([&made, &text])
        .output()
        .map_err(|source| Error::Spawn { program: PathBuf::from(&cc), source })?;
    if !output.status.success() {
        let output = String::from_utf8_lossy(&output.stderr).into_owned();
        return Err(Error::Compile { name: name.to_owned(), output });
    }
    // Compiled under a temporary name and then renamed: running servers keep the library that they loaded.
    let library = dir.path().with_file_name(format!("{name}.so"));
    std::fs::rename(&made, &library).doing("compiling a preloaded library")?;
    Ok(library)
}

/// The wall clock of a server, constant until it is set.
#[derive(Debug)]
pub(crate) struct SetClock(File);

impl SetClock {
    /// A clock that is set to `millis`, in a file of this directory, and the library that makes a server use it.
    pub(crate) fn new(dir: &Path, millis: u64) -> Result<(Self, Preload)> {
        let path = dir.join("clock");
        let clock = Self(File::create(&path).doing("making a clock")?);
        clock.set(millis)?;
        let library = compiled("clock", include_str!("../preload/clock.c"))?;
        Ok((clock, Preload { library, variables: vec![("FF_TEST_CLOCK", path)] }))
    }

    /// Sets the clock, in milliseconds since 1970-01-01 UTC. Every server has the new time when this returns.
    pub(crate) fn set(&self, millis: u64) -> Result<()> {
        let mut both = [0; 16];
        both[..8].copy_from_slice(&millis.to_ne_bytes());
        both[8..].copy_from_slice(&(!millis).to_ne_bytes());
        self.0.write_all_at(&both, 0).doing("setting a clock")?;
        std::thread::sleep(SEEN_AFTER);
        Ok(())
    }
}

/// The wall clock of a server, running ahead of the machine's.
#[derive(Debug)]
pub(crate) struct ClockAhead(File);

impl ClockAhead {
    /// A clock that is not ahead yet, in a file of this directory, and the library that makes a server use it.
    pub(crate) fn new(dir: &Path) -> Result<(Self, Preload)> {
        let path = dir.join("clock-ahead");
        let ahead = Self(File::create(&path).doing("making a clock")?);
        ahead.set(Duration::ZERO)?;
        let library = compiled("ahead", include_str!("../preload/ahead.c"))?;
        Ok((ahead, Preload { library, variables: vec![("FF_TEST_AHEAD", path)] }))
    }

    /// Sets how far it is ahead. Every server has the new time when this returns.
    pub(crate) fn set(&self, ahead: Duration) -> Result<()> {
        let millis = u64::try_from(ahead.as_millis()).unwrap_or(u64::MAX);
        self.0.write_all_at(&millis.to_ne_bytes(), 0).doing("setting a clock")?;
        std::thread::sleep(SEEN_AFTER);
        Ok(())
    }
}

/// The duration of a server's syncs.
#[derive(Debug)]
pub(crate) struct DiskDelay(File);

impl DiskDelay {
    /// No delay yet, in a file of this directory, and the library that makes a server use it.
    pub(crate) fn new(dir: &Path) -> Result<(Self, Preload)> {
        let path = dir.join("disk-delay");
        let delay = Self(File::create(&path).doing("making a slow disk")?);
        delay.set(Duration::ZERO)?;
        let library = compiled("slow_disk", include_str!("../preload/slow_disk.c"))?;
        Ok((delay, Preload { library, variables: vec![("FF_TEST_DISK", path)] }))
    }

    pub(crate) fn set(&self, delay: Duration) -> Result<()> {
        let millis = u64::try_from(delay.as_millis()).unwrap_or(u64::MAX);
        self.0.write_all_at(&millis.to_ne_bytes(), 0).doing("setting the delay of a disk")
    }
}
