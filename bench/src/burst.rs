//! BURST: many pods at once in cluster 2. How much later than a watcher of Kubernetes does an agent of cluster 1 have
//! the routable entry of each, directly and through a cache; and what does the mesh server weigh?
//!
//! There is no peer to run beside it here. All daemons are processes of the executable as the demo has it.

use std::process::Command;

use serde::Deserialize;

use crate::report::{Case, Target};
use crate::run::{Context, sample};
use crate::stats::Better;

/// Pods created at once.
const BURSTS: [u64; 2] = [1_000, 10_000];
/// Pods of a cluster, and the most its mesh server may weigh, MB (issue 3).
const WEIGHTS: [(u64, f64); 2] = [(1_000, 30.0), (100_000, 120.0)];
/// Most milliseconds beyond what Kubernetes takes, p99 (issue 3).
const AIM: f64 = 100.0;

#[derive(Deserialize)]
struct Burst {
    writes_per_second: f64,
    kubernetes: Quantiles,
    lag: Quantiles,
    beyond: Quantiles,
}

#[derive(Deserialize)]
struct Quantiles {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

#[derive(Deserialize)]
struct Memory {
    rss: f64,
    anonymous: f64,
}

/// Runs the bursts, then the clusters at rest.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let mut cases = Vec::new();
    let bursts = if context.divisor > 10 { &BURSTS[1..] } else { &BURSTS[..] };
    for full in bursts.iter().copied() {
        for cache in [false, true] {
            cases.extend(burst(context, context.scaled(full), cache)?);
        }
    }
    for (full, most) in WEIGHTS {
        let pods = context.scaled(full);
        let samples = samples::<Memory>(context, "memory", pods, false)?;
        let mut row = |text: &str, target, get: fn(&Memory) -> f64| {
            let text = format!("mesh server of {pods} pods: {text}");
            cases.push(case(text, "MB", target, samples.iter().map(|s| get(s) / 1e6).collect()));
        };
        row("resident memory", context.in_full(Target::AtMost(most)), |s| s.rss);
        row("of it not the executable's pages", Target::None, |s| s.anonymous);
    }
    Ok(cases)
}

fn burst(context: &Context, pods: u64, cache: bool) -> anyhow::Result<Vec<Case>> {
    let samples = samples::<Burst>(context, "burst", pods, cache)?;
    let way = if cache { "through the cache" } else { "directly" };
    type Get = fn(&Burst) -> f64;
    let rows: [(&str, &'static str, Target, Get); 8] = [
        ("pods created", "pods/s", Target::None, |s| s.writes_per_second),
        ("write until Kubernetes tells, p50", "ms", Target::None, |s| s.kubernetes.p50_ms),
        ("write until Kubernetes tells, p99", "ms", Target::None, |s| s.kubernetes.p99_ms),
        ("write until routable, p50", "ms", Target::None, |s| s.lag.p50_ms),
        ("write until routable, p99", "ms", Target::None, |s| s.lag.p99_ms),
        ("beyond Kubernetes, p50", "ms", Target::None, |s| s.beyond.p50_ms),
        ("beyond Kubernetes, p99", "ms", context.in_full(Target::AtMost(AIM)), |s| s.beyond.p99_ms),
        ("beyond Kubernetes, longest", "ms", Target::None, |s| s.beyond.max_ms),
    ];
    let of = |(text, unit, target, get): (&str, _, _, Get)| {
        case(format!("{pods} pods {way}: {text}"), unit, target, samples.iter().map(get).collect())
    };
    Ok(rows.into_iter().map(of).collect())
}

fn samples<T: for<'de> Deserialize<'de>>(
    context: &Context,
    load: &str,
    pods: u64,
    cache: bool,
) -> anyhow::Result<Vec<T>> {
    let (driver, causeway) = (context.debug("examples/bench_burst")?, context.debug("causeway")?);
    let run = |_| {
        let mut command = Command::new(&driver);
        command.arg(load).arg("--causeway").arg(&causeway).args(["--pods", &pods.to_string()]);
        command.args(cache.then_some("--cache"));
        sample(&mut command)
    };
    (0..context.pairs).map(run).collect()
}

fn case(case: String, unit: &'static str, target: Target, ours: Vec<f64>) -> Case {
    let better = if unit == "pods/s" { Better::Higher } else { Better::Lower };
    Case { id: "BURST", case, unit, anchor_name: "", anchor: Vec::new(), ours, better, target }
}
