//! Checks the rules of this repository that no other tool checks, over all files that git tracks or would track.

mod measures;
mod rules;
mod source;
#[cfg(test)]
mod tests;

use std::process::Command;

use anyhow::{Context, Result, bail};

use self::measures::paths_exist;
use self::rules::{Finding, RULES, binaries_stay_small, one_place_appends, type_names_are_unique};
use self::source::Source;
use crate::run::{check, root};

/// Checks all rules and prints every finding.
pub(crate) fn tidy() -> Result<()> {
    eprintln!("$ tidy");
    let (sources, mut findings) = read_all()?;
    for source in &sources {
        findings.extend(RULES.iter().flat_map(|rule| rule(source)));
    }
    findings.extend(one_place_appends(&sources));
    findings.extend(type_names_are_unique(&sources));
    findings.extend(paths_exist(&sources));
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    for finding in &findings {
        eprintln!("{}:{}: {}", finding.path, finding.line, finding.message);
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("tidy found {count} problem(s)"),
    }
}

/// Reads text files as sources. Other files are only checked for their size.
fn read_all() -> Result<(Vec<Source>, Vec<Finding>)> {
    let (mut sources, mut findings) = (Vec::new(), Vec::new());
    for path in tracked_files()? {
        // A deleted file may still be tracked; the target of a link is checked.
        let Ok(bytes) = std::fs::read(root().join(&path)) else { continue };
        match String::from_utf8(bytes) {
            Ok(text) if !text.contains('\0') => sources.push(Source::new(path, text)),
            Ok(text) => findings.extend(binaries_stay_small(&path, text.len() as u64)),
            Err(error) => findings.extend(binaries_stay_small(&path, error.as_bytes().len() as u64)),
        }
    }
    Ok((sources, findings))
}

fn tracked_files() -> Result<Vec<String>> {
    let listed = Command::new("git")
        .args(["ls-files", "-z", "--cached", "--others", "--exclude-standard"])
        .current_dir(root())
        .output()
        .context("running git")?;
    check("git ls-files", listed.status)?;
    let text = String::from_utf8(listed.stdout).context("a file name that is not UTF-8")?;
    Ok(text.split('\0').filter(|path| !path.is_empty()).map(str::to_owned).collect())
}
