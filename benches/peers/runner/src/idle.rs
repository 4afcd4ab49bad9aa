//! The cost of ten processes that have nothing to do.

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use ff_testserver::TestServer;
use peers_kit::{Figure, READY, Record};
use tokio::io::{AsyncBufReadExt, BufReader};
use tokio::process::{Child, Command};

use crate::{Cell, Figures, cell_of};

const PROCESSES: usize = 10;
/// After this time the processes have their shares, and their first passes are over.
const SETTLED: Duration = Duration::from_secs(8);
const MEASURED: Duration = Duration::from_secs(10);
/// The time in which a process starts.
const START: Duration = Duration::from_secs(60);

/// Starts the processes with this command, and measures the server. All but the first only work.
pub(crate) async fn measure(mut command: Command, server: &TestServer) -> Result<Cell> {
    command.stdout(Stdio::piped()).stderr(Stdio::null());
    let mut processes = Vec::new();
    for number in 0..PROCESSES {
        if number == 1 {
            command.arg("worker");
        }
        let (child, line) = tokio::time::timeout(START, start(&mut command)).await.context("no process starts")??;
        if let Ok(record) = serde_json::from_str::<Record>(&line) {
            return Ok(cell_of(record));
        }
        ensure!(line.trim() == READY, "a process printed {line:?}");
        processes.push(child);
    }
    tokio::time::sleep(SETTLED).await;
    let (before, at) = (Counters::of(server).await?, Instant::now());
    tokio::time::sleep(MEASURED).await;
    let (after, seconds) = (Counters::of(server).await?, at.elapsed().as_secs_f64());
    for process in &mut processes {
        process.kill().await?;
    }
    // The two commands between the readings of the statistics.
    let commands = after.commands - before.commands - 2.0;
    Ok(Cell::Figures(Figures::from([
        (Figure::CommandRate, commands / seconds),
        (Figure::ServerShare, (after.cpu - before.cpu) / seconds * 100.0),
    ])))
}

/// A started process, with the first line that it prints.
async fn start(command: &mut Command) -> Result<(Child, String)> {
    let mut child = command.spawn().context("starting a process")?;
    let mut line = String::new();
    BufReader::new(child.stdout.as_mut().context("its output is piped")?).read_line(&mut line).await?;
    Ok((child, line))
}

struct Counters {
    commands: f64,
    cpu: f64,
}

impl Counters {
    async fn of(server: &TestServer) -> Result<Self> {
        let mut fields = BTreeMap::new();
        for section in ["commandstats", "cpu"] {
            let text = server.command(&["INFO", section]).await?.text();
            let pairs = text.lines().filter_map(|line| line.trim().split_once(':'));
            fields.extend(pairs.map(|(name, value)| (name.to_owned(), value.to_owned())));
        }
        let calls = |value: &String| value.strip_prefix("calls=")?.split(',').next()?.parse::<f64>().ok();
        let seconds = |name: &str| fields.get(name).and_then(|value| value.parse::<f64>().ok()).context("used_cpu");
        Ok(Self {
            commands: fields.values().filter_map(calls).sum(),
            cpu: seconds("used_cpu_user")? + seconds("used_cpu_sys")?,
        })
    }
}
