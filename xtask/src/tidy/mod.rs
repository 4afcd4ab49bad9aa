//! The rules of this repository that no other tool knows, over all files that git tracks or would track.

mod rules;
mod source;
#[cfg(test)]
mod tests;

use std::process::Command;

use anyhow::{Context, Result, bail};

use self::rules::{Finding, RULES, binaries_stay_small, one_place_appends};
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
    findings.sort_by(|a, b| (&a.path, a.line).cmp(&(&b.path, b.line)));
    for finding in &findings {
        eprintln!("{}:{}: {}", finding.path, finding.line, finding.message);
    }
    match findings.len() {
        0 => Ok(()),
        count => bail!("tidy found {count} thing(s) to fix"),
    }
}

/// Text files as sources; the others are judged by their size at once.
fn read_all() -> Result<(Vec<Source>, Vec<Finding>)> {
    let (mut sources, mut findings) = (Vec::new(), Vec::new());
    for path in tracked_files()? {
        // A file may be deleted and not yet committed so; a link is judged where it points to.
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
