//! B4: from a put at one cluster's store until a watcher there sees it, and until a watcher of another
//! cluster's store sees it.

use crate::mesh::{self, Churn, Shape};
use crate::report::{Case, Target};
use crate::run::Context;
use crate::stats::Better;

/// Runs the pairs.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let endpoints = if context.divisor > 10 { 1_000 } else { 10_000 };
    let shape = Shape { clusters: 1, nodes: 10, identities: 10, endpoints };
    let secs = context.secs(4);
    // A second that is not counted warms both sides up.
    let pairs = mesh::pairs(context, shape, |mesh| {
        mesh.churn(325, 1)?;
        Ok([mesh.churn(325, secs)?, mesh.churn(2_000, secs)?, mesh.flat_out(context.scaled(80_000))?])
    })?;
    type Get = fn(&Churn) -> f64;
    let (near, p50, p99): (Get, Get, Get) = (|c| c.near_p50_us, |c| c.far_p50_us, |c| c.far_p99_us);
    let mut cases = Vec::new();
    // Targets of benchmarks 6.2.
    for (at, rate) in ["325/s", "2,000/s"].into_iter().enumerate() {
        let mut case = |text: &str, target, get: Get| {
            let text = format!("{text} at {rate}");
            cases.push(
                pairs.case("B4", text, ("µs", Better::Lower), target, |sample: &[Churn; 3]| get(&sample[at])),
            );
        };
        case("put until seen at the source, p50", Target::Ratio(2.5), near);
        case("put until seen in the other cluster, p50", Target::Ratio(3.0), p50);
        case("put until seen in the other cluster, p99", Target::Ratio(3.0), p99);
    }
    cases.push(pairs.case(
        "B4",
        "changes carried over, flat out",
        ("changes/s", Better::Higher),
        Target::Ratio(4.0),
        |sample| sample[2].rate,
    ));
    cases.push(pairs.case(
        "B4",
        "CPU of a change, flat out",
        ("µs", Better::Cheaper),
        Target::None,
        |sample| sample[2].cpu_us_per_change,
    ));
    Ok(cases)
}
