//! `causeway clustermesh-apiserver`: publishes this cluster's state for the others to read.
//!
//! Composition only: the watchers of `cluster`, the publisher of `mesh`, the store and server of
//! `kvstore`. Everything published is rebuilt from Kubernetes, so by default the store is in memory;
//! [`crate::backend`] says what else it can be. With an etcd that others run there is no server here.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_cluster::{source, writeback};
use causeway_daemon::config::{Config, Key};
use causeway_daemon::duration::GoDuration;
use causeway_daemon::health::Health;
use causeway_daemon::metrics::Metrics;
use causeway_daemon::shutdown::Shutdown;
use causeway_kvstore::Store;
use causeway_kvstore::client::Balancer;
use causeway_mesh::publish::{self, EtcdSink, PublishStatus, Publisher, Sources, StoreSink};
use causeway_model::ClusterInfo;
use clap::Args;
use futures::{FutureExt, StreamExt};
use tokio::sync::watch;

use crate::backend::{self, Backend};
use crate::caching::{self, CachingArgs};
use crate::metrics::APISERVER as METRICS;
use crate::metrics::kvstore::{KvstoreMetrics, Measured};
use crate::metrics::publish::Publishing;
use crate::serving::{self, Serving, ServingArgs, store_options};
use crate::settings::{self, DaemonArgs, cluster_info};
use crate::{kubeclient, names};

/// Port of `/readyz` (mesh-protocol 5.1).
pub(crate) const HEALTH_PORT: u16 = 9880;
/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);

const KEYS: [Key; 11] = [
    Key::with_default("clustermesh-enable-mcs-api", "false"),
    Key::with_default("enable-cilium-endpoint-slice", "false"),
    Key::without_default("k8s-service-proxy-name"),
    // What of services is not possible here.
    Key::with_default("routing-mode", "tunnel"),
    Key::with_default("kvstore-lease-ttl", "15m0s"),
    Key::with_default("health-listen", "0.0.0.0:9880"),
    Key::with_default("peer-trust-dir", names::PEER_TRUST_DIR),
    Key::with_default("kvstore", ""),
    Key::with_default("kvstore-opt", ""),
    Key::with_default("data-dir", ""),
    // Whether the cache runs here too.
    Key::with_default("enable-kvstoremesh", "false"),
];

/// `causeway clustermesh-apiserver`
#[derive(Debug, Args)]
#[command(after_help = settings::HELP)]
pub(crate) struct ApiserverArgs {
    #[command(flatten)]
    daemon: DaemonArgs,
    #[command(flatten)]
    serving: ServingArgs,
    /// Life of what is published after this process has ended, between 25s and 24h (default: 15m0s)
    #[arg(long, value_name = "DURATION")]
    kvstore_lease_ttl: Option<String>,
    /// Cache the other clusters in the same store, for the agents of this one (default: false)
    #[arg(long, num_args = 0..=1, default_missing_value = "true", require_equals = true)]
    enable_kvstoremesh: Option<bool>,
    #[command(flatten)]
    caching: CachingArgs,
    /// "etcd" to publish to an etcd cluster instead of the embedded store
    #[arg(long)]
    kvstore: Option<String>,
    /// How to reach it: etcd.config=FILE, with endpoints, trusted-ca-file, cert-file and key-file in it
    #[arg(long, value_name = "NAME=VALUE")]
    kvstore_opt: Vec<String>,
    /// Folder where the embedded store keeps its content; without it, it is only in memory
    #[arg(long)]
    data_dir: Option<PathBuf>,
    /// Kubeconfig; without it the pod's service account is used
    #[arg(long)]
    kubeconfig: Option<PathBuf>,
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
    Embedded(Serving),
    Etcd(Balancer),
}

impl Target {
    async fn open(config: &Config, info: &ClusterInfo) -> Result<Self> {
        let store = match Backend::from_config(config, &info.name)? {
            Backend::Memory => Store::new(store_options(config)?),
            Backend::Durable(dir) => backend::open(dir, store_options(config)?).await?,
            Backend::Etcd(etcd) => {
                tracing::info!(endpoints = ?etcd.endpoints, "publishing to an etcd");
                for name in serving::given(config) {
                    tracing::warn!(
                        setting = name,
                        "has no effect: kvstore is etcd, which has settings of its own"
                    );
                }
                return Ok(Self::Etcd(Balancer::new(etcd)));
            }
        };
        let trust = config.require("peer-trust-dir")?;
        Ok(Self::Embedded(Serving::open(config, info, store, Some(trust)).await?))
    }
}

/// The watchers of this cluster, with a tap on the Services; the second is whether service exports are among them.
fn sources(
    config: &Config,
    info: &ClusterInfo,
    client: kube::Client,
    mut tap: writeback::WarningTap,
) -> Result<(Sources, bool)> {
    let mcs: bool = config.require("clustermesh-enable-mcs-api")?;
    let endpoint_slices: bool = config.require("enable-cilium-endpoint-slice")?;
    let proxy = config.get("k8s-service-proxy-name")?;
    let sources = Sources {
        nodes: source::nodes(client.clone(), info.clone()).boxed(),
        identities: source::identities(client.clone()).boxed(),
        addresses: source::addresses(client.clone(), endpoint_slices),
        services: source::services(client.clone(), proxy, settings::is_native(config))
            .inspect(move |event| tap.look(event))
            .boxed(),
        slices: source::endpoint_slices(client.clone()).boxed(),
        exports: mcs.then(|| source::exports(client).boxed()),
    };
    Ok((sources, mcs))
}

/// Serves until told to stop.
pub(crate) async fn run(args: ApiserverArgs) -> Result<()> {
    let config = args.daemon.load(&[&KEYS, &serving::KEYS, &caching::KEYS], |loader| {
        args.caching
            .flags(args.serving.flags(loader))
            .flag("kvstore-lease-ttl", args.kvstore_lease_ttl)
            .flag("kvstore", args.kvstore)
            .flag("kvstore-opt", (!args.kvstore_opt.is_empty()).then(|| args.kvstore_opt.join(",")))
            .flag("data-dir", args.data_dir.as_deref().map(Path::display))
            .flag("enable-kvstoremesh", args.enable_kvstoremesh)
    })?;
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
    let (tap, warnings) = writeback::warnings(client.clone(), names::APISERVER);
    let (sources, mcs) = sources(&config, &info, client, tap)?;
    shutdown.spawn(warnings.run(shutdown.token()));
    let (status, mut progress) = watch::channel(PublishStatus::default());
    health.metrics.collect(Publishing {
        prefix: METRICS,
        cluster: info.name.clone(),
        status: progress.clone(),
    });
    show(&health, progress.clone());
    let measured =
        Arc::new(KvstoreMetrics::register(&health.metrics, METRICS, &info.name, publish::MAX_BATCH));
    let token = shutdown.token();
    let publisher = Publisher::new(info.clone(), mcs);
    let options = publish::Options {
        lease_ttl: lease_ttl(&config)?,
        observer: Some(measured.clone()),
        ..Default::default()
    };
    let embedded = match &target {
        Target::Embedded(serving) => Some(serving.store.clone()),
        Target::Etcd(_) => None,
    };
    let publishing = match target {
        Target::Embedded(serving) => {
            let store = serving.store.clone();
            if config.require("enable-kvstoremesh")? {
                // The publisher writes the heartbeat.
                caching::start(&config, &info, store.clone(), None, &health, &shutdown).await?;
            }
            serving.start(&health, &shutdown);
            let sink = Measured { sink: StoreSink(store), metrics: measured };
            publish::run(publisher, sources, sink, options, status, token.clone()).boxed()
        }
        Target::Etcd(etcd) => {
            ensure!(
                !config.require::<bool>("enable-kvstoremesh")?,
                "enable-kvstoremesh caches in the embedded store, but kvstore is etcd: turn one of them off"
            );
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
                if let Some(store) = embedded {
                    store.defragment();
                }
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

/// Shows how far publishing is.
fn show(health: &Health, progress: watch::Receiver<PublishStatus>) {
    health.show("publish", move || {
        let now = progress.borrow().clone();
        serde_json::json!({
            "keys": now.keys, "ready": now.ready, "pending": now.pending, "tooLarge": now.too_large,
            "lastError": now.last_error,
        })
    });
}

#[cfg(test)]
mod tests {
    use causeway_daemon::config::Loader;

    use super::*;

    #[test]
    fn the_life_of_leases_has_bounds() {
        let of = |text: &str| {
            let config = Loader::new(&KEYS).flag("kvstore-lease-ttl", Some(text)).load();
            lease_ttl(&config).map(|ttl| ttl.as_secs()).map_err(|error| error.to_string())
        };
        assert_eq!(lease_ttl(&Loader::new(&KEYS).load()).unwrap().as_secs(), 900);
        assert_eq!((of("25s"), of("24h0m0s")), (Ok(25), Ok(86_400)));
        for bad in ["24s", "25h", "soon"] {
            let error = of(bad).unwrap_err();
            assert!(error.contains("kvstore-lease-ttl") && error.contains(bad), "{error}");
        }
    }
}
