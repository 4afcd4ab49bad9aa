//! Builds the contenders. One that cannot be built stays in the table, with the reason.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Stdio;

use anyhow::{Context, Result};
use tokio::process::Command;

use crate::Name;

/// What became of a contender.
#[derive(Debug)]
pub(crate) enum Built {
    Program(PathBuf),
    Failed(String),
}

/// Builds all in one call of cargo, and if that fails each alone.
pub(crate) async fn build(contenders: &[Name]) -> Result<BTreeMap<Name, Built>> {
    let programs = std::env::current_exe()?.parent().context("a program is in a folder")?.to_owned();
    let program = |name: &Name| Built::Program(programs.join(format!("peers-{}", name.key)));
    if cargo(contenders).await?.is_none() {
        return Ok(contenders.iter().map(|name| (*name, program(name))).collect());
    }
    let mut built = BTreeMap::new();
    for name in contenders {
        let result = cargo(&[*name]).await?.map_or_else(|| program(name), Built::Failed);
        built.insert(*name, result);
    }
    Ok(built)
}

/// Builds these; returns the first error of the compiler, if there is one.
async fn cargo(contenders: &[Name]) -> Result<Option<String>> {
    let manifest = Path::new(env!("CARGO_MANIFEST_DIR")).parent().context("the folder of the workspace")?;
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.args(["build", "--release", "--locked", "--manifest-path"]).arg(manifest.join("Cargo.toml"));
    for name in contenders {
        command.arg(format!("-ppeers-{}", name.key));
    }
    let output = command.stdin(Stdio::null()).stderr(Stdio::piped()).output().await.context("running cargo")?;
    if output.status.success() {
        return Ok(None);
    }
    let text = String::from_utf8_lossy(&output.stderr).into_owned();
    eprintln!("{text}");
    let error = text.lines().find(|line| line.starts_with("error"));
    Ok(Some(error.unwrap_or("cargo failed without an error").to_owned()))
}
