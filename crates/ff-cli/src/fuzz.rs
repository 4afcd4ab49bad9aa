//! Properties of the parsers for flow files and server URLs, for any bytes: one function per format, for the fuzz
//! targets under `fuzz/` and for the property tests of `tests/fuzz.rs`.
//!
//! Each function panics if a property does not hold, and returns whether the input was accepted.

use std::path::Path;

use ff_valkey::ValkeyConfig;
use uuid::Uuid;

use crate::{
    failure::CliError,
    plan::{NAME_TAG, Plan, load},
    work::Work,
};

/// The most characters of a message.
const MESSAGE_CHARS: usize = 1_000;

/// Checks a flow in YAML: an accepted one consists of commands.
pub fn flow_yaml(bytes: &[u8]) -> bool {
    let Some(plan) = read("flow.yaml", bytes) else { return false };
    assert!(!plan.simulated && works(&plan).all(|work| matches!(work, Work::Shell { .. })));
    true
}

/// Checks a recorded workflow in WfFormat: an accepted one only sleeps.
pub fn wfformat(bytes: &[u8]) -> bool {
    let Some(plan) = read("trace.json", bytes) else { return false };
    assert!(plan.simulated && works(&plan).all(|work| matches!(work, Work::Sleep { .. })));
    true
}

/// Checks the URL of a server: no secret is printed. Of a refused URL only the scheme is printed, since any other part
/// may be a password.
pub fn url(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    // Also with a user and a password of letters that no message contains, so that a leak would be found.
    if let Some((scheme, rest)) = text.split_once("://")
        && let Some((who, place)) = rest.rsplit_once('@')
    {
        keeps_secrets(&format!("{scheme}://{}@{place}", marked(who)));
    }
    // The same for the scheme, which may be a part of a password.
    if let Some((scheme, rest)) = text.split_once("://") {
        keeps_secrets(&format!("{}://{rest}", marked(scheme)));
    }
    keeps_secrets(text)
}

/// Replaces every letter and digit by one from `Q` to `Z`; separators stay.
fn marked(text: &str) -> String {
    let mark = |c: char| if c.is_ascii_alphanumeric() { char::from(b'Q' + c as u8 % 10) } else { c };
    text.chars().map(mark).collect()
}

fn is_mark(c: char) -> bool {
    c.is_ascii_uppercase() && c >= 'Q'
}

fn keeps_secrets(url: &str) -> bool {
    match ValkeyConfig::from_url(url) {
        Ok(config) => {
            let shown = format!("{config:?} {}", config.endpoint);
            let mut other = config.clone();
            for secret in [&mut other.password, &mut other.sentinel_password].into_iter().flatten() {
                *secret = "another".to_owned();
            }
            assert_eq!(shown, format!("{other:?} {}", other.endpoint), "the output depends on a password");
            for secret in [&config.password, &config.sentinel_password].into_iter().flatten() {
                // A text that the URL contains elsewhere too is not a secret.
                let once = secret.len() > 3 && secret.chars().all(is_mark) && url.matches(&**secret).count() == 1;
                assert!(!once || !shown.contains(&**secret), "{shown}");
            }
            true
        }
        Err(error) => {
            let line = CliError::from(error).to_string();
            assert!(line.chars().count() <= MESSAGE_CHARS && !line.contains(char::is_control), "{line}");
            // The message's own words contain no marks, except for these.
            let ours = ["URL", "UTF-8", "TLS", "sentinelUser"];
            let rest = ours.iter().fold(line.clone(), |line, word| line.replace(word, ""));
            assert!(!rest.contains(is_mark), "{line}");
            // Parsers convert a scheme to lower case.
            let lower = line.to_lowercase();
            let mut words = url.split(|c| !is_mark(c)).filter(|word| word.len() >= 5);
            assert!(!words.any(|word| lower.contains(&word.to_lowercase())), "{line}");
            false
        }
    }
}

fn works(plan: &Plan) -> impl Iterator<Item = Work> {
    plan.executions.iter().map(|spec| Work::from_payload(&spec.payload).expect("the payload of a plan is work for ff"))
}

/// An accepted flow can be submitted in every run. A refused one gives one short line that begins with the file and
/// does not mention what `ff` itself would have added.
fn read(file: &str, bytes: &[u8]) -> Option<Plan> {
    match load::from_bytes(Path::new(file), bytes.to_vec(), None) {
        Ok(plan) => {
            let flow = plan.submission(Uuid::from_u128(u128::MAX), None).expect("it was checked");
            let topology = flow.topology().expect("it was checked");
            assert_eq!((topology.needs.len(), flow.executions.len()), (plan.executions.len(), plan.executions.len()));
            Some(plan)
        }
        Err(error) => {
            let line = error.to_string();
            assert!(line.starts_with(&format!("{file}: ")), "{line}");
            assert!(line.chars().count() <= MESSAGE_CHARS && !line.contains(char::is_control), "{line}");
            assert!(!line.contains(NAME_TAG) || String::from_utf8_lossy(bytes).contains(NAME_TAG), "{line}");
            None
        }
    }
}
