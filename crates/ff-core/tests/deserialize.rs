//! Every type that can be read by serde is on this list, and one that has a rule refuses what breaks it.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::{collections::BTreeSet, fs, path::Path};

use ff_core::{Cursor, ExecutionId, FlowId, LaneId, Namespace, Outcome, PartitionCount, Tags, WorkerId};
use serde::de::DeserializeOwned;

/// What breaks the rule of a type, as JSON.
type Refused = fn() -> Vec<String>;

/// Where a type is declared, its name there, and how it refuses what its constructor refuses. `None`: it has no rule.
const TYPES: [(&str, &str, Option<Refused>); 13] = [
    ("cursor.rs", "Cursor", Some(|| read::<Cursor>(&[r#""""#, r#""x""#, r#""ffc1:!""#]))),
    ("gap.rs", "Gap", None),
    ("gap.rs", "GapCause", None),
    ("id.rs", "$type", Some(ids)),
    ("name.rs", "$type", Some(names)),
    ("name.rs", "Tags", Some(tags)),
    ("partition.rs", "Partition", None),
    ("partition.rs", "PartitionCount", Some(|| read::<PartitionCount>(&["0", "16385", "-1"]))),
    ("position.rs", "EntryId", None),
    ("position.rs", "LogId", None),
    ("position.rs", "Position", None),
    ("position.rs", "Scope", None),
    ("state.rs", "$type", Some(|| read::<Outcome>(&[r#""""#, r#""Success""#]))),
];

/// Those of the texts that were read although they must not be.
fn read<T: DeserializeOwned>(refused: &[&str]) -> Vec<String> {
    let wrongly = refused.iter().filter(|json| serde_json::from_str::<T>(json).is_ok());
    wrongly.map(|json| json.chars().take(40).collect()).collect()
}

fn ids() -> Vec<String> {
    let bad = [r#""""#, r#""7""#, r#""{fp:x}:0192f0c1-2b3c-7d4e-8f50-617283940a1b""#];
    [read::<ExecutionId>(&bad), read::<FlowId>(&bad)].concat()
}

fn names() -> Vec<String> {
    let long = format!("\"{}\"", "x".repeat(129));
    let bad = [r#""""#, r#""a b""#, r#""{x}""#, r#""a\n""#, &long];
    [read::<Namespace>(&bad), read::<LaneId>(&bad), read::<WorkerId>(&bad)].concat()
}

fn tags() -> Vec<String> {
    let many: Vec<String> = (0..33).map(|n| format!("\"k{n}\":\"\"")).collect();
    let (many, big) = (format!("{{{}}}", many.join(",")), format!("{{\"k\":\"{}\"}}", "v".repeat(257)));
    read::<Tags>(&[r#"{"":"v"}"#, r#"{"k":"\u001b[2J"}"#, &many, &big, r#"["k"]"#])
}

#[test]
fn serde_does_not_bypass_the_rules_of_a_type() {
    for (file, name, refused) in TYPES {
        let wrongly = refused.map(|refused| refused()).unwrap_or_default();
        assert!(wrongly.is_empty(), "{name} of {file} was read from {wrongly:?}");
    }
}

#[test]
fn every_type_that_serde_can_read_is_on_the_list() {
    let mut declared = BTreeSet::new();
    visit(&Path::new(env!("CARGO_MANIFEST_DIR")).join("src"), &mut declared);
    let listed: BTreeSet<_> = TYPES.iter().map(|(file, name, _)| ((*file).to_owned(), (*name).to_owned())).collect();
    assert_eq!(declared, listed, "put the type on the list of this test, with what it has to refuse");
}

/// Notes the types of all source files below a directory that implement or derive `Deserialize`.
fn visit(directory: &Path, declared: &mut BTreeSet<(String, String)>) {
    for entry in fs::read_dir(directory).unwrap() {
        let path = entry.unwrap().path();
        if path.is_dir() {
            visit(&path, declared);
        } else {
            let file = path.file_name().unwrap().to_str().unwrap().to_owned();
            let text = fs::read_to_string(&path).unwrap();
            declared.extend(types_in(&text).into_iter().map(|name| (file.clone(), name)));
        }
    }
}

fn types_in(source: &str) -> Vec<String> {
    let word = |text: &str| text.split(|c: char| !(c.is_alphanumeric() || "_$".contains(c))).next().unwrap().to_owned();
    let (mut derived, mut names) = (false, Vec::new());
    for line in source.lines().map(str::trim) {
        if let Some((_, name)) = line.split_once("Deserialize<'de> for ") {
            names.push(word(name));
        }
        derived |= line.starts_with("#[derive(") && line.contains("Deserialize");
        let declaration = line.strip_prefix("pub struct ").or_else(|| line.strip_prefix("pub enum "));
        if let Some(name) = declaration {
            if derived {
                names.push(word(name));
            }
            derived = false;
        }
    }
    names
}
