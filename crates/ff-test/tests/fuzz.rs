//! The fuzz targets of what comes from a server, on the stable toolchain.

#[macro_use]
#[path = "../../../fuzz/on_stable.rs"]
mod on_stable;

use ff_test::fuzz;

targets! { wire_push log_entry ids replies }
