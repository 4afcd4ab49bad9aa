//! Joins the files under `lua/` into the one text that a server loads.
//!
//! Lua 5.1 allows 200 locals in a chunk and 60 upvalues in a function. Every file is therefore its own block, and all
//! shared functions are fields of the table `ff`.

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
                let text = fs::read_to_string(file.path())?;
                append(&mut body, folder, &name.to_string_lossy(), &text);
            }
        }
    }
    Ok(body)
}

fn append(body: &mut String, folder: &str, name: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = write!(body, "\ndo -- {folder}/{name}\n{}\nend\n", text.trim_end());
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
