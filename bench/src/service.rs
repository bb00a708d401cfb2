//! SERVICE: one backend of a service changes that has 10, 100, 1,000 or 5,000 with two ports each.
//!
//! CPU time. There is no peer to run beside it here. Published for the reference (benchmarks 1.3, CFP-41953): 37 ms until an
//! agent has taken in one such update; a fifth of that is the aim.

use std::process::Command;

use serde::Deserialize;

use crate::report::{Case, Target};
use crate::run::{Context, sample};
use crate::stats::Better;

/// Backends of the services, so that what grows with them shows.
const BACKENDS: [u64; 4] = [10, 100, 1_000, 5_000];
/// The published 36,861 µs ÷ 5.
const AIM: f64 = 7_372.0;

#[derive(Deserialize)]
struct Sample {
    publish_us: f64,
    store_us: f64,
    decode_us: f64,
    ingest_us: f64,
}

/// Runs the samples of each size.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let driver = context.example("bench_service")?;
    let changes = context.scaled(100).to_string();
    let mut rows = Vec::new();
    for backends in BACKENDS {
        let mut samples = Vec::new();
        for _ in 0..context.pairs {
            let mut command = Command::new(&driver);
            samples.push(sample::<Sample>(command.args([&backends.to_string(), &changes]))?);
        }
        let mut row = |text: &str, target, get: fn(&Sample) -> f64| {
            rows.push(Case {
                id: "SERVICE",
                case: format!("one change, {backends} backends: {text}"),
                unit: "µs",
                anchor_name: "",
                anchor: Vec::new(),
                ours: samples.iter().map(get).collect(),
                better: Better::Lower,
                target,
            });
        };
        let aim = if backends == BACKENDS[3] { Target::AtMost(AIM) } else { Target::None };
        row("publisher, slice → value", Target::None, |s| s.publish_us);
        row("store, write and event", Target::None, |s| s.store_us);
        row("reader, decode", Target::None, |s| s.decode_us);
        row("reader, decode and merge", aim, |s| s.ingest_us);
    }
    Ok(rows)
}
