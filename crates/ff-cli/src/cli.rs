//! The command line.

use std::{fmt::Display, net::SocketAddr, ops::RangeInclusive, path::PathBuf, str::FromStr, time::Duration};

use clap::{
    Args, CommandFactory, Parser, Subcommand,
    error::{ContextValue, ErrorKind},
};
use clap_complete::Shell;
use ff_core::{FlowId, Namespace, Start};
use ff_script::permissions::Role;

use crate::{
    connect::ConnectArgs,
    failure::CliError,
    run::ShowOutput,
    work::stop::{StopSignal, checked_grace},
};

/// Durable flows on Valkey whose completions reach every subscriber.
#[derive(Debug, Parser)]
#[command(
    name = "ff",
    version,
    propagate_version = true,
    after_help = "`ff help COMMAND` shows the full help of a command.",
    after_long_help = "Without --url and FF_URL, run and demo need no server: they run in this process. Exit codes: 0 \
                       success, 1 failed, not found or not written, 2 wrong input, 3 server unavailable or refuses, \
                       129 terminal closed, 130 cancelled. FF_LOG sets the log level on stderr (default warn)."
)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) connect: ConnectArgs,
    #[command(subcommand)]
    pub(crate) command: Command,
}

#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    /// Run a flow of commands (YAML) or replay a recorded workflow (WfFormat JSON), and show it live
    Run(RunArgs),
    /// Stream completions as they are committed
    Watch(WatchArgs),
    /// Show an execution or a flow
    Describe(DescribeArgs),
    /// Cancel an execution or a flow
    Cancel(CancelArgs),
    /// Run flows of two tenants with watchers that filter, and count what each of them saw
    Demo(DemoArgs),
    /// The Lua library: print it, load it, compare it with the server's
    #[command(subcommand)]
    Script(ScriptCommand),
    /// Check the server for settings that endanger the guarantees of FlowFabric
    Doctor(DoctorArgs),
    /// Print completions of the command line for a shell
    ///
    /// For example: ff completions bash > ~/.local/share/bash-completion/completions/ff
    Completions {
        /// The shell
        shell: Shell,
    },
}

/// Whether no command was given: then the help is shown.
pub(crate) fn asks_for_help(error: &clap::Error) -> bool {
    error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand
}

/// The script that completes command lines of this program in a shell.
pub(crate) fn completions(shell: Shell) -> String {
    let mut script = Vec::new();
    clap_complete::generate(shell, &mut Cli::command(), "ff", &mut script);
    String::from_utf8_lossy(&script).into_owned()
}

#[derive(Debug, Args)]
pub(crate) struct RunArgs {
    /// The flow: a YAML file, a WfFormat JSON file, or `-` for stdin
    #[arg(required_unless_present = "resume")]
    pub(crate) flow: Option<PathBuf>,
    /// Continue a flow that an earlier `ff run` has left, by the id that it printed. The commands come from the server:
    /// every user with write access to the server decides which commands run here
    #[arg(long, value_name = "FLOW", conflicts_with_all = ["flow", "namespace", "time_scale"])]
    pub(crate) resume: Option<FlowId>,
    /// How many executions run concurrently [default: one per processor, or 64 if they only sleep]
    #[arg(long, value_name = "N", value_parser = number(1..=1024_u16))]
    pub(crate) workers: Option<u16>,
    /// Print one JSON object per completion and one at the end
    #[arg(long)]
    pub(crate) json: bool,
    /// Multiply the run times of a recorded workflow, such as 0.01 to replay it a hundred times faster
    #[arg(long, value_name = "X", value_parser = parse_scale)]
    pub(crate) time_scale: Option<f64>,
    /// The namespace, instead of the one in the file
    #[arg(long, value_name = "NS")]
    pub(crate) namespace: Option<Namespace>,
    /// Serve Prometheus metrics at this address, such as 127.0.0.1:9187
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Which output of commands is shown, each line with the name of its execution: `all`, `failed` (the last lines of
    /// failed attempts), or `none`. With --json: the last lines in the completion
    #[arg(long, value_name = "WHICH", value_enum, default_value_t = ShowOutput::Failed, hide_possible_values = true)]
    pub(crate) show_output: ShowOutput,
    /// How long a command may take to end after the stop signal, before it is killed [default: 2s]
    #[arg(long, value_name = "DURATION", value_parser = parse_grace)]
    pub(crate) grace: Option<Duration>,
    /// The signal that stops a command, if its flow does not set one [default: TERM]
    #[arg(long, value_name = "SIGNAL")]
    pub(crate) stop_signal: Option<StopSignal>,
    /// Keep the output of each attempt in a file in this directory
    #[arg(long, value_name = "DIR")]
    pub(crate) keep_outputs: Option<PathBuf>,
}

#[derive(Debug, Args)]
pub(crate) struct WatchArgs {
    /// Only executions of this namespace
    #[arg(long, value_name = "NS")]
    pub(crate) namespace: Option<Namespace>,
    /// Only executions with this tag
    #[arg(long, value_name = "KEY=VALUE", value_parser = parse_tag)]
    pub(crate) tag: Option<(String, String)>,
    /// Print one JSON object per completion
    #[arg(long)]
    pub(crate) json: bool,
    /// Include completions of solo executions
    #[arg(long)]
    pub(crate) solo: bool,
    /// Where to start: `now`, `earliest` (the oldest completion in the logs), or a cursor that was printed or saved
    #[arg(long, value_name = "WHERE", default_value = "now", value_parser = parse_start)]
    pub(crate) from: Start,
    /// Continue after the cursor in this file if it exists, and update it about once a second and at the end. If killed
    /// in between, the next run repeats up to a second of completions and loses none
    #[arg(long, value_name = "FILE")]
    pub(crate) cursor_file: Option<PathBuf>,
    /// Serve Prometheus metrics at this address, such as 127.0.0.1:9187
    #[arg(long, value_name = "ADDRESS", value_parser = parse_address)]
    pub(crate) metrics: Option<SocketAddr>,
    /// Stop after this many completions
    #[arg(long, value_name = "N", value_parser = number(1..=u64::MAX))]
    pub(crate) count: Option<u64>,
    /// Stop after this time, such as 30s
    #[arg(long = "for", value_name = "DURATION", value_parser = parse_duration)]
    pub(crate) duration: Option<Duration>,
}

#[derive(Debug, Args)]
pub(crate) struct DescribeArgs {
    /// An execution id `{fp:N}:<uuid>` or a flow id (a uuid)
    pub(crate) id: String,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

#[derive(Debug, Args)]
pub(crate) struct CancelArgs {
    /// An execution id `{fp:N}:<uuid>` or a flow id (a uuid)
    pub(crate) id: String,
    /// The reason, which the snapshot shows later
    #[arg(long, default_value = "cancelled with ff cancel")]
    pub(crate) reason: String,
}

#[derive(Debug, Args)]
pub(crate) struct DemoArgs {
    /// How many executions the wide flow fans out to
    #[arg(long, value_name = "N", default_value_t = 100, value_parser = number(1..=900_u16))]
    pub(crate) fan_out: u16,
}

#[derive(Debug, Subcommand)]
pub(crate) enum ScriptCommand {
    /// Print the source of the library in this program
    Print {
        /// Print its digest and version only
        #[arg(long)]
        digest: bool,
    },
    /// Load the library into the server, unless it has a newer one; with --partitions, also record their number
    Load {
        /// Replace a library of the same version with a different text
        #[arg(long)]
        replace: bool,
    },
    /// Compare the server's library with this program's
    Check,
    /// Print the rules for ACL SETUSER that a user with these roles needs, see PERMISSIONS.md
    Acl {
        /// subscriber, submitter, worker or administrator; without one, the roles are listed
        #[arg(value_name = "ROLE", value_parser = parse_role)]
        roles: Vec<Role>,
    },
}

#[derive(Debug, Args)]
pub(crate) struct DoctorArgs {
    /// How long the rate of completions is measured
    #[arg(long, value_name = "DURATION", default_value = "2s", value_parser = parse_duration)]
    pub(crate) sample: Duration,
    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

fn parse_grace(text: &str) -> Result<Duration, String> {
    parse_duration(text).and_then(checked_grace)
}

fn parse_duration(text: &str) -> Result<Duration, String> {
    humantime::parse_duration(text)
        .map_err(|_| "expected numbers with their units, such as 500ms, 30s or 1h 30m".to_owned())
}

/// A whole number within these bounds.
fn number<T>(bounds: RangeInclusive<T>) -> impl Fn(&str) -> Result<T, String> + Clone
where
    T: FromStr + PartialOrd + Display + Copy,
{
    move |text| {
        let (first, last) = (bounds.start(), bounds.end());
        let within = text.parse().ok().filter(|number| bounds.contains(number));
        within.ok_or_else(|| format!("expected a whole number from {first} to {last}"))
    }
}

fn parse_scale(text: &str) -> Result<f64, String> {
    let scale = text.parse().ok().filter(|scale: &f64| scale.is_finite() && *scale >= 0.0);
    scale.ok_or_else(|| "expected a number from 0 up, such as 0.01".to_owned())
}

fn parse_address(text: &str) -> Result<SocketAddr, String> {
    text.parse().map_err(|_| "expected an IP address and a port, such as 127.0.0.1:9187".to_owned())
}

fn parse_role(text: &str) -> Result<Role, String> {
    let expected = || format!("expected one of {}", Role::ALL.map(Role::name).join(", "));
    Role::ALL.into_iter().find(|role| role.name() == text).ok_or_else(expected)
}

fn parse_tag(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("expected KEY=VALUE, such as team=blue".to_owned()),
    }
}

fn parse_start(text: &str) -> Result<Start, String> {
    match text {
        "now" => Ok(Start::Now),
        "earliest" => Ok(Start::Earliest),
        url if url.contains("://") => Err("expected now, earliest or a cursor".to_owned()),
        cursor => {
            cursor.parse().map(Start::After).map_err(|error| format!("{error}; expected now, earliest or a cursor"))
        }
    }
}

/// The error of clap as one line. Arguments that are URLs may contain passwords and are not repeated.
pub(crate) fn usage_error(mut error: clap::Error) -> CliError {
    let masked = |text: &String| if text.contains("://") { "…".to_owned() } else { text.clone() };
    let given: Vec<_> = error.context().map(|(kind, value)| (kind, value.clone())).collect();
    for (kind, value) in given {
        match value {
            ContextValue::String(text) => drop(error.insert(kind, ContextValue::String(masked(&text)))),
            ContextValue::Strings(texts) => {
                drop(error.insert(kind, ContextValue::Strings(texts.iter().map(masked).collect())));
            }
            // Suggestions repeat the argument as it is.
            ContextValue::StyledStrs(texts) if texts.iter().any(|text| text.to_string().contains("://")) => {
                drop(error.insert(kind, ContextValue::None));
            }
            _ => {}
        }
    }
    let text = error.render().to_string();
    let said = text.split("\nUsage:").next().unwrap_or_default();
    let said = said.split("\nFor more information").next().unwrap_or_default();
    let said = said.trim().trim_start_matches("error:").trim().replace("\n\n  tip:", "; tip:");
    CliError::usage(said.trim_end_matches(':'), "see `ff --help` or `ff <command> --help`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(args: &[&str]) -> String {
        let error = Cli::try_parse_from([&["ff"], args].concat()).unwrap_err();
        assert_eq!(error.exit_code(), 2);
        usage_error(error).to_string()
    }

    #[test]
    fn the_command_line_is_valid() {
        Cli::command().debug_assert();
    }

    #[test]
    fn a_mistake_is_one_line_that_names_it() {
        let line = refusal(&["run", "--wrokers", "3", "flow.yaml"]);
        assert!(line.contains("--wrokers") && line.contains("--workers") && !line.contains('\n'), "{line}");
        assert!(refusal(&["run"]).contains("<FLOW>"));
        assert!(refusal(&["rum"]).contains("rum"));
        assert!(refusal(&["watch", "--tag", "blue"]).contains("KEY=VALUE"));
        assert!(refusal(&["watch", "--from", "yesterday"]).contains("earliest"));
        assert!(refusal(&["run", "f", "--namespace", "a b"]).contains("a b"));
        assert!(refusal(&["demo", "--partitions", "0"]).contains('0'));
    }

    #[test]
    fn a_wrong_value_is_refused_with_what_is_expected_and_without_types_of_the_program() {
        for (args, expected) in [
            (&["run", "f", "--workers", "abc"][..], "a whole number from 1 to 1024"),
            (&["run", "f", "--workers", "0"], "a whole number from 1 to 1024"),
            (&["watch", "--count", "0"], "a whole number from 1 to"),
            (&["demo", "--fan-out", "901"], "a whole number from 1 to 900"),
            (&["run", "f", "--time-scale", "NaN"], "a number from 0 up, such as 0.01"),
            (&["run", "f", "--metrics", "localhost:9187"], "an IP address and a port, such as 127.0.0.1:9187"),
            (&["watch", "--for", "soon"], "such as 500ms, 30s"),
            (&["doctor", "--sample", "2"], "such as 500ms, 30s"),
            (&["run", "f", "--grace", "x"], "such as 500ms, 30s"),
        ] {
            let line = refusal(args);
            assert!(line.contains("expected ") && line.contains(expected), "{args:?}: {line}");
            assert!(!line.contains("..") && !line.contains("digit") && !line.contains("literal"), "{args:?}: {line}");
        }
        assert!(refusal(&["run", "f", "--ulr", "x"]).contains("found; tip: "));
    }

    #[test]
    fn no_url_is_repeated_in_a_message() {
        let url = "redis://ann:secret@db";
        for args in [
            &["run", "f", url][..],
            &[url],
            &["watch", url],
            &["watch", "--count", url],
            &["watch", "--tag", url],
            &["watch", "--from", url],
            &["watch", "--urll", url],
            &["demo", "--partitions", url],
            &["script", "acl", url],
        ] {
            let line = refusal(args);
            assert!(!line.contains("secret"), "{args:?}: {line}");
        }
    }

    #[test]
    fn the_server_can_be_named_before_and_after_the_command() {
        for args in [["ff", "--url", "redis://h", "demo"], ["ff", "demo", "--url", "redis://h"]] {
            let cli = Cli::try_parse_from(args).unwrap();
            assert_eq!(cli.connect.url.as_deref(), Some("redis://h"));
        }
    }
}
