//! A run, from its seed to its verdict.

use std::{
    collections::BTreeMap,
    fmt,
    sync::{
        Arc,
        atomic::{AtomicBool, Ordering},
    },
    time::{Duration, Instant},
};

use fastrand::Rng;
use ff_core::{
    ControlBackend, Cursor, EngineBackend, ExecutionId, ExecutionSpec, FlowSubmission, LogId, Namespace,
    PartitionCount, ScannerFilter, Scope, Start, SubmitBackend, SubscribeOptions, SubscriptionScope, Tags,
};
use ff_engine::Engine;
use ff_test::history::{Breach, LogTruth, Submitted, Verdict};
use ff_valkey::{ValkeyBackend, ValkeyConfig};

use super::{
    Failure, Fault,
    consumer::Consumer,
    fault::inject,
    ledger::Ledger,
    load::{Loader, PROBE, REGION, REGIONS, TENANTS},
    servers::{Servers, Trimmed},
    watcher::{Pace, Watcher},
};

/// How many probes, each in its own partition, a subscription must receive to count as recovered.
const PROBES: usize = 16;
/// The time limit of a recovery.
const RECOVERY_LIMIT: Duration = Duration::from_secs(30);
/// How long subscriptions may take to reach the end of all logs after the last fault.
const END_WITHIN: Duration = Duration::from_secs(60);
const POLL: Duration = Duration::from_millis(3);

/// The parameters of a run.
#[derive(Debug, Clone)]
pub(crate) struct Plan {
    pub(crate) seed: u64,
    /// The faults, in order, spread over the load.
    pub(crate) faults: Vec<Fault>,
    /// At least how many executions are ended.
    pub(crate) completions: u64,
    pub(crate) partitions: PartitionCount,
    /// The pause of each load generator between two flows.
    pub(crate) pause: Duration,
    /// The arguments with which this program becomes a consumer.
    pub(crate) consumer_args: &'static [&'static str],
    /// Called with a report after each fault.
    pub(crate) report: fn(&str),
}

impl Plan {
    /// `count` faults of these kinds in random order; all kinds come before one is repeated.
    pub(crate) fn random_faults(seed: u64, kinds: &[Fault], count: usize) -> Vec<Fault> {
        let mut rng = Rng::with_seed(seed);
        let mut faults = Vec::new();
        while faults.len() < count && !kinds.is_empty() {
            let mut all = kinds.to_vec();
            rng.shuffle(&mut all);
            faults.extend(all);
        }
        faults.truncate(count);
        faults
    }
}

/// The parts of a run.
pub(crate) struct Run {
    pub(crate) servers: Arc<Servers>,
    pub(crate) ledger: Arc<Ledger>,
    pub(crate) watchers: Vec<Watcher>,
    pub(crate) consumer: Consumer,
    pub(crate) trimmed: Trimmed,
    partitions: PartitionCount,
}

/// The result of one run or of several.
#[derive(Default)]
pub(crate) struct Report {
    pub(crate) verdict: Verdict,
    /// The subscriptions that did not recover in time, or did not reach the end of all logs.
    pub(crate) late: Vec<String>,
    /// How long it took after each fault until every fast subscription had recovered.
    pub(crate) recoveries: BTreeMap<Fault, Vec<Duration>>,
    pub(crate) ended: u64,
    pub(crate) took: Duration,
}

/// Runs it.
pub(crate) async fn run(plan: &Plan) -> Result<Report, Failure> {
    let started = Instant::now();
    let servers = Arc::new(Servers::start(plan.partitions).await?);
    let dir = tempfile::tempdir()?;
    let ledger = Arc::new(Ledger::default());
    let first = connect(&servers.front_url(), plan.partitions).await?;
    let engine = Engine::builder(Arc::new(first.clone())).reconcile_interval(Duration::from_secs(5)).start().await?;
    let mut run = Run {
        watchers: watchers(&servers, &first, plan.partitions).await?,
        consumer: Consumer::start(servers.front_url(), plan.partitions, dir.path(), plan.consumer_args)?,
        trimmed: Trimmed::new(),
        partitions: plan.partitions,
        servers: servers.clone(),
        ledger: ledger.clone(),
    };
    let stop = Arc::new(AtomicBool::new(false));
    let mut loaders = tokio::task::JoinSet::new();
    for number in 0..4 {
        let url = if number % 2 == 0 { servers.front_url() } else { servers.sentinel_url() };
        let backend: Arc<dyn EngineBackend> = Arc::new(connect(&url, plan.partitions).await?);
        let rng = Rng::with_seed(plan.seed.wrapping_mul(31).wrapping_add(number as u64));
        let loader = Loader { backend, ledger: ledger.clone(), rng, number, pause: plan.pause };
        loaders.spawn(loader.run(stop.clone()));
    }
    let mut rng = Rng::with_seed(plan.seed);
    let mut recoveries: BTreeMap<Fault, Vec<Duration>> = BTreeMap::new();
    let mut late = Vec::new();
    let share = plan.completions / (plan.faults.len() as u64 + 1);
    for (number, fault) in plan.faults.iter().enumerate() {
        ended(&ledger, share * (number as u64 + 1), &mut loaders).await?;
        inject(*fault, &mut run, &mut rng).await.map_err(|error| format!("{fault}: {error}"))?;
        let Some(took) = run.recovered().await.map_err(|error| format!("{fault}: {error}"))? else {
            late.push(format!(
                "{fault}, the {}. fault: not every subscription had recovered after {RECOVERY_LIMIT:?}",
                number + 1
            ));
            break;
        };
        recoveries.entry(*fault).or_default().push(took);
        (plan.report)(&format!(
            "{:>3}. {fault:<28} recovered after {:>7.3} s, {} ended",
            number + 1,
            took.as_secs_f64(),
            ledger.ended()
        ));
        if fault.promotes() {
            servers.complete().await?;
        }
        ledger.snapshot(servers.histories().await?);
    }
    ended(&ledger, plan.completions, &mut loaders).await?;
    stop.store(true, Ordering::SeqCst);
    while let Some(loader) = loaders.join_next().await {
        loader??;
    }
    engine.shutdown().await;
    let ended = ledger.ended();
    let (verdict, behind) = run.close().await?;
    late.extend(behind);
    Ok(Report { verdict, late, recoveries, ended, took: started.elapsed() })
}

async fn connect(url: &str, partitions: PartitionCount) -> Result<ValkeyBackend, Failure> {
    Ok(ValkeyBackend::connect_with(ValkeyConfig::from_url(url)?.partition_count(partitions)).await?)
}

/// Seven subscriptions over three connections: two slow, three filtered. The eighth is the consumer's.
async fn watchers(
    servers: &Servers,
    first: &ValkeyBackend,
    partitions: PartitionCount,
) -> Result<Vec<Watcher>, Failure> {
    let second = connect(&servers.sentinel_url(), partitions).await?;
    let third = connect(&servers.front_url(), partitions).await?;
    let slow = Pace::Slow(64, Duration::from_millis(25));
    let all = || SubscribeOptions::new().scope(SubscriptionScope::FlowsAndSolo);
    let tenant = || ScannerFilter::new().namespace(Namespace::new(TENANTS[0]).expect("a tenant has a name"));
    let capacity = |count| std::num::NonZeroUsize::new(count).expect("not zero");
    let region = |filter: ScannerFilter| filter.instance_tag(REGION, REGIONS[0]);
    let wanted = [
        (first, "everything", all(), Pace::Fast),
        (first, "a tenant", all().filter(tenant()), Pace::Fast),
        (first, "everything, slowly", all().capacity(capacity(256)), slow),
        (&second, "everything by sentinel", all().start(Start::Earliest), Pace::Fast),
        (&second, "a region", all().filter(region(ScannerFilter::new())), Pace::Fast),
        (&third, "a tenant's region, slowly", all().filter(region(tenant())).capacity(capacity(64)), slow),
        (&third, "flows only", SubscribeOptions::new(), Pace::Fast),
    ];
    let mut watchers = Vec::new();
    for (backend, name, options, pace) in wanted {
        watchers.push(Watcher::open(backend, name, options, pace).await?);
    }
    Ok(watchers)
}

/// Waits until this many executions were ended.
async fn ended(
    ledger: &Ledger,
    count: u64,
    loaders: &mut tokio::task::JoinSet<Result<(), Failure>>,
) -> Result<(), Failure> {
    while ledger.ended() < count {
        if let Some(loader) = loaders.try_join_next() {
            loader??;
        }
        tokio::time::sleep(POLL).await;
    }
    Ok(())
}

impl Run {
    /// Ends executions in many partitions and waits until every fast subscription has received all of them. Returns how
    /// long that took, or `None` if it takes too long: then the checker reports what is missing.
    async fn recovered(&self) -> Result<Option<Duration>, Failure> {
        let healed = Instant::now();
        let probes = self.probe().await?;
        let mut last = healed;
        for watcher in self.watchers.iter().filter(|watcher| watcher.is_fast()) {
            for probe in &probes {
                match seen(watcher, *probe, healed + RECOVERY_LIMIT).await {
                    Some(at) => last = last.max(at),
                    None => return Ok(None),
                }
            }
        }
        Ok(Some(last - healed))
    }

    /// Ends the probes over separate connections, which the fault did not affect.
    async fn probe(&self) -> Result<Vec<ExecutionId>, Failure> {
        let backend = connect(self.servers.primary().url(), self.partitions).await?;
        let namespace = Namespace::new(TENANTS[0])?;
        let what = Submitted { namespace: namespace.clone(), tags: Tags::new([(REGION, REGIONS[0]), (PROBE, "yes")])? };
        let end = async || {
            let spec = ExecutionSpec::new("probe").tags(what.tags.clone());
            let key = format!("probe-{:x}", fastrand::u128(..));
            let flow = FlowSubmission::new(namespace.clone()).idempotency_key(key).execution(spec);
            let id = ExecutionId::member(flow.flow_id(), "probe", self.partitions);
            self.ledger.submitted([id], &what);
            backend.submit_flow(&flow).await?;
            let faults = self.ledger.faults_so_far();
            backend.cancel_flow(flow.flow_id(), "probe").await?;
            self.ledger.acknowledged([id], faults);
            Ok::<_, Failure>(id)
        };
        futures::future::try_join_all((0..PROBES).map(|_| end())).await
    }

    /// Lets all subscriptions reach the end, and checks the history.
    async fn close(self) -> Result<(Verdict, Vec<String>), Failure> {
        for watcher in &self.watchers {
            watcher.set_pace(Pace::Fast);
        }
        let truths = self.servers.truths(&self.trimmed).await?;
        let deadline = Instant::now() + END_WITHIN;
        let mut behind = self.behind(&truths)?;
        while !behind.is_empty() && Instant::now() < deadline {
            tokio::time::sleep(Duration::from_millis(100)).await;
            behind = self.behind(&truths)?;
        }
        let mut records: Vec<_> = self.watchers.into_iter().map(Watcher::close).collect();
        records.push(self.consumer.close("a process of its own")?);
        Ok((self.ledger.close(truths, records).check(), behind))
    }

    /// Describes the subscriptions that are not at the end of all logs.
    fn behind(&self, truths: &BTreeMap<LogId, LogTruth>) -> Result<Vec<String>, Failure> {
        let of = |name: &str, cursor: &Cursor| {
            let is_about = |log: &LogId| log.scope == Scope::Flows || cursor.logs(Scope::Solo).is_some();
            let logs = truths.iter().filter(|(log, truth)| is_about(log) && cursor.position(**log) != truth.last());
            let logs: Vec<_> = logs.collect();
            let (log, truth) = logs.first()?;
            let [stands, ends] = [cursor.position(**log), truth.last()].map(|at| at.map(|at| at.to_string()));
            let count = logs.len();
            Some(format!(
                "`{name}` did not reach the end: it is at {stands:?} of {log}, which ends at {ends:?}; {count} such logs"
            ))
        };
        let mut behind: Vec<_> =
            self.watchers.iter().filter_map(|watcher| of(&watcher.name(), &watcher.cursor())).collect();
        let cursor = self.consumer.cursor()?.ok_or("the consumer has saved no cursor")?;
        behind.extend(of("a process of its own", &cursor));
        Ok(behind)
    }
}

impl Report {
    /// Whether there was no violation.
    pub(crate) fn is_clean(&self) -> bool {
        self.verdict.is_clean() && self.late.is_empty()
    }

    /// Adds the result of another run.
    pub(crate) fn add(&mut self, other: Self) {
        self.verdict.add(other.verdict);
        self.late.extend(other.late);
        for (fault, took) in other.recoveries {
            self.recoveries.entry(fault).or_default().extend(took);
        }
        self.ended += other.ended;
        self.took += other.took;
    }
}

async fn seen(watcher: &Watcher, probe: ExecutionId, deadline: Instant) -> Option<Instant> {
    loop {
        if let Some(at) = watcher.probe_seen(probe) {
            return Some(at);
        }
        if Instant::now() > deadline {
            return None;
        }
        tokio::time::sleep(POLL).await;
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { verdict, late, recoveries, ended, took } = self;
        writeln!(
            f,
            "{ended} ends acknowledged in {:.0} s, {} of them rolled back by faults",
            took.as_secs_f64(),
            verdict.rolled_back
        )?;
        writeln!(f, "{} entries in the logs' history", verdict.committed)?;
        writeln!(f, "\n{:<28} {:>9} {:>11}  gaps", "subscription", "delivered", "rolled back")?;
        for (name, tally) in &verdict.tallies {
            let gaps: Vec<String> = tally.gaps.iter().map(|(cause, count)| format!("{count} {cause}")).collect();
            writeln!(f, "{name:<28} {:>9} {:>11}  {}", tally.delivered, tally.rolled_back, gaps.join(", "))?;
        }
        writeln!(f, "\n{:<28} {:>4} {:>8} {:>8} {:>8}  seconds until recovered", "fault", "runs", "p50", "p95", "max")?;
        for (fault, took) in recoveries {
            let at = |quantile: f64| quantile_of(took, quantile).as_secs_f64();
            writeln!(f, "{fault:<28} {:>4} {:>8.3} {:>8.3} {:>8.3}", took.len(), at(0.5), at(0.95), at(1.0))?;
        }
        writeln!(f)?;
        for late in late {
            writeln!(f, "{late}")?;
        }
        for counterexample in &verdict.counterexamples {
            writeln!(f, "{counterexample}")?;
        }
        let count = |breach| verdict.breaches.get(breach).copied().unwrap_or(0);
        let counts: Vec<String> = Breach::ALL.iter().map(|breach| format!("{breach} {}", count(breach))).collect();
        write!(f, "{}", counts.join(" · "))
    }
}

/// The quantile by the nearest rank.
fn quantile_of(took: &[Duration], quantile: f64) -> Duration {
    let mut sorted = took.to_vec();
    sorted.sort_unstable();
    #[allow(clippy::cast_precision_loss, clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "few runs")]
    let rank = (quantile * sorted.len() as f64).ceil() as usize;
    sorted[rank.clamp(1, sorted.len()) - 1]
}
