//! `make bench`: ours and a peer side by side in one run, interleaved, printed as ratios.
//!
//! The rules are those of `benchmarks.md` 6.1: pairs in one run, medians of paired ratios with
//! their quartiles, no verdict from an unsteady anchor, versions and load printed with the table.
//! The load generators are the example programs of the crates they measure.

mod b11_pods;
mod b1_store;
mod b2_reads;
mod b3_watch;
mod b4_propagation;
mod b5_bootstrap;
mod b8_services;
mod burst;
mod churn;
mod ipcache;
mod mesh;
mod pairs;
mod report;
mod route;
mod run;
mod scale;
mod service;
mod stats;
mod store;

use std::path::PathBuf;

use anyhow::{Context, bail};
use clap::Parser;

/// Side-by-side benchmarks.
#[derive(Debug, Parser)]
struct Args {
    /// Which benchmarks to run, comma separated; all when empty: B1 to B8, B11, ROUTE, IPCACHE, SERVICE, CHURN, BURST,
    /// SCALE
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Pairs of samples a case; 7 is the least that is published [default: 7; 1 when short or tiny]
    #[arg(long)]
    pairs: Option<usize>,
    /// A tenth of the work: shows that everything still runs, says little about how fast
    #[arg(long)]
    short: bool,
    /// A hundredth of the work: shows that everything still runs, says nothing about how fast
    #[arg(long, conflicts_with = "short")]
    tiny: bool,
    /// Where the built binaries and examples are
    #[arg(long, default_value = "target/release")]
    bin_dir: PathBuf,
    /// Where the executable and the examples of the demo's profile are
    #[arg(long, default_value = "target/debug")]
    debug_dir: PathBuf,
    /// Where the results go
    #[arg(long, default_value = "target/bench/results.json")]
    results: PathBuf,
}

type Bench = (&'static str, fn(&run::Context) -> anyhow::Result<Vec<report::Case>>);

const BENCHES: &[Bench] = &[
    ("B1", b1_store::run),
    ("B2", b2_reads::run),
    ("B3", b3_watch::run),
    ("B4", b4_propagation::run),
    ("B5", b5_bootstrap::bootstrap),
    ("B6", b5_bootstrap::memory),
    ("B7", b5_bootstrap::churn),
    ("B8", b8_services::run),
    ("B11", b11_pods::run),
    ("ROUTE", route::run),
    ("IPCACHE", ipcache::run),
    ("SERVICE", service::run),
    ("CHURN", churn::run),
    ("BURST", burst::run),
    ("SCALE", scale::run),
];

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let only: Vec<String> = args.only.iter().filter(|b| !b.is_empty()).map(|b| b.to_uppercase()).collect();
    if let Some(unknown) = only.iter().find(|b| !BENCHES.iter().any(|(id, _)| id == b)) {
        let known: Vec<_> = BENCHES.iter().map(|(id, _)| *id).collect();
        bail!("benchmark {unknown:?} is unknown; there are {}", known.join(", "));
    }
    let divisor = match (args.short, args.tiny) {
        (true, _) => 10,
        (_, true) => 100,
        _ => 1,
    };
    let pairs = args.pairs.unwrap_or(if divisor > 1 { 1 } else { 7 }).max(1);
    let context = run::Context { pairs, divisor, bin_dir: args.bin_dir, debug_dir: args.debug_dir };
    println!("{}", run::versions());
    let mut cases = Vec::new();
    for (id, bench) in BENCHES.iter().filter(|(id, _)| only.is_empty() || only.iter().any(|b| b == id)) {
        eprintln!("{id} …");
        cases.extend(bench(&context).with_context(|| format!("benchmark {id} failed"))?);
    }
    let rows = cases.iter().map(report::row).collect::<anyhow::Result<Vec<_>>>()?;
    println!("{}", report::table(&rows));
    if let Some(score) = report::score(&cases, &rows) {
        println!("score (geometric mean of min(ratio ÷ target, 1.5)): {score:.2}");
    }
    println!("load average at the end: {}", run::load_average());
    report::write(&rows, &args.results)?;
    println!("written to {}", args.results.display());
    Ok(())
}
