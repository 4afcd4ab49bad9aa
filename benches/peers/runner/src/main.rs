//! Builds the contenders, runs them in turns, each on a fresh server, and prints the table of ratios.
//!
//! `cargo xtask bench --peers -- --only ours,raw --work cycle,delivery-1000 --rounds 3`
#![forbid(unsafe_code)]

mod build;
mod idle;
mod table;

use std::collections::BTreeMap;
use std::process::Stdio;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use clap::Parser;
use ff_testserver::TestServer;
use peers_kit::{Figure, Record, Work};
use tokio::process::Command;

use crate::build::Built;
use crate::table::{Cell, Table};

/// After this time a contender has failed.
const LIMIT: Duration = Duration::from_secs(240);

/// A contender as the table and the command line name it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Name {
    /// As in its records; its program is `peers-KEY`.
    pub(crate) key: &'static str,
    pub(crate) title: &'static str,
}

/// All contenders, in the order of the columns.
const CONTENDERS: [Name; 5] = [
    Name { key: "ours", title: "ours" },
    Name { key: "published", title: "FlowFabric 0.15" },
    Name { key: "bullmq", title: "BullMQ 1.4" },
    Name { key: "apalis", title: "apalis-redis 1.0" },
    Name { key: "raw", title: "raw" },
];

#[derive(Debug, Parser)]
#[command(name = "cargo xtask bench --peers --", about = "FlowFabric beside its peers, on one machine in one run")]
struct Cli {
    /// Only these contenders: ours, published, bullmq, apalis, raw
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Only these workloads or groups of them: cycle, chains, chain, fan, delivery, filter, idle, memory
    #[arg(long, value_delimiter = ',')]
    work: Vec<String>,
    /// How often each contender does each workload; the table has medians
    #[arg(long, default_value_t = 3)]
    rounds: usize,
}

impl Cli {
    fn contenders(&self) -> Result<Vec<Name>> {
        for key in &self.only {
            ensure!(CONTENDERS.iter().any(|name| name.key == key), "there is no contender {key}");
        }
        let chosen = |name: &Name| self.only.is_empty() || self.only.iter().any(|key| key == name.key);
        Ok(CONTENDERS.into_iter().filter(chosen).collect())
    }

    fn works(&self) -> Result<Vec<Work>> {
        let all = Work::all();
        for group in &self.work {
            ensure!(all.iter().any(|work| work.is_in(group)), "there is no work {group}");
        }
        let chosen = |work: &Work| self.work.is_empty() || self.work.iter().any(|group| work.is_in(group));
        Ok(all.into_iter().filter(chosen).collect())
    }
}

#[tokio::main]
async fn main() -> Result<()> {
    let cli = Cli::parse();
    let (contenders, works) = (cli.contenders()?, cli.works()?);
    ensure!(cli.rounds > 0, "there is no round");
    let built = build::build(&contenders).await?;
    let mut table = Table::new(contenders.clone());
    for work in works {
        for round in 0..cli.rounds {
            // Another contender begins in each round.
            for turn in 0..contenders.len() {
                let name = contenders[(round + turn) % contenders.len()];
                let cell = match &built[&name] {
                    Built::Failed(reason) => Cell::Missing("not built".to_owned(), reason.clone()),
                    Built::Program(program) => measure(program, work)
                        .await
                        .unwrap_or_else(|error| Cell::Missing("failed".to_owned(), format!("{error:#}"))),
                };
                eprintln!("{} round {} {}: {cell}", work.name(), round + 1, name.key);
                table.add(work, name, cell);
            }
        }
    }
    print!("{table}");
    Ok(())
}

/// One run of one contender.
async fn measure(program: &std::path::Path, work: Work) -> Result<Cell> {
    let server = TestServer::start().await?;
    let mut command = Command::new(program);
    command.arg(server.url()).arg(work.name()).stdin(Stdio::null()).kill_on_drop(true);
    if work == Work::Idle {
        return idle::measure(command, &server).await;
    }
    let output = tokio::time::timeout(LIMIT, command.stderr(Stdio::piped()).output());
    let output = output.await.with_context(|| format!("no result within {} s", LIMIT.as_secs()))??;
    let (stdout, stderr) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    let Some(record) = stdout.lines().find_map(|line| serde_json::from_str::<Record>(line).ok()) else {
        bail!("{}: {}", output.status, stderr.lines().last().unwrap_or("no output"));
    };
    Ok(cell_of(record))
}

fn cell_of(record: Record) -> Cell {
    match record.refused {
        Some(reason) => Cell::Missing("–".to_owned(), reason),
        None => Cell::Figures(record.figures),
    }
}

type Figures = BTreeMap<Figure, f64>;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contenders_and_workloads_are_chosen_by_name_or_group() {
        let cli = Cli::parse_from(["peers", "--only", "raw,ours", "--work", "cycle-live,idle"]);
        let keys: Vec<_> = cli.contenders().expect("known").iter().map(|name| name.key).collect();
        assert_eq!(keys, ["ours", "raw"]);
        let works: Vec<_> = cli.works().expect("known").iter().map(|work| work.name()).collect();
        assert_eq!(works, ["cycle-live-one", "cycle-live-bulk", "idle"]);
    }

    #[test]
    fn an_unknown_name_is_an_error() {
        assert!(Cli::parse_from(["peers", "--only", "river"]).contenders().is_err());
        assert!(Cli::parse_from(["peers", "--work", "cycl"]).works().is_err());
    }
}
