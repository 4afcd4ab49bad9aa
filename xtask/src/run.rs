//! Runs other programs from the root of the workspace, and prints each command.

use std::ffi::OsString;
use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// The root of the workspace.
pub(crate) fn root() -> PathBuf {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR"));
    manifest.parent().unwrap_or(manifest).to_owned()
}

/// One call of cargo.
#[derive(Debug)]
pub(crate) struct Cargo {
    args: Vec<String>,
    env: Vec<(&'static str, String)>,
}

impl Cargo {
    pub(crate) fn new(command: &str) -> Self {
        Self { args: vec![command.to_owned()], env: Vec::new() }
    }

    pub(crate) fn args<A: AsRef<str>>(mut self, args: impl IntoIterator<Item = A>) -> Self {
        self.args.extend(args.into_iter().map(|arg| arg.as_ref().to_owned()));
        self
    }

    pub(crate) fn envs(mut self, env: impl IntoIterator<Item = (&'static str, String)>) -> Self {
        self.env.extend(env);
        self
    }

    /// Prints the command and runs it.
    pub(crate) fn run(self) -> Result<()> {
        let line = self.line();
        let status = self.announced().status().context("running cargo")?;
        check(&line, status)
    }

    /// Prints the command, runs it, and returns its stdout, which is also printed. The caller finds in that text
    /// whether it succeeded.
    pub(crate) fn read(self) -> Result<String> {
        let mut child = self.announced().stdout(Stdio::piped()).spawn().context("running cargo")?;
        let mut text = String::new();
        for line in child.stdout.take().into_iter().flat_map(|stdout| BufReader::new(stdout).lines()) {
            let line = line.context("reading the output of cargo")?;
            println!("{line}");
            text.push_str(&line);
            text.push('\n');
        }
        child.wait().context("running cargo")?;
        Ok(text)
    }

    fn line(&self) -> String {
        format!("cargo {}", self.args.join(" "))
    }

    fn announced(self) -> Command {
        eprintln!("$ {}", self.line());
        let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| OsString::from("cargo")));
        command.args(&self.args).envs(self.env).current_dir(root());
        command
    }
}

/// Fails with the command line if the command did not succeed.
pub(crate) fn check(line: &str, status: ExitStatus) -> Result<()> {
    if status.success() {
        return Ok(());
    }
    bail!("`{line}` failed ({status})")
}

/// Whether a program succeeds within a time limit. Its output is discarded; a missing program counts as failed.
pub(crate) fn succeeds(program: &str, args: &[&str], limit: Duration) -> bool {
    let quiet = Command::new(program)
        .args(args)
        .stdin(Stdio::null())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .current_dir(root())
        .spawn();
    let Ok(mut child) = quiet else { return false };
    let deadline = Instant::now() + limit;
    loop {
        match child.try_wait() {
            Ok(Some(status)) => return status.success(),
            Ok(None) if Instant::now() < deadline => std::thread::sleep(Duration::from_millis(10)),
            Ok(None) | Err(_) => {
                let _ = child.kill();
                let _ = child.wait();
                return false;
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_that_takes_too_long_is_ended() {
        let started = Instant::now();
        assert!(!succeeds("sleep", &["60"], Duration::from_millis(50)));
        assert!(started.elapsed() < Duration::from_secs(30));
        assert!(!succeeds("no-such-program-anywhere", &[], Duration::from_secs(1)));
        assert!(succeeds("true", &[], Duration::from_secs(10)));
    }
}
