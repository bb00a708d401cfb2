//! How full the kernel's maps are.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_datapath::inspect::{Inspector, Usage};
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use tokio_util::sync::CancellationToken;

use super::{Labels, gauges};

/// How often the maps are counted; large ones take a tenth of a second.
const EVERY: Duration = Duration::from_secs(60);

/// `cilium_bpf_map_pressure`: entries of each map against those it may have.
#[derive(Debug, Clone, Default)]
pub(crate) struct Pressure(Arc<Mutex<Vec<Usage>>>);

impl Pressure {
    /// Counts the maps of a bpffs until cancelled, on a thread that nothing waits for.
    pub(crate) async fn follow(self, bpffs: PathBuf, shutdown: CancellationToken) {
        loop {
            let bpffs = bpffs.clone();
            let counted = tokio::task::spawn_blocking(move || Inspector::open(&bpffs)?.usage()).await;
            match counted {
                Ok(Ok(usage)) => self.set(usage),
                Ok(Err(error)) => tracing::debug!(%error, "the maps cannot be counted"),
                Err(error) => tracing::debug!(%error, "the maps were not counted"),
            }
            tokio::select! {
                () = tokio::time::sleep(EVERY) => {}
                () = shutdown.cancelled() => return,
            }
        }
    }

    pub(super) fn set(&self, usage: Vec<Usage>) {
        *self.0.lock().unwrap_or_else(PoisonError::into_inner) = usage;
    }
}

impl Collector for Pressure {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let usage = self.0.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let values = usage.into_iter().map(|map| {
            let labels: Labels = vec![("map_name", map.name.to_owned())];
            (labels, map.entries as f64 / f64::from(map.max.max(1)))
        });
        let help = "Entries of a BPF map against those it may have";
        gauges(&mut encoder, "cilium_bpf_map_pressure", help, values)
    }
}
