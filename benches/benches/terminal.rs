//! The call that ends an execution, compared with a call that does nothing: the cost of a completion beyond its round
//! trip.

use std::time::{Duration, Instant};

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ff_benches::Bench;
use ff_script::host::{Call, ScriptHost};
use futures::StreamExt;

const EXECUTIONS: usize = 1_000;

fn nothing() -> Call {
    Call { function: "ff1_version", keys: vec![], args: vec![], read_only: false, idempotent: true }
}

fn terminal(c: &mut Criterion) {
    let bench = Bench::start();
    let mut group = c.benchmark_group("terminal");
    group.sample_size(10).throughput(Throughput::Elements(EXECUTIONS as u64));
    let host = bench
        .runtime
        .block_on(async { ff_valkey::ValkeyBackend::connect(bench.server.url()).await.expect("the server is up") });
    for at_once in [1, 16, 64] {
        group.bench_function(format!("complete/{at_once} at once"), |b| {
            b.iter_custom(|rounds| {
                bench.runtime.block_on(async {
                    let mut total = Duration::ZERO;
                    for _ in 0..rounds {
                        let claimed = bench.claimed(EXECUTIONS).await;
                        let start = Instant::now();
                        bench.complete(&claimed, at_once).await;
                        total += start.elapsed();
                    }
                    bench.wipe().await;
                    total
                })
            });
        });
        group.bench_function(format!("nothing/{at_once} at once"), |b| {
            b.to_async(&bench.runtime).iter(|| async {
                let calls = futures::stream::iter(0..EXECUTIONS).map(|_| host.host().fcall(nothing()));
                let answers: Vec<_> = calls.buffer_unordered(at_once).collect().await;
                assert!(answers.iter().all(Result::is_ok), "a bench of errors measures nothing");
            });
        });
    }
    group.finish();
}

criterion_group!(benches, terminal);
criterion_main!(benches);
