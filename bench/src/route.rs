//! ROUTE: from a ready pod in cluster 2 until cluster 1 routes to it and balances over it.
//!
//! There is no peer to run beside it here: the totals are held against 50 ms, the stages say where the time goes.

use std::collections::BTreeMap;
use std::process::Command;

use serde::Deserialize;

use crate::report::{Case, Target};
use crate::run::{Context, sample};
use crate::stats::{Better, quartiles};

/// The aim of both totals, milliseconds at the median.
const AIM: f64 = 50.0;

#[derive(Deserialize)]
struct Samples {
    /// Milliseconds by stage, one map a pod.
    samples: Vec<BTreeMap<String, f64>>,
}

/// A key of the samples and what it is.
type Named = (&'static str, &'static str);

/// Totals with their stages, in the order of the way of a change.
const TOTALS: [(&str, &str, &[Named]); 2] = [
    (
        "endpoint_to_route",
        "CiliumEndpoint written → routable in the other cluster",
        &[
            ("endpoint_to_key", "CiliumEndpoint → key in its store"),
            ("key_to_route", "key → ipcache of the other cluster's node"),
        ],
    ),
    (
        "ready_to_all",
        "pod ready → routable and balanced to in the other cluster",
        &[
            ("ready_to_slice", "pod ready → EndpointSlice"),
            ("slice_to_key", "EndpointSlice → key in its store"),
            ("key_to_backend", "key → backend on the other cluster's node"),
        ],
    ),
];

/// Runs a lab once; every pod is a sample.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    // The daemons are those of the demo and the tests, in their profile.
    let driver = context.debug("examples/bench_route")?;
    let causeway = context.debug("causeway")?;
    let result: Samples =
        sample(Command::new(driver).arg("--causeway").arg(causeway).arg("--pods").arg("20"))?;
    let of =
        |stage: &str| -> Vec<f64> { result.samples.iter().filter_map(|s| s.get(stage).copied()).collect() };
    let case = |text: String, ours: Vec<f64>, target| Case {
        id: "ROUTE",
        case: text,
        unit: "ms",
        anchor_name: "none",
        anchor: vec![],
        ours,
        better: Better::Lower,
        target,
    };
    let mut cases = Vec::new();
    for (total, text, stages) in TOTALS {
        let whole = of(total);
        cases.push(case(text.to_owned(), whole.clone(), Target::AtMost(AIM)));
        for (stage, text) in stages {
            let ours = of(stage);
            let shares: Vec<f64> = ours.iter().zip(&whole).map(|(part, all)| part / all.max(1e-9)).collect();
            let share = quartiles(&shares).map_or(0.0, |q| q.median * 100.0);
            cases.push(case(format!("  {text}: {share:.0} % of it"), ours, Target::None));
        }
    }
    Ok(cases)
}
