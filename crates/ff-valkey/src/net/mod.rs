//! Reaching a server: addresses, TLS, connections that lead to a primary, and clear errors.

pub(crate) mod address;
pub(crate) mod backoff;
mod client;
pub(crate) mod connection;
pub(crate) mod error;
pub(crate) mod mismatch;
pub(crate) mod outage;
pub(crate) mod primary;
pub(crate) mod quiet;
pub(crate) mod sentinel;
pub(crate) mod subscriber;
pub(crate) mod tls;
pub(crate) mod unbroken;
pub(crate) mod value;
pub(crate) mod wording;
