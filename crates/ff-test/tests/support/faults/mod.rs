//! Faults on real servers under load: what every subscription saw is recorded, and checked in the end.
//!
//! | module | what it is |
//! | --- | --- |
//! | `stage` | a primary and its replica, sentinels over both, and a proxy that leads to the primary |
//! | `load` | submits flows and solo executions and ends them; notes what was answered |
//! | `watcher`, `consumer` | the subscriptions: in this process, and in one that can be killed |
//! | `fault` | what is done to all of them |
//! | `run` | a run from its seed to its verdict |

#![allow(dead_code, reason = "each program uses its part")]

mod book;
mod consumer;
mod fault;
mod load;
mod run;
mod stage;
mod watcher;

pub(crate) use consumer::consume_if_asked;
pub(crate) use fault::Fault;
#[allow(unused_imports, reason = "each program uses its part")]
pub(crate) use run::{Plan, Report, run};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
