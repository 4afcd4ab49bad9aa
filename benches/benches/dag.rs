//! Whole flows with a worker and the engine in this process, from submission to the last completion.

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ff_benches::Bench;
use ff_core::{CompletionStream, FlowSubmission};
use ff_engine::{Engine, WorkContext, Worker};
use futures::StreamExt;
use tokio_util::sync::CancellationToken;

fn chain(bench: &Bench, length: usize) -> FlowSubmission {
    (0..length).fold(FlowSubmission::new(bench.fixture.namespace.clone()), |flow, n| {
        let spec = bench.fixture.spec(&n.to_string());
        flow.execution(if n == 0 { spec } else { spec.needs([(n - 1).to_string()]) })
    })
}

fn fan(bench: &Bench, width: usize) -> FlowSubmission {
    let names = || (0..width).map(|n| n.to_string());
    let flow = FlowSubmission::new(bench.fixture.namespace.clone()).execution(bench.fixture.spec("first"));
    names()
        .fold(flow, |flow, name| flow.execution(bench.fixture.spec(&name).needs(["first"])))
        .execution(bench.fixture.spec("last").needs(names()))
}

async fn run(bench: &Bench, stream: &mut CompletionStream, flows: &[FlowSubmission]) {
    let mut open: usize = flows.iter().map(|flow| flow.executions.len()).sum();
    for flow in flows {
        bench.fixture.submit(flow).await;
    }
    while open > 0 {
        stream.next().await;
        open -= 1;
    }
}

fn dag(c: &mut Criterion) {
    let bench = Bench::start();
    let stop = CancellationToken::new();
    let (_engine, mut stream) = bench.runtime.block_on(async {
        let engine = Engine::builder(bench.backend.clone()).start().await.expect("the server is up");
        let worker = Worker::builder()
            .lane(bench.fixture.lane.clone())
            .concurrency(16)
            .handler(|_: WorkContext| async { Ok(bytes::Bytes::new()) })
            .build(bench.backend.clone())
            .expect("its settings are valid");
        tokio::spawn(worker.run(stop.clone()));
        (engine, bench.backend.subscribe_completions().await.expect("the server is up"))
    });
    let mut group = c.benchmark_group("dag");
    group.sample_size(10);
    let shapes = [
        ("one chain of 10", vec![chain(&bench, 10)]),
        ("100 chains of 10", (0..100).map(|_| chain(&bench, 10)).collect()),
        ("fan out and in of 998", vec![fan(&bench, 998)]),
    ];
    for (name, flows) in shapes {
        group.throughput(Throughput::Elements(flows.iter().map(|flow| flow.executions.len() as u64).sum()));
        group.bench_function(name, |b| b.iter(|| bench.runtime.block_on(run(&bench, &mut stream, &flows))));
    }
    group.finish();
    stop.cancel();
}

criterion_group!(benches, dag);
criterion_main!(benches);
