//! Reads a hundred thousand completions back from the logs: by a subscription from the earliest, and by a minimal
//! reader with the same client that only counts entries.

use std::{num::NonZeroUsize, time::Duration};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ff_benches::Bench;
use ff_core::{Frame, LogId, Partition, Scope, Start, SubscribeOptions};
use ff_script::keys;
use fred::{
    prelude::{Builder, Client, ClientLike, Config},
    types::{ClusterHash, CustomCommand, Value},
};
use futures::StreamExt;

const FLOWS: usize = 100;
const MEMBERS: usize = 1_000;
/// As in a catch-up: the logs per round trip, and the entries of each.
const LOGS_AT_ONCE: usize = 16;
const ENTRIES: usize = 128;

async fn subscription(bench: &Bench, capacity: NonZeroUsize) -> usize {
    let options = SubscribeOptions::new().start(Start::Earliest).capacity(capacity);
    let mut frames = bench.backend.subscribe(&options).await.expect("the server is up");
    let mut completions = 0;
    loop {
        match frames.next().await {
            Some(Frame::Completion(_)) => completions += 1,
            Some(Frame::CaughtUp) => return completions,
            _ => {}
        }
    }
}

async fn bare(client: &Client, partitions: u16) -> usize {
    let mut entries = 0;
    let mut logs: Vec<(LogId, String)> = (0..partitions)
        .map(|number| (LogId { partition: Partition::new(number), scope: Scope::Flows }, "-".to_owned()))
        .collect();
    while !logs.is_empty() {
        let turn: Vec<_> = logs.drain(..LOGS_AT_ONCE.min(logs.len())).collect();
        let pipeline = client.pipeline();
        for (log, from) in &turn {
            let key = keys::completion_log(*log);
            let args = [key.as_str(), from, "+", "COUNT", &ENTRIES.to_string()].map(Value::from).to_vec();
            let command = CustomCommand::new_static("XRANGE", ClusterHash::FirstKey, false);
            let _: () = pipeline.custom(command, args).await.expect("queued");
        }
        for ((log, _), page) in turn.into_iter().zip(pipeline.try_all::<Value>().await) {
            let Value::Array(page) = page.expect("read") else { panic!("no page") };
            entries += page.len();
            if let Some(Value::Array(last)) = page.last().filter(|_| page.len() == ENTRIES) {
                logs.push((log, format!("({}", last[0].as_str().expect("an id"))));
            }
        }
    }
    entries
}

fn replay(c: &mut Criterion) {
    let bench = Bench::start();
    let client = bench.runtime.block_on(async {
        for _ in 0..FLOWS {
            let flow = bench.submit(MEMBERS).await;
            bench.backend.cancel_flow(flow.flow_id, "flood").await.expect("the server is up");
        }
        let config = Config::from_url(bench.server.url()).expect("a URL");
        let client = Builder::from_config(config).build().expect("a client");
        client.init().await.expect("the server is up");
        client
    });
    let partitions = bench.backend.partition_count().get();
    let mut group = c.benchmark_group("replay");
    group
        .sample_size(10)
        .measurement_time(Duration::from_secs(5))
        .throughput(Throughput::Elements((FLOWS * MEMBERS) as u64));
    for capacity in [1024, 8192] {
        let capacity = NonZeroUsize::new(capacity).expect("not zero");
        group.bench_function(format!("subscription, queue of {capacity}"), |b| {
            b.iter(|| assert_eq!(bench.runtime.block_on(subscription(&bench, capacity)), FLOWS * MEMBERS));
        });
    }
    group.bench_function("bare reader", |b| {
        b.iter(|| assert_eq!(bench.runtime.block_on(bare(&client, partitions)), FLOWS * MEMBERS));
    });
    group.finish();
}

criterion_group!(benches, replay);
criterion_main!(benches);
