//! B5, B6 and B7 on the shape of Cilium's own scale test: how long the state of all clusters takes to be
//! carried over, what it then weighs, and what changes cost. One bootstrap serves all three.

use crate::mesh::{self, Churn, Mesh, Shape};
use crate::pairs::Pairs;
use crate::report::{Case, Target};
use crate::run::Context;
use crate::stats::Better;

/// One side of a pair.
#[derive(Debug)]
pub(crate) struct Sample {
    seconds: f64,
    cpu_us_per_key: f64,
    bytes_per_key: f64,
    reader: f64,
    churn: [Churn; 2],
}

pub(crate) fn shape(context: &Context) -> Shape {
    Shape { clusters: context.scaled(250), nodes: 100, identities: 100, endpoints: 1000 }
}

fn measure(context: &Context, mesh: &Mesh) -> anyhow::Result<Sample> {
    let (secs, keys) = (context.secs(5), shape(context).keys() as f64);
    Ok(Sample {
        seconds: mesh.boot.seconds,
        cpu_us_per_key: mesh.boot.cpu_seconds * 1e6 / keys,
        bytes_per_key: mesh.resident()? / keys,
        reader: mesh.reader_bytes()?,
        churn: [mesh.churn(325, secs)?, mesh.churn(3_250, secs)?],
    })
}

/// The samples of this pass, taken once.
fn pairs(context: &Context) -> anyhow::Result<&Pairs<Sample>> {
    if let Some(pairs) = context.bootstrap.get() {
        return Ok(pairs);
    }
    let pairs = mesh::pairs(context, shape(context), |mesh| measure(context, mesh))?;
    Ok(context.bootstrap.get_or_init(|| pairs))
}

/// B5.
pub(crate) fn bootstrap(context: &Context) -> anyhow::Result<Vec<Case>> {
    let (pairs, keys) = (pairs(context)?, shape(context).keys());
    let text = format!("bootstrap of {} clusters, {keys} keys", shape(context).clusters);
    let seconds = |sample: &Sample| sample.seconds;
    let mut cases = vec![pairs.case("B5", text.clone(), ("s", Better::Lower), Target::Ratio(13.0), seconds)];
    let cpu = format!("{text}: CPU of a key");
    cases.push(pairs.case("B5", cpu, ("µs", Better::Cheaper), Target::None, |s| s.cpu_us_per_key));
    // The limit is of the full shape.
    if context.divisor == 1 {
        cases.push(pairs.case("B5", text, ("s", Better::Lower), Target::AtMost(1.0), seconds));
    }
    Ok(cases)
}

/// B6.
pub(crate) fn memory(context: &Context) -> anyhow::Result<Vec<Case>> {
    let (pairs, unit) = (pairs(context)?, ("B", Better::Cheaper));
    // The limit is of the full shape: of a few objects, what the process itself needs is most.
    let limit = if context.divisor == 1 { Target::AtMost(400.0) } else { Target::None };
    Ok(vec![
        pairs.case("B6", "store with mirror: memory per key", unit, Target::Ratio(2.2), |s| s.bytes_per_key),
        pairs.case("B6", "agent's reader: memory per object", unit, limit, |s| s.reader),
    ])
}

/// B7.
pub(crate) fn churn(context: &Context) -> anyhow::Result<Vec<Case>> {
    let (pairs, cpu) = (pairs(context)?, ("µs", Better::Cheaper));
    Ok(vec![
        pairs.case("B7", "CPU of a change at 325/s", cpu, Target::Ratio(4.0), |s| {
            s.churn[0].cpu_us_per_change
        }),
        pairs.case("B7", "CPU of a change at 3,250/s", cpu, Target::None, |s| s.churn[1].cpu_us_per_change),
        pairs.case(
            "B7",
            "put until seen in the other cluster at 3,250/s, p99",
            ("µs", Better::Lower),
            Target::AtMost(5000.0),
            |s| s.churn[1].far_p99_us,
        ),
    ])
}
