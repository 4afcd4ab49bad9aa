//! The limit of open files of this process: each attempt needs some.

use std::sync::OnceLock;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

/// More is never needed, and some systems refuse an unlimited value.
const ENOUGH: u64 = 65_536;

static AT_START: OnceLock<Option<u64>> = OnceLock::new();

/// Raises the soft limit as far as the hard limit allows. Commands keep the original limit.
pub(crate) fn raise() {
    let limit = getrlimit(Resource::Nofile);
    AT_START.get_or_init(|| limit.current);
    let wanted = limit.maximum.map_or(ENOUGH, |maximum| maximum.min(ENOUGH));
    if limit.current.is_some_and(|current| current < wanted)
        && let Err(error) = setrlimit(Resource::Nofile, Rlimit { current: Some(wanted), maximum: limit.maximum })
    {
        tracing::debug!(%error, "the limit of open files cannot be raised");
    }
}

/// The soft limit before it was raised.
pub(crate) fn at_start() -> Option<u64> {
    AT_START.get().copied().flatten()
}
