//! What is done to servers, connections and readers.

use std::{fmt, time::Duration};

use fastrand::Rng;
use ff_core::Scope;

use super::{Failure, run::Run, watcher::Pace};

/// How many logs a trim takes from, and what it leaves of each.
const TRIMMED_LOGS: usize = 24;
const KEPT: usize = 5;

/// A kind of fault.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Fault {
    /// `kill -9` of the primary, and its restart from the append-only file.
    Crash,
    /// The same while its disk is slow, so that the file lacks what was written last.
    CrashOnSlowDisk,
    /// SIGSTOP and SIGCONT of the primary.
    Pause,
    /// CLIENT KILL of all subscribers.
    KillSubscribers,
    /// CLIENT KILL of all connections.
    KillConnections,
    /// Subscribers are killed by the server because their output buffers are full.
    OutputBuffer,
    /// The connections that there are swallow everything and stay open.
    BlackHole,
    /// The replica is promoted by the sentinels without what the primary did last.
    Promotion,
    /// The primary's clock is an hour ahead from now on, and all logs begin epochs there.
    ClockAhead,
    /// Two promotions in a row without what the primary did last, after its clock was put right. The server in between
    /// also begins epochs that the last one knows nothing of.
    Promotions,
    /// FLUSHALL.
    FlushAll,
    /// FUNCTION FLUSH.
    FlushFunctions,
    /// Entries are removed from logs, also before slow subscriptions have come to them.
    Trim,
    /// SIGKILL of the process that consumes, and its restart.
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

    /// The one with this name on the command line.
    pub(crate) fn named(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|fault| fault.short() == name)
    }

    /// Whether it leaves a server behind that is to follow the new primary.
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
            Self::KillConnections => "CLIENT KILL of everybody",
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

/// Makes a fault. When this returns the cause is gone: the server is ready, the connections can be made.
pub(crate) async fn inject(fault: Fault, run: &mut Run, rng: &mut Rng) -> Result<(), Failure> {
    let stage = run.stage.clone();
    match fault {
        Fault::Crash | Fault::CrashOnSlowDisk => {
            if fault == Fault::CrashOnSlowDisk {
                stage.primary().delay_syncs(Duration::from_millis(1_500))?;
                tokio::time::sleep(millis(rng, 1_600..=2_800)).await;
            }
            stage.primary().kill().await?;
            run.book.undone();
            stage.primary().delay_syncs(Duration::ZERO)?;
            stage.primary().restart().await?;
        }
        Fault::Pause => {
            stage.primary().pause().await?;
            tokio::time::sleep(millis(rng, 200..=4_000)).await;
            stage.primary().resume().await?;
        }
        Fault::KillSubscribers => {
            stage.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
        }
        Fault::KillConnections => {
            stage.command(&["CLIENT", "KILL", "TYPE", "pubsub"]).await?;
            stage.command(&["CLIENT", "KILL", "TYPE", "normal"]).await?;
        }
        Fault::OutputBuffer => {
            let limit = async |limit| stage.command(&["CONFIG", "SET", "client-output-buffer-limit", limit]).await;
            let killed_before = killed_by_buffer(run).await?;
            limit("pubsub 16kb 8kb 1").await?;
            let killed = async {
                // Completions alone may never come in such a burst. Subscribers pass over what is no completion.
                let burst = "x".repeat(256 << 10);
                while killed_by_buffer(run).await? == killed_before {
                    stage.command(&["PUBLISH", ff_script::keys::FLOW_CHANNEL, &burst]).await?;
                    tokio::time::sleep(Duration::from_millis(5)).await;
                }
                Ok::<_, Failure>(())
            };
            let killed = tokio::time::timeout(Duration::from_secs(10), killed).await;
            limit("pubsub 32mb 8mb 60").await?;
            killed.map_err(|_| "no subscriber's output buffer was ever full")??;
        }
        Fault::BlackHole => stage.front().swallow(),
        Fault::Promotion => {
            stage.promote_without_tail(millis(rng, 50..=400)).await?;
            run.book.undone();
        }
        Fault::ClockAhead => stage.put_ahead().await?,
        Fault::Promotions => {
            stage.promote_twice_without_tail(millis(rng, 50..=400)).await?;
            run.book.undone();
        }
        Fault::FlushAll => {
            stage.command(&["FLUSHALL"]).await?;
            run.book.undone();
        }
        Fault::FlushFunctions => {
            stage.command(&["FUNCTION", "FLUSH"]).await?;
        }
        Fault::Trim => {
            let mut logs: Vec<_> = stage.logs().filter(|log| log.scope == Scope::Flows).collect();
            rng.shuffle(&mut logs);
            for log in logs.into_iter().take(TRIMMED_LOGS) {
                let taken = stage.trim(log, KEPT).await?;
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

async fn killed_by_buffer(run: &Run) -> Result<u64, Failure> {
    let stats = run.stage.command(&["INFO", "stats"]).await?.text();
    let killed = stats.lines().find_map(|line| line.strip_prefix("client_output_buffer_limit_disconnections:"));
    Ok(killed.ok_or("INFO says nothing of output buffers")?.trim().parse()?)
}
