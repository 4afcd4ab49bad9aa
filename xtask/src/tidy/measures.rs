//! The rules about sizes, and about the paths that documents name.

use std::collections::BTreeSet;

use super::rules::{ASSEMBLED, Finding};
use super::source::Source;

/// The longest line, in characters.
const MAX_COLUMNS: usize = 120;
/// The longest line with a string, which cannot always be broken.
const MAX_COLUMNS_OF_TEXT: usize = 140;
/// The longest function, in lines, from its first line to its closing brace.
const MAX_FUNCTION: usize = 70;

/// A line fits beside another one on a screen.
pub(crate) fn lines_stay_short(source: &Source) -> Vec<Finding> {
    let is_code = source.is_rust() || source.is_lua();
    if !is_code || source.path == ASSEMBLED {
        return Vec::new();
    }
    let quotes: &[char] = if source.is_lua() { &['"', '\''] } else { &['"'] };
    let limit = |line: &str| if line.contains(quotes) { MAX_COLUMNS_OF_TEXT } else { MAX_COLUMNS };
    let is_row = |line: &str| ["//! |", "/// |"].iter().any(|start| line.trim_start().starts_with(start));
    let long = source.lines().filter(|(_, line)| !is_row(line) && line.chars().count() > limit(line));
    long.map(|(line, _)| Finding::new(source, line, format!("more than {MAX_COLUMNS} columns; break the line")))
        .collect()
}

/// A function does one thing.
pub(crate) fn functions_stay_short(source: &Source) -> Vec<Finding> {
    if !source.is_rust() {
        return Vec::new();
    }
    let lines: Vec<(usize, &str)> = source.code_lines().collect();
    let mut findings = Vec::new();
    for (index, (number, line)) in lines.iter().enumerate() {
        let Some(indent) = indent_of_function(line) else { continue };
        // Formatted code closes a function at the indent of its first line.
        let end = format!("{}}}", &line[..indent]);
        let Some(length) = lines[index..].iter().position(|(_, line)| line.trim_end() == end) else { continue };
        if length + 1 > MAX_FUNCTION {
            let message = format!("{} lines, more than {MAX_FUNCTION}; split the function by what it does", length + 1);
            findings.push(Finding::new(source, *number, message));
        }
    }
    findings
}

/// The indent of a line that begins a function with a body of several lines.
fn indent_of_function(line: &str) -> Option<usize> {
    let code = line.trim_start();
    let is_function = code.split('(').next()?.split_whitespace().any(|word| word == "fn");
    let ends_here = code.ends_with('}') || code.ends_with(';');
    (is_function && !ends_here && !code.starts_with('"')).then(|| line.len() - code.len())
}

/// A document leads its reader only to files that exist. A path may leave out its first folders, such as `crates/`.
pub(crate) fn paths_exist(sources: &[Source]) -> Vec<Finding> {
    let paths: BTreeSet<&str> = sources.iter().map(|source| source.path.as_str()).collect();
    let exists = |named: &str| paths.iter().any(|path| *path == named || path.ends_with(&format!("/{named}")));
    let mut findings = Vec::new();
    for source in sources.iter().filter(|source| names_paths(source)) {
        for (number, line) in source.lines() {
            if source.is_rust() && !line.trim_start().starts_with("//") {
                continue;
            }
            for named in paths_in(line).filter(|named| !exists(named)) {
                findings.push(Finding::new(source, number, format!("there is no file `{named}`; correct the path")));
            }
        }
    }
    findings
}

/// The changelog names files of earlier versions.
fn names_paths(source: &Source) -> bool {
    source.is_rust() || source.path.ends_with(".md") && source.path != "CHANGELOG.md"
}

/// The source files and documents that a line names in backticks.
fn paths_in(line: &str) -> impl Iterator<Item = &str> {
    let quoted = line.split('`').skip(1).step_by(2);
    quoted.filter(|text| {
        let is_file = [".rs", ".lua", ".sh", ".md"].iter().any(|extension| text.ends_with(extension));
        let is_plain = text.chars().all(|c| c.is_ascii_alphanumeric() || "/-_.".contains(c));
        is_file && is_plain && text.contains('/') && !text.starts_with(['/', '.'])
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(findings: &[Finding]) -> Vec<usize> {
        findings.iter().map(|finding| finding.line).collect()
    }

    #[test]
    fn a_long_line_of_code_is_found() {
        let text = format!("fn a() {{}}\n// {}\n", "x".repeat(MAX_COLUMNS));
        assert_eq!(lines(&lines_stay_short(&Source::new("crates/a/src/lib.rs", text.as_str()))), [2]);
        assert!(lines_stay_short(&Source::new("README.md", text)).is_empty());
    }

    #[test]
    fn a_long_function_is_found_at_its_first_line() {
        let body = |lines: usize| "        let x = 1;\n".repeat(lines);
        let text = format!("    pub fn a() {{\n{}    }}\n    fn b() {{\n{}    }}\n", body(68), body(69));
        assert_eq!(lines(&functions_stay_short(&Source::new("crates/a/src/lib.rs", text))), [71]);
    }

    #[test]
    fn a_path_that_does_not_exist_is_found() {
        let text = "see `a/src/lib.rs`, `src/lib.rs`\nand `src/gone.rs`, `lib.rs`, `/tmp/x.sh`\n";
        let sources =
            [Source::new("crates/a/src/lib.rs", "// `a/old.rs`\nlet x = \"`a/b.rs`\";"), Source::new("A.md", text)];
        let found: Vec<_> = paths_exist(&sources).into_iter().map(|found| (found.path, found.line)).collect();
        assert_eq!(found, [("crates/a/src/lib.rs".to_owned(), 1), ("A.md".to_owned(), 2)]);
    }
}
