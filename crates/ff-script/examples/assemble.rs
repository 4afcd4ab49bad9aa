//! Writes `src/flowfabric.lua` anew from the files under `lua/`.

use std::path::Path;

fn main() -> std::io::Result<()> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR"));
    std::fs::write(root.join("src/flowfabric.lua"), ff_script::assemble::assemble(&root.join("lua"))?)
}
