//! The cache of the remote clusters inside a process that serves a store: what `causeway kvstoremesh` and
//! `causeway clustermesh-apiserver` have in common.

pub(crate) mod api;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use causeway_daemon::config::{Config, Key, Loader};
use causeway_daemon::duration::GoDuration;
use causeway_daemon::health::{Guard, Health};
use causeway_daemon::shutdown::Shutdown;
use causeway_kvstore::Store;
use causeway_mesh::cache::{Cache, Options};
use causeway_mesh::remote::RemoteStatus;
use causeway_model::{ClusterInfo, ClusterName};
use clap::Args;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::metrics;
use crate::metrics::cache::{CacheMetrics, Caching};
use crate::metrics::remotes::Remotes;

/// Where the status API is, with Cilium's default.
pub(crate) const API_ADDRESS: &str = "localhost:9889";

/// The timeouts are how long the process counts as not ready: for a remote cluster that cannot be reached, and for
/// one that is not complete (mesh-protocol 3.10).
pub(crate) const KEYS: [Key; 3] = [
    Key::with_default("per-cluster-ready-timeout", "15s"),
    Key::with_default("global-ready-timeout", "10m"),
    Key::with_default("api-serve-addr", API_ADDRESS),
];

#[derive(Debug, Args)]
pub(crate) struct CachingArgs {
    /// How long /readyz waits for a cluster to cache that cannot be reached (default: 15s)
    #[arg(long, value_name = "DURATION")]
    per_cluster_ready_timeout: Option<String>,
    /// How long /readyz waits for clusters that are not cached completely (default: 10m)
    #[arg(long, value_name = "DURATION")]
    global_ready_timeout: Option<String>,
    /// Address of the cache's status API, HOST:PORT, which `causeway kvstoremesh-dbg` asks (default: localhost:9889)
    #[arg(long, value_name = "ADDRESS")]
    api_serve_addr: Option<String>,
}

impl CachingArgs {
    /// Adds what was given.
    pub(crate) fn flags(self, loader: Loader) -> Loader {
        loader
            .flag("per-cluster-ready-timeout", self.per_cluster_ready_timeout)
            .flag("global-ready-timeout", self.global_ready_timeout)
            .flag("api-serve-addr", self.api_serve_addr)
    }
}

/// One remote cluster may have this part of the store's quota.
const CLUSTERS_SHARE: i64 = 8;
/// Changes within this time are looked at together: a page of a listing is one.
const CALM: Duration = Duration::from_millis(200);

/// How patiently readiness waits.
#[derive(Debug, Clone, Copy)]
struct Patience {
    cluster: Duration,
    all: Duration,
}

/// Caches the remote clusters of the configured folder in `store` until the shutdown. `heartbeat`: how often
/// the store's heartbeat is written; `None` where someone else does it.
pub(crate) async fn start(
    config: &Config,
    info: &ClusterInfo,
    store: Store,
    heartbeat: Option<Duration>,
    health: &Health,
    shutdown: &Shutdown,
) -> Result<()> {
    let patience = Patience {
        cluster: config.require::<GoDuration>("per-cluster-ready-timeout")?.0,
        all: config.require::<GoDuration>("global-ready-timeout")?.0,
    };
    let guard = health.readiness.guard("cache", "the remote clusters are not cached yet");
    let dir: PathBuf = config.require("clustermesh-config")?;
    let api = api::listen(&config.require::<String>("api-serve-addr")?).await?;
    let observer = CacheMetrics::register(&health.metrics, &info.name);
    let mut options = Options { heartbeat, observer: Some(Arc::new(observer)), ..Options::new(info.clone()) };
    if let Some(quota) = store.stats().quota_bytes {
        options.max_cluster_bytes = quota / CLUSTERS_SHARE;
    }
    let cache = Cache::spawn(options, dir, store.clone(), shutdown.token()).await;
    shutdown.spawn_vital("status API", api::serve(cache.clone(), api, shutdown.token()));
    health.show("remotes", {
        let cache = cache.clone();
        move || serde_json::json!(cache.status())
    });
    health.metrics.collect(Remotes {
        prefix: metrics::KVSTOREMESH,
        source: vec![("source_cluster", info.name.to_string())],
        status: cache.clone(),
        global_services: None,
    });
    let bootstrap = Arc::default();
    health.metrics.collect(Caching {
        own: info.name.clone(),
        cache: cache.clone(),
        bootstrap: Arc::clone(&bootstrap),
    });
    let ready = open_when_ready(cache, store, guard, patience, shutdown.token());
    shutdown.spawn(async move {
        if let Some(time) = ready.await {
            let _ = bootstrap.set(time);
        }
    });
    Ok(())
}

/// Opens the guard and tells how long it took; nothing at the shutdown.
async fn open_when_ready(
    cache: Cache,
    store: Store,
    guard: Guard,
    patience: Patience,
    token: CancellationToken,
) -> Option<Duration> {
    let started = Instant::now();
    let (mut connections, mut copies) = cache.changes();
    loop {
        connections.mark_unchanged();
        copies.mark_unchanged();
        let configured: Vec<ClusterName> = cache.peers().borrow().clusters.keys().cloned().collect();
        let elapsed = started.elapsed();
        let waiting = waiting(&configured, &cache.status(), elapsed, patience);
        if waiting.is_empty() {
            store.defragment();
            causeway_daemon::memory::release();
            guard.open();
            tracing::info!(clusters = configured.len(), "the remote clusters are cached; agents are welcome");
            return Some(started.elapsed());
        }
        guard.close(format!("not cached completely yet: {}", waiting.join(", ")));
        let next = if elapsed < patience.cluster { patience.cluster } else { patience.all };
        tokio::select! {
            Ok(()) = connections.changed() => {}
            Ok(()) = copies.changed() => {}
            () = tokio::time::sleep_until(started + next) => {}
            () = token.cancelled() => return None,
        }
        tokio::time::sleep(CALM).await;
    }
}

/// The clusters that readiness waits for: those that are being read, and for a short time those that
/// have not been reached.
fn waiting(
    configured: &[ClusterName],
    status: &BTreeMap<ClusterName, RemoteStatus>,
    elapsed: Duration,
    patience: Patience,
) -> Vec<String> {
    let waits = |name: &&ClusterName| match status.get(*name) {
        _ if elapsed >= patience.all => false,
        Some(status) if status.ready => false,
        Some(status) if status.connected => true,
        _ => elapsed < patience.cluster,
    };
    configured.iter().filter(waits).map(ToString::to_string).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_waits_for_what_it_can_have() {
        let names = ["cls-a", "cls-b", "cls-c", "cls-d"].map(|name| ClusterName::new(name).unwrap());
        let status = |connected, ready| RemoteStatus { connected, ready, ..Default::default() };
        let all = [
            (names[0].clone(), status(true, true)),
            (names[1].clone(), status(true, false)),
            (names[2].clone(), status(false, false)),
        ];
        let patience = Patience { cluster: Duration::from_secs(15), all: Duration::from_secs(600) };
        let waits = |seconds| waiting(&names, &all.clone().into(), Duration::from_secs(seconds), patience);
        assert_eq!(waits(0), ["cls-b", "cls-c", "cls-d"]);
        assert_eq!(waits(15), ["cls-b"], "the unreachable ones are not waited for any more");
        assert_eq!(waits(600), [""; 0]);
        assert!(waiting(&[], &BTreeMap::new(), Duration::ZERO, patience).is_empty());
    }

    #[test]
    fn durations_are_written_as_cilium_writes_them() {
        let config = |value: &str| {
            let env = [("CILIUM_GLOBAL_READY_TIMEOUT".to_owned(), value.to_owned())];
            Loader::new(&KEYS).env(env).load()
        };
        let read = |value| config(value).require::<GoDuration>("global-ready-timeout");
        assert_eq!(read("10m0s").unwrap().0, Duration::from_secs(600));
        assert_eq!(read("15s").unwrap().0, Duration::from_secs(15));
        assert!(read("-15s").is_err());
        assert!(read("soon").unwrap_err().to_string().contains("global-ready-timeout"));
    }
}
