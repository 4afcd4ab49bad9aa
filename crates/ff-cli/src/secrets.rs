//! Hides the server's URL and credentials from the commands that `ff run` starts and from other users of this machine.

use std::{
    env,
    ffi::{OsStr, OsString},
    io,
    os::unix::process::CommandExt as _,
    process::Command,
};

use clap::{ArgMatches, parser::ValueSource};
use ff_valkey::ValkeyConfig;

use crate::{failure::CliError, out};

const OPTION: &str = "--url";
const VARIABLE: &str = "FF_URL";

/// A password on the command line is visible to every user that may list processes. If there is one, prints a warning
/// and replaces this process by one with the URL in its environment, which only its user can read.
///
/// # Errors
/// If the process cannot be replaced. Does not return if it is.
pub(crate) fn hide_password(matches: &ArgMatches) -> Result<(), CliError> {
    let given = matches.value_source("url") == Some(ValueSource::CommandLine);
    let url = matches.get_one::<String>("url").filter(|url| given && has_password(url));
    let Some(url) = url else { return Ok(()) };
    out::note(
        "ff: a password in --url is visible to all users that can list processes; set FF_URL, or give --username and \
         --password-file",
    );
    let mut again = Command::new(crate::work::program());
    let mut arguments = env::args_os();
    if let Some(name) = arguments.next() {
        again.arg0(name);
    }
    let error = again.args(without_url(arguments)).env(VARIABLE, url).exec();
    Err(CliError::failed("the password in --url cannot be hidden", error))
}

fn has_password(url: &str) -> bool {
    ValkeyConfig::from_url(url).is_ok_and(|config| config.password.is_some() || config.sentinel_password.is_some())
}

/// The arguments without `--url` and its value.
fn without_url(arguments: impl Iterator<Item = OsString>) -> Vec<OsString> {
    let mut kept = Vec::new();
    let mut arguments = arguments.peekable();
    while let Some(argument) = arguments.next() {
        if argument == "--" {
            kept.push(argument);
            kept.extend(arguments);
            break;
        } else if argument == OPTION {
            arguments.next();
        } else if !is_with_value(&argument) {
            kept.push(argument);
        }
    }
    kept
}

fn is_with_value(argument: &OsStr) -> bool {
    argument.to_str().and_then(|text| text.strip_prefix(OPTION)).is_some_and(|rest| rest.starts_with('='))
}

/// Prevents other processes of the same user from reading the memory and the environment of this one. It then also
/// writes no core dump.
///
/// # Errors
/// If the system refuses.
pub(crate) fn protect_process() -> io::Result<()> {
    #[cfg(target_os = "linux")]
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)?;
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_the_url_is_removed_from_the_arguments() {
        let without = |line: &str| without_url(line.split(' ').map(OsString::from)).join(OsStr::new(" "));
        assert_eq!(without("--url redis://:p@h run a.yaml"), "run a.yaml");
        assert_eq!(without("run --url=redis://:p@h --workers 3 a.yaml"), "run --workers 3 a.yaml");
        assert_eq!(without("run -- --url"), "run -- --url");
        assert_eq!(without("run --urls a.yaml"), "run --urls a.yaml");
    }

    #[test]
    fn a_url_with_a_password_is_recognised() {
        for url in ["redis://:secret@h:6379", "redis://u:secret@h", "redis-sentinel://h/s?sentinelPass=secret"] {
            assert!(has_password(url), "{url}");
        }
        for url in ["redis://h:6379", "redis://user@h", "embedded:", "nonsense"] {
            assert!(!has_password(url), "{url}");
        }
    }
}
