//! The cost of a subscription that is not read while a million completions pass: the memory of the process, and the
//! time of the other subscriptions. Runs with and without it alternate.
//!
//! `cargo run --release -p ff-benches --example stalled -- [COMPLETIONS] [RUNS]`

use std::{
    alloc::System,
    sync::atomic::{AtomicBool, Ordering},
    time::{Duration, Instant},
};

use ff_benches::Bench;
use ff_core::{Frame, SubscribeOptions, Subscription};
use ff_script::operations::LogPolicy;
use futures::StreamExt;
use stats_alloc::{INSTRUMENTED_SYSTEM, StatsAlloc};

#[global_allocator]
static ALLOCATOR: &StatsAlloc<System> = &INSTRUMENTED_SYSTEM;

/// The members of a flow, which is cancelled right after its submission.
const MEMBERS: usize = 1_000;
const OTHERS: usize = 4;
const MIB: f64 = (1 << 20) as f64;

/// The result of one run.
struct Measured {
    /// The peak of allocated memory beyond that before the first completion, in bytes.
    grown: usize,
    /// From the first submission until the others had everything.
    took: Duration,
    /// How long the stalled subscription then took to get everything.
    caught_up: Option<Duration>,
}

fn allocated() -> usize {
    let stats = ALLOCATOR.stats();
    stats.bytes_allocated.saturating_sub(stats.bytes_deallocated)
}

async fn completions(subscription: &mut Subscription, count: usize) {
    let mut seen = 0;
    while seen < count {
        match subscription.next().await.expect("a subscription does not end") {
            Frame::Completion(_) => seen += 1,
            Frame::Gap(gap) => panic!("{gap}"),
            _ => {}
        }
    }
}

async fn flood(bench: &Bench, count: usize) {
    for _ in 0..count / MEMBERS {
        let flow = bench.submit(MEMBERS).await;
        bench.backend.cancel_flow(flow.flow_id, "flood").await.expect("the server is up");
    }
}

async fn measure(bench: &Bench, count: usize, stalled: bool) -> Measured {
    let subscribe = async || bench.backend.subscribe(&SubscribeOptions::new()).await.expect("the server is up");
    let mut others = Vec::new();
    for _ in 0..OTHERS {
        others.push(subscribe().await);
    }
    let mut stalled = if stalled { Some(subscribe().await) } else { None };
    let (before, over) = (allocated(), AtomicBool::new(false));
    let sampled = async {
        let mut most = 0;
        while !over.load(Ordering::Relaxed) {
            most = most.max(allocated());
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        most
    };
    let started = Instant::now();
    let worked = async {
        let read = futures::future::join_all(others.iter_mut().map(|other| completions(other, count)));
        futures::join!(flood(bench, count), read);
        over.store(true, Ordering::Relaxed);
        started.elapsed()
    };
    let (most, took) = futures::join!(sampled, worked);
    let mut caught_up = None;
    if let Some(stalled) = &mut stalled {
        let started = Instant::now();
        completions(stalled, count).await;
        caught_up = Some(started.elapsed());
    }
    Measured { grown: most.saturating_sub(before), took, caught_up }
}

#[allow(clippy::cast_precision_loss, reason = "far below 2^52")]
fn main() -> Result<(), std::num::ParseIntError> {
    let mut numbers = std::env::args().skip(1).map(|number| number.parse::<usize>());
    let mut number = |default| numbers.next().unwrap_or(Ok(default));
    let (count, runs) = (number(1_000_000)?, number(3)?);
    println!("{count} completions, {OTHERS} subscriptions that are read\n");
    println!("stalled one  grown by (MiB)  others done (s)  it caught up (s)");
    for run in 0..2 * runs {
        // The partitions get different numbers of flows; the fullest log must keep all of its entries.
        let everything = LogPolicy { flow_entries: count as u64, flow_bytes: 256 << 20, ..LogPolicy::default() };
        let bench = Bench::keeping(everything);
        let measured = bench.runtime.block_on(measure(&bench, count, run % 2 == 1));
        let caught_up = measured.caught_up.map_or_else(|| "-".into(), |took| format!("{:.1}", took.as_secs_f64()));
        let with = if run % 2 == 1 { "yes" } else { "no" };
        let (grown, took) = (measured.grown as f64 / MIB, measured.took.as_secs_f64());
        println!("{with:<11}  {grown:>14.1}  {took:>15.1}  {caught_up:>16}");
    }
    Ok(())
}
