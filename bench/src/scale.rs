//! SCALE: the shape of Cilium's own scale test and twice as many clusters, each with a store of its own behind mutual
//! TLS, read by one `causeway kvstoremesh`, and that by one agent.
//!
//! There is no peer to run beside it here; the reference's test allows its cache 60 s to become ready, on two machines
//! with eight processors each (benchmarks 1.1).

use std::process::Command;

use serde::Deserialize;

use crate::report::{Case, Target};
use crate::run::{Context, sample};
use crate::stats::Better;

/// Clusters, and the rates of changes one after the other: 1.3 changes a second in each, then ten times as many.
const SHAPES: [(u64, &[u64]); 2] = [(250, &[325, 3_250]), (510, &[663])];
/// Seconds the reference's own test allows.
const READY: f64 = 60.0;
/// Samples of the full form: each takes minutes.
const SAMPLES: usize = 3;

#[derive(Deserialize)]
struct Sample {
    keys: u64,
    cache_ready_s: f64,
    cache_ready_cpu_s: f64,
    cache_bytes_per_key: f64,
    agent_ready_s: f64,
    agent_ready_cpu_s: f64,
    agent_bytes_per_object: f64,
    churn: Vec<Churn>,
}

#[derive(Deserialize)]
struct Churn {
    rate: f64,
    cache_cpu_us: f64,
    agent_cpu_us: f64,
    known: Known,
}

#[derive(Deserialize)]
struct Known {
    p50_ms: f64,
    p99_ms: f64,
    max_ms: f64,
}

/// Runs the samples of each shape.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let (driver, causeway) = (context.example("bench_mesh")?, context.debug("causeway")?);
    let mut cases = Vec::new();
    for (full, rates) in SHAPES {
        let clusters = context.scaled(full);
        let texts: Vec<String> = rates.iter().map(u64::to_string).collect();
        let run = |_| {
            let mut command = Command::new(&driver);
            command.arg("scale").arg("--causeway").arg(&causeway).args(["--rates", &texts.join(",")]);
            command.args(["--clusters", &clusters.to_string(), "--secs", &context.secs(60).to_string()]);
            sample(&mut command)
        };
        let samples: Vec<Sample> = (0..context.pairs.min(SAMPLES)).map(run).collect::<anyhow::Result<_>>()?;
        cases.extend(ready(context, clusters, &samples));
        for (at, rate) in texts.iter().enumerate() {
            cases.extend(churn(&format!("{clusters} clusters, {rate} changes/s"), &samples, at));
        }
    }
    Ok(cases)
}

fn ready(context: &Context, clusters: u64, samples: &[Sample]) -> Vec<Case> {
    type Get = fn(&Sample) -> f64;
    let rows: [(&str, &'static str, Target, Get); 6] = [
        ("cache ready", "s", context.in_full(Target::AtMost(READY)), |s| s.cache_ready_s),
        ("cache ready, CPU", "s", Target::None, |s| s.cache_ready_cpu_s),
        ("cache, resident per key", "B", Target::None, |s| s.cache_bytes_per_key),
        ("agent ready", "s", Target::None, |s| s.agent_ready_s),
        ("agent ready, CPU", "s", Target::None, |s| s.agent_ready_cpu_s),
        ("agent, memory per object", "B", Target::None, |s| s.agent_bytes_per_object),
    ];
    let keys = samples.first().map_or(0, |sample| sample.keys);
    let of = |(text, unit, target, get): (&str, _, _, Get)| {
        let text = format!("{clusters} clusters, {keys} keys: {text}");
        case(text, unit, target, samples.iter().map(get).collect())
    };
    rows.into_iter().map(of).collect()
}

fn churn(shape: &str, samples: &[Sample], at: usize) -> Vec<Case> {
    type Get = fn(&Churn) -> f64;
    let rows: [(&str, &'static str, Get); 6] = [
        ("changes made", "1/s", |c| c.rate),
        ("change until the agent's entry, p50", "ms", |c| c.known.p50_ms),
        ("change until the agent's entry, p99", "ms", |c| c.known.p99_ms),
        ("change until the agent's entry, longest", "ms", |c| c.known.max_ms),
        ("cache, CPU of a change", "µs", |c| c.cache_cpu_us),
        ("agent, CPU of a change", "µs", |c| c.agent_cpu_us),
    ];
    let of = |(text, unit, get): (&str, _, Get)| {
        let ours = samples.iter().filter_map(|sample| sample.churn.get(at)).map(get).collect();
        case(format!("{shape}: {text}"), unit, Target::None, ours)
    };
    rows.into_iter().map(of).collect()
}

fn case(case: String, unit: &'static str, target: Target, ours: Vec<f64>) -> Case {
    let better = if unit == "1/s" { Better::Higher } else { Better::Lower };
    Case { id: "SCALE", case, unit, anchor_name: "", anchor: Vec::new(), ours, better, target }
}
