//! The spelling check by typos, in the version that is named here.
//!
//! It is installed into the target directory if it is missing; `typos.toml` is its configuration.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::provision::target;
use crate::run::{Cargo, check, root};

const VERSION: &str = "1.52.0";

/// Checks the spelling of all files. Skips the check, with a message, if typos cannot be installed.
pub(crate) fn spelling() -> Result<()> {
    let Some(program) = installed() else {
        eprintln!("typos {VERSION} cannot be installed, so the spelling is not checked");
        return Ok(());
    };
    eprintln!("$ typos");
    let status =
        Command::new(program).args(["--format", "brief"]).current_dir(root()).status().context("running typos")?;
    check("typos", status)
}

fn installed() -> Option<PathBuf> {
    let folder = target().join("tools").join(format!("typos-{VERSION}"));
    let program = folder.join("bin/typos");
    if !program.is_file() {
        let install = Cargo::new("install").args(["--quiet", "--locked", "--version", VERSION, "typos-cli", "--root"]);
        install.args([folder.to_string_lossy()]).run().ok()?;
    }
    Some(program)
}
