//! The workloads, each over any contender.

use std::collections::{BTreeMap, HashMap};
use std::process::ExitCode;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

use crate::contender::{Contender, Filter, Job, Role, Shape};
use crate::load::{each, open_loop, payload, percentile};
use crate::meter::{Meter, Probe};
use crate::record::{Figure, Record};
use crate::work::{How, Order, Work};
use crate::{READY, SLOTS};

type Figures = BTreeMap<Figure, f64>;

/// Executions of a cycle, and the bytes of the payload of each.
const CYCLES: usize = 10_000;
const PAYLOAD: usize = 4_096;
/// Executions that run before the meter starts.
const WARM: usize = 1_000;
/// Executions in one submission in bulk.
const BULK: usize = 1_000;
/// How long a delivery at a fixed rate lasts at most, in seconds, and how many executions it has at most.
const DELIVERY_SECONDS: usize = 8;
const DELIVERIES: usize = 15_000;
/// Executions whose ends are delivered as fast as possible, and the calls for that at once.
const FLOOD: usize = 3_000;
const FLOOD_AT_ONCE: usize = 64;
/// Executions of which the memory is measured.
const REMEMBERED: usize = 20_000;
/// After this time without a completion the others count as lost.
const SILENCE: Duration = Duration::from_secs(20);
/// The time in which a server and its clients come to rest.
const REST: Duration = Duration::from_millis(400);

/// The program of a contender: does the work that its arguments name, and prints the record.
#[must_use]
pub fn run<C: Contender>() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build();
    let result = runtime.context("starting the runtime").and_then(|runtime| {
        let result = runtime.block_on(work::<C>(&arguments));
        // Some clients have no way to end soon.
        runtime.shutdown_background();
        result
    });
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

async fn work<C: Contender>(arguments: &[String]) -> Result<()> {
    let (url, name, role) = match arguments {
        [url, name] => (url, name, Role::Whole),
        [url, name, role] if role == "worker" => (url, name, Role::Worker),
        _ => bail!("usage: URL WORK [worker]"),
    };
    let work = Work::named(name).with_context(|| format!("there is no work {name}"))?;
    let refused = C::refusal(&work).map(str::to_owned);
    let figures = match refused {
        Some(_) => Figures::new(),
        None => Stage { contender: Arc::new(C::connect(url, role).await?), url: url.clone() }.figures(work).await?,
    };
    let record = Record { contender: C::NAME.to_owned(), work: work.name(), refused, figures };
    println!("{}", serde_json::to_string(&record)?);
    Ok(())
}

/// A contender and the server that is its own.
struct Stage<C> {
    contender: Arc<C>,
    url: String,
}

impl<C: Contender> Stage<C> {
    async fn figures(&self, work: Work) -> Result<Figures> {
        match work {
            Work::Cycle(order, how) => self.cycle(order, how).await,
            Work::Chains => self.flows(Shape::Chain(10), 100, 5).await,
            Work::Chain => self.flows(Shape::Chain(10), 1, if C::FEWER { 10 } else { 100 }).await,
            Work::Fan => self.flows(Shape::Fan(998), 1, if C::FEWER { 1 } else { 4 }).await,
            Work::Delivery(rate) => self.delivery(rate).await,
            Work::Filter(filter, subscribers) => self.filter(filter, subscribers).await,
            Work::Idle => self.idle().await,
            Work::Memory => self.memory().await,
        }
    }

    async fn submit(&self, count: usize, bytes: usize, how: How) -> Result<()> {
        let contender = self.contender.clone();
        match how {
            How::One => {
                each(count, SLOTS, move |number| {
                    let contender = contender.clone();
                    async move { contender.submit(payload(bytes, number)).await }
                })
                .await
            }
            How::Bulk => {
                each(count.div_ceil(BULK), 4, move |part| {
                    let contender = contender.clone();
                    let numbers = part * BULK..count.min((part + 1) * BULK);
                    async move { contender.submit_bulk(numbers.map(|number| payload(bytes, number)).collect()).await }
                })
                .await
            }
        }
    }

    /// Lets `count` executions run, so that neither code nor connections are cold.
    async fn warm_up(&self, count: usize, bytes: usize, how: How) -> Result<()> {
        let workers = self.contender.start(Job::Solo).await?;
        self.submit(count, bytes, how).await?;
        self.contender.until_ended(count).await?;
        self.contender.stop(workers).await?;
        tokio::time::sleep(REST).await;
        Ok(())
    }

    async fn cycle(&self, order: Order, how: How) -> Result<Figures> {
        let count = if order == Order::First { CYCLES.min(C::BACKLOG) } else { CYCLES };
        self.warm_up(WARM, PAYLOAD, how).await?;
        let early = if order == Order::Live { Some(self.contender.start(Job::Solo).await?) } else { None };
        tokio::time::sleep(REST).await;
        let meter = Meter::start(&self.url).await?;
        self.submit(count, PAYLOAD, how).await?;
        let workers = match early {
            Some(workers) => workers,
            None => self.contender.start(Job::Solo).await?,
        };
        self.contender.until_ended(WARM + count).await?;
        let wall = meter.elapsed();
        let mut figures = meter.per_execution(count).await?;
        figures.insert(Figure::Executions, count as f64 / wall.as_secs_f64());
        drop(workers);
        Ok(figures)
    }

    /// Several rounds of `at_once` flows; one round before the meter starts.
    async fn flows(&self, shape: Shape, at_once: usize, rounds: usize) -> Result<Figures> {
        let mut ends = self.contender.flow_ends(shape).await?;
        let _workers = self.contender.start(Job::Flow(shape)).await?;
        tokio::time::sleep(REST).await;
        let (mut walls, mut times, mut meter) = (Vec::new(), Vec::new(), None);
        for round in 0..=rounds {
            if round == 1 {
                meter = Some(Meter::start(&self.url).await?);
                times.clear();
                walls.clear();
            }
            self.contender.hold(C::HOLDS_WORKERS);
            let start = Instant::now();
            let submission = self.submit_flows(shape, at_once);
            let (submitted, released) = if C::HOLDS_WORKERS {
                let submitted = submission.await?;
                self.contender.hold(false);
                (submitted, Some(Instant::now()))
            } else {
                (submission.await?, None)
            };
            let mut ended = HashMap::new();
            while ended.len() < at_once {
                let next = tokio::time::timeout(Duration::from_secs(120), ends.recv()).await;
                let (flow, at) = next.context("a flow does not end")?.context("no more flows end")?;
                ended.insert(flow, at);
            }
            walls.push(*ended.values().max().context("no flow")? - start);
            for (flow, (begun, written)) in submitted {
                let end = *ended.get(&flow).context("a flow ended that was not submitted")?;
                // A flow that was written while the workers stood still did not run meanwhile.
                times.push(released.map_or(end - begun, |released| (written - begun) + (end - released)));
            }
        }
        let mut figures = meter.context("no round")?.per_execution(rounds * at_once * shape.members()).await?;
        let wall = percentile(&mut walls, 0.5) / 1e3;
        if at_once > 1 {
            figures.insert(Figure::Flows, at_once as f64 / wall);
            figures.insert(Figure::P99, percentile(&mut times, 0.99));
        }
        figures.insert(Figure::P50, percentile(&mut times, 0.5));
        Ok(figures)
    }

    /// Submits flows, and returns when the submission of each began and ended.
    async fn submit_flows(&self, shape: Shape, count: usize) -> Result<HashMap<C::FlowId, (Instant, Instant)>> {
        let submitted = Arc::new(Mutex::new(HashMap::new()));
        let (contender, all) = (self.contender.clone(), submitted.clone());
        each(count, SLOTS, move |_| {
            let (contender, all) = (contender.clone(), all.clone());
            async move {
                let begun = Instant::now();
                let flow = contender.submit_flow(shape).await?;
                lock(&all).insert(flow, (begun, Instant::now()));
                Ok(())
            }
        })
        .await?;
        Ok(std::mem::take(&mut *lock(&submitted)))
    }

    async fn delivery(&self, rate: u32) -> Result<Figures> {
        const WARM: usize = 200;
        let count = DELIVERIES.min(rate as usize * DELIVERY_SECONDS);
        let mut claimed = self.contender.claim_many(WARM + count).await?;
        let mut subscription = self.contender.subscribe(Filter::None).await?;
        tokio::time::sleep(REST).await;
        for execution in claimed.drain(..WARM) {
            self.contender.complete(execution).await?;
            C::next(&mut subscription).await?;
        }
        let numbers: HashMap<_, _> = claimed.iter().map(C::id).zip(0..).collect();
        let mut claimed: Vec<_> = claimed.into_iter().map(Some).collect();
        let due = Arc::new(Mutex::new(vec![None; count]));
        let meter = Meter::start(&self.url).await?;
        let (contender, times, runtime) = (self.contender.clone(), due.clone(), tokio::runtime::Handle::current());
        let sender = open_loop(rate, count, move |number, at| {
            lock(&times)[number] = Some(at);
            if let Some(execution) = claimed[number].take() {
                let contender = contender.clone();
                runtime.spawn(async move { contender.complete(execution).await.expect("an execution can end") });
            }
        });
        let mut delivered = vec![None; count];
        let mut open = count;
        while open > 0 {
            let Ok(next) = tokio::time::timeout(SILENCE, C::next(&mut subscription)).await else { break };
            let number: &usize = numbers.get(&next?).context("an unknown execution was delivered")?;
            delivered[*number] = Some(Instant::now());
            open -= 1;
        }
        ensure!(sender.join().is_ok(), "the sender panicked");
        let mut figures = meter.per_execution(count).await?;
        let due = lock(&due);
        let time = |(end, due): (&Option<Instant>, &Option<Instant>)| Some(end.as_ref()?.duration_since((*due)?));
        let mut times: Vec<_> = delivered.iter().zip(due.iter()).filter_map(time).collect();
        figures.insert(Figure::P50, percentile(&mut times, 0.5));
        figures.insert(Figure::P99, percentile(&mut times, 0.99));
        figures.insert(Figure::Lost, open as f64);
        Ok(figures)
    }

    async fn filter(&self, filter: Filter, subscribers: usize) -> Result<Figures> {
        let count = if C::FEWER { 1_000 } else { FLOOD };
        let mut subscriptions = Vec::new();
        for _ in 0..subscribers {
            subscriptions.push(self.contender.subscribe(filter).await?);
        }
        tokio::time::sleep(2 * REST).await;
        let mut last = Figures::new();
        // The first round warms up.
        for _ in 0..2 {
            let claimed = self.contender.claim_many(count).await?.into_iter().map(|one| Mutex::new(Some(one)));
            let (contender, claimed) = (self.contender.clone(), Arc::new(claimed.collect::<Vec<_>>()));
            let readers: Vec<_> = subscriptions.drain(..).map(|one| tokio::spawn(read::<C>(one, count))).collect();
            let meter = Meter::start(&self.url).await?;
            each(count, FLOOD_AT_ONCE, move |number| {
                let (contender, execution) = (contender.clone(), lock(&claimed[number]).take());
                async move { contender.complete(execution.context("it was ended before")?).await }
            })
            .await?;
            let (mut lost, mut end) = (0, Instant::now());
            for reader in readers {
                let (subscription, missing, last) = reader.await??;
                subscriptions.push(subscription);
                lost += missing;
                end = end.max(last);
            }
            let wall = meter.elapsed().saturating_sub(end.elapsed());
            last = meter.per_execution(count).await?;
            last.insert(Figure::Ends, (count * subscribers - lost) as f64 / subscribers as f64 / wall.as_secs_f64());
            last.insert(Figure::Lost, lost as f64);
        }
        Ok(last)
    }

    /// Never returns: the runner ends the process.
    async fn idle(&self) -> Result<Figures> {
        let _workers = self.contender.start(Job::Solo).await?;
        println!("{READY}");
        std::future::pending().await
    }

    async fn memory(&self) -> Result<Figures> {
        let count = REMEMBERED.min(C::BACKLOG);
        let mut probe = Probe::connect(&self.url).await?;
        self.warm_up(WARM, 0, How::One).await?;
        let empty = probe.used_memory().await?;
        self.submit(count, 0, How::One).await?;
        tokio::time::sleep(REST).await;
        let waiting = probe.used_memory().await?;
        let workers = self.contender.start(Job::Solo).await?;
        self.contender.until_ended(WARM + count).await?;
        self.contender.stop(workers).await?;
        tokio::time::sleep(REST).await;
        let ended = probe.used_memory().await?;
        let each = |bytes: f64| (bytes - empty) / count as f64;
        Ok(Figures::from([(Figure::Waiting, each(waiting)), (Figure::Ended, each(ended))]))
    }
}

/// Reads `count` completions; returns the subscription, how many are missing, and when the last one came.
async fn read<C: Contender>(
    mut subscription: C::Subscription,
    count: usize,
) -> Result<(C::Subscription, usize, Instant)> {
    let mut last = Instant::now();
    for read in 0..count {
        let Ok(next) = tokio::time::timeout(SILENCE, C::next(&mut subscription)).await else {
            return Ok((subscription, count - read, last));
        };
        next?;
        last = Instant::now();
    }
    Ok((subscription, 0, last))
}

/// A lock whose owner cannot panic.
fn lock<T>(mutex: &Mutex<T>) -> std::sync::MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
}
