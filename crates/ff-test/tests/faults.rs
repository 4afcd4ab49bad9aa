//! A short run of faults on real servers under load, checked by the history checker. `cargo xtask faults` runs long
//! ones.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

#[path = "support/faults/mod.rs"]
mod faults;

use std::time::Duration;

use faults::{Fault, Plan};
use ff_core::PartitionCount;

/// Every kind of fault once.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn every_kind_of_fault_loses_and_repeats_nothing_undeclared() {
    let plan = Plan {
        seed: 1,
        faults: Plan::random_faults(1, &Fault::ALL, Fault::ALL.len()),
        completions: 30_000,
        partitions: PartitionCount::new(32).unwrap(),
        pause: Duration::ZERO,
        consumer_args: &["a_consumer", "--exact", "--ignored", "--nocapture"],
        report: |line| println!("{line}"),
    };
    let report = faults::run(&plan).await.unwrap();
    println!("{report}");
    assert!(report.is_clean(), "{report}");
}

#[test]
#[ignore = "the process of its own that the run above starts and kills"]
fn a_consumer() {
    faults::consume_if_asked().unwrap();
}
