//! CHURN: endpoints change on a node that has 10,000 services of 50 backends, beside one that has 100.
//!
//! CPU time of one change, merged and in the kernel's maps. The anchor is ours with a hundredth of the services: what a
//! change costs must not grow with them.

use std::process::Command;

use serde::Deserialize;

use crate::report::{Case, Target};
use crate::run::{Context, sample};
use crate::stats::Better;

/// Services of the anchor and of ours.
const SERVICES: [u64; 2] = [100, 10_000];
/// Changes a second that a node has to take (issue 4): the CPU time that one may have.
const AIM: f64 = 1_000.0;

#[derive(Deserialize)]
struct Sample {
    merge_us: f64,
    write_us: f64,
}

/// Runs both sizes in pairs.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let driver = context.debug("examples/bench_churn")?;
    let (mut few, mut many) = (Vec::new(), Vec::new());
    let changes = context.scaled(1_000).to_string();
    for _ in 0..context.pairs {
        for (services, samples) in SERVICES.into_iter().zip([&mut few, &mut many]) {
            let services = context.scaled(services).to_string();
            samples.push(sample::<Sample>(Command::new(&driver).args([&services, &changes]))?);
        }
    }
    let row = |text: &str, target, get: fn(&Sample) -> f64| Case {
        id: "CHURN",
        case: format!("one endpoint changes, of {} services: {text}", context.scaled(SERVICES[1])),
        unit: "µs",
        anchor_name: "a hundredth of the services",
        anchor: few.iter().map(get).collect(),
        ours: many.iter().map(get).collect(),
        better: Better::Lower,
        target,
    };
    let total = |sample: &Sample| sample.merge_us + sample.write_us;
    let whole =
        Case { anchor: vec![], anchor_name: "", ..row("both", context.in_full(Target::AtMost(AIM)), total) };
    Ok(vec![
        row("merge", Target::None, |s| s.merge_us),
        row("write into the maps", Target::None, |s| s.write_us),
        whole,
    ])
}
