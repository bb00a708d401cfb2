//! B9: packets a second from outside through a node to a service's backends, by XDP and by traffic control, against
//! kube-proxy's rules in nftables and in iptables, and against what the machine can do at all. With it: what
//! Maglev's tables cost and how much of them moves.

use std::process::Command;

use serde::Deserialize;

use crate::report::{Case, Target};
use crate::run::{Context, sample};
use crate::sides::{self, Compared};
use crate::stats::Better;

/// Services that are present.
const SERVICES: u64 = 10_000;
/// Flows, and so many that connection tracking has no place for them all; powers of two.
const FLOWS: u64 = 4096;
const MANY_FLOWS: u64 = 1 << 20;
/// Entries and backends of Maglev's tables.
const TABLES: [(u64, u64); 5] =
    [(16_381, 100), (16_381, 1_000), (65_521, 100), (65_521, 1_000), (131_071, 1_000)];
/// What Cilium 1.10 took for the last of them, milliseconds (published, in Go, on another machine).
const PUBLISHED: f64 = 283.0;

#[derive(Deserialize)]
struct Table {
    milliseconds: f64,
    moved: f64,
}

/// Runs every side with its number of flows.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let driver = context.example("bench_b9")?;
    let seconds = format!("{:.2}", 2.0 / (context.divisor as f64).sqrt());
    let services = context.scaled(SERVICES).to_string();
    let (few, many) = (FLOWS, (MANY_FLOWS / context.divisor).next_power_of_two());
    let has_iptables = sides::has_iptables("B9");
    // Targets of benchmarks 6.2; the other rows are reported only.
    let mut compared: Vec<Compared> = vec![
        (("nft", few), ("xdp", few), "nft DNAT", Target::Ratio(3.9)),
        (("iptables", few), ("xdp", few), "iptables DNAT", Target::Ratio(3.9)),
        (("drop", few), ("xdp", few), "XDP drop", Target::Ratio(0.44)),
        (("route", few), ("xdp", few), "kernel routing", Target::None),
        (("nft", few), ("tc", few), "nft DNAT", Target::Ratio(1.5)),
        (("iptables", few), ("tc", few), "iptables DNAT", Target::Ratio(1.5)),
        (("route", few), ("tc", few), "kernel routing", Target::None),
        (("nft", few), ("xdp-tunnel", few), "nft DNAT", Target::None),
        (("nft", few), ("tc-tunnel", few), "nft DNAT", Target::None),
        (("xdp", few), ("xdp", many), "few flows", Target::None),
        (("tc", few), ("tc", many), "few flows", Target::None),
    ];
    compared.retain(|row| has_iptables || row.0.0 != "iptables");
    let samples = sides::measure(context, &compared, |(side, flows)| {
        let mut command = Command::new(&driver);
        command.args([side, flows.to_string().as_str(), &services, &seconds]);
        command
    })?;
    let rows = compared.into_iter().map(|(anchor, ours, anchor_name, target)| Case {
        id: "B9",
        case: format!("{}, {} flows, 60 bytes, against {anchor_name}", way(ours.0), ours.1),
        unit: "Mpps",
        anchor_name,
        anchor: samples[&anchor].clone(),
        ours: samples[&ours].clone(),
        better: Better::Higher,
        target: context.in_full(target),
    });
    let mut rows: Vec<Case> = rows.collect();
    rows.extend(tables(context, &driver)?);
    Ok(rows)
}

fn way(side: &str) -> &'static str {
    match side {
        "xdp" => "outside to backend, XDP",
        "xdp-tunnel" => "outside to backend in the tunnel, XDP",
        "tc-tunnel" => "outside to backend in the tunnel, tc",
        _ => "outside to backend, tc",
    }
}

/// Maglev's tables, which have no peer to run here.
fn tables(context: &Context, driver: &std::path::Path) -> anyhow::Result<Vec<Case>> {
    let mut rows = Vec::new();
    for (size, backends) in TABLES {
        let mut samples = Vec::new();
        for _ in 0..context.pairs {
            let mut command = Command::new(driver);
            command.args(["maglev", &size.to_string(), &backends.to_string()]);
            samples.push(sample::<Table>(&mut command)?);
        }
        let last = (size, backends) == TABLES[TABLES.len() - 1];
        let case = |text: &str, unit, ours, target| Case {
            id: "B9",
            case: format!("Maglev, {size} entries, {backends} backends: {text}"),
            unit,
            anchor_name: "none",
            anchor: vec![],
            ours,
            better: Better::Lower,
            target: context.in_full(target),
        };
        let built = samples.iter().map(|table| table.milliseconds).collect();
        let limit = if last { Target::AtMost(PUBLISHED) } else { Target::None };
        rows.push(case("table built", "ms", built, limit));
        let moved = samples.iter().map(|table| table.moved * 100.0).collect();
        rows.push(case("moved without need when one goes", "%", moved, Target::None));
    }
    Ok(rows)
}
