//! Joins the files under `lua/` into the one text that a server loads.
//!
//! Lua 5.1 allows 200 locals in a chunk and 60 upvalues in a function. Every file is therefore its own block, and all
//! shared functions are fields of the table `ff`.
//!
//! A record that a function reads is a list of field names, which is both the argument of HMGET and the shape of the
//! table made of the reply. A table that is created in one constructor costs a fraction of one that a loop fills, so
//! the constructor is written out here: in a file with `local FIELDS = { 'a', 'b' }`, the line
//! `--@ FIELDS 1..2 values +1` becomes `a = values[2], b = values[3],`.

use std::{fmt::Write as _, fs, io, path::Path};

use sha2::{Digest as _, Sha256};

/// The library's name on the server. It carries the ABI major, so that two majors can be loaded side by side.
pub const LIBRARY: &str = "flowfabric1";
/// The ABI major: what the names of the functions start with.
pub const ABI_MAJOR: u32 = 1;
/// The digest of each version of the library, one per line; a version's number is the number of its line. Two texts
/// with one version would refuse each other's programs, so every committed text has its own line.
pub const DIGESTS: &str = include_str!("../lua/digests.txt");
/// The library's version within its major. It grows with every change of the Lua, so that a newer library is never
/// replaced by an older one.
pub const VERSION: u32 = count_lines(DIGESTS.as_bytes());

const fn count_lines(text: &[u8]) -> u32 {
    let (mut at, mut lines) = (0, 0);
    while at < text.len() {
        if text[at] == b'\n' {
            lines += 1;
        }
        at += 1;
    }
    lines
}

/// Joins the files under `lua_dir`: `lib/*.lua`, then `functions/*.lua`, each sorted by name. [`with_header`] adds the
/// header.
///
/// # Errors
/// If a file cannot be read.
pub fn body(lua_dir: &Path) -> io::Result<String> {
    let mut body = String::new();
    for folder in ["lib", "functions"] {
        let mut files: Vec<_> = fs::read_dir(lua_dir.join(folder))?.collect::<io::Result<Vec<_>>>()?;
        files.sort_by_key(fs::DirEntry::file_name);
        for file in files {
            if file.path().extension().is_some_and(|extension| extension == "lua") {
                let name = file.file_name();
                let name = name.to_string_lossy();
                let text = fs::read_to_string(file.path())?;
                let text = expand(&text).map_err(|problem| io::Error::other(format!("{folder}/{name}: {problem}")))?;
                append(&mut body, folder, &name, &text);
            }
        }
    }
    Ok(body)
}

fn append(body: &mut String, folder: &str, name: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = write!(body, "\ndo -- {folder}/{name}\n{}\nend\n", text.trim_end());
}

/// Writes out the constructors of a file's records.
fn expand(text: &str) -> Result<String, String> {
    let mut expanded = String::with_capacity(text.len());
    for line in text.lines() {
        match line.trim_start().strip_prefix("--@ ") {
            None => expanded.push_str(line),
            Some(order) => {
                let fields = fields(text, order).ok_or_else(|| format!("`--@ {order}` is not understood"))?;
                expanded.push_str(&fields);
            }
        }
        expanded.push('\n');
    }
    Ok(expanded)
}

/// The fields of a constructor, from `LIST FIRST..LAST TABLE OFFSET`, where OFFSET is `+N` or `-N`.
fn fields(text: &str, order: &str) -> Option<String> {
    let [list, range, table, offset] = order.split(' ').collect::<Vec<_>>().try_into().ok()?;
    let (first, last) = range.split_once("..")?;
    let (first, last): (usize, usize) = (first.parse().ok()?, last.parse().ok()?);
    let offset: isize = offset.strip_prefix('+').unwrap_or(offset).parse().ok()?;
    let (_, names) = text.split_once(&format!("local {list} = {{"))?;
    let names: Vec<_> = names.split_once('}')?.0.split('\'').skip(1).step_by(2).collect();
    let mut fields = String::new();
    for (index, name) in names.get(first.checked_sub(1)?..last)?.iter().enumerate() {
        let _ = write!(fields, " {name} = {table}[{}],", (first + index).checked_add_signed(offset)?);
    }
    Some(fields)
}

/// The digest of a library's body: 32 hexadecimal digits.
#[must_use]
pub fn digest(body: &str) -> String {
    Sha256::digest(body.as_bytes()).iter().take(16).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    })
}

/// The library that a server loads: the body with its header.
#[must_use]
pub fn with_header(body: &str, version: usize) -> String {
    let digest = digest(body);
    format!(
        "#!lua name={LIBRARY}\n\
         -- Assembled from crates/ff-script/lua by `cargo xtask script`; edit those files, not this one.\n\
         local ff = {{ version = '{version}', digest = '{digest}' }}\n{body}"
    )
}

/// Adds the digest of a new text to `digests`. If the last line is not among the `committed` ones, replaces that line:
/// its text was never committed.
#[must_use]
pub fn record_digest(digests: &str, committed: &str, digest: &str) -> String {
    let mut lines: Vec<&str> = digests.lines().collect();
    if lines.last() != Some(&digest) {
        if lines.len() > committed.lines().count() {
            lines.pop();
        }
        lines.push(digest);
    }
    lines.iter().flat_map(|line| [*line, "\n"]).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_library_is_the_one_assembled_from_its_parts() {
        let lua_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua");
        let fresh = with_header(&body(&lua_dir).unwrap(), VERSION as usize);
        assert!(fresh == crate::SOURCE, "src/flowfabric.lua is stale: run `cargo xtask script`");
    }

    #[test]
    fn a_constructor_is_written_out_from_its_list() {
        let text = "local F = {\n  'a', 'b',\n  'c',\n}\nreturn {\n  --@ F 2..3 values +1\n}";
        let expanded = "local F = {\n  'a', 'b',\n  'c',\n}\nreturn {\n b = values[3], c = values[4],\n}\n";
        assert_eq!(expand(text).unwrap(), expanded);
    }

    #[test]
    fn a_constructor_beyond_its_list_is_refused() {
        for order in ["F 1..2 values +1", "F 0..1 values +1", "G 1..1 values +1", "F 1..1 values"] {
            let problem = expand(&format!("local F = {{ 'a' }}\n--@ {order}")).unwrap_err();
            assert!(problem.contains(order), "{problem}");
        }
    }

    #[test]
    fn each_version_of_the_library_has_one_text() {
        let digests: Vec<_> = DIGESTS.lines().collect();
        let distinct: std::collections::HashSet<_> = digests.iter().collect();
        assert_eq!(distinct.len(), digests.len(), "lua/digests.txt names a digest twice");
        let last = digests.last().copied().unwrap_or_default();
        assert_eq!(last, crate::loader::digest_of_source(), "lua/digests.txt is stale: run `cargo xtask script`");
    }

    #[test]
    fn a_text_that_differs_from_a_committed_one_gets_its_own_version() {
        assert_eq!(record_digest("a\nb\n", "a\nb\n", "c"), "a\nb\nc\n");
        assert_eq!(record_digest("a\nb\nc\n", "a\nb\n", "d"), "a\nb\nd\n");
        assert_eq!(record_digest("a\nb\n", "a\nb\n", "b"), "a\nb\n");
    }

    #[test]
    fn every_function_file_registers_its_function_and_states_its_signature() {
        let functions = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua/functions");
        for file in fs::read_dir(functions).unwrap() {
            let path = file.unwrap().path();
            let name = format!("ff{ABI_MAJOR}_{}", path.file_stem().unwrap().to_str().unwrap());
            let text = fs::read_to_string(&path).unwrap();
            assert!(text.starts_with(&format!("-- {name}: ")), "{}: header", path.display());
            for part in ["-- KEYS ", "-- ARGV ", "-- reply "] {
                assert!(text.contains(part), "{}: the header lacks `{part}`", path.display());
            }
            assert!(text.contains(&format!("'{name}'")), "{}: registers another name", path.display());
        }
    }

    #[test]
    fn any_change_of_a_part_changes_the_digest() {
        let digest = |text: &str| {
            let mut body = String::new();
            append(&mut body, "lib", "a.lua", text);
            digest(&body)
        };
        assert_eq!(digest("x = 1"), digest("x = 1\n"));
        assert_ne!(digest("x = 1"), digest("x = 2"));
    }
}
