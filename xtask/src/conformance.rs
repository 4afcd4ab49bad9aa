//! The table of backends in the README: the conformance suite, run on each set-up and counted by concern.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::provision;
use crate::run::{Cargo, root};

const README: &str = "README.md";
const BEGIN: &str = "<!-- backends: written by `cargo xtask conformance` -->";
const END: &str = "<!-- backends: end -->";

/// What the suite runs on.
struct Setup {
    title: &'static str,
    /// The test of `ff-test` that runs it.
    test: &'static str,
    /// Where its servers come from, if it has any.
    provider: Option<&'static str>,
}

const SETUPS: [Setup; 3] = [
    Setup { title: "embedded", test: "conformance_embedded", provider: None },
    Setup { title: "Valkey as a process", test: "conformance_valkey", provider: Some("process") },
    Setup { title: "Valkey in Docker", test: "conformance_valkey", provider: Some("docker") },
];

/// What became of a concern's cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Tally {
    cases: usize,
    passed: usize,
    /// Declared as lacking; libtest counts them as passed.
    skipped: usize,
}

/// A set-up's tallies by concern; none where it could not run.
type Column = Option<BTreeMap<String, Tally>>;

/// Runs the suite on every set-up and writes the table.
///
/// # Errors
/// A set-up that could not run, or on which a case failed: the table says so too, and is written first.
pub(crate) fn conformance() -> Result<()> {
    let mut failures = Vec::new();
    let columns = SETUPS.map(|setup| match setup.run() {
        Ok(tallies) => Some(tallies),
        Err(error) => {
            failures.push(format!("{}: {error:#}", setup.title));
            None
        }
    });
    for (setup, column) in SETUPS.iter().zip(&columns) {
        let failed: usize = column.iter().flatten().map(|(_, tally)| tally.cases - tally.passed).sum();
        if failed > 0 {
            failures.push(format!("{}: {failed} case(s) failed", setup.title));
        }
    }
    let path = root().join(README);
    let readme = std::fs::read_to_string(&path).context(README)?;
    std::fs::write(&path, with_table(&readme, &table(&columns)?)?).context(README)?;
    match failures.as_slice() {
        [] => Ok(()),
        failures => bail!("{}", failures.join("; ")),
    }
}

impl Setup {
    fn run(&self) -> Result<BTreeMap<String, Tally>> {
        let servers = self.provider.map(provision::provide_from).transpose()?;
        let output = Cargo::new("test")
            .args(["-p", "ff-test", "--test", self.test, "--", "--show-output"])
            .envs(servers.iter().flat_map(provision::Chosen::env))
            // A shared server would be taken before any other.
            .envs([("FF_TEST_VALKEY_URL", String::new())])
            .read()?;
        tallies(&output)
    }
}

/// Counts the lines of libtest.
fn tallies(output: &str) -> Result<BTreeMap<String, Tally>> {
    let mut tallies: BTreeMap<String, Tally> = BTreeMap::new();
    let mut running = None;
    for line in output.lines() {
        if let Some((concern, verdict)) = verdict(line) {
            let tally = tallies.entry(concern.to_owned()).or_default();
            tally.cases += 1;
            tally.passed += usize::from(verdict == "ok");
        } else if let Some(concern) = skipped(line) {
            tallies.entry(concern.to_owned()).or_default().skipped += 1;
        } else if let Some(count) = line.strip_prefix("running ").and_then(|rest| rest.split(' ').next()) {
            running = count.parse::<usize>().ok();
        }
    }
    let seen: usize = tallies.values().map(|tally| tally.cases).sum();
    match running {
        Some(running) if running == seen && seen > 0 => Ok(tallies),
        Some(running) => bail!("it ended after {seen} of {running} cases"),
        None => bail!("it did not start"),
    }
}

/// The concern and the verdict of a case that has ended.
fn verdict(line: &str) -> Option<(&str, &str)> {
    let (name, verdict) = line.strip_prefix("test ")?.split_once(" ... ")?;
    Some((name.split_once("::")?.0, verdict))
}

/// The concern of a case that was declared as lacking.
fn skipped(line: &str) -> Option<&str> {
    Some(line.strip_prefix("skipped: ")?.strip_suffix(" (declared)")?.split_once("::")?.0)
}

fn table(columns: &[Column; SETUPS.len()]) -> Result<String> {
    let concerns: BTreeSet<&String> = columns.iter().flatten().flat_map(BTreeMap::keys).collect();
    if concerns.is_empty() {
        bail!("no set-up could run, so there is nothing to write");
    }
    let row = |cells: [String; SETUPS.len()]| cells.map(|cell| format!(" {cell} |")).concat();
    let mut table = format!("| concern |{}\n", row(SETUPS.map(|setup| setup.title.to_owned())));
    table.push_str(&format!("| --- |{}\n", row(SETUPS.map(|_| "---".to_owned()))));
    for concern in concerns {
        let cells = columns.each_ref().map(|column| cell(column, concern));
        table.push_str(&format!("| {concern} |{}\n", row(cells)));
    }
    Ok(table)
}

fn cell(column: &Column, concern: &str) -> String {
    let Some(tallies) = column else { return "could not run".to_owned() };
    match tallies.get(concern).copied().unwrap_or_default() {
        Tally { cases, skipped, .. } if skipped == cases => "skipped".to_owned(),
        Tally { cases, passed, .. } => format!("{passed}/{cases}"),
    }
}

/// The text with the table in place of what stands between the markers.
fn with_table(text: &str, table: &str) -> Result<String> {
    let between = text.split_once(BEGIN).and_then(|(before, rest)| Some((before, rest.split_once(END)?.1)));
    let (before, after) = between.with_context(|| format!("{README} lacks the lines {BEGIN} and {END}"))?;
    Ok(format!("{before}{BEGIN}\n{table}{END}{after}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const OUTPUT: &str = "
running 4 tests
test filter::a_case ... ok
test leases::a_case ... ok
test filter::another ... FAILED
test leases::another ... ok

successes:
---- leases::a_case stdout ----
skipped: leases::a_case (declared)
---- leases::another stdout ----
skipped: leases::another (declared)

test result: FAILED. 3 passed; 1 failed; 0 ignored; 0 measured; 0 filtered out; finished in 0.01s
";

    #[test]
    fn cases_are_counted_by_concern() {
        let tallies = tallies(OUTPUT).unwrap();
        assert_eq!(tallies["filter"], Tally { cases: 2, passed: 1, skipped: 0 });
        assert_eq!(tallies["leases"], Tally { cases: 2, passed: 2, skipped: 2 });
    }

    #[test]
    fn a_run_that_ends_early_is_not_counted() {
        let error = tallies(&OUTPUT.replace("test filter::another ... FAILED\n", "")).unwrap_err().to_string();
        assert_eq!(error, "it ended after 3 of 4 cases");
        assert_eq!(tallies("error: could not compile").unwrap_err().to_string(), "it did not start");
    }

    #[test]
    fn failed_skipped_and_missing_set_ups_are_in_the_table() {
        let table = table(&[tallies(OUTPUT).ok(), None, None]).unwrap();
        let rows: Vec<_> = table.lines().skip(2).collect();
        assert_eq!(
            rows,
            [
                "| filter | 1/2 | could not run | could not run |",
                "| leases | skipped | could not run | could not run |"
            ]
        );
        assert!(super::table(&[None, None, None]).is_err());
    }

    #[test]
    fn only_the_text_between_the_markers_is_replaced() {
        let text = format!("before\n{BEGIN}\nold\n{END}\nafter\n");
        assert_eq!(with_table(&text, "new\n").unwrap(), format!("before\n{BEGIN}\nnew\n{END}\nafter\n"));
        assert!(with_table("before\n", "new\n").is_err());
    }
}
