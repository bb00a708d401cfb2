//! B1: puts of new keys.

use serde::Deserialize;

use crate::report::{Case, Target};
use crate::run::Context;
use crate::stats::Better;
use crate::store::pairs;

/// What the load generator prints.
#[derive(Deserialize)]
struct Sample {
    rate: f64,
    p99_us: f64,
    server_cpu_us: f64,
}

/// Runs the pairs: many puts in flight, and one at a time.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let warmup = ("warmup-secs", context.warmup());
    let busy = [("count", context.scaled(150_000)), ("connections", 8), ("in-flight", 32), warmup];
    let alone = [
        ("first", 1_000_000),
        ("count", context.scaled(5_000)),
        ("connections", 1),
        ("in-flight", 1),
        warmup,
    ];
    let samples = pairs(context, |store| {
        Ok((store.load::<Sample>("put", &busy)?, store.load::<Sample>("put", &alone)?))
    })?;
    let many = |text| format!("put, 8 connections × 32 in flight: {text}");
    // Targets of benchmarks 6.2.
    Ok(vec![
        samples.case("B1", many("server CPU per put"), ("µs", Better::Cheaper), Target::Ratio(4.0), |s| {
            s.0.server_cpu_us
        }),
        samples.case("B1", many("rate"), ("puts/s", Better::Higher), Target::Ratio(2.0), |s| s.0.rate),
        samples.case("B1", many("p99"), ("µs", Better::Lower), Target::None, |s| s.0.p99_us),
        samples
            .case("B1", "put, one at a time: rate", ("puts/s", Better::Higher), Target::None, |s| s.1.rate),
        samples.case("B1", "put, one at a time: p99", ("µs", Better::Lower), Target::None, |s| s.1.p99_us),
    ])
}
