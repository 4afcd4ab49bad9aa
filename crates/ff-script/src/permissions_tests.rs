use std::{collections::BTreeMap, fs, path::Path};

use super::*;

/// The Lua files by name, functions as `ff1_<name>` and the parts of `lib` as `ff.<name>`.
fn lua() -> BTreeMap<String, String> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua");
    let mut files = BTreeMap::new();
    for (directory, prefix) in [("functions", "ff1_"), ("lib", "ff.")] {
        for entry in fs::read_dir(root.join(directory)).unwrap() {
            let path = entry.unwrap().path();
            let name = format!("{prefix}{}", path.file_stem().unwrap().to_str().unwrap());
            files.insert(name, fs::read_to_string(path).unwrap());
        }
    }
    files
}

/// The commands that these functions run, including those of the parts of `lib` that they use.
fn commands_of(functions: &[&str], lua: &BTreeMap<String, String>) -> BTreeSet<String> {
    let (mut waiting, mut seen) = (functions.iter().map(ToString::to_string).collect::<Vec<_>>(), BTreeSet::new());
    let mut commands = BTreeSet::new();
    while let Some(name) = waiting.pop() {
        if !seen.insert(name.clone()) {
            continue;
        }
        let text = lua.get(&name).unwrap_or_else(|| panic!("{name}"));
        waiting.extend(lua.keys().filter(|other| text.contains(&format!("{other}."))).cloned());
        for call in ["call('", "chunked('"] {
            for found in text.split(call).skip(1) {
                let command = found.split('\'').next().unwrap().to_lowercase();
                commands.insert(if command == "xinfo" { "xinfo|stream".to_owned() } else { command });
            }
        }
    }
    commands
}

fn functions_of(role: Role) -> Vec<&'static str> {
    role.commands()
        .iter()
        .filter_map(|command| command.strip_prefix("fcall")?.split_once('|'))
        .map(|(_, f)| f)
        .collect()
}

#[test]
fn every_function_belongs_to_a_role() {
    let granted: BTreeSet<String> = Role::ALL.into_iter().flat_map(functions_of).map(str::to_owned).collect();
    let functions: BTreeSet<String> = lua().into_keys().filter(|name| name.starts_with("ff1_")).collect();
    assert_eq!(granted, functions);
}

#[test]
fn a_role_is_granted_exactly_the_commands_that_its_functions_run_and_that_it_sends_itself() {
    let lua = lua();
    for (role, sent) in [
        (Role::Subscriber, SUBSCRIBING.to_vec()),
        (Role::Submitter, vec![]),
        (Role::Worker, SUBSCRIBING.to_vec()),
        (Role::Administrator, ADMINISTERING.iter().copied().filter(|command| *command != "hset").collect()),
    ] {
        let mut needed = commands_of(&functions_of(role), &lua);
        needed.extend(CONNECTING.iter().chain(&sent).map(ToString::to_string));
        let granted: BTreeSet<String> = role.commands().iter().map(ToString::to_string).collect();
        let data = |set: BTreeSet<String>| -> BTreeSet<String> {
            set.into_iter().filter(|command| !command.starts_with("fcall")).collect()
        };
        assert_eq!(data(granted), data(needed), "{role}");
    }
}

#[test]
fn roles_together_are_granted_the_rules_of_each_once() {
    let both = acl_rules(&[Role::Submitter, Role::Worker]);
    for rule in Role::Submitter.acl_rules().iter().chain(&Role::Worker.acl_rules()) {
        assert_eq!(both.iter().filter(|other| *other == rule).count(), 1, "{rule}");
    }
}

#[test]
fn a_refusal_names_the_rules_that_are_missing() {
    let need = |role: Role, command| role.needs().into_iter().find(|need| need.command == command).unwrap();
    let claim = need(Role::Worker, "fcall|ff1_claim");
    assert_eq!(claim.missing("User a has no permissions to run the 'fcall' command"), ["+fcall|ff1_claim"]);
    assert_eq!(claim.missing("User a has no permissions to access the 'k' key"), ["~ff:*"]);
    let subscribe = need(Role::Subscriber, "subscribe");
    assert_eq!(subscribe.missing("User a has no permissions to access the 'c' channel").len(), 3);
}

#[test]
fn the_page_on_permissions_has_the_rules_as_they_are() {
    let page = include_str!("../../../PERMISSIONS.md");
    for role in Role::ALL {
        let line = format!("```text\n{}\n```", role.acl_rules().join(" "));
        assert!(
            page.contains(&line),
            "PERMISSIONS.md lacks the rules of the {role}, as `ff script acl {role}` prints:\n{line}"
        );
    }
}
