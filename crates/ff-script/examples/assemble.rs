//! Assembles `src/flowfabric.lua` from the files under `lua/` and records its digest in `lua/digests.txt`.

use std::{fs, io, path::Path, process::Command};

use ff_script::assemble::{body, digest, record_digest, with_header};

fn main() -> io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    let digests_file = root.join("lua/digests.txt");
    let body = body(&root.join("lua"))?;
    let before = fs::read_to_string(&digests_file)?;
    let committed = committed_digests(root).unwrap_or_else(|| before.clone());
    let digests = record_digest(&before, &committed, &digest(&body));
    fs::write(digests_file, &digests)?;
    fs::write(root.join("src/flowfabric.lua"), with_header(&body, digests.lines().count()))
}

/// The digests of the last commit, if this is a checkout of a repository.
fn committed_digests(root: &Path) -> Option<String> {
    let shown = Command::new("git").args(["show", "HEAD:./lua/digests.txt"]).current_dir(root).output().ok()?;
    shown.status.success().then(|| String::from_utf8_lossy(&shown.stdout).into_owned())
}
