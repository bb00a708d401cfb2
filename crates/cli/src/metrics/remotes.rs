//! What a reader knows of its remote clusters, read from their status at each scrape.

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use causeway_mesh::cache::Cache;
use causeway_mesh::remote::RemoteStatus;
use causeway_model::ClusterName;
use jiff::Timestamp;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, NoLabelSet};
use prometheus_client::metrics::MetricType;
use tokio::sync::watch;

use super::{Labels, flag, gauges};

/// Who knows of remote clusters.
pub(crate) trait Statuses: Debug + Send + Sync + 'static {
    /// Their status now, by name.
    fn now(&self) -> BTreeMap<ClusterName, RemoteStatus>;
}

impl Statuses for watch::Receiver<BTreeMap<ClusterName, RemoteStatus>> {
    fn now(&self) -> BTreeMap<ClusterName, RemoteStatus> {
        self.borrow().clone()
    }
}

/// What is in the store counts.
impl Statuses for Cache {
    fn now(&self) -> BTreeMap<ClusterName, RemoteStatus> {
        self.status()
    }
}

/// The gauges of a reader.
#[derive(Debug)]
pub(crate) struct Remotes<S> {
    /// What its names begin with.
    pub(crate) prefix: &'static str,
    /// The reader: `source_cluster`, and for an agent `source_node_name`.
    pub(crate) source: Labels,
    /// The remote clusters.
    pub(crate) status: S,
    /// What only agents have: how many services of this cluster are global.
    pub(crate) global_services: Option<Arc<AtomicUsize>>,
}

/// One gauge per remote cluster.
type Gauge = (&'static str, &'static str, fn(&RemoteStatus) -> f64);

const OF_ALL: [Gauge; 3] = [
    ("remote_cluster_failures", "Failures of the connection to a remote cluster", |r| r.num_failures as f64),
    (
        "remote_cluster_last_failure_ts",
        "When the connection last failed, seconds since 1970; 0 = never",
        |r| {
            let time = r.last_failure.as_deref().and_then(|time| time.parse::<Timestamp>().ok());
            time.map_or(0.0, |time| time.as_second() as f64)
        },
    ),
    ("remote_cluster_readiness_status", "1 when a remote cluster has been read completely", |r| {
        flag(r.ready)
    }),
];

const OF_AGENTS: [Gauge; 4] = [
    ("remote_cluster_nodes", "Nodes of a remote cluster", |r| r.num_nodes as f64),
    ("remote_cluster_services", "Global services of a remote cluster", |r| r.num_shared_services as f64),
    ("remote_cluster_endpoints", "Addresses of a remote cluster", |r| r.num_endpoints as f64),
    ("remote_cluster_bytes", "Bytes of keys and values in force of a remote cluster", |r| r.num_bytes as f64),
];

impl<S: Statuses> Collector for Remotes<S> {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let remotes: Vec<RemoteStatus> = self.status.now().into_values().collect();
        let name = |tail: &str| format!("{}_{tail}", self.prefix);
        let count = [(self.source.clone(), remotes.len() as f64)];
        gauges(&mut encoder, &name("remote_clusters"), "Remote clusters that are configured", count)?;
        let mut wanted = OF_ALL.to_vec();
        if let Some(global) = &self.global_services {
            let global = [(self.source.clone(), global.load(Ordering::Relaxed) as f64)];
            gauges(
                &mut encoder,
                &name("global_services"),
                "Services of this cluster that are global",
                global,
            )?;
            wanted.extend(OF_AGENTS);
        }
        for (tail, help, value) in wanted {
            let values = remotes.iter().map(|remote| (self.of(remote, None), value(remote)));
            gauges(&mut encoder, &name(tail), help, values)?;
        }
        self.revocations(&mut encoder, &remotes)?;
        self.rejected(&mut encoder, &remotes)
    }
}

impl<S: Statuses> Remotes<S> {
    fn of(&self, remote: &RemoteStatus, more: Option<(&'static str, &str)>) -> Labels {
        let more = more.map(|(name, value)| (name, value.to_owned()));
        let target = [("target_cluster", remote.name.clone())];
        self.source.iter().cloned().chain(target).chain(more).collect()
    }

    fn revocations(&self, encoder: &mut DescriptorEncoder<'_>, remotes: &[RemoteStatus]) -> std::fmt::Result {
        let mode = ("mode", if self.prefix == super::KVSTOREMESH { "kvstoremesh" } else { "clustermesh" });
        let values =
            remotes.iter().map(|remote| (self.of(remote, Some(mode)), remote.num_cache_revocations as f64));
        let help = "How often services were withdrawn after the cache TTL";
        gauges(encoder, &format!("{}_remote_cluster_cache_revocations", self.prefix), help, values)
    }

    /// Ours: Cilium counts nothing of the kind.
    fn rejected(&self, encoder: &mut DescriptorEncoder<'_>, remotes: &[RemoteStatus]) -> std::fmt::Result {
        let (name, help) = ("causeway_clustermesh_rejected", "What remote clusters sent and was refused");
        let mut family = encoder.encode_descriptor(name, help, None, MetricType::Counter)?;
        for remote in remotes {
            for (reason, count) in &remote.rejected.by_reason {
                let labels = self.of(remote, Some(("reason", reason.word())));
                family.encode_family(&labels)?.encode_counter::<NoLabelSet, _, u64>(count, None)?;
            }
        }
        Ok(())
    }
}
