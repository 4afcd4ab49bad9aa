//! The workers and engines that run flows over any backend: workers execute, a dispatcher resolves the dependents that
//! terminal calls left pending, a reconciler repairs, and a sweeper handles timers.
//!
//! This crate does not decide state transitions, does not depend on a transport, and is not needed for the delivery of
//! completions: each part repeatedly asks the backend to do its next bounded piece of work. Any number of processes may
//! run any of them over the same deployment, and each may be stopped at any moment: the backend's calls are atomic, and
//! other processes find the unfinished work.
//!
//! - [`Worker`] claims executions of one lane and runs a handler on them.
//! - [`WaitExt`] waits for the end of executions and flows.
//! - [`Engine`] runs [`Dispatcher`], [`DependencyReconciler`] and [`Sweeper`] together; most programs want this.
//!
//! # Metrics
//!
//! Recorded through the `metrics` facade; those of a worker carry its `lane`.
//!
//! | name | kind | what it counts |
//! | --- | --- | --- |
//! | `ff_worker_claimed` | counter | executions claimed |
//! | `ff_worker_running` | gauge | executions running now |
//! | `ff_worker_completed` | counter | attempts reported as success |
//! | `ff_worker_failed` | counter | attempts reported as failed |
//! | `ff_worker_leases_lost` | counter | executions stopped because their lease was lost, or found lost at the report |
//! | `ff_worker_released` | counter | executions given back: at shutdown, because renewals were not answered, or
//! because `accept` refused them |
//! | `ff_worker_refused` | counter | executions that `accept` refused |
//! | `ff_worker_reports_abandoned` | counter | results that could not be reported before their lease had certainly run
//! out, and leases that could not be given back |
//! | `ff_worker_wakes_passed_on` | counter | signals handed to another waiting worker because this one was full |
//! | `ff_worker_rescans` | counter | scans of all partitions for work |
//! | `ff_dispatcher_marked` | counter | completions that left dependents pending |
//! | `ff_dispatcher_resolved` | counter | dependents promoted or skipped by the dispatcher |
//! | `ff_reconciler_rounds`, `_examined`, `_repaired`, `_resolved` | counter | what the reconciler did |
//! | `ff_sweeper_sweeps`, `_timers_announced` | counter | partitions swept, and timers that were announced to this
//! process |
//! | `ff_sweeper_released`, `_reclaimed`, `_ended`, `_resolved`, `_removed` | counter | what the sweeper did |
//! | `ff_engine_partitions` | gauge | partitions that this process serves |
//! | `ff_engine_peers` | gauge | active engines that share the partitions, including this one; 0 while not known |
//! | `ff_engine_errors` | counter | failed calls, by `op`; `execute` and `task` are panics of the worker outside of its
//! handler |
//! | `ff_engine_parts_ended` | counter | parts that ended although they were not stopped, by `part` |
#![forbid(unsafe_code)]

#[cfg(test)]
mod counting;
mod dispatcher;
mod engine;
mod membership;
mod meters;
mod partition_queue;
mod reconciler;
mod retry;
mod schedule;
mod share;
mod supervision;
mod sweeper;
#[cfg(test)]
mod testing;
mod wait;
pub mod worker;

pub use dispatcher::Dispatcher;
pub use engine::{Engine, EngineBuilder, EngineHealth};
pub use reconciler::DependencyReconciler;
pub use sweeper::Sweeper;
pub use wait::{WaitExt, WaitOptions};
pub use worker::{HandlerError, PermanentExt, WorkContext, Worker, WorkerBuilder, WorkerHandle};
