//! Random signals end `ff run` at random times under load: no process is left, attempts of an execution never overlap,
//! and every flow can be finished.
//!
//! `FF_KILLS` is the number of runs (default 4), `FF_KILLS_SEED` the seed of their ends.
#![allow(clippy::unwrap_used, reason = "a test fails by it")]
#![cfg(target_os = "linux")]

mod support;

use std::{
    collections::HashMap,
    env, fs,
    io::{BufRead, BufReader},
    path::Path,
    time::Duration,
};

use ff_testserver::TestServer;
use rustix::process::Signal;
use support::{
    command, ff, file, finish,
    processes::{Mark, send},
};

/// The executions of a flow: chains of this many links.
const CHAINS: usize = 6;
const LINKS: usize = 3;
/// Runs that are ended at the same time.
const AT_ONCE: usize = 4;

fn number(variable: &str, default: u64) -> u64 {
    env::var(variable).map_or(default, |text| text.parse().unwrap_or_else(|_| panic!("{variable}={text}")))
}

/// A generator that repeats with its seed.
struct Random(u64);

impl Random {
    fn below(&mut self, bound: u64) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0 % bound
    }
}

/// Every command records its start and end, leaves processes in every way, and takes a lock: overlapping attempts of
/// one execution would find it taken.
fn flow(directory: &Path) -> String {
    let run = "lock=$DIR/$FF_EXECUTION_ID.lock\n\
               exec 9> \"$lock\"\n\
               flock -n 9 || echo \"$FF_EXECUTION_ID $FF_ATTEMPT\" >> $DIR/overlaps\n\
               setsid sh -c 'trap \"\" TERM HUP INT; sleep 300' &\n\
               (sleep 301 &)\n\
               trap 'sleep 0.1; exit 1' TERM\n\
               sleep 0.3 & wait $!\n\
               echo $FF_EXECUTION_ID >> $DIR/done";
    let mut executions = serde_json::Map::new();
    for chain in 0..CHAINS {
        for link in 0..LINKS {
            let needs: Vec<_> = (link > 0).then(|| format!("n{chain}-{}", link - 1)).into_iter().collect();
            let entry = serde_json::json!({"run": run, "needs": needs, "shell": "bash"});
            executions.insert(format!("n{chain}-{link}"), entry);
        }
    }
    serde_json::json!({"env": {"DIR": directory}, "executions": executions}).to_string()
}

/// Starts a run and ends it. Returns its flow, if it got that far, and its description.
async fn ended_run(server: &TestServer, directory: &Path, signal: Signal, after: Duration) -> Option<String> {
    let mark = Mark::new();
    let (_file, path) = file("flow.yaml", &flow(directory));
    let mut command = command(&["run", &path, "--json", "--workers", "4", "--url", server.url()]);
    mark.put_on(&mut command);
    let mut child = command.spawn().unwrap();
    let stdout = child.stdout.take().unwrap();
    let reading = tokio::task::spawn_blocking(move || {
        let mut lines = BufReader::new(stdout).lines();
        let first = lines.next()?.ok()?;
        // Read to the end, so that the program never blocks.
        lines.for_each(drop);
        let started: serde_json::Value = serde_json::from_str(&first).unwrap();
        Some(started["flow_id"].as_str()?.to_owned())
    });
    tokio::time::sleep(after).await;
    send(&child, signal);
    let finished = finish(child).await;
    mark.until_gone().await;
    let flow = reading.await.unwrap();
    assert!(flow.is_some() || finished.code != 0, "{finished:?}");
    flow
}

/// Finishes a flow that was left. Returns whether it existed: its id is printed before it is submitted.
async fn finish_flow(server: &TestServer, flow: &str) -> bool {
    let resumed = ff(&["run", "--resume", flow, "--json", "--url", server.url()]).await;
    if resumed.code == 1 && resumed.stderr.contains("does not exist") {
        return false;
    }
    assert!([0, 130].contains(&resumed.code), "{resumed:?}");
    let described = ff(&["describe", flow, "--json", "--url", server.url()]).await.ok();
    let state = described.json()[0]["state"].as_str().unwrap().to_owned();
    assert!(["success", "cancelled"].contains(&state.as_str()), "{state}: {resumed:?}");
    assert!(state == "success" || resumed.code == 130, "{state}: {resumed:?}");
    true
}

async fn one(server: &TestServer, signal: Signal, after: Duration) -> &'static str {
    let directory = tempfile::tempdir().unwrap();
    let flow = ended_run(server, directory.path(), signal, after).await;
    let before = counts(directory.path());
    let submitted = match &flow {
        Some(flow) => finish_flow(server, flow).await,
        None => false,
    };
    let overlaps = fs::read_to_string(directory.path().join("overlaps")).unwrap_or_default();
    assert_eq!(overlaps, "", "{signal:?} after {after:?}");
    match before.len() {
        _ if !submitted => "before it began",
        ended if ended == CHAINS * LINKS => "when it was over",
        _ => "in the middle",
    }
}

/// How often each execution completed its work.
fn counts(directory: &Path) -> HashMap<String, usize> {
    let mut counts = HashMap::new();
    for id in fs::read_to_string(directory.join("done")).unwrap_or_default().lines() {
        *counts.entry(id.to_owned()).or_insert(0) += 1;
    }
    counts
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn runs_that_are_killed_at_random_leave_no_process_and_only_flows_that_can_be_finished() {
    let (kills, seed) = (number("FF_KILLS", 4), number("FF_KILLS_SEED", 1));
    let server = TestServer::start().await.unwrap();
    let mut random = Random(seed.max(1));
    let signals = [Signal::HUP, Signal::TERM, Signal::INT, Signal::KILL];
    let mut when = HashMap::new();
    let mut left = kills as usize;
    while left > 0 {
        let round = left.min(AT_ONCE);
        // Every signal is used, even for few runs.
        let mut draw = |index: usize| {
            let signal = signals[(left - index) % signals.len()];
            (signal, Duration::from_millis(random.below(2_000)))
        };
        let drawn: Vec<_> = (0..round).map(&mut draw).collect();
        let runs = drawn.iter().map(|(signal, after)| one(&server, *signal, *after));
        for moment in futures::future::join_all(runs).await {
            *when.entry(moment).or_insert(0) += 1;
        }
        left -= round;
    }
    println!("{kills} runs ended: {when:?}");
}
