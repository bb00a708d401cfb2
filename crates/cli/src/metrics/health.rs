//! Node-to-node health: `cilium_node_health_*`. What goes through the tunnel is of type `endpoint`, as Cilium's
//! health endpoint is inside it; the rest is of type `node`.

use std::sync::Arc;
use std::time::Duration;

use causeway_daemon::metrics::Metrics;
use causeway_mesh::health::{Kind, Report, Way};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::histogram::Histogram;
use tokio::sync::watch;

use super::{Labels, gauges};

/// Bounds of the latencies, seconds: from a neighbour in the rack to the far side of the earth.
const BUCKETS: [f64; 12] = [0.0001, 0.00025, 0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5];

/// How many nodes answer, read from the report at each scrape.
#[derive(Debug)]
pub(crate) struct Statuses {
    /// `source_cluster` and `source_node_name`.
    pub(crate) source: Labels,
    pub(crate) report: watch::Receiver<Arc<Report>>,
}

impl Collector for Statuses {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let report = self.report.borrow().clone();
        let mut values = vec![];
        for (kind, tunnel) in [("endpoint", true), ("node", false)] {
            let counts = report.counts(tunnel);
            let each = [
                ("reachable", counts.reachable),
                ("unreachable", counts.unreachable),
                ("unknown", counts.unknown),
            ];
            for (status, count) in each {
                let more = [("type", kind.to_owned()), ("status", status.to_owned())];
                values.push((self.source.iter().cloned().chain(more).collect(), count as f64));
            }
        }
        let help = "How many nodes answered the last probes";
        gauges(&mut encoder, "cilium_node_health_connectivity_status", help, values)?;
        let held = [(self.source.clone(), report.held as f64)];
        let help = "Nodes that are silent and stay in use, because nobody at all answers this node";
        gauges(&mut encoder, "causeway_node_health_held", help, held)
    }
}

/// How long answers take.
#[derive(Debug)]
pub(crate) struct Latency {
    source: Labels,
    family: Family<Labels, Histogram, fn() -> Histogram>,
}

impl Latency {
    /// Registers it; `source` is `source_cluster` and `source_node_name`.
    pub(crate) fn register(metrics: &Metrics, source: Labels) -> Self {
        let family: Family<Labels, Histogram, fn() -> Histogram> =
            Family::new_with_constructor(|| Histogram::new(BUCKETS));
        let help = "How long other nodes take to answer probes, seconds";
        let family = metrics.register_named("cilium_node_health_connectivity_latency_seconds", help, family);
        Self { source, family }
    }

    /// One answer.
    pub(crate) fn measured(&self, way: Way, kind: Kind, took: Duration) {
        let kinds = [
            ("type", if way == Way::Tunnel { "endpoint" } else { "node" }),
            ("protocol", if kind == Kind::Icmp { "icmp" } else { "http" }),
            ("address_type", "primary"),
        ];
        let kinds = kinds.map(|(name, value)| (name, value.to_owned()));
        let labels = self.source.iter().cloned().chain(kinds).collect();
        self.family.get_or_create(&labels).observe(took.as_secs_f64());
    }
}
