//! B3: every event to many watchers, each on a stream of its own.

use serde::Deserialize;

use crate::report::{Case, Target};
use crate::run::Context;
use crate::stats::Better;
use crate::store::pairs;

/// What the load generator prints.
#[derive(Deserialize)]
struct Sample {
    rate: f64,
    p99_us: f64,
    server_cpu_us: f64,
    rss_bytes_per_watch: f64,
}

/// Watchers, their connections, events, and puts a second (0 = flat out).
const SHAPES: [(u64, u64, u64, u64); 3] = [(100, 10, 10_000, 0), (1_000, 50, 2_000, 0), (500, 50, 300, 100)];

/// Runs the pairs of each shape.
pub(crate) fn run(context: &Context) -> anyhow::Result<Vec<Case>> {
    let mut rows = Vec::new();
    for (watchers, connections, events, rate) in SHAPES {
        let flags = [
            ("watchers", watchers),
            ("connections", connections),
            ("events", context.scaled(events)),
            ("rate", rate),
        ];
        let samples = pairs(context, |store| store.load::<Sample>("watch", &flags))?;
        let how = if rate == 0 { "flat out".to_owned() } else { format!("{rate} puts/s") };
        let case = |text| format!("{watchers} watchers on {connections} connections, {how}: {text}");
        // Targets of benchmarks 6.2.
        if rate == 0 {
            rows.push(samples.case(
                "B3",
                case("server CPU per delivery"),
                ("µs", Better::Cheaper),
                Target::Ratio(6.0),
                |s| s.server_cpu_us,
            ));
            let unit = ("events/s", Better::Higher);
            rows.push(samples.case("B3", case("deliveries"), unit, Target::Ratio(3.0), |s| s.rate));
        } else {
            let unit = ("µs", Better::Lower);
            rows.push(samples.case("B3", case("p99"), unit, Target::Ratio(4.0), |s| s.p99_us));
        }
        if watchers == 1_000 {
            let unit = ("bytes", Better::Cheaper);
            rows.push(
                samples.case("B3", case("memory of a watch"), unit, Target::Ratio(6.0), |s| {
                    s.rss_bytes_per_watch
                }),
            );
        }
    }
    Ok(rows)
}
