//! What the contenders share: the trait that each implements, the workloads over it, and the meter.
//!
//! A contender is a program of its own: `peers-NAME URL WORK [worker]`. It does one [`Work`] on the server at `URL` and
//! prints one line, a [`Record`] as JSON. Every workload is written once, so that all contenders are asked the same.
#![forbid(unsafe_code)]

mod contender;
mod load;
mod meter;
mod record;
mod work;
mod workloads;

pub use contender::{Contender, Filter, Job, Role, Shape};
pub use load::each;
pub use meter::Probe;
pub use record::{Figure, Record};
pub use work::{How, Order, Work};
pub use workloads::run;

/// The slots of the workers of a process, and the submissions that are under way at once.
pub const SLOTS: usize = 16;

/// What an idle process prints when all of it runs.
pub const READY: &str = "ready";
