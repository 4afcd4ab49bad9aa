//! Provides a server for the tests on a machine that has only Rust: finds, pulls or unpacks one, or packs it into an
//! image.
//!
//! Every step prints one line. The next run finds the results of a step again: images in Docker, programs under
//! `target/valkey/`. The tests get the choice in the variables that `ff-testserver` reads.

use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use ff_testserver::DEFAULT_IMAGE;

use crate::run::{check, root, succeeds};

/// The image that is built from a local program if the public one cannot be pulled. Never a public tag.
const LOCAL_IMAGE: &str = "flowfabric-valkey:local";
const QUERY: Duration = Duration::from_secs(10);
const PULL: Duration = Duration::from_secs(60);

/// Where the servers of this run come from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Chosen {
    /// `FF_TEST_VALKEY_URL` was set by the caller.
    Shared,
    Docker {
        image: String,
        /// The program for servers that must be processes of this machine.
        program: Option<PathBuf>,
    },
    Process {
        program: PathBuf,
    },
}

impl Chosen {
    /// The variables that pass the choice to the tests.
    pub(crate) fn env(&self) -> Vec<(&'static str, String)> {
        match self {
            Self::Shared => Vec::new(),
            Self::Docker { image, program } => {
                let program =
                    program.iter().map(|program| ("FF_VALKEY_SERVER", program.to_string_lossy().into_owned()));
                [("FF_TEST_PROVIDER", "docker".into()), ("FF_VALKEY_IMAGE", image.clone())]
                    .into_iter()
                    .chain(program)
                    .collect()
            }
            Self::Process { program } => vec![
                ("FF_TEST_PROVIDER", "process".into()),
                ("FF_VALKEY_SERVER", program.to_string_lossy().into_owned()),
            ],
        }
    }
}

/// Provides a server that the tests can start.
pub(crate) fn provide() -> Result<Chosen> {
    if variable("FF_TEST_VALKEY_URL").is_some() {
        say("using the shared server that FF_TEST_VALKEY_URL names");
        return Ok(Chosen::Shared);
    }
    match variable("FF_TEST_PROVIDER") {
        Some(provider) => provide_from(&provider),
        None if daemon_answers() => docker().or_else(|error| {
            say(&format!("no server through Docker: {error:#}"));
            process()
        }),
        None => process(),
    }
}

/// Provides a server of this provider, `docker` or `process`.
pub(crate) fn provide_from(provider: &str) -> Result<Chosen> {
    match provider {
        "process" => process(),
        "docker" if daemon_answers() => docker(),
        "docker" => bail!("FF_TEST_PROVIDER=docker, but no Docker daemon answers"),
        other => bail!("FF_TEST_PROVIDER={other} is unknown; use docker or process, or leave it unset"),
    }
}

fn docker() -> Result<Chosen> {
    let named = variable("FF_VALKEY_IMAGE");
    let wanted = named.as_deref().unwrap_or(DEFAULT_IMAGE);
    if image_present(wanted) {
        return Ok(use_image(wanted));
    }
    if named.is_none() && image_present(LOCAL_IMAGE) {
        return Ok(use_image(LOCAL_IMAGE));
    }
    if wanted != LOCAL_IMAGE && succeeds("docker", &["pull", "--quiet", wanted], PULL) {
        return Ok(use_image(wanted));
    }
    // Using a server other than the requested one would be a surprise.
    if let Some(named) = named.filter(|named| named != LOCAL_IMAGE) {
        bail!("FF_VALKEY_IMAGE={named} does not exist and cannot be pulled");
    }
    say(&format!("{DEFAULT_IMAGE} cannot be pulled; building {LOCAL_IMAGE} from a local server"));
    let program = program()?;
    script("offline-image.sh", &[&program.to_string_lossy(), LOCAL_IMAGE])?;
    Ok(use_image(LOCAL_IMAGE))
}

/// Provides a server that runs as a process of this machine, with a clock that can be set.
pub(crate) fn process() -> Result<Chosen> {
    let program = program()?;
    say(&format!("servers are processes of {}", program.display()));
    Ok(Chosen::Process { program })
}

fn program() -> Result<PathBuf> {
    if let Some(program) = variable("FF_VALKEY_SERVER").map(PathBuf::from).or_else(|| on_path("valkey-server")) {
        return Ok(program);
    }
    let unpacked = target().join("valkey");
    script("fetch-valkey.sh", &[&unpacked.to_string_lossy()])?;
    Ok(unpacked.join("bin/valkey-server"))
}

fn use_image(image: &str) -> Chosen {
    say(&format!("servers are Docker containers of {image}"));
    let program = program().map_err(|error| say(&format!("no server process, which some tests need: {error:#}"))).ok();
    Chosen::Docker { image: image.to_owned(), program }
}

fn say(line: &str) {
    eprintln!("valkey: {line}");
}

/// An empty variable counts as unset.
fn variable(name: &str) -> Option<String> {
    std::env::var(name).ok().filter(|value| !value.is_empty())
}

/// The target directory of cargo.
pub(crate) fn target() -> PathBuf {
    std::env::var_os("CARGO_TARGET_DIR").map_or_else(|| root().join("target"), PathBuf::from)
}

fn on_path(program: &str) -> Option<PathBuf> {
    std::env::split_paths(&std::env::var_os("PATH")?).map(|dir| dir.join(program)).find(|file| file.is_file())
}

fn daemon_answers() -> bool {
    succeeds("docker", &["info"], QUERY)
}

fn image_present(image: &str) -> bool {
    succeeds("docker", &["image", "inspect", image], QUERY)
}

fn script(name: &str, args: &[&str]) -> Result<()> {
    let status = Command::new("bash")
        .arg(root().join("scripts").join(name))
        .args(args)
        .status()
        .with_context(|| format!("running scripts/{name}"))?;
    check(&format!("scripts/{name}"), status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_choice_is_passed_in_the_variables_of_the_tests() {
        assert!(Chosen::Shared.env().is_empty());
        assert_eq!(
            Chosen::Docker { image: "a:b".into(), program: None }.env(),
            [("FF_TEST_PROVIDER", "docker".to_owned()), ("FF_VALKEY_IMAGE", "a:b".to_owned())]
        );
        assert_eq!(
            Chosen::Docker { image: "a:b".into(), program: Some("/x".into()) }.env()[2],
            ("FF_VALKEY_SERVER", "/x".to_owned())
        );
        assert_eq!(
            Chosen::Process { program: "/x".into() }.env(),
            [("FF_TEST_PROVIDER", "process".to_owned()), ("FF_VALKEY_SERVER", "/x".to_owned())]
        );
    }
}
