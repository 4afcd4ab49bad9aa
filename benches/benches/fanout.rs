//! The time of a thousand completions, from the call that commits them until the last subscription has the last one.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ff_benches::Bench;
use ff_core::{CompletionStream, ScannerFilter};
use futures::StreamExt;

const COMPLETIONS: usize = 1_000;

async fn one_flood(bench: &Bench, streams: &mut [CompletionStream]) -> Duration {
    let flow = bench.submit(COMPLETIONS).await;
    let start = Instant::now();
    let commit = bench.backend.cancel_flow(flow.flow_id, "flood");
    let receive = futures::future::join_all(streams.iter_mut().map(|stream| async {
        for _ in 0..COMPLETIONS {
            stream.next().await;
        }
    }));
    let (committed, _) = futures::join!(commit, receive);
    assert_eq!(committed.expect("the server is up").cancelled as usize, COMPLETIONS);
    start.elapsed()
}

fn fanout(c: &mut Criterion) {
    let bench = Bench::start();
    let mut group = c.benchmark_group("fanout");
    group.sample_size(10);
    for (name, filter) in [
        ("unfiltered", ScannerFilter::NOOP),
        ("filtered", ScannerFilter::new().namespace(bench.fixture.namespace.clone())),
    ] {
        for subscriptions in [0, 1, 100, 1_000] {
            let mut streams = bench.runtime.block_on(async {
                let subscribe = (0..subscriptions).map(|_| bench.backend.subscribe_completions_filtered(&filter));
                futures::future::try_join_all(subscribe).await.expect("the server is up")
            });
            group.throughput(Throughput::Elements((COMPLETIONS * subscriptions.max(1)) as u64));
            group.bench_function(format!("{name}/{subscriptions} subscriptions"), |b| {
                b.iter_custom(|rounds| {
                    bench.runtime.block_on(async {
                        let mut total = Duration::ZERO;
                        for _ in 0..rounds {
                            total += one_flood(&bench, &mut streams).await;
                        }
                        total
                    })
                });
            });
            drop(streams);
            bench.runtime.block_on(bench.wipe());
        }
    }
    group.finish();
}

criterion_group!(benches, fanout);
criterion_main!(benches);
