//! Each rule, on a file that follows it and on one that violates it.

use super::rules::*;
use super::source::Source;

const NONE: [usize; 0] = [];

fn lines(findings: &[Finding]) -> Vec<usize> {
    findings.iter().map(|finding| finding.line).collect()
}

fn check(rule: fn(&Source) -> Vec<Finding>, path: &str, text: &str) -> Vec<usize> {
    lines(&rule(&Source::new(path, text)))
}

#[test]
fn core_may_mention_valkey_but_not_use_it() {
    let rule = core_names_no_transport;
    let path = "crates/ff-core/src/filter.rs";
    assert_eq!(check(rule, path, "//! Hides fred:: and valkey.\n/// `ff:dag:completions`\npub struct A;"), NONE);
    assert_eq!(check(rule, path, "use fred::prelude::*;\nlet x: redis::Value;\nlet k = \"ff:exec\";"), [1, 2, 3]);
    assert_eq!(check(rule, "crates/ff-valkey/src/lib.rs", "use fred::prelude::*;"), NONE);
    assert_eq!(check(rule, path, "use crate::alfred::Name;\nlet valkey = 1;"), NONE);
}

#[test]
fn each_client_has_one_crate() {
    let rule = clients_stay_in_their_crate;
    assert_eq!(check(rule, "crates/ff-valkey/src/lib.rs", "use fred::prelude::*;"), NONE);
    assert_eq!(check(rule, "crates/ff-embedded/src/lib.rs", "use mlua::Lua;"), NONE);
    assert_eq!(check(rule, "crates/ff-engine/src/lib.rs", "use fred::prelude::*;\npub use mlua;"), [1, 2]);
    assert_eq!(check(rule, "crates/ff-valkey/src/lib.rs", "fn f(lua: mlua::Lua) {}"), [1]);
    assert_eq!(check(rule, "crates/ff-valkey/tests/a.rs", "use mlua::Lua;"), NONE, "tests may name both");
}

#[test]
fn a_folder_of_ff_valkey_uses_no_folder_above_it() {
    let rule = floors_use_lower_floors;
    let group = "use crate::{\n    completions::page::Page,\n    net::value,\n};";
    assert_eq!(check(rule, "crates/ff-valkey/src/host/mod.rs", group), [2]);
    assert_eq!(check(rule, "crates/ff-valkey/src/net/tls.rs", "let a = crate::host::arguments();"), [1]);
    assert_eq!(check(rule, "crates/ff-valkey/src/completions/hub.rs", "use crate::host::ValkeyHost;"), NONE);
    assert_eq!(check(rule, "crates/ff-valkey/src/host/together_tests.rs", group), NONE, "tests may use everything");
}

#[test]
fn a_crate_depends_on_lower_layers_only() {
    let rule = dependencies_point_one_way;
    let suite = "crates/ff-conformance/Cargo.toml";
    assert_eq!(check(rule, suite, "[package]\nname = \"ff-x\"\n[dependencies]\nff-core.workspace = true"), NONE);
    assert_eq!(check(rule, suite, "[dependencies]\nff-engine.workspace = true # why\nff-core = {}"), [2]);
    assert_eq!(check(rule, suite, "[dependencies]\nother = { package = \"ff-script\" }"), [2]);
    assert_eq!(
        check(rule, suite, "[dependencies.ff-valkey]\n[target.'cfg(unix)'.dependencies]\nflowfabric = {}"),
        [1, 3]
    );
    assert_eq!(check(rule, suite, "[dev-dependencies]\nff-embedded.workspace = true"), NONE, "tests may use all");
    assert_eq!(check(rule, "crates/ff-core/Cargo.toml", "[dependencies]\nff-script = {}"), [2]);
    assert_eq!(check(rule, "crates/ff-cli/Cargo.toml", "[dependencies]\nff-valkey.workspace = true"), NONE);
}

#[test]
fn keys_are_spelled_in_their_own_files_only() {
    let rule = keys_have_one_home;
    assert_eq!(check(rule, "crates/ff-script/src/keys.rs", "let k = \"ff:exec:\";"), NONE);
    assert_eq!(check(rule, "crates/ff-script/lua/lib/keys.lua", "local k = 'ff:part:'"), NONE);
    assert_eq!(check(rule, "crates/ff-script/lua/complete.lua", "local k = 'ff:part:' -- x"), [1]);
    assert_eq!(check(rule, "crates/ff-valkey/src/a.rs", "/// `ff:dag:completions`\nlet c = \"ff:dag:x\";"), [2]);
    assert_eq!(check(rule, "crates/ff-valkey/README.md", "ff:dag:completions"), NONE);
}

#[test]
fn lua_publishes_in_its_library_only() {
    let rule = lua_publishes_in_lib;
    assert_eq!(check(rule, "crates/ff-script/lua/lib/completion.lua", "server.call('PUBLISH', c, m)"), NONE);
    assert_eq!(check(rule, "crates/ff-script/lua/fail.lua", "-- PUBLISH last\nserver.pcall('PUBLISH', c, m)"), [2]);
}

#[test]
fn the_log_is_appended_to_in_one_file() {
    let one = Source::new("crates/ff-script/lua/lib/log.lua", "call('XADD', k)\ncall('XADD', k)");
    let two = Source::new("crates/ff-script/lua/fail.lua", "\ncall(\"XADD\", k)");
    let other = Source::new("crates/ff-script/src/flowfabric.lua", "call('XADD', k)");
    assert!(one_place_appends(&[one.clone(), other]).is_empty());
    assert_eq!(lines(&one_place_appends(&[one, two])), [1, 2, 2]);
}

#[test]
fn rust_publishes_nowhere_in_the_product() {
    let rule = rust_never_publishes;
    assert_eq!(check(rule, "crates/ff-valkey/src/a.rs", "// PUBLISH is Lua's\nclient.publish(c, m)"), [2]);
    assert_eq!(check(rule, "crates/ff-cli/src/a.rs", "send(&[\"PUBLISH\", c])\nsend(\"SPUBLISH c\")"), [1, 2]);
    assert_eq!(check(rule, "crates/ff-valkey/src/a.rs", "[\"ACL\", \"DRYRUN\", user, \"PUBLISH\", c]"), NONE);
    assert_eq!(check(rule, "crates/ff-test/src/a.rs", "client.publish(c, m)"), NONE, "tests play other publishers");
}

#[test]
fn crate_roots_forbid_unsafe_code() {
    let rule = unsafe_is_forbidden;
    assert_eq!(check(rule, "crates/a/src/lib.rs", "//! A.\n#![forbid(unsafe_code)]\n"), NONE);
    assert_eq!(check(rule, "crates/a/src/lib.rs", "//! A.\n// #![forbid(unsafe_code)]\n"), [1]);
    assert_eq!(check(rule, "crates/a/src/lib.rs", "//! placeholder\n"), NONE);
    assert_eq!(check(rule, "crates/a/src/inner/lib.rs", ""), NONE);
}

#[test]
fn leftover_notes_are_found_as_words() {
    let note = concat!("TO", "DO");
    assert_eq!(check(no_leftover_notes, "a.rs", &format!("fine\n// {note}: later")), [2]);
    assert_eq!(check(no_leftover_notes, "a.sh", "mktemp /tmp/a.XXXXXX\nlet TODOS=1"), NONE);
}

#[test]
fn old_words_are_found_in_prose_and_over_two_lines() {
    let rule = words_are_current;
    let (ever, again) = (concat!("for e", "ver"), concat!("an", "ew"));
    assert_eq!(check(rule, "a.md", &format!("It waits {ever}.\nIt waits forever.\nMade {again}!")), [1, 3]);
    assert_eq!(check(rule, "a.md", concat!("The gap is pu", "t\nright.")), [1]);
    assert_eq!(check(rule, "a.rs", concat!("for to", "ld in frames {}\nlet is_to", "ld = 1;")), [1]);
    assert_eq!(check(rule, "crates/a/src/lib.rs", &format!("/// Waits {ever}.\n/// Made {again}.")), [1, 2]);
    assert_eq!(check(rule, "a.json", &format!("It waits {ever}.")), NONE);
    let code = format!("Not `{again}`, but again.\n```text\nmade {again}\n```\nmade {again}");
    assert_eq!(check(rule, "a.md", &code), [5], "code is not prose");
}

#[test]
fn a_denial_says_what_a_thing_is_not() {
    let rule = words_are_current;
    assert_eq!(check(rule, "a.md", concat!("A lane is n", "o permission.\nA lane is not a permission.")), [1]);
    assert_eq!(
        check(
            rule,
            "a.md",
            "There is no server.\nIt is no longer found.\nWhere there is\nno bash. If there\nis no server."
        ),
        NONE
    );
    assert_eq!(check(rule, "a.rs", concat!("// A lane is n", "o permission.")), [1]);
}

#[test]
fn visible_types_of_one_crate_have_different_names() {
    let sources = [
        Source::new("crates/a/src/one.rs", "pub struct Reader;\nstruct Private;\npub(crate) enum State {}"),
        Source::new(
            "crates/a/src/two.rs",
            "// pub struct Reader;\n    pub(super) struct Reader<'a>(&'a str);\npub fn State() {}",
        ),
        Source::new("crates/a/src/three.rs", "struct Private;\npub type Readers = ();\npub use b::State;"),
        Source::new("crates/b/src/one.rs", "pub trait Reader {}"),
    ];
    assert_eq!(lines(&type_names_are_unique(&sources)), [2]);
}

#[test]
fn members_take_the_lints_of_the_workspace() {
    let rule = lints_are_inherited;
    assert_eq!(check(rule, "a/Cargo.toml", "[package]\n[lints]\nworkspace = true\n"), NONE);
    assert_eq!(check(rule, "a/Cargo.toml", "[package]\n[other]\nworkspace = true\n"), [1]);
    assert_eq!(check(rule, "benches/peers/Cargo.toml", "[package]\n[workspace]\n"), NONE);
    assert_eq!(check(rule, "Cargo.toml", "[workspace]\n"), NONE);
}

#[test]
fn long_files_are_found() {
    assert_eq!(check(files_stay_short, "crates/a/src/b.rs", &"\n".repeat(600)), NONE);
    assert_eq!(check(files_stay_short, "crates/a/src/b.rs", &"\n".repeat(601)), [601]);
    assert_eq!(check(files_stay_short, "crates/ff-script/src/flowfabric.lua", &"\n".repeat(5000)), NONE);
}

#[test]
fn large_binaries_are_found() {
    assert_eq!(binaries_stay_small("a.png", MAX_BINARY), None);
    assert!(binaries_stay_small("a.png", MAX_BINARY + 1).is_some());
}
