//! Completions: pushes and log pages meet in the hub, and go from there to the subscriptions.

pub(crate) mod catchup;
pub(crate) mod fanout;
pub(crate) mod frontier;
pub(crate) mod hub;
pub(crate) mod lag;
pub(crate) mod page;
pub(crate) mod queue;
pub(crate) mod ring;
#[cfg(test)]
pub(crate) mod simulated;
pub(crate) mod source;
pub(crate) mod stream;
pub(crate) mod unpositioned;
