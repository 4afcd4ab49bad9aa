//! Converts the tree of a flow file, with errors that name the key, its position and the expected value.

use std::{collections::BTreeMap, fmt, ops::RangeInclusive, time::Duration};

use ff_core::limits;

use super::{
    EXTENSION, ExecutionEntry, FlowFile,
    tree::{self, FlowFileError, MapEntry, Node},
};
use crate::work::{interpreter, stop::checked_grace};

const FLOW_KEYS: &[&str] = &["name", "namespace", "lane", "env", "shell", "grace", "stop_signal", "executions"];
const EXECUTION_KEYS: &[&str] = &[
    "name",
    "run",
    "needs",
    "env",
    "timeout",
    "deadline",
    "retries",
    "backoff",
    "tags",
    "priority",
    "working_dir",
    "shell",
    "grace",
    "stop_signal",
];
/// The hint for commands that YAML misreads.
const QUOTE: &str = "put a command that has `: `, ` #`, a comma in braces or a special first character into quotes, or \
                     on lines of its own below `run: |`";

/// Reads a flow.
///
/// # Errors
/// The mistake and its position.
pub(super) fn flow(text: &str) -> Result<FlowFile, FlowFileError> {
    let root = tree::read(text).map_err(|wrong| {
        // Commands are where authors run into the rules of YAML.
        let lines = text.lines().take(wrong.line()).skip(wrong.line().saturating_sub(3));
        let near_a_command = lines.into_iter().any(|line| line.contains("run:"));
        if near_a_command && wrong.is_syntax() { wrong.hint(QUOTE) } else { wrong }
    })?;
    let mut file = FlowFile::default();
    let mut executions = None;
    for entry in root.entries()? {
        let MapEntry { key, value, .. } = entry;
        let read = match key {
            "name" => optional(value, text_of).map(|name| file.name = name),
            "namespace" => optional(value, parsed).map(|namespace| file.namespace = namespace),
            "lane" => optional(value, parsed).map(|lane| file.lane = lane),
            "env" => texts(value).map(|env| file.env = env),
            "shell" => optional(value, shell).map(|shell| file.shell = shell),
            "grace" => optional(value, grace).map(|grace| file.grace = grace),
            "stop_signal" => optional(value, parsed).map(|signal| file.stop_signal = signal),
            "executions" => {
                executions = Some(value);
                Ok(())
            }
            key if key.starts_with(EXTENSION) => Ok(()),
            _ => return Err(unknown(entry, FLOW_KEYS).hint("your own keys begin with `x-`")),
        };
        read.map_err(|wrong| wrong.about(format!("`{key}`")))?;
    }
    let executions = executions.ok_or_else(|| root.error("`executions` is missing"))?;
    let lines: Vec<&str> = text.lines().collect();
    for (name, node) in named(executions)? {
        let about = |wrong: FlowFileError| wrong.about(format!("execution `{}`", name.escape_debug()));
        let (entry, run) = execution(node).map_err(about)?;
        if entry.name.is_some() && executions.list().is_none() {
            return Err(about(node.error("the key is its name already; remove `name`")));
        }
        file.hints.extend(comment_behind(run, &entry.run, &lines).map(|position| {
            let name = name.escape_debug();
            format!(
                "execution `{name}`: the text after ` #` at line {position} is a comment and not part of `run`; put the \
                 command into quotes if it should be"
            )
        }));
        file.executions.push((name, entry));
    }
    Ok(file)
}

/// The executions in the file's order: a mapping from names, or a list of entries with names.
fn named(executions: &Node) -> Result<Vec<(String, &Node)>, FlowFileError> {
    let Some(list) = executions.list() else {
        let entries = executions.entries().map_err(|wrong| {
            wrong.about("`executions`").hint("it is a mapping from names, or a list of entries with a `name`")
        })?;
        return Ok(entries.into_iter().map(|entry| (entry.key.to_owned(), entry.value)).collect());
    };
    let name_of = |node: &Node| {
        let entries = node.entries().map_err(|wrong| wrong.about("an execution in a list"))?;
        let name = entries.iter().find(|entry| entry.key == "name").map(|entry| entry.value.text()).transpose()?;
        name.map(str::to_owned).ok_or_else(|| node.error("an execution in a list needs a `name`"))
    };
    list.iter().map(|node| Ok((name_of(node)?, &**node))).collect()
}

/// The execution, and the value of its `run`.
fn execution(node: &Node) -> Result<(ExecutionEntry, &Node), FlowFileError> {
    let mut entry = ExecutionEntry::default();
    let mut run = None;
    for MapEntry { key, at, value } in node.entries()? {
        let read = match key {
            "name" => text_of(value).map(|name| entry.name = Some(name)),
            "run" => {
                run = Some(value);
                command(value).map(|run| entry.run = run)
            }
            "needs" => names(value).map(|needs| entry.needs = needs),
            "env" => texts(value).map(|env| entry.env = env),
            "timeout" => optional(value, span).map(|timeout| entry.timeout = timeout),
            "deadline" => optional(value, span).map(|deadline| entry.deadline = deadline),
            "retries" => optional(value, |node| number(node, 0..=u32::MAX - 1))
                .map(|retries| entry.retries = retries.unwrap_or(0)),
            "backoff" => optional(value, span).map(|backoff| entry.backoff = backoff),
            "tags" => texts(value).map(|tags| entry.tags = tags),
            "priority" => optional(value, |node| number(node, 0..=limits::PRIORITY))
                .map(|priority| entry.priority = priority.unwrap_or(0)),
            "shell" => optional(value, shell).map(|shell| entry.shell = shell),
            "grace" => optional(value, grace).map(|grace| entry.grace = grace),
            "stop_signal" => optional(value, parsed).map(|signal| entry.stop_signal = signal),
            "working_dir" => directory(value).map(|path| entry.working_dir = path.map(Into::into)),
            _ => return Err(unknown(MapEntry { key, at, value }, EXECUTION_KEYS)),
        };
        read.map_err(|wrong| wrong.about(format!("`{key}`")))?;
    }
    let run = run.ok_or_else(|| node.error("`run` is missing, the command"))?;
    Ok((entry, run))
}

/// The error for an unknown key. A key without a value is often the rest of a value that contains a comma.
fn unknown(entry: MapEntry<'_>, known: &[&str]) -> FlowFileError {
    let known: Vec<_> = known.iter().map(|key| format!("`{key}`")).collect();
    let wrong = entry.at.error(format!("`{}` is unknown; known are {}", entry.key.escape_debug(), known.join(", ")));
    if entry.value.is_nothing() && entry.value.position().line == entry.at.position().line {
        wrong.hint(QUOTE)
    } else {
        wrong
    }
}

/// The value, unless it is absent.
fn optional<'a, T>(
    node: &'a Node,
    read: impl FnOnce(&'a Node) -> Result<T, FlowFileError>,
) -> Result<Option<T>, FlowFileError> {
    if node.is_nothing() { Ok(None) } else { read(node).map(Some) }
}

fn text_of(node: &Node) -> Result<String, FlowFileError> {
    node.text().map(str::to_owned)
}

/// A path; YAML reads `~` as no value, and it is meant as one.
fn directory(node: &Node) -> Result<Option<String>, FlowFileError> {
    if node.is_nothing() && node.text()? == "~" {
        return Err(node.error("`~` means no value in YAML, and paths are not expanded; write the whole path"));
    }
    optional(node, text_of)
}

fn command(node: &Node) -> Result<String, FlowFileError> {
    let text = node.text().map_err(|wrong| wrong.hint(QUOTE))?;
    if node.is_nothing() {
        return Err(node.error("expected a command").hint(QUOTE));
    }
    Ok(text.to_owned())
}

fn parsed<T: std::str::FromStr<Err: fmt::Display>>(node: &Node) -> Result<T, FlowFileError> {
    node.text()?.parse().map_err(|error: T::Err| node.error(error.to_string()))
}

fn number<T>(node: &Node, range: RangeInclusive<T>) -> Result<T, FlowFileError>
where
    T: std::str::FromStr + PartialOrd + fmt::Display,
{
    let text = node.text()?;
    text.parse().ok().filter(|number| range.contains(number)).ok_or_else(|| {
        let shown = text.escape_debug();
        node.error(format!("`{shown}` is not a whole number from {} to {}", range.start(), range.end()))
    })
}

/// A duration with its unit, such as `1h 30m` or `500ms`.
fn span(node: &Node) -> Result<Duration, FlowFileError> {
    let text = node.text()?;
    humantime::parse_duration(text).map_err(|error| {
        let shown = text.escape_debug();
        node.error(format!("`{shown}` is not a duration ({error}); write a number and a unit, such as 5m"))
    })
}

fn grace(node: &Node) -> Result<Duration, FlowFileError> {
    checked_grace(span(node)?).map_err(|why| node.error(why))
}

/// A command line, as a text or a list of words.
fn shell(node: &Node) -> Result<Vec<String>, FlowFileError> {
    interpreter::words(names(node)?).map_err(|why| node.error(why))
}

/// One name, or a list of them.
fn names(node: &Node) -> Result<Vec<String>, FlowFileError> {
    match node.list() {
        Some(items) => items.iter().map(|item| text_of(item)).collect(),
        None if node.is_nothing() => Ok(Vec::new()),
        None => text_of(node).map(|name| vec![name]),
    }
}

/// A mapping from names to texts.
fn texts(node: &Node) -> Result<BTreeMap<String, String>, FlowFileError> {
    if node.is_nothing() {
        return Ok(BTreeMap::new());
    }
    let text = |entry: MapEntry<'_>| {
        let about = |wrong: FlowFileError| wrong.about(format!("`{}`", entry.key.escape_debug()));
        if entry.value.is_nothing() {
            return Err(about(entry.value.error("it has no value; write '' for an empty text")));
        }
        Ok((entry.key.to_owned(), text_of(entry.value).map_err(about)?))
    };
    node.entries()?.into_iter().map(text).collect()
}

/// The line of a comment after an unquoted command.
fn comment_behind(node: &Node, command: &str, lines: &[&str]) -> Option<usize> {
    let position = node.position();
    let line = lines.get(position.line - 1)?;
    let rest: String = line.chars().skip(position.column - 1).collect();
    let behind = rest.strip_prefix(command).filter(|_| node.is_plain())?;
    behind.trim_start().starts_with('#').then_some(position.line)
}
