//! What the cache asks of its store, and how far it is.

use std::collections::BTreeMap;
use std::sync::{Arc, OnceLock};
use std::time::Duration;

use causeway_daemon::metrics::Metrics;
use causeway_kvstore::Error;
use causeway_mesh::cache::{Cache, MAX_BATCH, Observer, Queued};
use causeway_mesh::keys::Kind;
use causeway_mesh::publish::{self, SinkError};
use causeway_mesh::remote::{RemoteStatus, SyncedStatus};
use causeway_model::ClusterName;
use prometheus_client::collector::Collector;
use prometheus_client::encoding::DescriptorEncoder;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;

use super::kvstore::{HEARTBEAT, KvstoreMetrics, scope};
use super::{KVSTOREMESH, Labels, flag, gauges};

/// What is asked of the store. Labels name the cluster whose state it is.
#[derive(Debug)]
pub(crate) struct CacheMetrics {
    store: KvstoreMetrics,
    queued: Family<Labels, Gauge>,
}

impl CacheMetrics {
    /// Registers them; `own` is this cluster.
    pub(crate) fn register(metrics: &Metrics, own: &ClusterName) -> Self {
        let queued = metrics.register_named(
            &format!("{KVSTOREMESH}_kvstore_sync_queue_size"),
            "Changes that are not in the store yet",
            Family::default(),
        );
        Self { store: KvstoreMetrics::register(metrics, KVSTOREMESH, own, MAX_BATCH), queued }
    }

    fn batch(&self, write: &Queued, took: Duration, error: Option<&SinkError>) {
        let kinds = [(write.puts, "set"), (write.deletes, "delete")];
        let kinds =
            kinds.into_iter().filter(|(count, _)| *count > 0).map(|(_, kind)| (scope(write.kind), kind));
        self.store.batch(&write.cluster, &kinds.collect(), took, error);
    }

    /// What waits of the kinds that these are of.
    fn set_queued(&self, writes: &[Queued], waiting: bool) {
        let mut sums = BTreeMap::<_, usize>::new();
        for write in writes {
            *sums.entry((&write.cluster, write.kind)).or_default() += write.puts + write.deletes;
        }
        for ((cluster, kind), sum) in sums {
            let labels = vec![("scope", scope(kind)), ("source_cluster", cluster.to_string())];
            self.queued.get_or_create(&labels).set(if waiting { sum as i64 } else { 0 });
        }
    }
}

impl Observer for CacheMetrics {
    fn written(&self, writes: &[Queued], took: Duration, waited: Duration) {
        let each = took / writes.len().max(1) as u32;
        for write in writes {
            self.batch(write, each, None);
            for (count, deleted) in [(write.puts, false), (write.deletes, true)] {
                (0..count).for_each(|_| publish::Observer::written(&self.store, write.kind, deleted, waited));
            }
        }
        self.set_queued(writes, false);
    }

    fn refused(&self, writes: &[Queued], took: Duration, error: Error) {
        if let Some(first) = writes.first() {
            self.batch(first, took, Some(&error.into()));
        }
        self.set_queued(writes, true);
    }

    fn beat(&self, at_once: bool) {
        self.store.ran(HEARTBEAT, !at_once);
    }
}

/// How far the cache is, read from its status at each scrape.
#[derive(Debug)]
pub(crate) struct Caching {
    /// Whose cache it is.
    pub(crate) own: ClusterName,
    pub(crate) cache: Cache,
    /// How long it took until the process was ready.
    pub(crate) bootstrap: Arc<OnceLock<Duration>>,
}

impl Collector for Caching {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> std::fmt::Result {
        let name = |tail: &str| format!("{KVSTOREMESH}_{tail}");
        let source = vec![("source_cluster", self.own.to_string())];
        // 0 until it is complete, as Cilium has it.
        let bootstrap = self.bootstrap.get().map_or(0.0, Duration::as_secs_f64);
        let help = "How long it took until the remote clusters were cached";
        gauges(&mut encoder, &name("bootstrap_seconds"), help, [(source, bootstrap)])?;
        // Every replica has a store of its own, and is the one that fills it.
        let leads = vec![("name", "kvstoremesh".to_owned())];
        let help = "1 where this process is the one that caches";
        gauges(&mut encoder, &name("leader_election_master_status"), help, [(leads, 1.0)])?;
        let (read, written) = (self.cache.changes().0.borrow().clone(), self.cache.status());
        let completed = of_all("read", &read).chain(of_all("write", &written));
        let help = "1 once everything of a scope was read, and once it was in the store";
        gauges(&mut encoder, &name("kvstore_initial_sync_completed"), help, completed)
    }
}

/// What is complete of each cluster.
fn of_all<'a>(
    action: &'a str,
    all: &'a BTreeMap<ClusterName, RemoteStatus>,
) -> impl Iterator<Item = (Labels, f64)> + 'a {
    let of = move |(cluster, status): (&'a ClusterName, &'a RemoteStatus)| {
        Kind::ALL.map(|kind| {
            let scope = ("scope", scope(kind));
            let labels = vec![scope, ("source_cluster", cluster.to_string()), ("action", action.to_owned())];
            (labels, flag(complete(&status.synced, kind)))
        })
    };
    all.iter().flat_map(of)
}

/// A cluster without service exports has all of them.
fn complete(synced: &SyncedStatus, kind: Kind) -> bool {
    match kind {
        Kind::Nodes => synced.nodes,
        Kind::Services => synced.services,
        Kind::ServiceExports => synced.service_exports.unwrap_or(synced.nodes),
        Kind::Identities => synced.identities,
        Kind::Ip => synced.endpoints,
    }
}
