//! What collecting the entries of connection tracking that are over has cost and left.

use std::sync::{Arc, Mutex, PoisonError};

use causeway_datapath::conntrack::Collected;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeMetric};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::ConstCounter;

use super::{Labels, gauges};

/// The runs of the collector so far.
#[derive(Debug, Clone, Default)]
pub(crate) struct Collections(Arc<Mutex<Sums>>);

#[derive(Debug, Clone, Copy, Default)]
struct Sums {
    completed: u64,
    failed: u64,
    alive: usize,
    deleted: usize,
    seconds: f64,
}

impl Collections {
    /// Takes in one run; `None` = it failed.
    pub(crate) fn ran(&self, result: Option<&Collected>) {
        let mut sums = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        match result {
            Some(run) => {
                sums.completed += 1;
                sums.alive = run.alive;
                sums.deleted = run.deleted;
                sums.seconds = run.took.as_secs_f64();
            }
            None => sums.failed += 1,
        }
    }
}

impl Collector for Collections {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let sums = *self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let label = |name, value: &str| -> Labels { vec![(name, value.to_owned())] };
        let name = "cilium_datapath_conntrack_gc_runs";
        let help = "Collections of connection tracking entries that are over";
        let mut runs = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (status, count) in [("completed", sums.completed), ("uncompleted", sums.failed)] {
            ConstCounter::new(count).encode(runs.encode_family(&label("status", status))?)?;
        }
        gauges(
            &mut encoder,
            "cilium_datapath_conntrack_gc_entries",
            "Entries the last collection has left and removed",
            [("alive", sums.alive), ("deleted", sums.deleted)]
                .map(|(status, count)| (label("status", status), count as f64)),
        )?;
        gauges(
            &mut encoder,
            "cilium_datapath_conntrack_gc_duration_seconds",
            "How long the last collection took",
            [(label("status", "completed"), sums.seconds)],
        )
    }
}
