//! Sentinels: processes that monitor a primary, and promote a replica when it is down or on request.

use std::time::{Duration, Instant};

use crate::error::{Error, Result};
use crate::raw::Reply;
use crate::server::TestServer;

/// Far longer than sentinels need to discover one another, or to promote a replica.
const PATIENCE: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(20);
/// How long a primary must be silent before a sentinel considers it down.
const DOWN_AFTER_MS: u32 = 1_000;
/// After twice this time a failover is tried again.
const FAILOVER_TIMEOUT_MS: u32 = 3_000;

/// Sentinels that know one another, the primary and its replicas.
///
/// Dropping them ends them. Each is a [`TestServer`] that can be paused, killed and restarted.
///
/// ```no_run
/// # use ff_testserver::{Sentinels, TestServer};
/// # async fn example() -> Result<(), ff_testserver::Error> {
/// let primary = TestServer::builder().process().build().await?;
/// let replica = TestServer::builder().process().replica_of(&primary).build().await?;
/// primary.replicas_in_step(1).await?;
/// let sentinels = Sentinels::watching(&primary, "orders").count(3).start().await?;
/// primary.kill().await?;
/// assert_eq!(sentinels.promoted(&primary).await?, replica.port());
/// # Ok(()) }
/// ```
#[derive(Debug)]
pub struct Sentinels {
    name: String,
    nodes: Vec<TestServer>,
}

/// Options of sentinels; from [`Sentinels::watching`].
#[derive(Debug)]
#[must_use]
pub struct SentinelsBuilder<'a> {
    primary: &'a TestServer,
    name: String,
    count: usize,
    password: Option<String>,
}

impl SentinelsBuilder<'_> {
    /// Starts this many sentinels, the majority of which must agree; default 1.
    pub fn count(mut self, count: usize) -> Self {
        self.count = count.max(1);
        self
    }

    /// Sets the password of the sentinels' own default user.
    pub fn password(mut self, password: impl Into<String>) -> Self {
        self.password = Some(password.into());
        self
    }

    /// Starts the sentinels. Returns once they know one another and the replicas that follow the primary now.
    ///
    /// # Errors
    /// [`Error::NeedsProcess`] if the primary is not a process of this machine; as for a server.
    ///
    /// # Cancel safety
    /// A dropped future leaves no sentinel behind.
    pub async fn start(self) -> Result<Sentinels> {
        let program = self.primary.program().await.ok_or(Error::NeedsProcess { what: "Sentinels::watching()" })?;
        let replicas = connected_replicas(self.primary).await?;
        let mut nodes = Vec::new();
        for _ in 0..self.count {
            nodes.push(TestServer::sentinel(&program, self.password.clone(), &self.settings()).await?);
        }
        let sentinels = Sentinels { name: self.name, nodes };
        sentinels.acquainted(replicas).await?;
        Ok(sentinels)
    }

    fn settings(&self) -> String {
        let Self { name, primary, count, password } = self;
        let (port, quorum) = (primary.port(), count / 2 + 1);
        let mut lines = vec![
            format!("sentinel monitor {name} 127.0.0.1 {port} {quorum}"),
            format!("sentinel down-after-milliseconds {name} {DOWN_AFTER_MS}"),
            format!("sentinel failover-timeout {name} {FAILOVER_TIMEOUT_MS}"),
        ];
        lines.extend(primary.password().map(|password| format!("sentinel auth-pass {name} \"{password}\"")));
        if let Some(password) = password {
            lines.extend([format!("requirepass \"{password}\""), format!("sentinel sentinel-pass \"{password}\"")]);
        }
        lines.join("\n") + "\n"
    }
}

impl Sentinels {
    /// Sentinels for this primary, under this name. It must be a process of this machine without TLS, see
    /// [`Builder::process`](crate::Builder::process).
    pub fn watching(primary: &TestServer, name: impl Into<String>) -> SentinelsBuilder<'_> {
        SentinelsBuilder { primary, name: name.into(), count: 1, password: None }
    }

    /// The sentinels, each of which can be queried, paused, killed and restarted.
    #[must_use]
    pub fn nodes(&self) -> &[TestServer] {
        &self.nodes
    }

    /// Their addresses in the format of a URL: `127.0.0.1:20001,127.0.0.1:20002`.
    #[must_use]
    pub fn hosts(&self) -> String {
        self.nodes.iter().map(|node| format!("127.0.0.1:{}", node.port())).collect::<Vec<_>>().join(",")
    }

    /// The port of the primary, by the first sentinel that answers.
    ///
    /// # Errors
    /// If no sentinel answers.
    pub async fn primary(&self) -> Result<u16> {
        let mut answer = Err(Error::Protocol("there is no sentinel".into()));
        for node in &self.nodes {
            answer = self.primary_by(node).await;
            if answer.is_ok() {
                break;
            }
        }
        answer
    }

    async fn primary_by(&self, node: &TestServer) -> Result<u16> {
        let asked = ["SENTINEL", "GET-MASTER-ADDR-BY-NAME", &self.name];
        let answer = node.command(&asked).await?;
        let port = answer.items().get(1).and_then(|port| port.text().parse().ok());
        port.ok_or_else(|| Error::Protocol(answer.text()))
    }

    /// Promotes a replica although the primary is healthy, and returns its port once all sentinels name it. The former
    /// primary is demoted about ten seconds later; until then both accept writes, and those of the former primary are
    /// lost.
    ///
    /// # Errors
    /// If a sentinel does not answer, or the failover does not happen.
    pub async fn failover(&self) -> Result<u16> {
        let former = self.primary().await?;
        self.until("begin a failover", async || {
            let answer = self.nodes[0].command(&["SENTINEL", "FAILOVER", &self.name]).await?;
            // A replica is eligible only some time after it was discovered.
            Ok((!answer.is_error()).then_some(()).ok_or_else(|| answer.text()))
        })
        .await?;
        self.away_from(former).await
    }

    /// Waits until all sentinels name another primary than this one, and returns its port.
    ///
    /// # Errors
    /// If a sentinel does not answer, or does not name another primary.
    pub async fn promoted(&self, former: &TestServer) -> Result<u16> {
        self.away_from(former.port()).await
    }

    async fn away_from(&self, former: u16) -> Result<u16> {
        self.until("name a new primary", async || {
            let first = self.primary_by(&self.nodes[0]).await?;
            for node in &self.nodes {
                let named = self.primary_by(node).await?;
                if named == former || named != first {
                    return Ok(Err(format!("the one at {} names {named}", node.port())));
                }
            }
            Ok(Ok(first))
        })
        .await
    }

    async fn acquainted(&self, replicas: usize) -> Result<()> {
        let others = self.nodes.len() - 1;
        self.until("find one another and the replicas", async || {
            for node in &self.nodes {
                let known = node.command(&["SENTINEL", "MASTER", &self.name]).await?;
                let known = Known::read(&known);
                if known.others != Some(others) || known.replicas < Some(replicas) {
                    return Ok(Err(format!("the one at {} knows {known:?}", node.port())));
                }
            }
            Ok(Ok(()))
        })
        .await
    }

    async fn until<T>(
        &self,
        what: &'static str,
        mut come: impl AsyncFnMut() -> Result<Result<T, String>>,
    ) -> Result<T> {
        let started = Instant::now();
        loop {
            let last = match come().await? {
                Ok(value) => return Ok(value),
                Err(last) => last,
            };
            let waited = started.elapsed();
            if waited > PATIENCE {
                return Err(Error::Sentinels { name: self.name.clone(), what, waited, last });
            }
            tokio::time::sleep(POLL).await;
        }
    }
}

/// The servers that a sentinel knows.
#[derive(Debug, PartialEq, Eq)]
struct Known {
    others: Option<usize>,
    replicas: Option<usize>,
}

impl Known {
    /// Parses the names and values of `SENTINEL MASTER`.
    fn read(reply: &Reply) -> Self {
        let number = |name: &str| {
            let pair = reply.items().chunks_exact(2).find(|pair| pair[0].text() == name)?;
            pair[1].text().parse().ok()
        };
        Self { others: number("num-other-sentinels"), replicas: number("num-slaves") }
    }
}

async fn connected_replicas(primary: &TestServer) -> Result<usize> {
    let info = primary.command(&["INFO", "replication"]).await?.text();
    let count = info.lines().find_map(|line| line.strip_prefix("connected_slaves:"));
    Ok(count.and_then(|count| count.trim().parse().ok()).unwrap_or(0))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_servers_that_a_sentinel_knows_are_parsed_from_names_and_values() {
        let words = ["name", "orders", "num-slaves", "2", "num-other-sentinels", "1"];
        let reply = Reply::Array(words.map(|word| Reply::Bulk(word.into())).into());
        assert_eq!(Known::read(&reply), Known { others: Some(1), replicas: Some(2) });
        assert_eq!(Known::read(&Reply::Nil), Known { others: None, replicas: None });
    }
}
