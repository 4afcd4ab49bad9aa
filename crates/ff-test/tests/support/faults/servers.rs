//! The servers of a fault run.

use std::{
    collections::BTreeMap,
    sync::atomic::{AtomicUsize, Ordering},
    time::Duration,
};

use ff_core::{EntryId, LogId, Partition, PartitionCount, Scope};
use ff_script::keys;
use ff_test::history::{End, LogTruth};
use ff_testserver::{Proxy, RawClient, Reply, Sentinels, TestServer};

use super::Failure;

const SERVICE: &str = "flows";
/// The sentinels promote a replica only when a fault wants it; otherwise they tolerate servers that are away.
const PATIENT_MS: &str = "3600000";
const IMPATIENT_MS: &str = "300";
/// Far longer than a replica takes to sync with its primary.
const FOLLOWS_WITHIN: Duration = Duration::from_secs(120);
/// How far a clock is put ahead.
const AHEAD: Duration = Duration::from_secs(3_600);
/// How long a tenure lasts so that it begins epochs in many logs.
const TENURE: Duration = Duration::from_secs(1);
/// The entries of a log that one command reads.
const PAGE: &str = "2000";

/// A primary and a replica, sentinels over them, and a proxy to the primary.
pub(crate) struct Servers {
    nodes: [TestServer; 2],
    primary: AtomicUsize,
    sentinels: Sentinels,
    front: Proxy,
    partitions: PartitionCount,
}

/// The entries that were removed from each log.
pub(crate) type Trimmed = BTreeMap<LogId, Vec<(EntryId, End)>>;

impl Servers {
    pub(crate) async fn start(partitions: PartitionCount) -> Result<Self, Failure> {
        let node = || {
            let node = TestServer::builder().process().persistent().slow_disk().clock_ahead();
            // The output buffer of a replica is unlimited: under load it could otherwise be disconnected repeatedly
            // during its first sync.
            node.arg("--client-output-buffer-limit").arg("replica").arg("0").arg("0").arg("0").build()
        };
        let nodes = [node().await?, node().await?];
        follow(&nodes[1], &nodes[0]).await?;
        let sentinels = Sentinels::watching(&nodes[0], SERVICE).start().await?;
        let front = Proxy::open(nodes[0].port()).await?;
        let servers = Self { nodes, primary: AtomicUsize::new(0), sentinels, front, partitions };
        servers.set_down_after(PATIENT_MS).await?;
        Ok(servers)
    }

    pub(crate) fn primary(&self) -> &TestServer {
        &self.nodes[self.primary.load(Ordering::SeqCst)]
    }

    fn replica(&self) -> &TestServer {
        &self.nodes[1 - self.primary.load(Ordering::SeqCst)]
    }

    /// The URL of the primary through the proxy.
    pub(crate) fn front_url(&self) -> String {
        format!("redis://127.0.0.1:{}", self.front.port())
    }

    /// The URL of the primary through the sentinels.
    pub(crate) fn sentinel_url(&self) -> String {
        format!("redis-sentinel://{}/{SERVICE}", self.sentinels.hosts())
    }

    pub(crate) const fn partitions(&self) -> PartitionCount {
        self.partitions
    }

    pub(crate) const fn front(&self) -> &Proxy {
        &self.front
    }

    /// Sends a command to the primary and expects success.
    pub(crate) async fn command(&self, args: &[&str]) -> Result<Reply, Failure> {
        accepted(args, self.primary().command(args).await?)
    }

    /// Disconnects the replica, waits for `tail`, kills the primary, and lets the replica be promoted without that
    /// tail.
    pub(crate) async fn promote_without_tail(&self, tail: Duration) -> Result<(), Failure> {
        self.cut_off().await?;
        tokio::time::sleep(tail).await;
        self.promote().await
    }

    /// Sets the primary's clock an hour ahead, and corrects that of the other server. The primary then begins epochs.
    pub(crate) async fn put_ahead(&self) -> Result<(), Failure> {
        self.replica().set_clock_ahead(Duration::ZERO)?;
        self.primary().set_clock_ahead(AHEAD)?;
        self.command(&["FUNCTION", "FLUSH"]).await?;
        Ok(())
    }

    /// Promotes each server once, without the last writes of the other, the first from a clock that was an hour ahead.
    /// The server in between is restarted when it is disconnected, so that two tenures begin epochs from the same logs.
    pub(crate) async fn promote_twice_without_tail(&self, tail: Duration) -> Result<(), Failure> {
        self.put_ahead().await?;
        tokio::time::sleep(TENURE).await;
        self.promote_without_tail(tail).await?;
        self.replica().set_clock_ahead(Duration::ZERO)?;
        self.complete().await?;
        self.cut_off().await?;
        self.primary().kill().await?;
        self.primary().restart().await?;
        tokio::time::sleep(TENURE).await;
        self.promote().await
    }

    /// Disconnects the replica.
    async fn cut_off(&self) -> Result<(), Failure> {
        // After a crash of the primary it syncs again. No sentinel promotes a replica before that.
        keeps_up(self.replica()).await?;
        self.replica().pause().await?;
        self.command(&["CLIENT", "KILL", "TYPE", "replica"]).await?;
        Ok(())
    }

    /// Kills the primary and lets the disconnected replica be promoted.
    async fn promote(&self) -> Result<(), Failure> {
        let (former, next) = (self.primary(), self.replica());
        former.kill().await?;
        next.resume().await?;
        self.set_down_after(IMPATIENT_MS).await?;
        self.sentinels.promoted(former).await?;
        self.set_down_after(PATIENT_MS).await?;
        self.primary.fetch_xor(1, Ordering::SeqCst);
        self.front.lead_to(next.port());
        Ok(())
    }

    /// Restarts the server that a promotion killed, as the replica of the other.
    pub(crate) async fn complete(&self) -> Result<(), Failure> {
        self.replica().restart().await?;
        follow(self.replica(), self.primary()).await
    }

    async fn set_down_after(&self, millis: &str) -> Result<(), Failure> {
        for sentinel in self.sentinels.nodes() {
            let set = ["SENTINEL", "SET", SERVICE, "down-after-milliseconds", millis];
            accepted(&set, sentinel.command(&set).await?)?;
        }
        Ok(())
    }

    pub(crate) fn logs(&self) -> impl Iterator<Item = LogId> + use<> {
        let partitions = (0..self.partitions.get()).map(Partition::new);
        partitions.flat_map(|partition| [Scope::Flows, Scope::Solo].map(|scope| LogId { partition, scope }))
    }

    /// The content of the logs, read from the primary without the code under test.
    pub(crate) async fn truths(&self, trimmed: &Trimmed) -> Result<BTreeMap<LogId, LogTruth>, Failure> {
        let mut client = self.primary().client().await?;
        let mut truths = BTreeMap::new();
        for log in self.logs() {
            let trimmed = trimmed.get(&log).cloned().unwrap_or_default();
            truths.insert(log, truth(&mut client, log, trimmed).await?);
        }
        Ok(truths)
    }

    /// The histories of the logs, without their entries.
    pub(crate) async fn histories(&self) -> Result<BTreeMap<LogId, LogTruth>, Failure> {
        let mut client = self.primary().client().await?;
        let mut histories = BTreeMap::new();
        for log in self.logs() {
            histories.insert(log, history(&mut client, log, None, Vec::new(), Vec::new()).await?);
        }
        Ok(histories)
    }

    /// Removes all but the last `keep` entries from a log, and returns them.
    pub(crate) async fn trim(&self, log: LogId, keep: usize) -> Result<Vec<(EntryId, End)>, Failure> {
        let key = keys::completion_log(log);
        let mut client = self.primary().client().await?;
        for queued in [vec!["MULTI"], vec!["XRANGE", &key, "-", "+"], vec!["XTRIM", &key, "MAXLEN", &keep.to_string()]]
        {
            accepted(&queued, client.command(&queued).await?)?;
        }
        let done = accepted(&["EXEC"], client.command(&["EXEC"]).await?)?;
        let held = entries(&done.items()[0])?;
        let taken = held.len().saturating_sub(keep);
        Ok(held[..taken].to_vec())
    }
}

/// Makes a server the replica of another one, and waits until it is in sync.
async fn follow(replica: &TestServer, primary: &TestServer) -> Result<(), Failure> {
    let args = ["REPLICAOF", "127.0.0.1", &primary.port().to_string()];
    accepted(&args, replica.command(&args).await?)?;
    keeps_up(replica).await
}

/// Waits until a replica is in sync.
async fn keeps_up(replica: &TestServer) -> Result<(), Failure> {
    let up = async {
        while !replica.command(&["INFO", "replication"]).await?.text().contains("master_link_status:up") {
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        Ok::<_, Failure>(())
    };
    match tokio::time::timeout(FOLLOWS_WITHIN, up).await {
        Ok(followed) => followed,
        Err(_) => {
            let reply = replica.command(&["INFO", "replication"]).await?;
            Err(format!("the replica does not follow after {FOLLOWS_WITHIN:?}: {reply}").into())
        }
    }
}

fn accepted(args: &[&str], reply: Reply) -> Result<Reply, Failure> {
    if reply.is_error() { Err(format!("{args:?}: {reply}").into()) } else { Ok(reply) }
}

async fn truth(client: &mut RawClient, log: LogId, trimmed: Vec<(EntryId, End)>) -> Result<LogTruth, Failure> {
    let key = keys::completion_log(log);
    let mut held: Vec<(EntryId, End)> = Vec::new();
    loop {
        let from = held.last().map_or_else(|| "-".to_owned(), |(last, _)| format!("({last}"));
        let page = entries(&client.command(&["XRANGE", &key, &from, "+", "COUNT", PAGE]).await?)?;
        if page.is_empty() {
            break;
        }
        held.extend(page);
    }
    let last = held.last().map(|(last, _)| *last);
    history(client, log, last, held, trimmed).await
}

/// The log's history with these entries; `last` is the last of them.
async fn history(
    client: &mut RawClient,
    log: LogId,
    last: Option<EntryId>,
    held: Vec<(EntryId, End)>,
    trimmed: Vec<(EntryId, End)>,
) -> Result<LogTruth, Failure> {
    let about = client.command(&["XINFO", "STREAM", &keys::completion_log(log)]).await?;
    let named = about.items().chunks_exact(2).find(|pair| pair[0].text() == "last-generated-id");
    let generated: Option<EntryId> = named.and_then(|pair| pair[1].text().parse().ok());
    let epochs = client.command(&["HGETALL", &keys::log_epochs(log)]).await?;
    let epoch = |pair: &[Reply]| Some((pair[0].text().parse().ok()?, pair[1].text().parse().ok()));
    let epochs: Vec<(u64, Option<EntryId>)> = epochs.items().chunks_exact(2).filter_map(epoch).collect();
    Ok(LogTruth::new(last.or(generated), &epochs, held, trimmed))
}

/// The entries of an XRANGE: their positions and ends.
fn entries(reply: &Reply) -> Result<Vec<(EntryId, End)>, Failure> {
    let entry = |entry: &Reply| {
        let at = entry.items()[0].text().parse()?;
        let event = entry.items()[1].items().chunks_exact(2).find(|pair| pair[0].text() == "e");
        let event: serde_json::Value = serde_json::from_str(&event.ok_or("an entry without its event")?[1].text())?;
        let execution = event["execution_id"].as_str().ok_or("an event without its execution")?.parse()?;
        let generation = event["gen"].as_u64().and_then(|life| u32::try_from(life).ok()).unwrap_or(0);
        Ok((at, End { execution, generation }))
    };
    reply.items().iter().map(entry).collect()
}
