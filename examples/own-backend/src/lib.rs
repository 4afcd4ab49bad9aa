//! A backend of somebody else, and how it shows that it is one.
//!
//! [`OwnBackend`] brings its own way to deliver completions and leaves everything else to a backend that exists.
//! [`Counted`] is such a way: it counts what it hands out. What the crate is about are its tests:
//!
//! - `tests/conformance.rs` runs the whole suite, in one line;
//! - `tests/declared.rs` declares what a backend lacks, and the suite skips that and says so;
//! - `tests/ignored_filter.rs` has a backend that ignores filters, and shows that the suite finds out.
#![forbid(unsafe_code)]

mod counted;
mod engine;

pub use counted::Counted;
pub use engine::OwnBackend;
