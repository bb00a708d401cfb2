//! `causeway clustermesh-apiserver`: publishes this cluster's state for the others to read.
//!
//! Composition only: the watchers of `cluster`, the publisher of `mesh`, the store and server of
//! `kvstore`. Everything published is rebuilt from Kubernetes, so by default the store is in memory;
//! [`crate::backend`] says what else it can be. With an etcd that others run there is no server here.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_cluster::source;
use causeway_daemon::config::{Config, Key, Loader};
use causeway_daemon::duration::GoDuration;
use causeway_daemon::health::Health;
use causeway_daemon::metrics::Metrics;
use causeway_daemon::shutdown::Shutdown;
use causeway_kvstore::client::Balancer;
use causeway_kvstore::server::Server;
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{Store, StoreOptions};
use causeway_mesh::access::{self, Administrators};
use causeway_mesh::publish::{self, EtcdSink, PublishStatus, Publisher, Sources, StoreSink};
use causeway_model::{ClusterId, ClusterInfo, ClusterName, MaxClusters};
use clap::Args;
use futures::{FutureExt, StreamExt};
use tokio::net::TcpListener;
use tokio::sync::watch;

use crate::backend::{self, Backend};
use crate::metrics::APISERVER as METRICS;
use crate::metrics::kvstore::{KvstoreMetrics, Measured};
use crate::metrics::publish::Publishing;
use crate::{caching, kubeclient, names};

/// Port of `/readyz` (mesh-protocol 5.1).
pub(crate) const HEALTH_PORT: u16 = 9880;
/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);

const KEYS: &[Key] = &[
    Key::without_default("cluster-name"),
    Key::without_default("cluster-id"),
    Key::with_default("max-connected-clusters", "255"),
    Key::with_default("clustermesh-enable-mcs-api", "false"),
    Key::with_default("enable-cilium-endpoint-slice", "false"),
    Key::without_default("k8s-service-proxy-name"),
    Key::with_default("kvstore-lease-ttl", "15m0s"),
    Key::with_default("log-level", "info"),
    Key::with_default("listen", "0.0.0.0:2379"),
    Key::with_default("health-listen", "0.0.0.0:9880"),
    Key::with_default("tls-dir", names::SERVER_CERT_DIR),
    Key::with_default("peer-trust-dir", names::PEER_TRUST_DIR),
    Key::with_default("kvstore", ""),
    Key::with_default("kvstore-opt", ""),
    Key::with_default("data-dir", ""),
    Key::with_default("enable-kvstoremesh", "false"),
    caching::PEERS,
    caching::CLUSTER_TIMEOUT,
    caching::GLOBAL_TIMEOUT,
];

/// `causeway clustermesh-apiserver`
#[derive(Debug, Args)]
#[command(after_help = "Settings come from flags, then CAUSEWAY_* and CILIUM_* in the environment, then the
configuration directory (one file per key, as Kubernetes mounts ConfigMap cilium-config).")]
pub(crate) struct ApiserverArgs {
    /// Name of this cluster
    #[arg(long)]
    cluster_name: Option<String>,
    /// Id of this cluster, 1 to 255 (or 511)
    #[arg(long)]
    cluster_id: Option<String>,
    /// Address of the etcd protocol
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Address of /healthz, /readyz, /metrics and /debug/state
    #[arg(long)]
    health_listen: Option<SocketAddr>,
    /// Folder with ca.crt, tls.crt and tls.key
    #[arg(long)]
    tls_dir: Option<PathBuf>,
    /// Cache the other clusters in the same store, for the agents of this one (default: false)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    enable_kvstoremesh: Option<bool>,
    /// Folder with one etcd client configuration per remote cluster to cache
    #[arg(long)]
    clustermesh_config: Option<PathBuf>,
    /// "etcd" to publish to an etcd cluster instead of the embedded store
    #[arg(long)]
    kvstore: Option<String>,
    /// How to reach it: etcd.config=FILE, with endpoints, trusted-ca-file, cert-file and key-file in it
    #[arg(long, value_name = "NAME=VALUE")]
    kvstore_opt: Vec<String>,
    /// Folder where the embedded store keeps its content; without it, it is only in memory
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Configuration directory
    #[arg(long, default_value = names::CONFIG_DIR)]
    config_dir: PathBuf,
    /// Kubeconfig; without it the pod's service account is used
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
}

/// Who we are, as every daemon is told.
pub(crate) fn cluster_info(config: &Config) -> Result<ClusterInfo> {
    let name: ClusterName = config.require("cluster-name")?;
    let max = MaxClusters::try_from(config.require::<u32>("max-connected-clusters")?)?;
    let id = ClusterId::new(config.require("cluster-id")?, max)?;
    Ok(ClusterInfo { name, id, max_clusters: max })
}

/// Life of the lease of everything published (mesh-protocol 3.10).
fn lease_ttl(config: &Config) -> Result<Duration> {
    let ttl: GoDuration = config.require("kvstore-lease-ttl")?;
    ensure!(
        (Duration::from_secs(25)..=Duration::from_secs(24 * 3600)).contains(&ttl.0),
        "kvstore-lease-ttl {ttl} is not between 25s and 24h"
    );
    Ok(ttl.0)
}

/// Waits for the definitions of what is watched. The agents create them; this role only reads.
async fn definitions(client: &kube::Client) {
    use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
    let api: kube::Api<CustomResourceDefinition> = kube::Api::all(client.clone());
    for name in ["ciliumnodes.cilium.io", "ciliumidentities.cilium.io", "ciliumendpoints.cilium.io"] {
        let mut told = false;
        while !matches!(api.get_opt(name).await, Ok(Some(_))) {
            if !told {
                tracing::info!(definition = name, "waiting for the agents to create it");
                told = true;
            }
            tokio::time::sleep(Duration::from_millis(200)).await;
        }
    }
}

/// Where to publish, ready to be used.
enum Target {
    Embedded(Embedded),
    Etcd(Balancer),
}

impl Target {
    async fn open(config: &Config, info: &ClusterInfo) -> Result<Self> {
        let store = match Backend::from_config(config, &info.name)? {
            Backend::Memory => Store::new(StoreOptions::default()),
            Backend::Durable(dir) => backend::open(dir).await?,
            Backend::Etcd(etcd) => {
                tracing::info!(endpoints = ?etcd.endpoints, "publishing to an etcd");
                return Ok(Self::Etcd(Balancer::new(etcd)));
            }
        };
        Ok(Self::Embedded(embedded(config, info, store).await?))
    }
}

/// The embedded store with its server, which is already listening.
struct Embedded {
    store: Store,
    server: Server,
    listener: TcpListener,
}

async fn embedded(config: &Config, info: &ClusterInfo, store: Store) -> Result<Embedded> {
    let files = TlsFiles::in_dir(&config.require::<PathBuf>("tls-dir")?);
    // We write to the store in-process, so nobody has to through the network. A peer's authority may
    // sign any common name, also our administrator's; with this it cannot make a writer of this
    // cluster's state. The users follow from the configuration, so a durable store keeps none.
    let rules = access::rules(&info.name, Administrators::Read);
    let server = Server::mutual_tls_trusting(store.clone(), rules, files, config.require("peer-trust-dir")?)
        .context("the mesh server's certificates")?;
    let address: SocketAddr = config.require("listen")?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    tracing::info!(%address, "the mesh is served here");
    Ok(Embedded { store, server, listener })
}

/// The watchers of this cluster; the second is whether service exports are among them.
fn sources(config: &Config, info: &ClusterInfo, client: kube::Client) -> Result<(Sources, bool)> {
    let mcs: bool = config.require("clustermesh-enable-mcs-api")?;
    let endpoint_slices: bool = config.require("enable-cilium-endpoint-slice")?;
    let sources = Sources {
        nodes: source::nodes(client.clone(), info.clone()).boxed(),
        identities: source::identities(client.clone()).boxed(),
        addresses: source::addresses(client.clone(), endpoint_slices),
        services: source::services(client.clone(), config.get("k8s-service-proxy-name")?).boxed(),
        slices: source::endpoint_slices(client.clone()).boxed(),
        exports: mcs.then(|| source::exports(client).boxed()),
    };
    Ok((sources, mcs))
}

/// Serves until told to stop.
pub(crate) async fn run(args: ApiserverArgs) -> Result<()> {
    let path = |path: &PathBuf| path.display().to_string();
    let config = Loader::new(KEYS)
        .flag("cluster-name", args.cluster_name)
        .flag("cluster-id", args.cluster_id)
        .flag("listen", args.listen)
        .flag("health-listen", args.health_listen)
        .flag("tls-dir", args.tls_dir.as_ref().map(path))
        .flag("kvstore", args.kvstore)
        .flag("kvstore-opt", (!args.kvstore_opt.is_empty()).then(|| args.kvstore_opt.join(",")))
        .flag("data-dir", args.data_dir.as_ref().map(path))
        .flag("enable-kvstoremesh", args.enable_kvstoremesh)
        .flag("clustermesh-config", args.clustermesh_config.as_ref().map(path))
        .env(std::env::vars())
        .dir(&args.config_dir)?
        .load();
    causeway_daemon::logs::init(config.text("log-level").unwrap_or("info"), Default::default())?;
    config.log();
    let info = cluster_info(&config)?;
    let shutdown = Shutdown::on_signals()?;
    let health = Health::new(Metrics::new("clustermesh-apiserver", env!("CARGO_PKG_VERSION")));
    let published = health.readiness.guard("published", "the cluster's state is not published yet");
    let health_listener = Health::listen(config.require("health-listen")?).await?;

    let target = Target::open(&config, &info).await?;
    let client = kubeclient::for_daemon(args.kubeconfig.as_deref()).await?;
    let stop = shutdown.token();
    tokio::select! {
        () = definitions(&client) => {}
        () = stop.cancelled() => return Ok(()),
    }
    let (sources, mcs) = sources(&config, &info, client)?;
    let (status, mut progress) = watch::channel(PublishStatus::default());
    health.metrics.collect(Publishing {
        prefix: METRICS,
        cluster: info.name.clone(),
        status: progress.clone(),
    });
    let measured = Arc::new(KvstoreMetrics::register(&health.metrics, METRICS, &info.name));
    let token = shutdown.token();
    let publisher = Publisher::new(info.clone(), mcs);
    let options = publish::Options {
        lease_ttl: lease_ttl(&config)?,
        observer: Some(measured.clone()),
        ..Default::default()
    };
    let publishing = match target {
        Target::Embedded(Embedded { store, server, listener }) => {
            show(&health, progress.clone(), Some(store.clone()));
            if config.require("enable-kvstoremesh")? {
                // The publisher writes the heartbeat.
                caching::start(&config, &info, store.clone(), None, &health, &shutdown).await?;
            }
            shutdown.spawn_vital("serve", {
                let token = token.clone();
                async move {
                    server.serve(listener, token).await;
                    anyhow::Ok(())
                }
            });
            let sink = Measured { sink: StoreSink(store), metrics: measured };
            publish::run(publisher, sources, sink, options, status, token.clone()).boxed()
        }
        Target::Etcd(etcd) => {
            ensure!(
                !config.require::<bool>("enable-kvstoremesh")?,
                "enable-kvstoremesh caches in the embedded store, but kvstore is etcd: turn one of them off"
            );
            show(&health, progress.clone(), None);
            let sink = Measured { sink: EtcdSink::new(etcd, &info.name), metrics: measured };
            publish::run(publisher, sources, sink, options, status, token.clone()).boxed()
        }
    };
    shutdown.spawn_vital("publish", async move {
        publishing.await;
        anyhow::Ok(())
    });
    shutdown.spawn({
        let token = token.clone();
        async move {
            let ready = tokio::select! {
                ready = progress.wait_for(|p| p.ready) => ready.is_ok(),
                () = token.cancelled() => false,
            };
            if ready {
                causeway_daemon::memory::release();
                published.open();
                tracing::info!("the cluster's state is published; readers are welcome");
            }
        }
    });
    shutdown.spawn_vital("health", health.serve(health_listener, token));
    tracing::info!(cluster = %info.name, id = %info.id, "publishing");
    shutdown.finish(GRACE).await;
    Ok(())
}

/// Shows how far publishing is, and the embedded store if it is one.
fn show(health: &Health, progress: watch::Receiver<PublishStatus>, store: Option<Store>) {
    health.show("publish", move || {
        let now = progress.borrow().clone();
        serde_json::json!({
            "keys": now.keys, "ready": now.ready, "pending": now.pending, "tooLarge": now.too_large,
            "lastError": now.last_error,
            "revision": store.as_ref().map(Store::revision), "bytes": store.as_ref().map(Store::live_bytes),
        })
    });
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_life_of_leases_has_bounds() {
        let of = |text: &str| {
            let config = Loader::new(KEYS).flag("kvstore-lease-ttl", Some(text)).load();
            lease_ttl(&config).map(|ttl| ttl.as_secs()).map_err(|error| error.to_string())
        };
        assert_eq!(lease_ttl(&Loader::new(KEYS).load()).unwrap().as_secs(), 900);
        assert_eq!((of("25s"), of("24h0m0s")), (Ok(25), Ok(86_400)));
        for bad in ["24s", "25h", "soon"] {
            let error = of(bad).unwrap_err();
            assert!(error.contains("kvstore-lease-ttl") && error.contains(bad), "{error}");
        }
    }
}
