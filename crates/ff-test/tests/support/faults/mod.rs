//! Faults on real servers under load: the frames of every subscription are recorded, and checked at the end.
//!
//! | module | what it is |
//! | --- | --- |
//! | `servers` | a primary and its replica, sentinels over both, and a proxy to the primary |
//! | `load` | submits and ends flows and solo executions; records the acknowledged calls |
//! | `ledger` | the submissions and the acknowledged ends |
//! | `watcher`, `consumer` | the subscriptions: in this process, and in one that can be killed |
//! | `fault` | the faults |
//! | `run` | a run from its seed to its verdict |

#![allow(dead_code, reason = "each program uses its part")]

mod consumer;
mod fault;
mod ledger;
mod load;
mod run;
mod servers;
mod watcher;

pub(crate) use consumer::consume_if_asked;
pub(crate) use fault::Fault;
#[allow(unused_imports, reason = "each program uses its part")]
pub(crate) use run::{Plan, Report, run};

pub(crate) type Failure = Box<dyn std::error::Error + Send + Sync>;
