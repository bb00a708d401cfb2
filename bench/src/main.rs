//! `make bench`: ours and a peer side by side in one run, interleaved, printed as ratios.
//!
//! The rules are those of `benchmarks.md` 6.1: pairs in one run, medians of paired ratios with
//! their quartiles, no verdict from an unsteady anchor, versions and load printed with the table.
//! The load generators are the example programs of the crates they measure.

mod accepted;
mod b11_pods;
mod b1_store;
mod b2_reads;
mod b3_watch;
mod b4_propagation;
mod b5_bootstrap;
mod b8_services;
mod b9_rate;
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
mod sides;
mod stats;
mod store;
mod tls;

use std::cell::OnceCell;
use std::path::{Path, PathBuf};

use anyhow::{Context, bail};
use clap::Parser;
use tempfile::TempDir;

use report::{Case, Measured};

/// Side-by-side benchmarks.
#[derive(Debug, Parser)]
struct Args {
    /// Which benchmarks to run, comma separated; all when empty: B1 to B9, B11, ROUTE, IPCACHE, SERVICE, CHURN, BURST,
    /// SCALE
    #[arg(long, value_delimiter = ',')]
    only: Vec<String>,
    /// Pairs of samples a case; 7 is the least that is published [default: 7; 3 when short, 1 when tiny]
    #[arg(long)]
    pairs: Option<usize>,
    /// A fifth of the work: says whether something has become slower, not how fast it is
    #[arg(long)]
    short: bool,
    /// A hundredth of the work: shows that everything still runs, says nothing about how fast
    #[arg(long, conflicts_with = "short")]
    tiny: bool,
    /// Leaves the second column, mutual TLS, out
    #[arg(long)]
    plain: bool,
    /// Fails when a ratio has fallen below the accepted one of this file, after it was measured again
    #[arg(long, value_name = "FILE", conflicts_with = "accept")]
    check: Option<PathBuf>,
    /// Measures nothing, and makes the ratios of --results the accepted ones of this file
    #[arg(long, value_name = "FILE")]
    accept: Option<PathBuf>,
    /// Where the built binaries and examples are
    #[arg(long, default_value = "target/release")]
    bin_dir: PathBuf,
    /// Where the executable and the examples of the demo's profile are
    #[arg(long, default_value = "target/debug")]
    debug_dir: PathBuf,
    /// Where the agent's part of IPCACHE is, in the profile `optimised`
    #[arg(long, default_value = "target/optimised")]
    optimised_dir: PathBuf,
    /// Where the results go
    #[arg(long, default_value = "target/bench/results.json")]
    results: PathBuf,
}

type Bench = fn(&run::Context) -> anyhow::Result<Vec<Case>>;

/// Whether a benchmark has a second column.
#[derive(Clone, Copy, PartialEq)]
enum Column {
    One,
    Two,
}

const BENCHES: &[(&str, Column, Bench)] = &[
    ("B1", Column::Two, b1_store::run),
    ("B2", Column::Two, b2_reads::run),
    ("B3", Column::Two, b3_watch::run),
    ("B4", Column::Two, b4_propagation::run),
    ("B5", Column::One, b5_bootstrap::bootstrap),
    ("B6", Column::One, b5_bootstrap::memory),
    ("B7", Column::One, b5_bootstrap::churn),
    ("B8", Column::One, b8_services::run),
    ("B9", Column::One, b9_rate::run),
    ("B11", Column::One, b11_pods::run),
    ("ROUTE", Column::One, route::run),
    ("IPCACHE", Column::One, ipcache::run),
    ("SERVICE", Column::One, service::run),
    ("CHURN", Column::One, churn::run),
    ("BURST", Column::One, burst::run),
    ("SCALE", Column::One, scale::run),
];

/// How often doubtful rows are measured again before they count.
const SECOND_LOOKS: usize = 2;

fn main() -> anyhow::Result<()> {
    let args = Args::parse();
    let only: Vec<String> = args.only.iter().filter(|b| !b.is_empty()).map(|b| b.to_uppercase()).collect();
    if let Some(unknown) = only.iter().find(|b| !BENCHES.iter().any(|(id, ..)| id == b)) {
        let known: Vec<_> = BENCHES.iter().map(|(id, ..)| *id).collect();
        bail!("benchmark {unknown:?} is unknown; there are {}", known.join(", "));
    }
    let (divisor, pairs) = match (args.short, args.tiny) {
        (true, _) => (5, 3),
        (_, true) => (100, 1),
        _ => (1, 7),
    };
    let form = accepted::form(&args.bin_dir, divisor);
    if let Some(path) = &args.accept {
        let count = accepted::accept(path, &form, &report::read(&args.results)?)?;
        println!("{count} ratios of {form:?} are the accepted ones now: {}", path.display());
        return Ok(());
    }
    // Without accepted ratios there is something to accept all the same.
    let accepted = args.check.as_ref().map(|path| accepted::read(path, &form));
    println!("{}", run::versions());
    let certificates = if args.plain { None } else { Some(tls::certificates()?) };
    let certificates = certificates.as_ref().map(TempDir::path);
    let chosen = |id: &str| only.is_empty() || only.iter().any(|b| b == id);
    let measure = |wanted: &dyn Fn(&str) -> bool| {
        let context = |tls: Option<&Path>| run::Context {
            pairs: args.pairs.unwrap_or(pairs).max(1),
            divisor,
            bin_dir: args.bin_dir.clone(),
            debug_dir: args.debug_dir.clone(),
            optimised_dir: args.optimised_dir.clone(),
            tls: tls.map(Path::to_owned),
            bootstrap: OnceCell::new(),
        };
        let (plain, mutual) = (context(None), certificates.map(|dir| context(Some(dir))));
        let mut all = Vec::new();
        for (id, columns, bench) in BENCHES.iter().filter(|(id, ..)| wanted(id)) {
            eprintln!("{id} …");
            let mutual = mutual.as_ref().filter(|_| *columns == Column::Two);
            all.extend(both(*bench, &plain, mutual).with_context(|| format!("benchmark {id} failed"))?);
        }
        anyhow::Ok(all)
    };
    let rows_of = |all: &[Measured]| all.iter().map(report::both).collect::<anyhow::Result<Vec<_>>>();

    let mut all = measure(&chosen)?;
    let mut rows = rows_of(&all)?;
    let judge = accepted.as_ref().and_then(|accepted| accepted.as_ref().ok());
    let not_here = judge.and_then(accepted::Run::not_here);
    if let (Some(accepted), None) = (judge, &not_here) {
        for _ in 0..SECOND_LOOKS {
            let doubtful = accepted.doubtful(&rows);
            if doubtful.is_empty() {
                break;
            }
            eprintln!("measured again, with more pairs: {doubtful:?}");
            absorb(&mut all, measure(&|id| doubtful.contains(id))?);
            rows = rows_of(&all)?;
        }
    }
    println!("{}", report::table(&rows));
    if let Some(score) = report::score(&all, &rows) {
        println!("score (geometric mean of min(ratio ÷ target, 1.5)): {score:.2}");
    }
    println!("load average at the end: {}", run::load_average());
    report::write(&rows, &args.results)?;
    println!("written to {}", args.results.display());
    match (accepted.transpose()?, not_here) {
        (Some(_), Some(why)) => println!("the ratios are not judged: {why}"),
        (Some(accepted), None) => {
            let (table, fallen) = accepted.verdict(&rows);
            println!("{table}");
            if fallen > 0 {
                bail!(
                    "{fallen} ratios have fallen; `make bench-accept` makes those of this run the accepted ones"
                );
            }
        }
        (None, _) => {}
    }
    Ok(())
}

/// Runs a benchmark, and once more for its second column.
fn both(bench: Bench, plain: &run::Context, mutual: Option<&run::Context>) -> anyhow::Result<Vec<Measured>> {
    let plain = bench(plain)?;
    let mutual = mutual.map(bench).transpose()?.unwrap_or_default();
    let mutual = mutual.into_iter().map(Some).chain(std::iter::repeat(None));
    Ok(plain.into_iter().zip(mutual).map(|(plain, mutual)| Measured { plain, mutual }).collect())
}

/// Adds the pairs of another pass to the cases they are of.
fn absorb(all: &mut [Measured], again: Vec<Measured>) {
    for more in again {
        let same = |one: &&mut Measured| one.plain.id == more.plain.id && one.plain.case == more.plain.case;
        if let Some(one) = all.iter_mut().find(same) {
            one.plain.absorb(more.plain);
            if let (Some(one), Some(more)) = (&mut one.mutual, more.mutual) {
                one.absorb(more);
            }
        }
    }
}
