//! Flow files in YAML. Every key is checked, and every mistake is reported with its line.
//!
//! ```yaml
//! name: nightly
//! namespace: team-a
//! env: { REGION: eu }
//! executions:
//!   fetch: { run: ./fetch.sh, retries: 2, backoff: 1s }
//!   report: { run: ./report.sh, needs: [fetch], timeout: 5m }
//! ```

mod read;
mod tree;

use std::{collections::BTreeMap, path::PathBuf, time::Duration};

use ff_core::{Backoff, ExecutionSpec, LaneId, Namespace, Tags, limits};

use crate::{
    failure::CliError,
    plan::{FILE_TAGS, Plan, RESERVED_TAGS},
    work::{
        ShellCommand, Work,
        interpreter::{ARGUMENT_BYTES, takes_files},
        stop::StopSignal,
    },
};

/// The prefix of keys for the author's own use, at the top of a file.
const EXTENSION: &str = "x-";

#[derive(Debug, Default)]
struct FlowFile {
    name: Option<String>,
    namespace: Option<Namespace>,
    lane: Option<LaneId>,
    env: BTreeMap<String, String>,
    shell: Option<Vec<String>>,
    grace: Option<Duration>,
    stop_signal: Option<StopSignal>,
    executions: Vec<(String, ExecutionEntry)>,
    hints: Vec<String>,
}

#[derive(Debug, Default)]
struct ExecutionEntry {
    name: Option<String>,
    run: String,
    needs: Vec<String>,
    env: BTreeMap<String, String>,
    timeout: Option<Duration>,
    deadline: Option<Duration>,
    retries: u32,
    backoff: Option<Duration>,
    tags: BTreeMap<String, String>,
    priority: u16,
    working_dir: Option<PathBuf>,
    shell: Option<Vec<String>>,
    grace: Option<Duration>,
    stop_signal: Option<StopSignal>,
}

/// The values of the flow that apply to all its executions.
struct Defaults {
    env: BTreeMap<String, String>,
    shell: Option<Vec<String>>,
    grace: Option<Duration>,
    stop_signal: Option<StopSignal>,
}

/// Reads a flow. Needs, cycles and sizes are checked later, as for every flow.
///
/// # Errors
/// The mistake, with its line and column.
pub(crate) fn parse(text: &str) -> Result<Plan, CliError> {
    if text.len() > limits::SUBMISSION_BYTES {
        let why =
            format!("it is larger than {} MiB, the limit for the payloads of a flow", limits::SUBMISSION_BYTES >> 20);
        return Err(CliError::usage("not a valid flow", why));
    }
    let file = read::flow(text).map_err(|wrong| CliError::usage("not a valid flow", wrong))?;
    let FlowFile { name, namespace, lane, env, shell, grace, stop_signal, executions: entries, hints } = file;
    let defaults = Defaults { env, shell, grace, stop_signal };
    let mut executions = Vec::with_capacity(entries.len());
    let mut payload_bytes = 0;
    for (name, entry) in entries {
        let about = format!("execution `{}`", name.escape_debug());
        let spec = entry.into_spec(name, &defaults).map_err(|error| error.about(&about))?;
        payload_bytes += spec.payload.len();
        // The flow's env is part of every payload, so their sum may be a thousand times the size of the file.
        if payload_bytes > limits::SUBMISSION_BYTES {
            let allowed = format!("at most {} are allowed in a flow", limits::SUBMISSION_BYTES);
            return Err(CliError::usage(
                about,
                format!("with it, commands and env take {payload_bytes} bytes; {allowed}"),
            ));
        }
        executions.push(spec);
    }
    Ok(Plan { name, namespace, lane, simulated: false, executions, hints })
}

impl ExecutionEntry {
    fn into_spec(self, name: String, defaults: &Defaults) -> Result<ExecutionSpec, CliError> {
        if self.run.trim().is_empty() || self.run.contains('\0') {
            return Err(CliError::usage("run", "expected a command"));
        }
        let mut env = defaults.env.clone();
        env.extend(self.env);
        for (key, value) in &env {
            if key.is_empty() || key.contains(['=', '\0']) || value.contains('\0') {
                let shown = key.escape_debug();
                return Err(CliError::usage(format!("env `{shown}`"), "not a valid name and value of a variable"));
            }
        }
        if let Some((key, value)) = env.iter().find(|(key, value)| key.len() + value.len() + 2 > ARGUMENT_BYTES) {
            let why = format!(
                "it has {} bytes, and a variable may have {ARGUMENT_BYTES} including its name; keep it in a file",
                value.len()
            );
            return Err(CliError::usage(format!("env `{}`", key.escape_debug()), why));
        }
        let mut command = ShellCommand::new(self.run);
        command.env = env;
        command.working_dir = self.working_dir;
        command.shell = self.shell.or_else(|| defaults.shell.clone());
        command.set_grace(self.grace.or(defaults.grace));
        command.stop_signal = self.stop_signal.or(defaults.stop_signal);
        if command.run.len() >= ARGUMENT_BYTES && !takes_files(command.shell.as_deref()) {
            let why = format!(
                "it has {} bytes, and the shell of this execution takes at most {ARGUMENT_BYTES}; keep it in a file",
                command.run.len()
            );
            return Err(CliError::usage("run", why));
        }
        if let Some(key) = self.tags.keys().find(|key| key.starts_with(RESERVED_TAGS)) {
            let why = format!("tags that begin with `{RESERVED_TAGS}` are set by ff itself; choose another key");
            return Err(CliError::usage(format!("tag `{}`", key.escape_debug()), why));
        }
        if self.tags.len() > FILE_TAGS {
            let why = format!("at most {FILE_TAGS} are allowed, beside those of ff itself");
            return Err(CliError::usage(format!("{} tags", self.tags.len()), why));
        }
        let attempts = self.retries.checked_add(1).ok_or_else(|| CliError::usage("retries", "too many"))?;
        let mut spec = ExecutionSpec::new(name)
            .needs(self.needs)
            .tags(Tags::new(self.tags)?)
            .priority(self.priority)
            .attempts(attempts, backoff(self.backoff));
        spec.timeout = self.timeout;
        spec.deadline = self.deadline;
        Ok(spec.payload(Work::Shell(command).to_payload()))
    }
}

/// The wait before the first retry. It doubles up to the default maximum, or stays constant if it is longer.
fn backoff(initial: Option<Duration>) -> Backoff {
    let usual = Backoff::default();
    let initial = initial.unwrap_or(usual.initial);
    Backoff { initial, max: usual.max.max(initial) }
}

#[cfg(test)]
mod tests {
    use super::*;

    const FULL: &str = "
name: nightly
namespace: team-a
lane: batch
env: { REGION: eu, LIMIT: 5, DRY: false }
executions:
  fetch:
    run: ./fetch.sh
    retries: 2
    backoff: 1s 500ms
    timeout: 5m
    deadline: 1h
    priority: 10
    working_dir: data
    env: { LIMIT: 7 }
    tags: { team: a, step: 1 }
  report:
    run: ./report.sh
    needs: fetch
  mail: { run: ./mail.sh, needs: [fetch, report] }
";

    fn refusal(text: &str) -> String {
        match parse(text) {
            Ok(plan) => panic!("accepted: {plan:?}"),
            Err(error) => error.to_string(),
        }
    }

    #[test]
    fn every_key_is_read_into_its_field() {
        let plan = parse(FULL).unwrap();
        assert_eq!(plan.name.as_deref(), Some("nightly"));
        assert_eq!(plan.namespace.unwrap().as_str(), "team-a");
        assert_eq!(plan.lane.unwrap().as_str(), "batch");
        let names: Vec<_> = plan.executions.iter().map(|spec| spec.name.as_str()).collect();
        assert_eq!(names, ["fetch", "report", "mail"], "the file's order is kept");
        let fetch = &plan.executions[0];
        assert_eq!((fetch.max_attempts, fetch.priority), (3, 10));
        assert_eq!(fetch.backoff.initial, Duration::from_millis(1500));
        assert_eq!((fetch.timeout, fetch.deadline), (Some(Duration::from_secs(300)), Some(Duration::from_secs(3600))));
        assert_eq!((fetch.tags.get("team"), fetch.tags.get("step")), (Some("a"), Some("1")));
        assert_eq!(plan.executions[1].needs, ["fetch"]);
        assert_eq!(plan.executions[2].needs, ["fetch", "report"]);
        let Work::Shell(command) = Work::from_payload(&fetch.payload).unwrap() else { panic!("no command") };
        assert_eq!((command.run.as_str(), &command.working_dir), ("./fetch.sh", &Some("data".into())));
        let env: Vec<_> = command.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(env, ["DRY=false", "LIMIT=7", "REGION=eu"], "the execution's own value overrides the flow's");
    }

    fn commands(text: &str) -> Vec<ShellCommand> {
        let plan = parse(text).unwrap();
        let command = |payload: &[u8]| match Work::from_payload(payload).unwrap() {
            Work::Shell(command) => command,
            work => panic!("{work:?}"),
        };
        plan.executions.iter().map(|spec| command(&spec.payload)).collect()
    }

    #[test]
    fn shell_grace_and_stop_signal_are_the_flows_unless_an_execution_has_its_own() {
        let commands = commands(
            "shell: sh\ngrace: 10s\nstop_signal: INT\nexecutions:\n  a: {run: x}\n  \
             b: {run: x, shell: [python3, -c], grace: 0s, stop_signal: SIGHUP}\n",
        );
        assert_eq!(commands[0].shell.as_deref().unwrap(), ["sh", "-e", "-c"]);
        assert_eq!(commands[1].shell.as_deref().unwrap(), ["python3", "-c"]);
        assert_eq!(commands.iter().map(ShellCommand::grace).collect::<Vec<_>>(), [10, 0].map(Duration::from_secs));
        let signals: Vec<_> = commands.iter().map(|command| command.stop_signal.unwrap().to_string()).collect();
        assert_eq!(signals, ["INT", "HUP"]);
    }

    #[test]
    fn a_wrong_shell_grace_or_stop_signal_is_refused_with_what_is_right() {
        assert!(refusal("executions: {a: {run: x, shell: python3}}").contains("`python3 -c`"));
        assert!(refusal("executions: {a: {run: x, grace: 2h}}").contains("3600s"));
        assert!(refusal("stop_signal: STOP\nexecutions: {a: {run: x}}").contains("TERM, INT"));
    }

    #[test]
    fn commands_and_variables_that_no_process_accepts_are_refused_on_reading() {
        let long = "x".repeat(ARGUMENT_BYTES);
        let error = refusal(&format!("executions: {{a: {{run: x, env: {{BIG: {long}}}}}}}"));
        assert!(error.contains("execution `a`") && error.contains("`BIG`") && error.contains("131072"), "{error}");
        let error = refusal(&format!("executions: {{a: {{shell: perl -e, run: {long}}}}}"));
        assert!(error.contains("run: it has 131072 bytes"), "{error}");
        assert!(parse(&format!("executions: {{a: {{run: {long}}}}}")).is_ok());
    }

    #[test]
    fn a_backoff_beyond_the_usual_longest_wait_is_kept() {
        let plan = parse("executions:\n  a: {run: x, backoff: 10m}\n  b: {run: x, backoff: 1s}\n").unwrap();
        let longest: Vec<_> = plan.executions.iter().map(|spec| spec.backoff.max.as_secs()).collect();
        assert_eq!(longest, [600, 300]);
    }

    #[test]
    fn executions_may_be_a_list() {
        let plan = parse("executions:\n  - {name: a, run: 'true'}\n  - {name: b, run: 'true', needs: [a]}\n").unwrap();
        assert_eq!((plan.executions[0].name.as_str(), plan.executions[1].name.as_str()), ("a", "b"));
        assert!(refusal("executions:\n  - {run: 'true'}\n").contains("`name`"));
        assert!(refusal("executions:\n  a: {name: b, run: 'true'}\n").contains("`name`"));
    }

    #[test]
    fn an_unknown_key_is_refused_with_its_line_and_the_known_ones() {
        let error = refusal("name: x\nexecutions:\n  a:\n    run: 'true'\n    retrys: 2\n");
        assert!(error.contains("`retrys`") && error.contains("`retries`") && error.contains("line 5"), "{error}");
        for key in ["shell", "grace", "stop_signal", "working_dir"] {
            assert!(error.contains(&format!("`{key}`")), "{error}");
        }
        let error = refusal("names: x\nexecutions: {a: {run: 'true'}}\n");
        assert!(error.contains("`names`") && error.contains("line 1"), "{error}");
    }

    #[test]
    fn numbers_keep_their_text_everywhere() {
        let plan = parse(
            "executions:\n  - {name: 1.10, run: 1e3}\n  - {name: release, run: x, needs: [1.10], env: {GO: 1.20, MODE: 0o17, \
             ID: 0x1F, LONG: 123456789012345678901234567890}, tags: {v: 3.0}}\n",
        )
        .unwrap();
        assert_eq!(
            (plan.executions[0].name.as_str(), &plan.executions[1].needs[..]),
            ("1.10", &["1.10".to_owned()][..])
        );
        assert_eq!(plan.executions[1].tags.get("v"), Some("3.0"));
        let Work::Shell(command) = Work::from_payload(&plan.executions[1].payload).unwrap() else { panic!() };
        let env: Vec<_> = command.env.iter().map(|(key, value)| format!("{key}={value}")).collect();
        assert_eq!(env, ["GO=1.20", "ID=0x1F", "LONG=123456789012345678901234567890", "MODE=0o17"]);
    }

    #[test]
    fn extension_keys_are_at_the_top_and_begin_with_x() {
        let text =
            "x-common: &c {retries: 2, timeout: 5m}\nx-other: [1, {a: b}]\nexecutions:\n  a: {<<: *c, run: echo hi}\n";
        let plan = parse(text).unwrap();
        assert_eq!((plan.executions[0].max_attempts, plan.executions[0].timeout), (3, Some(Duration::from_secs(300))));
        assert!(refusal("common: {}\nexecutions: {a: {run: x}}\n").contains("`x-`"));
        assert!(refusal("executions: {a: {run: x, x-note: y}}\n").contains("`x-note`"));
    }

    #[test]
    fn commands_that_yaml_misreads_get_a_hint() {
        for text in [
            "executions:\n  a:\n    run: echo note: done\n",
            "executions: {a: {run: echo a, b}}\n",
            "executions:\n  a:\n    run: [ -f x ] && make\n",
            "executions:\n  a:\n    run: {make}\n",
            "executions:\n  a:\n    run: # make\n",
            "executions:\n  a:\n    run: *.sh\n",
            "executions:\n  a:\n    run: %make\n",
            "executions:\n  a:\n    run: \"make\" all\n",
        ] {
            let refused = refusal(text);
            assert!(refused.contains("into quotes") && refused.contains("run: |"), "{text}: {refused}");
        }
        for text in [
            "executions:\n  a:\n\trun: echo x\n",
            "executions: {a: {run: x}}\n---\nexecutions: {b: {run: x}}\n",
            "executions: {a: &a {run: x, needs: *a}}\n",
        ] {
            let refused = refusal(text);
            assert!(!refused.contains("into quotes"), "{text}: {refused}");
        }
        assert!(refusal("executions: {a: {run: x, working_dir: ~}}\n").contains("`~` means no value"));
        let plan = parse("executions:\n  a:\n    run: echo issue #7\n  b: {run: 'echo #7'}\n").unwrap();
        assert_eq!(plan.hints.len(), 1, "{:?}", plan.hints);
        assert!(plan.hints[0].contains("`a`") && plan.hints[0].contains("line 3"), "{:?}", plan.hints);
    }

    #[test]
    fn no_message_contains_type_names_of_the_program() {
        for value in ["two", "-1", "1.5", "99999999999999999999999", "[1]", "{a: 1}", "true"] {
            for key in ["retries", "priority", "timeout", "name", "needs", "env", "tags", "working_dir"] {
                let text = format!("executions: [{{name: a, run: x, {key}: {value}}}]");
                // Some of them are right.
                let Err(error) = parse(&text) else { continue };
                let error = error.to_string();
                for word in ["u32", "u16", "i64", "f64", "usize", "struct", "str,", "sequence", "unit value"] {
                    assert!(!error.contains(word), "{text}: {error}");
                }
            }
        }
        assert!(refusal("executions: {a: {run: x, retries: two}}").contains("`two` is not a whole number from 0"));
    }

    #[test]
    fn a_key_that_occurs_twice_is_refused_with_its_name() {
        let error = refusal("executions:\n  a: {run: 'true'}\n  b: {run: 'true'}\n  a: {run: 'false'}\n");
        assert!(error.contains("`a`") && error.contains("twice") && error.contains("line 4"), "{error}");
        assert!(refusal("executions:\n  a: {run: x, run: y}\n").contains("run"));
        assert!(refusal("env: {A: 1, A: 2}\nexecutions: {a: {run: x}}\n").contains("`A`"));
        assert!(refusal("x: &x {run: y}\nexecutions: {a: {<<: *x}, a: {<<: *x}}\n").contains('a'));
    }

    #[test]
    fn a_malformed_duration_is_refused_with_its_line_and_an_example() {
        let error = refusal("executions:\n  a:\n    run: x\n    timeout: soon\n");
        assert!(error.contains("`soon`") && error.contains("5m") && error.contains("line 4"), "{error}");
        assert!(refusal("executions:\n  a: {run: x, timeout: 5}\n").contains("unit"));
    }

    #[test]
    fn wrong_values_are_refused_with_the_execution() {
        assert!(refusal("executions:\n  a: {run: '  '}\n").contains("execution `a`"));
        assert!(refusal("executions:\n  a: {run: x, env: {'A=B': 1}}\n").contains("A=B"));
        assert!(refusal("executions:\n  a: {run: x, tags: {ff.run: 1}}\n").contains("ff.run"));
        assert!(refusal("executions:\n  a: {run: x, env: {A: [1]}}\n").contains("line"));
        assert!(refusal("namespace: 'a b'\nexecutions: {a: {run: x}}\n").contains("a b"));
        assert!(refusal("executions:\n  a: {needs: [b]}\n").contains("run"));
        assert!(refusal("").contains("not a valid flow"));
        assert!(refusal("executions: [").contains("line"));
    }

    #[test]
    fn anchors_and_merge_keys_save_repetition() {
        let plan = parse(
            "executions:\n  a: &base {run: 'true', retries: 3}\n  b:\n    <<: *base\n    needs: [a]\n  c: *base\n",
        )
        .unwrap();
        assert_eq!(plan.executions.iter().map(|spec| spec.max_attempts).collect::<Vec<_>>(), [4, 4, 4]);
        assert_eq!(plan.executions[1].needs, ["a"]);
    }
}
