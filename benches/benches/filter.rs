//! Evaluates one filter on one event that has the attributes. No server.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ff_core::{CompletionPayload, ExecutionId, Namespace, Outcome, PartitionCount, ScannerFilter, Tags};

fn matches(c: &mut Criterion) {
    let namespace = Namespace::new("tenant-a").expect("it is valid");
    let id = ExecutionId::generate_solo(PartitionCount::DEFAULT);
    let mut completion = CompletionPayload::new(id, None, Outcome::Success);
    completion.namespace = Some(namespace.clone());
    completion.tags = Tags::new((0..8).map(|n| (format!("key-{n}"), format!("value-{n}")))).expect("they are valid");
    let filters = [
        ("noop", ScannerFilter::NOOP),
        ("namespace", ScannerFilter::new().namespace(namespace.clone())),
        ("namespace and tag", ScannerFilter::new().namespace(namespace).instance_tag("key-5", "value-5")),
    ];
    let mut group = c.benchmark_group("filter");
    group.throughput(Throughput::Elements(1));
    for (name, filter) in filters {
        group.bench_function(name, |b| b.iter(|| black_box(&filter).matches_completion(black_box(&completion))));
    }
    group.finish();
}

criterion_group!(benches, matches);
criterion_main!(benches);
