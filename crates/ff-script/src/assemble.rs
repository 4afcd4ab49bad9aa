//! Joins the files under `lua/` into the one text that a server loads.
//!
//! Lua 5.1 allows 200 locals in a chunk and 60 upvalues in a function, so every file stands in a block of its own and
//! all shared parts hang on the one table `ff`.

use std::{fmt::Write as _, fs, io, path::Path};

use sha2::{Digest as _, Sha256};

/// The library's name on the server. It carries the ABI major, so that two majors can be loaded side by side.
pub const LIBRARY: &str = "flowfabric1";
/// The ABI major: what the names of the functions start with.
pub const ABI_MAJOR: u32 = 1;
/// The library's version within its major; grows with every change of the Lua, so that a newer one is never replaced.
pub const VERSION: u32 = 1;

/// Assembles the library from the files under `lua_dir`: `lib/*.lua`, then `functions/*.lua`, each sorted by name.
///
/// # Errors
/// What reading the files gives.
pub fn assemble(lua_dir: &Path) -> io::Result<String> {
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
    Ok(finish(&body))
}

fn append(body: &mut String, folder: &str, name: &str, text: &str) {
    // Writing to a String cannot fail.
    let _ = write!(body, "\ndo -- {folder}/{name}\n{}\nend\n", text.trim_end());
}

fn finish(body: &str) -> String {
    let digest = Sha256::digest(body.as_bytes());
    let digest: String = digest.iter().take(16).fold(String::new(), |mut hex, byte| {
        let _ = write!(hex, "{byte:02x}");
        hex
    });
    format!(
        "#!lua name={LIBRARY}\n-- Assembled from crates/ff-script/lua by `cargo xtask script`; edit those files, not this one.\n\
         local ff = {{ version = '{VERSION}', digest = '{digest}' }}\n{body}"
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_checked_in_library_is_the_one_assembled_from_its_parts() {
        let lua_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("lua");
        let fresh = assemble(&lua_dir).unwrap();
        assert!(fresh == crate::SOURCE, "src/flowfabric.lua is stale: run `cargo xtask script`");
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
            finish(&body).lines().nth(2).unwrap().to_owned()
        };
        assert_eq!(digest("x = 1"), digest("x = 1\n"));
        assert_ne!(digest("x = 1"), digest("x = 2"));
    }
}
