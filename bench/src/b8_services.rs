//! B8: from a pod to a ClusterIP with its backends on the same node, against kube-proxy's rules in nftables and in
//! iptables, and against no service at all.

use std::process::Command;

use crate::report::{Case, Target};
use crate::run::Context;
use crate::sides::{self, Compared};
use crate::stats::Better;

/// Services that are present.
const SERVICES: [u64; 4] = [1, 1_000, 10_000, 30_000];

/// Runs every side with its number of services.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let driver = context.example("bench_b8")?;
    let seconds = format!("{:.2}", 1.0 / (context.divisor as f64).sqrt());
    let [one, thousand, many, most] = SERVICES.map(|n| context.scaled(n));
    let has_iptables = sides::has_iptables("B8");
    let mut rows = Vec::new();
    // Targets of benchmarks 6.2; those of other numbers of services are reported only.
    for (case, text) in [("crr", "connect, round trip, close"), ("rr", "round trip, 1 byte")] {
        let mut compared: Vec<Compared> = vec![
            (("nft", many), ("ours", many), "nft verdict map", Target::Ratio(1.25)),
            (("iptables", many), ("ours", many), "iptables chain", Target::Ratio(1.9)),
            (("none", many), ("ours", many), "no service", Target::Ratio(0.97)),
        ];
        if case == "crr" {
            compared.extend([
                (("nft", one), ("ours", one), "nft verdict map", Target::None),
                (("iptables", one), ("ours", one), "iptables chain", Target::Ratio(1.0)),
                (("ours", one), ("ours", thousand), "ours with 1", Target::None),
                (("ours", one), ("ours", most), "ours with 1", Target::Ratio(0.97)),
            ]);
        } else {
            // An open connection passes no rule but that of connection tracking.
            compared.iter_mut().filter(|row| row.0.0 != "none").for_each(|row| row.3 = Target::None);
        }
        compared.retain(|row| has_iptables || row.0.0 != "iptables");
        let samples = sides::measure(context, &compared, |(side, services)| {
            let mut command = Command::new(&driver);
            command.args([side, case, &services.to_string(), &seconds]);
            command
        })?;
        for (anchor, ours, anchor_name, target) in compared {
            rows.push(Case {
                id: "B8",
                case: format!("pod to ClusterIP, {text}, {} services, against {anchor_name}", ours.1),
                unit: "µs",
                anchor_name,
                anchor: samples[&anchor].clone(),
                ours: samples[&ours].clone(),
                better: Better::Lower,
                target: context.in_full(target),
            });
        }
    }
    Ok(rows)
}
