//! The faults of servers, connections and readers.

use std::{fmt, time::Duration};

use fastrand::Rng;
use ff_core::Scope;

use super::{Failure, run::Run, watcher::Pace};

/// How many logs are trimmed, and how many entries are kept in each.
const TRIMMED_LOGS: usize = 24;
const KEPT: usize = 5;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Fault {
    /// `kill -9` of the primary, and its restart from the append-only file.
    Crash,
    /// The same with a slow disk, so that the file lacks the last writes.
    CrashOnSlowDisk,
    /// SIGSTOP and SIGCONT of the primary.
    Pause,
    /// CLIENT KILL of all subscribers.
    KillSubscribers,
    /// CLIENT KILL of all connections.
    KillConnections,
    /// The server kills subscribers because their output buffers are full.
    OutputBuffer,
    /// The existing connections drop all data and stay open.
    BlackHole,
    /// The sentinels promote the replica without the last writes of the primary.
    Promotion,
    /// The primary's clock is set an hour ahead, and all logs begin epochs with it.
    ClockAhead,
    /// Two promotions in a row, each without the last writes of the primary, after its clock was corrected. The server
    /// in between also begins epochs that the last one does not have.
    Promotions,
    /// FLUSHALL.
    FlushAll,
    /// FUNCTION FLUSH.
    FlushFunctions,
    /// Entries are removed from logs, also before slow subscriptions have reached them.
    Trim,
    /// SIGKILL and restart of the consumer process.
    KillConsumer,
    /// A subscription is not read for a while.
    Stall,
}

impl Fault {
    /// All of them.
    pub(crate) const ALL: [Self; 15] = [
        Self::Crash,
        Self::CrashOnSlowDisk,
        Self::Pause,
        Self::KillSubscribers,
        Self::KillConnections,
        Self::OutputBuffer,
        Self::BlackHole,
        Self::Promotion,
        Self::ClockAhead,
        Self::Promotions,
        Self::FlushAll,
        Self::FlushFunctions,
        Self::Trim,
        Self::KillConsumer,
        Self::Stall,
    ];

    /// The fault with this name on the command line.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.short() == name)
    }

    /// Whether it leaves a server that must follow the new primary.
    pub(crate) const fn promotes(self) -> bool {
        matches!(self, Self::Promotion | Self::Promotions)
    }

    /// The name on the command line.
    pub(crate) const fn short(self) -> &'static str {
        match self {
            Self::Crash => "crash",
            Self::CrashOnSlowDisk => "slow-disk",
            Self::Pause => "pause",
            Self::KillSubscribers => "client-kill",
            Self::KillConnections => "client-kill-all",
            Self::OutputBuffer => "output-buffer",
            Self::BlackHole => "black-hole",
            Self::Promotion => "promotion",
            Self::ClockAhead => "clock-ahead",
            Self::Promotions => "two-promotions",
            Self::FlushAll => "flushall",
            Self::FlushFunctions => "function-flush",
            Self::Trim => "trim",
            Self::KillConsumer => "consumer-kill",
            Self::Stall => "stall",
        }
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Crash => "kill -9 and restart",
            Self::CrashOnSlowDisk => "kill -9 on a slow disk",
            Self::Pause => "SIGSTOP and SIGCONT",
            Self::KillSubscribers => "CLIENT KILL of subscribers",
            Self::KillConnections => "CLIENT KILL of all",
            Self::OutputBuffer => "output-buffer kill",
            Self::BlackHole => "black-holed connections",
            Self::Promotion => "promotion, tail lost",
            Self::ClockAhead => "a server an hour ahead",
            Self::Promotions => "two promotions, tails lost",
            Self::FlushAll => "FLUSHALL",
            Self::FlushFunctions => "FUNCTION FLUSH",
            Self::Trim => "trimming past cursors",
            Self::KillConsumer => "SIGKILL of a consumer",
            Self::Stall => "a stalled consumer",
        }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(self.name())
    }
}

fn millis(rng: &mut Rng, range: std::ops::RangeInclusive<u64>) -> Duration {
    Duration::from_millis(rng.u64(range))
}

/// Injects a fault. On return its cause is gone: the server is ready and accepts connections.
pub(crate) async fn inject(fault: Fault, run: &mut Run, rng: &mut Rng) -> Result<(), Failure> {
    let servers = run.servers.clone();
    match fault {
        Fault::Crash | Fault::CrashOnSlowDisk => {
            if fault == Fault::CrashOnSlowDisk {
                servers.primary().delay_syncs(Duration::from_millis(1_500))?;
                tokio::time::sleep(millis(rng, 1_600..=2_800)).await;
            }
            servers.primary().kill().await?;
            run.ledger.rollback();
            servers.primary().delay_syncs(Duration::ZERO)?;
            servers.primary().restart().await?;
        }
        Fault::Pause => {
            servers.primary().pause().await?;
            tokio::time::sleep(millis(rng, 200..=4_000)).await;
            servers.primary().resume().await?;
        }
        Fault::KillSubscribers => {
            servers.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
        }
        Fault::KillConnections => {
            servers.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
            servers.command(&["CLIENT", "KILL", "TYPE", "normal"]).await?;
        }
        Fault::OutputBuffer => fill_output_buffer(run).await?,
        Fault::BlackHole => servers.front().swallow(),
        Fault::Promotion => {
            servers.promote_without_tail(millis(rng, 50..=400)).await?;
            run.ledger.rollback();
        }
        Fault::ClockAhead => servers.put_ahead().await?,
        Fault::Promotions => {
            servers.promote_twice_without_tail(millis(rng, 50..=400)).await?;
            run.ledger.rollback();
        }
        Fault::FlushAll => {
            servers.command(&["FLUSHALL"]).await?;
            run.ledger.rollback();
        }
        Fault::FlushFunctions => {
            servers.command(&["FUNCTION", "FLUSH"]).await?;
        }
        Fault::Trim => {
            let mut logs: Vec<_> = servers.logs().filter(|log| log.scope == Scope::Flows).collect();
            rng.shuffle(&mut logs);
            for log in logs.into_iter().take(TRIMMED_LOGS) {
                let taken = servers.trim(log, KEPT).await?;
                run.trimmed.entry(log).or_default().extend(taken);
            }
        }
        Fault::KillConsumer => {
            run.consumer.kill_and_restart()?;
        }
        Fault::Stall => {
            let stalled = rng.usize(0..run.watchers.len());
            run.watchers[stalled].set_pace(Pace::Stalled);
            tokio::time::sleep(millis(rng, 1_000..=3_000)).await;
            run.watchers[stalled].set_usual_pace();
        }
    }
    Ok(())
}

/// Lowers the limit of the subscribers' output buffers until the server has closed a connection for it.
async fn fill_output_buffer(run: &Run) -> Result<(), Failure> {
    let servers = &run.servers;
    let limit = async |limit| servers.command(&["CONFIG", "SET", "client-output-buffer-limit", limit]).await;
    let killed_before = killed_by_buffer(run).await?;
    limit("pubsub 16kb 8kb 1").await?;
    let killed = async {
        // Completions alone may never make such a burst. Subscribers ignore other messages.
        let burst = "x".repeat(256 << 10);
        while killed_by_buffer(run).await? == killed_before {
            servers.command(&["PUBLISH", ff_script::keys::FLOW_CHANNEL, &burst]).await?;
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
        Ok::<_, Failure>(())
    };
    let killed = tokio::time::timeout(Duration::from_secs(10), killed).await;
    limit("pubsub 32mb 8mb 60").await?;
    killed.map_err(|_| "no subscriber's output buffer was ever full")?
}

async fn killed_by_buffer(run: &Run) -> Result<u64, Failure> {
    let stats = run.servers.command(&["INFO", "stats"]).await?.text();
    let killed = stats.lines().find_map(|line| line.strip_prefix("client_output_buffer_limit_disconnections:"));
    Ok(killed.ok_or("INFO has no statistics of output buffers")?.trim().parse()?)
}
