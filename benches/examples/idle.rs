//! The cost of idle processes for the server: calls, bytes and time, for 1 and for 10 processes, each with an engine, a
//! worker and a subscription.
//!
//! `cargo xtask test -- …` provides a server as for tests; then
//! `cargo run -p ff-benches --example idle -- [SECONDS] [PROCESSES,…]`. With `-v` it names the commands.

use std::{
    collections::BTreeMap,
    io::{BufRead as _, BufReader},
    process::{Child, Command, Stdio},
    sync::Arc,
    time::Duration,
};

use bytes::Bytes;
use ff_core::CompletionBackend;
use ff_engine::{Engine, WorkContext, Worker};
use ff_testserver::TestServer;
use ff_valkey::ValkeyBackend;
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

/// The variable with the server's URL that makes this program an idle process.
const SERVER: &str = "FF_IDLE_SERVER";
const READY: &str = "ready";
/// After this time the processes have their shares, and their first passes are over.
const SETTLED: Duration = Duration::from_secs(15);

/// Runs the engine, a worker and a subscription until the process is killed.
async fn idle(url: &str) {
    let backend = Arc::new(ValkeyBackend::connect(url).await.expect("the server is up"));
    let mut completions = backend.subscribe_completions().await.expect("the server is up");
    let _engine = Engine::builder(backend.clone()).start().await.expect("the server is up");
    let handler = |_: WorkContext| async { Ok(Bytes::new()) };
    let worker = Worker::builder().handler(handler).build(backend.clone()).expect("the settings are valid");
    println!("{READY}");
    tokio::select! {
        _ = completions.next() => panic!("nothing was submitted"),
        ended = worker.run(CancellationToken::new()) => panic!("the worker ended: {ended:?}"),
    }
}

/// Processes that are killed when this is dropped.
struct Idle(Vec<Child>);

impl Idle {
    fn start(url: &str, processes: usize) -> Self {
        let program = std::env::current_exe().expect("a running program has a path");
        let start = |_| {
            let mut child = Command::new(&program).env(SERVER, url).stdout(Stdio::piped()).spawn().expect("it starts");
            let mut line = String::new();
            let output = child.stdout.as_mut().expect("its output is piped");
            BufReader::new(output).read_line(&mut line).expect("it says when it is ready");
            assert_eq!(line.trim(), READY);
            child
        };
        Self((0..processes).map(start).collect())
    }
}

impl Drop for Idle {
    fn drop(&mut self) {
        for child in &mut self.0 {
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

/// The server's counters.
struct Counts {
    cpu_seconds: f64,
    received: f64,
    sent: f64,
    /// Calls by command, and the microseconds that they took.
    calls: BTreeMap<String, [f64; 2]>,
}

impl Counts {
    async fn of(server: &TestServer) -> Self {
        let mut fields = BTreeMap::new();
        for section in ["cpu", "stats", "commandstats"] {
            let text = server.command(&["INFO", section]).await.expect("the server is up").text();
            let pairs = text.lines().filter_map(|line| line.split_once(':'));
            fields.extend(pairs.map(|(name, value)| (name.to_owned(), value.trim().to_owned())));
        }
        let number = |name: &str| fields.get(name).and_then(|value| value.parse::<f64>().ok()).unwrap_or_default();
        let calls = fields.iter().filter_map(|(name, value)| {
            let name = name.strip_prefix("cmdstat_")?;
            let number = |key: &str| value.split(',').find_map(|pair| pair.strip_prefix(key)?.parse().ok());
            Some((name.to_owned(), [number("calls=")?, number("usec=")?]))
        });
        Self {
            cpu_seconds: number("used_cpu_sys") + number("used_cpu_user"),
            received: number("total_net_input_bytes"),
            sent: number("total_net_output_bytes"),
            calls: calls.collect(),
        }
    }
}

async fn measure(processes: usize, seconds: u64, verbose: bool) {
    let server = TestServer::start().await.expect("a server starts");
    let _idle = Idle::start(server.url(), processes);
    tokio::time::sleep(SETTLED).await;
    let before = Counts::of(&server).await;
    tokio::time::sleep(Duration::from_secs(seconds)).await;
    let after = Counts::of(&server).await;
    #[expect(clippy::cast_precision_loss, reason = "a rate needs no more than a float holds")]
    let (span, each) = (seconds as f64, processes as f64);
    let rates = after.calls.iter().map(|(name, [calls, micros])| {
        let [calls_before, micros_before] = before.calls.get(name).unwrap_or(&[0.0; 2]);
        (name, (calls - calls_before) / span, (micros - micros_before) / span)
    });
    let rates: Vec<_> = rates.collect();
    let sum = |wanted: &dyn Fn(&str) -> bool| -> f64 {
        rates.iter().filter(|(name, ..)| wanted(name)).map(|(_, calls, _)| calls).sum()
    };
    println!(
        "| {processes} | {:.0} | {:.0} | {:.1} | {:.1} | {:.2} % |",
        sum(&|name| name.starts_with("fcall")),
        sum(&|_| true),
        (after.received - before.received) / span / each / 1_000.0,
        (after.sent - before.sent) / span / each / 1_000.0,
        (after.cpu_seconds - before.cpu_seconds) / span * 100.0,
    );
    if verbose {
        for (name, calls, micros) in rates.iter().filter(|(_, calls, _)| *calls >= 0.1) {
            println!("    {name}: {calls:.1}/s, {:.2} % of the time", micros / 10_000.0);
        }
    }
}

#[tokio::main(flavor = "multi_thread", worker_threads = 2)]
async fn main() {
    if let Ok(url) = std::env::var(SERVER) {
        return idle(&url).await;
    }
    let (options, numbers): (Vec<_>, Vec<_>) = std::env::args().skip(1).partition(|argument| argument == "-v");
    let seconds = numbers.first().map_or(30, |text| text.parse().expect("the seconds are a number"));
    let processes = numbers.get(1).map_or("1,10", String::as_str);
    println!(
        "| processes | functions/s | commands/s, with those within functions | KB/s from each | KB/s to each | server |"
    );
    println!("| --- | --- | --- | --- | --- | --- |");
    for processes in processes.split(',') {
        measure(processes.parse().expect("processes are a number"), seconds, !options.is_empty()).await;
    }
}
