//! The fuzz targets for flow files and server URLs, on the stable toolchain.

#[macro_use]
#[path = "../../../fuzz/on_stable.rs"]
mod on_stable;

use std::time::{Duration, Instant};

use ff_cli::fuzz;

targets! { flow_yaml wfformat url }

/// Inputs that would cost far more than their length without limits.
#[test]
fn input_that_grows_while_it_is_read_is_refused_early() {
    let started = Instant::now();
    let laughs = |width: usize| {
        let line = |(outer, inner)| format!("{outer}: &{outer} [{}]\n", format!("*{inner},").repeat(width));
        let lines: String = ('b'..='y').zip('a'..).map(line).collect();
        format!("a: &a [{}]\n{lines}", "x,".repeat(width))
    };
    let large = "x".repeat(1 << 20);
    let aliases = "*a,".repeat(100_000);
    let members = |entry: &str| (0..1_000).map(|index| format!("  n{index}: {entry}\n")).collect::<String>();
    for hostile in [
        "[".repeat(1 << 20),
        "- ".repeat(1 << 19),
        "{a: ".repeat(1 << 18),
        "? ".repeat(1 << 18),
        "&a ".repeat(1 << 18),
        "a".repeat(1 << 20),
        "a\n".repeat(9 << 20),
        format!("executions: {{a: {{run: x, needs: [&a {large}, {aliases}]}}}}"),
        format!("env: {{A: &a {large}, B: [{aliases}]}}"),
        format!("env: {{A: {large}}}\nexecutions:\n{}", members("{run: x}")),
        format!("executions:\n  a: &a {{run: {large}}}\n{}", members("*a")),
        format!("executions:\n  a: &a {{run: {large}}}\n{}", members("{<<: *a}")),
        format!("executions:\n{}", "  ? {a: b}\n  : {run: x}\n".repeat(20_000)),
        laughs(9),
        laughs(50),
    ] {
        assert!(!fuzz::flow_yaml(hostile.as_bytes()), "accepted: {hostile:.80}");
    }
    for hostile in ["[".repeat(1 << 20), "{\"a\":".repeat(1 << 18), "9".repeat(1 << 20), "\"\\".repeat(1 << 18)] {
        assert!(!fuzz::wfformat(hostile.as_bytes()), "accepted: {hostile:.80}");
    }
    assert!(started.elapsed() < Duration::from_secs(60), "{:?}", started.elapsed());
}
