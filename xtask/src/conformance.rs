//! The table of backends in the README: runs the conformance suite on each set-up and counts the results by concern.

use std::collections::{BTreeMap, BTreeSet};

use anyhow::{Context, Result, bail};

use crate::provision;
use crate::run::{Cargo, root};

const README: &str = "README.md";
const BEGIN: &str = "<!-- backends: written by `cargo xtask conformance` -->";
const END: &str = "<!-- backends: end -->";

/// A set-up that the suite runs on.
struct Setup {
    title: &'static str,
    /// The test of `ff-test` that runs it.
    test: &'static str,
    /// The provider of its servers, if it has any.
    provider: Option<&'static str>,
}

const SETUPS: [Setup; 3] = [
    Setup { title: "embedded", test: "conformance_embedded", provider: None },
    Setup { title: "Valkey as a process", test: "conformance_valkey", provider: Some("process") },
    Setup { title: "Valkey in Docker", test: "conformance_valkey", provider: Some("docker") },
];

/// The results of a concern's cases.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
struct Counts {
    cases: usize,
    passed: usize,
    /// Declared as lacking; libtest reports them as passed.
    skipped: usize,
}

/// The counts of a set-up by concern; `None` if it could not run.
type Column = Option<BTreeMap<String, Counts>>;

/// Runs the suite on every set-up and writes the table.
///
/// # Errors
/// If a set-up could not run or a case failed. The table is written before, and shows it too.
pub(crate) fn conformance() -> Result<()> {
    let mut failures = Vec::new();
    let columns = SETUPS.map(|setup| match setup.run() {
        Ok(counts_by_concern) => Some(counts_by_concern),
        Err(error) => {
            failures.push(format!("{}: {error:#}", setup.title));
            None
        }
    });
    for (setup, column) in SETUPS.iter().zip(&columns) {
        let failed: usize = column.iter().flatten().map(|(_, counts)| counts.cases - counts.passed).sum();
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
    fn run(&self) -> Result<BTreeMap<String, Counts>> {
        let servers = self.provider.map(provision::provide_from).transpose()?;
        let output = Cargo::new("test")
            .args(["-p", "ff-test", "--test", self.test, "--", "--show-output"])
            .envs(servers.iter().flat_map(provision::Chosen::env))
            // A shared server would override the provider.
            .envs([("FF_TEST_VALKEY_URL", String::new())])
            .read()?;
        counts_by_concern(&output)
    }
}

/// Counts the results in the output of libtest.
fn counts_by_concern(output: &str) -> Result<BTreeMap<String, Counts>> {
    let mut counts_by_concern: BTreeMap<String, Counts> = BTreeMap::new();
    let mut running = None;
    for line in output.lines() {
        if let Some((concern, verdict)) = verdict(line) {
            let counts = counts_by_concern.entry(concern.to_owned()).or_default();
            counts.cases += 1;
            counts.passed += usize::from(verdict == "ok");
        } else if let Some(concern) = skipped(line) {
            counts_by_concern.entry(concern.to_owned()).or_default().skipped += 1;
        } else if let Some(count) = line.strip_prefix("running ").and_then(|rest| rest.split(' ').next()) {
            running = count.parse::<usize>().ok();
        }
    }
    let seen: usize = counts_by_concern.values().map(|counts| counts.cases).sum();
    match running {
        Some(running) if running == seen && seen > 0 => Ok(counts_by_concern),
        Some(running) => bail!("it ended after {seen} of {running} cases"),
        None => bail!("it did not start"),
    }
}

/// The concern and the verdict of a finished case.
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
        bail!("no set-up could run, so there is no table to write");
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
    let Some(counts_by_concern) = column else { return "could not run".to_owned() };
    match counts_by_concern.get(concern).copied().unwrap_or_default() {
        Counts { cases, skipped, .. } if skipped == cases => "skipped".to_owned(),
        Counts { cases, passed, .. } => format!("{passed}/{cases}"),
    }
}

/// Replaces the text between the markers by the table.
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
        let counts_by_concern = counts_by_concern(OUTPUT).unwrap();
        assert_eq!(counts_by_concern["filter"], Counts { cases: 2, passed: 1, skipped: 0 });
        assert_eq!(counts_by_concern["leases"], Counts { cases: 2, passed: 2, skipped: 2 });
    }

    #[test]
    fn a_run_that_ends_early_is_not_counted() {
        let error =
            counts_by_concern(&OUTPUT.replace("test filter::another ... FAILED\n", "")).unwrap_err().to_string();
        assert_eq!(error, "it ended after 3 of 4 cases");
        assert_eq!(counts_by_concern("error: could not compile").unwrap_err().to_string(), "it did not start");
    }

    #[test]
    fn failed_skipped_and_missing_set_ups_are_in_the_table() {
        let table = table(&[counts_by_concern(OUTPUT).ok(), None, None]).unwrap();
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
