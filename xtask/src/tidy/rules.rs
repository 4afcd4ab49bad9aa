//! The rules: functions from files to findings. A finding's message is the fix.

use std::collections::{BTreeMap, BTreeSet, btree_map::Entry};

use super::measures::{functions_stay_short, lines_stay_short};
use super::source::Source;

/// A violation of a rule, with its fix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    pub(crate) path: String,
    pub(crate) line: usize,
    pub(crate) message: String,
}

impl Finding {
    pub(super) fn new(source: &Source, line: usize, message: impl Into<String>) -> Self {
        Self { path: source.path.clone(), line, message: message.into() }
    }
}

/// The rules that check one file at a time.
pub(crate) const RULES: &[fn(&Source) -> Vec<Finding>] = &[
    core_names_no_transport,
    clients_stay_in_their_crate,
    floors_use_lower_floors,
    dependencies_point_one_way,
    keys_have_one_home,
    lua_publishes_in_lib,
    rust_never_publishes,
    unsafe_is_forbidden,
    no_leftover_notes,
    words_are_current,
    lints_are_inherited,
    files_stay_short,
    functions_stay_short,
    lines_stay_short,
];

/// The crates with restricted dependencies, and the crates of the workspace that each may use. Their tests may use any.
const LAYERS: &[(&str, &[&str])] = &[
    ("ff-core", &[]),
    ("ff-script", &["ff-core"]),
    ("ff-valkey", &["ff-core", "ff-script"]),
    ("ff-embedded", &["ff-core", "ff-script"]),
    ("ff-engine", &["ff-core"]),
    ("ff-conformance", &["ff-core"]),
    ("ff-testserver", &[]),
    ("flowfabric", &["ff-core", "ff-script", "ff-valkey", "ff-embedded", "ff-engine"]),
];

const KEYS: &[&str] = &["ff:exec:", "ff:part:", "ff:flow:", "ff:deployment", "ff:dag:", "ff:solo:", "ff:wake:"];
const LUA_DIR: &str = "crates/ff-script/lua/";
const LUA_LIB: &str = "crates/ff-script/lua/lib/";
const KEYS_FILE: &str = "crates/ff-script/src/keys.rs";
pub(super) const ASSEMBLED: &str = "crates/ff-script/src/flowfabric.lua";
const MAX_LINES: usize = 600;
/// The largest size of a file that is not text.
pub(crate) const MAX_BINARY: u64 = 512 * 1024;

/// Whether a line contains a whole word.
fn has_word(line: &str, word: &str) -> bool {
    let part_of_word = |c: char| c.is_alphanumeric() || c == '_';
    line.match_indices(word)
        .any(|(at, _)| !line[..at].ends_with(part_of_word) && !line[at + word.len()..].starts_with(part_of_word))
}

fn has_path(line: &str, name: &str) -> bool {
    let used = line.trim_start().trim_start_matches("pub ").starts_with("use ") && has_word(line, name);
    used || line
        .match_indices(&format!("{name}::"))
        .any(|(at, _)| !line[..at].ends_with(|c: char| c.is_alphanumeric() || c == '_'))
}

/// `ff-core` names no transport, no key and no channel.
pub(crate) fn core_names_no_transport(source: &Source) -> Vec<Finding> {
    if source.source_of() != Some("ff-core") {
        return Vec::new();
    }
    let mut findings = Vec::new();
    for (number, line) in source.code_lines() {
        for name in ["fred", "redis", "valkey", "mlua"] {
            if has_path(line, name) {
                let message = format!("ff-core names the transport `{name}`; move this to the crate that uses it");
                findings.push(Finding::new(source, number, message));
            }
        }
        for key in ["ff:exec", "ff:part", "ff:flow", "ff:deployment", "ff:dag", "ff:solo", "ff:wake"] {
            if line.contains(key) {
                let message = format!("ff-core spells `{key}`; keys and channels belong to {KEYS_FILE}");
                findings.push(Finding::new(source, number, message));
            }
        }
    }
    findings
}

/// Only `ff-valkey` names fred, and only `ff-embedded` names mlua.
pub(crate) fn clients_stay_in_their_crate(source: &Source) -> Vec<Finding> {
    let Some(owner) = source.source_of().filter(|_| source.is_rust()) else { return Vec::new() };
    let mut findings = Vec::new();
    for (client, home) in [("fred", "ff-valkey"), ("mlua", "ff-embedded")] {
        // ff-core has its own rule.
        if owner == home || owner == "ff-core" {
            continue;
        }
        let named = source.code_lines().filter(|(_, line)| has_path(line, client));
        findings.extend(named.map(|(number, _)| {
            Finding::new(source, number, format!("`{client}` is named outside {home}; use what {home} offers"))
        }));
    }
    findings
}

/// The folders of ff-valkey use each other in one direction: `completions` the `host`, and both the `net`.
pub(crate) fn floors_use_lower_floors(source: &Source) -> Vec<Finding> {
    const FLOORS: [(&str, &[&str]); 2] = [
        ("crates/ff-valkey/src/net/", &["host", "completions", "backend", "wake"]),
        ("crates/ff-valkey/src/host/", &["completions", "backend", "wake"]),
    ];
    let floor = FLOORS.iter().find(|(folder, _)| source.path.starts_with(folder));
    let Some((folder, above)) = floor.filter(|_| source.is_rust() && !source.path.ends_with("_tests.rs")) else {
        return Vec::new();
    };
    let upward = |line: &str| {
        // The second form is a line of a group, `use crate::{ … }`.
        let uses =
            |name: &&&str| line.contains(&format!("crate::{name}::")) || line.starts_with(&format!("    {name}::"));
        above.iter().find(uses).copied()
    };
    let found = source.code_lines().filter_map(|(number, line)| upward(line).map(|name| (number, name)));
    let message = |name| format!("{folder} uses `{name}`, which is above it; move what both need down");
    found.map(|(number, name)| Finding::new(source, number, message(name))).collect()
}

/// A crate depends on the layers below it only.
pub(crate) fn dependencies_point_one_way(source: &Source) -> Vec<Finding> {
    let package = source.path.strip_prefix("crates/").and_then(|path| path.strip_suffix("/Cargo.toml"));
    let Some((package, allowed)) = LAYERS.iter().find(|(name, _)| Some(*name) == package) else { return Vec::new() };
    let mut findings = Vec::new();
    let mut in_dependencies = false;
    for (number, line) in source.lines() {
        let line = line.split('#').next().unwrap_or_default();
        if line.starts_with('[') {
            in_dependencies = line.contains("dependencies") && !line.contains("dev-dependencies");
        }
        let ours = line.split(|c: char| !(c.is_alphanumeric() || "-_".contains(c)));
        let ours = ours.filter(|word| word.starts_with("ff-") || *word == "flowfabric");
        for other in ours.filter(|word| in_dependencies && !allowed.contains(word)) {
            let may = if allowed.is_empty() { "no crate of this workspace".to_owned() } else { allowed.join(", ") };
            findings.push(Finding::new(
                source,
                number,
                format!("{package} depends on {other}; it may only depend on {may}"),
            ));
        }
    }
    findings
}

/// Keys and channels are spelled in one Rust file and in the Lua library.
pub(crate) fn keys_have_one_home(source: &Source) -> Vec<Finding> {
    let checked = source.source_of().is_some_and(|owner| owner != "ff-core") || source.path.starts_with(LUA_DIR);
    let home = source.path == KEYS_FILE || source.path == ASSEMBLED || source.path.starts_with(LUA_LIB);
    if !checked || home || !(source.is_rust() || source.is_lua()) {
        return Vec::new();
    }
    let spelled = |line: &str| KEYS.iter().find(|key| line.contains(**key));
    source
        .code_lines()
        .filter_map(|(number, line)| spelled(line).map(|key| (number, key)))
        .map(|(number, key)| {
            let message = format!("`{key}` is spelled here; use the builders of {KEYS_FILE} or of {LUA_LIB}");
            Finding::new(source, number, message)
        })
        .collect()
}

/// The Lua publishes in its library only.
pub(crate) fn lua_publishes_in_lib(source: &Source) -> Vec<Finding> {
    if !source.path.starts_with(LUA_DIR) || !source.is_lua() || source.path.starts_with(LUA_LIB) {
        return Vec::new();
    }
    source
        .code_lines()
        .filter(|(_, line)| has_word(line, "PUBLISH") || has_word(line, "SPUBLISH"))
        .map(|(number, _)| Finding::new(source, number, format!("publish through the routine in {LUA_LIB}")))
        .collect()
}

/// The completion log is appended to in one place of the Lua.
pub(crate) fn one_place_appends(sources: &[Source]) -> Vec<Finding> {
    let mut sites = Vec::new();
    for source in sources.iter().filter(|source| source.path.starts_with(LUA_DIR) && source.is_lua()) {
        let calls = source.code_lines().filter(|(_, line)| line.contains("'XADD'") || line.contains("\"XADD\""));
        sites.extend(calls.map(|(number, _)| (source, number)));
    }
    let files: BTreeSet<_> = sites.iter().map(|(source, _)| source.path.as_str()).collect();
    if files.len() < 2 {
        return Vec::new();
    }
    let all = files.into_iter().collect::<Vec<_>>().join(", ");
    sites
        .into_iter()
        .map(|(source, number)| {
            Finding::new(
                source,
                number,
                format!("XADD is called in several files ({all}); keep the one append routine"),
            )
        })
        .collect()
}

/// No product source in Rust publishes. A dry run of the permission contains the command and sends nothing.
pub(crate) fn rust_never_publishes(source: &Source) -> Vec<Finding> {
    let product = source.source_of().is_some_and(|owner| !["ff-testserver", "ff-test"].contains(&owner));
    if !product || !source.is_rust() {
        return Vec::new();
    }
    let publishes = |line: &str| {
        let spelled = (line.contains("PUBLISH\"") || line.contains("PUBLISH ")) && !line.contains("DRYRUN");
        spelled || line.contains(".publish(") || line.contains(".spublish(")
    };
    source
        .code_lines()
        .filter(|(_, line)| publishes(line))
        .map(|(number, _)| Finding::new(source, number, "only the Lua publishes; call a function of the library"))
        .collect()
}

/// Every crate forbids unsafe code at its root.
pub(crate) fn unsafe_is_forbidden(source: &Source) -> Vec<Finding> {
    let root = source.source_of().is_some() && source.path.split('/').count() == 4;
    let root = root && (source.path.ends_with("/src/lib.rs") || source.path.ends_with("/src/main.rs"));
    if !root || source.is_placeholder() || source.code_lines().any(|(_, line)| line == "#![forbid(unsafe_code)]") {
        return Vec::new();
    }
    vec![Finding::new(source, 1, "add `#![forbid(unsafe_code)]`")]
}

/// Plans live in issues.
pub(crate) fn no_leftover_notes(source: &Source) -> Vec<Finding> {
    let notes = [concat!("TO", "DO"), concat!("FIX", "ME"), concat!("XX", "X")];
    let kinds = [".rs", ".lua", ".sh", ".toml", ".yml", ".yaml", ".md"];
    if !kinds.iter().any(|kind| source.path.ends_with(kind)) {
        return Vec::new();
    }
    source
        .lines()
        .filter_map(|(number, line)| notes.iter().find(|note| has_word(line, note)).map(|note| (number, note)))
        .map(|(number, note)| Finding::new(source, number, format!("{note} in a source; do it, or file an issue")))
        .collect()
}

/// Words of an older style, and what replaces each. They are written in two parts, so that this file does not contain
/// them.
const OLD_WORDS: &[(&str, &str)] = &[
    (concat!("an", "ew"), "again, rebuilt or re-established"),
    (concat!("for e", "ver"), "forever or without limit"),
    (concat!("bor", "ne"), "tolerated"),
    (concat!("to", "ld"), "notified, informed or reported"),
    (concat!("who", "ever"), "a noun, such as `a caller that`"),
    (concat!("in so f", "ar"), "as far as"),
    (concat!("put ri", "ght"), "repaired or corrected"),
    (concat!("puts ri", "ght"), "repairs or corrects"),
    (concat!("bel", "ieve"), "trust or accept"),
    (concat!("bel", "ieved"), "trusted or accepted"),
];

/// Documents and sources use current words. Code in a document is not checked.
pub(crate) fn words_are_current(source: &Source) -> Vec<Finding> {
    let kinds = [".md", ".rs", ".lua", ".sh", ".toml", ".yml", ".yaml"];
    if !kinds.iter().any(|kind| source.path.ends_with(kind)) {
        return Vec::new();
    }
    let lines = words_by_line(source);
    let mut findings = Vec::new();
    for (index, own) in lines.iter().enumerate() {
        // A phrase may continue on the next line.
        let next = lines.get(index + 1).into_iter().flatten().take(2);
        let words: Vec<_> = own.iter().chain(next).map(String::as_str).collect();
        for (phrase, instead) in OLD_WORDS {
            let phrase: Vec<_> = phrase.split(' ').collect();
            if (0..own.len()).any(|at| words[at..].starts_with(&phrase)) {
                let message = format!("`{}` is archaic; write {instead}", phrase.join(" "));
                findings.push(Finding::new(source, index + 1, message));
            }
        }
        let before = index.checked_sub(1).and_then(|index| lines[index].last()).map_or("", String::as_str);
        if (0..own.len()).any(|at| denies_by_no(before, &words, at)) {
            findings.push(Finding::new(source, index + 1, concat!("write `is not a …` instead of `is n", "o …`")));
        }
    }
    findings
}

/// The words of each line, in lower case and without punctuation. Code in a document gives no words of its own.
fn words_by_line(source: &Source) -> Vec<Vec<String>> {
    let document = source.path.ends_with(".md");
    let mut fenced = false;
    let words = |text: &str| -> Vec<String> {
        let words = text.split(|c: char| !c.is_alphanumeric() && c != '_');
        words.filter(|word| !word.is_empty()).map(str::to_lowercase).collect()
    };
    let of_line = |(_, line): (usize, &str)| {
        let fence = document && line.trim_start().starts_with("```");
        fenced ^= fence;
        match document {
            true if fence || fenced => Vec::new(),
            // Every second part lies between backticks.
            true => words(&line.split('`').step_by(2).collect::<Vec<_>>().join(" code ")),
            false => words(line),
        }
    };
    source.lines().map(of_line).collect()
}

/// Whether `words` deny a noun by `no` after `is` at `at`; `before` precedes them. `there is no …` and `is no longer`
/// are usual.
fn denies_by_no(before: &str, words: &[&str], at: usize) -> bool {
    let previous = at.checked_sub(1).map_or(before, |at| words[at]);
    let usual = |word: &&str| ["longer", "more", "other"].contains(word);
    words[at..].starts_with(&["is", concat!("n", "o")])
        && previous != "there"
        && words.get(at + 2).is_some_and(|word| !usual(word))
}

/// No two types of one crate that other files can name share a name.
pub(crate) fn type_names_are_unique(sources: &[Source]) -> Vec<Finding> {
    let mut first: BTreeMap<(&str, &str), &str> = BTreeMap::new();
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| source.is_rust()) {
        let Some((package, _)) = source.path.split_once("/src/") else { continue };
        for (number, name) in source.code_lines().filter_map(|(number, line)| Some((number, visible_type(line)?))) {
            match first.entry((package, name)) {
                Entry::Vacant(entry) => drop(entry.insert(&source.path)),
                Entry::Occupied(entry) => {
                    let message =
                        format!("{} has a type `{name}` too; name each by what distinguishes it", entry.get());
                    findings.push(Finding::new(source, number, message));
                }
            }
        }
    }
    findings
}

/// The name of the type that a line defines, if other files can name it.
fn visible_type(line: &str) -> Option<&str> {
    let rest = line.trim_start().strip_prefix("pub")?;
    let rest = rest.strip_prefix('(').map_or(Some(rest), |rest| rest.split_once(')').map(|(_, rest)| rest))?;
    let (kind, rest) = rest.trim_start().split_once(' ')?;
    let is_type = ["struct", "enum", "trait", "type", "union"].contains(&kind);
    rest.split(|c: char| !c.is_alphanumeric() && c != '_').next().filter(|name| is_type && !name.is_empty())
}

/// Every crate of the workspace takes the workspace's lints.
pub(crate) fn lints_are_inherited(source: &Source) -> Vec<Finding> {
    let manifest = source.path.ends_with("/Cargo.toml") && source.text.contains("[package]");
    // A manifest with a workspace of its own is outside ours.
    let ours = !source.lines().any(|(_, line)| line.trim() == "[workspace]");
    if !manifest || !ours {
        return Vec::new();
    }
    let mut in_lints = false;
    for (_, line) in source.lines() {
        let line = line.trim();
        if line.starts_with('[') {
            in_lints = line == "[lints]";
        } else if in_lints && line == "workspace = true" {
            return Vec::new();
        }
    }
    vec![Finding::new(source, 1, "add `[lints]` with `workspace = true`")]
}

/// Files stay short.
pub(crate) fn files_stay_short(source: &Source) -> Vec<Finding> {
    let lines = source.text.lines().count();
    if source.source_of().is_none() || source.path == ASSEMBLED || lines <= MAX_LINES {
        return Vec::new();
    }
    vec![Finding::new(source, lines, format!("{lines} lines, more than {MAX_LINES}; split it by topic"))]
}

/// Files that are not text stay small.
pub(crate) fn binaries_stay_small(path: &str, size: u64) -> Option<Finding> {
    (size > MAX_BINARY).then(|| Finding {
        path: path.to_owned(),
        line: 1,
        message: format!("{} KiB and not text; keep it out of the repository", size / 1024),
    })
}
