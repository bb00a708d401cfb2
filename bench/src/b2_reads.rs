//! B2: linearizable gets of random keys, and lists in pages.

use serde::Deserialize;

use crate::report::{Case, Target};
use crate::run::Context;
use crate::stats::Better;
use crate::store::{Store, pairs};

/// Clusters of the mesh whose keys are read.
const PREFIXES: u64 = 250;

/// What the load generator prints.
#[derive(Deserialize)]
struct Sample {
    rate: f64,
    server_cpu_us: f64,
}

/// Answers to `fill` are only waited for.
#[derive(Deserialize)]
struct Filled {}

fn fill(store: &Store, shape: &[(&str, u64)]) -> anyhow::Result<()> {
    store.load::<Filled>("fill", shape).map(drop)
}

/// Runs the pairs: (a) and (b) on the keys of 250 clusters, (c) on one prefix as large as half of them.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let shape = [("prefixes", PREFIXES), ("keys", context.scaled(1_200))];
    let warmup = ("warmup-secs", context.warmup());
    let get = [shape[0], shape[1], ("count", context.scaled(100_000)), warmup];
    let list = [shape[0], ("page", 256), ("secs", context.secs(2))];
    let many = pairs(context, |store| {
        fill(store, &shape)?;
        Ok((store.load::<Sample>("get", &get)?, store.load::<Sample>("list", &list)?))
    })?;
    let large = pairs(context, |store| {
        fill(store, &[("prefixes", 1), ("keys", context.scaled(150_000))])?;
        store.load::<Sample>("list", &[("prefixes", 1), ("page", 1_000), ("secs", context.secs(2))])
    })?;
    let cpu = ("µs", Better::Cheaper);
    // Targets of benchmarks 6.2.
    Ok(vec![
        many.case("B2", "(a) get, 8 × 32: server CPU per get", cpu, Target::Ratio(12.0), |s| {
            s.0.server_cpu_us
        }),
        many.case("B2", "(a) get, 8 × 32: rate", ("gets/s", Better::Higher), Target::None, |s| s.0.rate),
        many.case(
            "B2",
            "(b) list 250 prefixes, pages of 256: server CPU per key",
            cpu,
            Target::Ratio(12.0),
            |s| s.1.server_cpu_us,
        ),
        large.case(
            "B2",
            "(c) list one prefix, pages of 1,000: rate",
            ("keys/s", Better::Higher),
            Target::Ratio(25.0),
            |s| s.rate,
        ),
        large.case("B2", "(c) list one prefix, pages of 1,000: server CPU per key", cpu, Target::None, |s| {
            s.server_cpu_us
        }),
    ])
}
