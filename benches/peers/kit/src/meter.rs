//! Measures the server and this process between two moments.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result};
use ff_testserver::RawClient;

use crate::record::Figure;

/// How many commands the probes of this process have sent. They are not the contender's.
static SENT: AtomicU64 = AtomicU64::new(0);

/// A connection that observes the server. Its commands do not count.
#[derive(Debug)]
pub struct Probe(RawClient);

impl Probe {
    /// Connects to the server at `redis://127.0.0.1:PORT`.
    ///
    /// # Errors
    /// If no server listens there.
    pub async fn connect(url: &str) -> Result<Self> {
        Ok(Self(RawClient::connect(port(url)?).await?))
    }

    /// The number that a command answers, such as `ZCARD`.
    ///
    /// # Errors
    /// If the connection ends.
    pub async fn number(&mut self, command: &[&str]) -> Result<usize> {
        SENT.fetch_add(1, Ordering::Relaxed);
        Ok(usize::try_from(self.0.command(command).await?.int().unwrap_or_default())?)
    }

    /// Returns once the number that a command answers is at least `wanted`; asks every millisecond.
    ///
    /// # Errors
    /// As [`number`](Self::number).
    pub async fn until(&mut self, command: &[&str], wanted: usize) -> Result<()> {
        while self.number(command).await? < wanted {
            tokio::time::sleep(Duration::from_millis(1)).await;
        }
        Ok(())
    }

    /// The bytes that the server has allocated.
    pub(crate) async fn used_memory(&mut self) -> Result<f64> {
        self.info("memory").await?.get("used_memory").and_then(|text| text.parse().ok()).context("used_memory")
    }

    async fn info(&mut self, section: &str) -> Result<BTreeMap<String, String>> {
        SENT.fetch_add(1, Ordering::Relaxed);
        let text = self.0.command(&["INFO", section]).await?.text();
        let fields = text.lines().filter_map(|line| line.trim().split_once(':'));
        Ok(fields.map(|(name, value)| (name.to_owned(), value.to_owned())).collect())
    }

    async fn server_cpu(&mut self) -> Result<f64> {
        let info = self.info("cpu").await?;
        let seconds = |name: &str| info.get(name).and_then(|text| text.parse::<f64>().ok()).context("used_cpu");
        Ok(seconds("used_cpu_user")? + seconds("used_cpu_sys")?)
    }

    /// The commands that others have called.
    async fn commands(&mut self) -> Result<f64> {
        let info = self.info("commandstats").await?;
        let calls = |value: &String| value.strip_prefix("calls=")?.split(',').next()?.parse::<f64>().ok();
        let all: f64 = info.values().filter_map(calls).sum();
        // The statistics contain all probes but the one that read them.
        Ok(all - (SENT.load(Ordering::Relaxed) - 1) as f64)
    }
}

/// The port of `redis://127.0.0.1:PORT`.
fn port(url: &str) -> Result<u16> {
    let (_, port) = url.trim_end_matches('/').rsplit_once(':').context("the URL has no port")?;
    Ok(port.parse()?)
}

fn client_cpu() -> Duration {
    let time = rustix::time::clock_gettime(rustix::time::ClockId::ProcessCPUTime);
    Duration::new(time.tv_sec.unsigned_abs(), u32::try_from(time.tv_nsec).unwrap_or_default())
}

/// The counters at a moment.
#[derive(Debug)]
pub(crate) struct Meter {
    probe: Probe,
    at: Instant,
    client: Duration,
    server: f64,
    commands: f64,
}

impl Meter {
    pub(crate) async fn start(url: &str) -> Result<Self> {
        let mut probe = Probe::connect(url).await?;
        let commands = probe.commands().await?;
        let server = probe.server_cpu().await?;
        Ok(Self { probe, at: Instant::now(), client: client_cpu(), server, commands })
    }

    pub(crate) fn elapsed(&self) -> Duration {
        self.at.elapsed()
    }

    /// What so many executions have cost each.
    pub(crate) async fn per_execution(mut self, executions: usize) -> Result<BTreeMap<Figure, f64>> {
        let client = client_cpu() - self.client;
        let server = self.probe.server_cpu().await? - self.server;
        let commands = self.probe.commands().await? - self.commands;
        let each = |sum: f64| sum / executions as f64;
        Ok(BTreeMap::from([
            (Figure::ServerCpu, each(server * 1e6)),
            (Figure::ClientCpu, each(client.as_secs_f64() * 1e6)),
            (Figure::Commands, each(commands)),
        ]))
    }
}
