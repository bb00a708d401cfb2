//! B11: pod to pod across nodes (clusters) over VXLAN, against kernel routing with a plain VXLAN device.

use std::process::Command;

use serde::Deserialize;

use crate::report::{Case, Target};
use crate::run::{Context, sample};
use crate::stats::Better;

/// Seconds a sample.
const SECONDS: &str = "2";

#[derive(Deserialize)]
struct Sample {
    value: f64,
}

/// Runs the pairs: RR and CRR on one core, TCP on all.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let driver = context.example("bench_b11")?;
    let once = |side: &str, case: &str| -> anyhow::Result<f64> {
        Ok(sample::<Sample>(Command::new(&driver).args([side, case, SECONDS]))?.value)
    };
    // Targets of benchmarks 6.2.
    let cases = [
        ("rr", "round trip, 1 byte", "µs", Better::Lower, 1.20),
        ("crr", "connect, round trip, close", "µs", Better::Lower, 1.12),
        ("tcp", "one stream", "Gbit/s", Better::Higher, 1.10),
    ];
    let mut rows = Vec::new();
    for (case, text, unit, better, target) in cases {
        let (mut anchor, mut ours) = (Vec::new(), Vec::new());
        for _ in 0..context.pairs {
            anchor.push(once("anchor", case)?);
            ours.push(once("ours", case)?);
        }
        rows.push(Case {
            id: "B11",
            case: format!("pod to pod across nodes: {text}"),
            unit,
            anchor_name: "kernel routing + VXLAN",
            anchor,
            ours,
            better,
            target: Target::Ratio(target),
        });
    }
    Ok(rows)
}
