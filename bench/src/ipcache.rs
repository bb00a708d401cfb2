//! IPCACHE: the kernel's end of B4 and B5: until the map of a node that reads our cache holds what was changed
//! (B4 iii), and until it holds everything (B5 ii).

use serde::Deserialize;

use crate::b5_bootstrap::shape;
use crate::mesh::{Mesh, Shape};
use crate::report::{Case, Target};
use crate::run::Context;
use crate::stats::Better;

#[derive(Deserialize)]
struct Boot {
    seconds: f64,
    limit_seconds: f64,
}

#[derive(Deserialize)]
struct Follow {
    far_p50_us: f64,
    map_p50_us: f64,
    map_p99_us: f64,
}

/// Runs both.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let driver = context.optimised("examples/bench_ipcache")?;
    let (full, small) = (shape(context), Shape { clusters: 1, nodes: 10, identities: 10, endpoints: 10_000 });
    let boots: Vec<Boot> = {
        let mesh = Mesh::ours(context, full)?;
        (0..context.pairs).map(|_| mesh.load(&driver, "boot", &[])).collect::<anyhow::Result<_>>()?
    };
    let follows: Vec<Follow> = {
        let mesh = Mesh::ours(context, small)?;
        let flags = [("rate", 325), ("secs", context.secs(4))];
        (0..context.pairs).map(|_| mesh.load(&driver, "follow", &flags)).collect::<anyhow::Result<_>>()?
    };
    let case = |case: String, unit, target, ours| Case {
        id: "IPCACHE",
        case,
        unit,
        anchor_name: "none",
        anchor: vec![],
        ours,
        better: Better::Lower,
        target,
    };
    let entries = full.clusters * full.endpoints;
    let times = boots.iter().map(|boot| boot.seconds / boot.limit_seconds).collect();
    let beyond = follows.iter().map(|follow| (follow.map_p50_us - follow.far_p50_us).max(0.1)).collect();
    // Targets of benchmarks 6.2.
    Ok(vec![
        case(
            format!("an agent's start until {entries} addresses are in its map"),
            "s",
            context.in_full(Target::AtMost(1.1)),
            boots.iter().map(|boot| boot.seconds).collect(),
        ),
        case("the same, in times of the bare map updates".to_owned(), "×", Target::AtMost(3.0), times),
        case(
            "put until in a node's map at 325/s, p50".to_owned(),
            "µs",
            Target::None,
            follows.iter().map(|follow| follow.map_p50_us).collect(),
        ),
        case(
            "put until in a node's map at 325/s, p99".to_owned(),
            "µs",
            Target::None,
            follows.iter().map(|follow| follow.map_p99_us).collect(),
        ),
        case("p50 beyond that of a watch of the node's store".to_owned(), "µs", Target::AtMost(30.0), beyond),
    ])
}
