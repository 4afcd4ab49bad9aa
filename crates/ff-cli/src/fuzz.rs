//! What must hold for any bytes that are read as a flow or as the URL of a server: one function per format, for the fuzz
//! targets under `fuzz/` and for the property tests of `tests/fuzz.rs`.
//!
//! Each panics where a property does not hold, and returns whether the input was accepted.

use std::path::Path;

use ff_valkey::ValkeyConfig;
use uuid::Uuid;

use crate::{
    failure::CliError,
    plan::{NAME_TAG, Plan},
    work::Work,
};

/// The longest message.
const MESSAGE_CHARS: usize = 1_000;

/// A flow in YAML. What is accepted is made of commands.
pub fn flow_yaml(bytes: &[u8]) -> bool {
    let Some(plan) = read("flow.yaml", bytes) else { return false };
    assert!(!plan.simulated && works(&plan).all(|work| matches!(work, Work::Shell { .. })));
    true
}

/// A recorded workflow in WfFormat. What is accepted only sleeps.
pub fn wfformat(bytes: &[u8]) -> bool {
    let Some(plan) = read("trace.json", bytes) else { return false };
    assert!(plan.simulated && works(&plan).all(|work| matches!(work, Work::Sleep { .. })));
    true
}

/// The URL of a server. Nothing of a secret is printed: of a refused URL, in which no part can be told from a password,
/// nothing but the scheme.
pub fn url(bytes: &[u8]) -> bool {
    let Ok(text) = str::from_utf8(bytes) else { return false };
    // Also with user and password of letters that no message has, so that each of them would be seen.
    if let Some((scheme, rest)) = text.split_once("://")
        && let Some((who, place)) = rest.rsplit_once('@')
    {
        url_is_kept(&format!("{scheme}://{}@{place}", marked(who)));
    }
    // So is a scheme, which may be what is left of a password.
    if let Some((scheme, rest)) = text.split_once("://") {
        url_is_kept(&format!("{}://{rest}", marked(scheme)));
    }
    url_is_kept(text)
}

/// Every letter and digit as one from `Q` to `Z`; what separates them stays.
fn marked(text: &str) -> String {
    let mark = |c: char| if c.is_ascii_alphanumeric() { char::from(b'Q' + c as u8 % 10) } else { c };
    text.chars().map(mark).collect()
}

fn is_mark(c: char) -> bool {
    c.is_ascii_uppercase() && c >= 'Q'
}

fn url_is_kept(url: &str) -> bool {
    match ValkeyConfig::from_url(url) {
        Ok(config) => {
            let shown = format!("{config:?} {}", config.endpoint);
            let mut other = config.clone();
            for secret in [&mut other.password, &mut other.sentinel_password].into_iter().flatten() {
                *secret = "another".to_owned();
            }
            assert_eq!(shown, format!("{other:?} {}", other.endpoint), "it depends on a password");
            for secret in [&config.password, &config.sentinel_password].into_iter().flatten() {
                // Where the URL has the same text elsewhere it is no secret.
                let once = secret.len() > 3 && secret.chars().all(is_mark) && url.matches(&**secret).count() == 1;
                assert!(!once || !shown.contains(&**secret), "{shown}");
            }
            true
        }
        Err(error) => {
            let line = CliError::from(error).to_string();
            assert!(line.chars().count() <= MESSAGE_CHARS && !line.contains(char::is_control), "{line}");
            // What is ours is without marks, but for these.
            let ours = ["URL", "UTF-8", "TLS", "sentinelUser"];
            let rest = ours.iter().fold(line.clone(), |line, word| line.replace(word, ""));
            assert!(!rest.contains(is_mark), "{line}");
            // Parsers write a scheme in lower case.
            let lower = line.to_lowercase();
            let mut words = url.split(|c| !is_mark(c)).filter(|word| word.len() >= 5);
            assert!(!words.any(|word| lower.contains(&word.to_lowercase())), "{line}");
            false
        }
    }
}

fn works(plan: &Plan) -> impl Iterator<Item = Work> {
    plan.executions.iter().map(|spec| Work::from_payload(&spec.payload).expect("a plan's payload is work for ff"))
}

/// What is accepted can be submitted, in every run. What is refused is told in one short line that begins with the
/// file and does not speak of what `ff` itself would have added.
fn read(file: &str, bytes: &[u8]) -> Option<Plan> {
    match Plan::parse(Path::new(file), bytes.to_vec(), None) {
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
