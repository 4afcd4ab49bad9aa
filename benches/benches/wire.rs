//! Decodes events of the library. No server.

use std::hint::black_box;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use ff_core::Scope;
use ff_script::wire::Decoder;

const EXECUTION: &str = "{fp:7}:0192f0c1-2b3c-7d4e-8f50-617283940a1b";
const FLOW: &str = "0192f0c1-2b3c-7d4e-8f50-617283940a1c";

fn decode(c: &mut Criterion) {
    let bare = format!("{{\"execution_id\":\"{EXECUTION}\",\"flow_id\":\"{FLOW}\",\"outcome\":\"success\"}}");
    let ours = format!(
        "{},\"at\":1764000000000,\"ns\":\"tenant-a\",\"lane\":\"default\",\"attempt\":1,\"gen\":0,\"tags\":\
         {{\"team\":\"blue\",\"region\":\"eu\"}},\"pos\":\"1764000000000-41\",\"result\":\"{{\\\"ok\\\":true}}\"}}",
        bare.trim_end_matches('}')
    );
    let mut group = c.benchmark_group("wire");
    group.throughput(Throughput::Elements(1));
    // With white space, so that serde decodes it.
    let spaced = ours.replacen(',', ", ", 1);
    for (name, event) in [("bare", bare), ("ours", ours), ("ours, spaced", spaced)] {
        group.bench_function(format!("decode_push/{name}"), |b| {
            let mut decoder = Decoder::default();
            b.iter(|| decoder.push(Scope::Flows, black_box(event.as_bytes())).expect("it is well-formed"));
        });
    }
    group.finish();
}

criterion_group!(benches, decode);
criterion_main!(benches);
