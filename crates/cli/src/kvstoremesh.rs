//! `causeway kvstoremesh`: caches what the other clusters publish in a store of its own, for the agents of
//! this cluster. Composition only.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result};
use causeway_daemon::config::{Key, Loader};
use causeway_daemon::health::Health;
use causeway_daemon::metrics::Metrics;
use causeway_daemon::shutdown::Shutdown;
use causeway_kvstore::server::Server;
use causeway_kvstore::tls::TlsFiles;
use causeway_kvstore::{Store, StoreOptions};
use causeway_mesh::access::{self, Administrators};
use clap::Args;
use tokio::net::TcpListener;

use crate::apiserver::cluster_info;
use crate::{caching, names};

/// How often the heartbeat is written (mesh-protocol 3.5).
const HEARTBEAT: Duration = Duration::from_secs(60);
/// How long tasks may take to end.
const GRACE: Duration = Duration::from_secs(5);

const KEYS: &[Key] = &[
    Key::without_default("cluster-name"),
    Key::without_default("cluster-id"),
    Key::with_default("max-connected-clusters", "255"),
    Key::with_default("log-level", "info"),
    Key::with_default("listen", "0.0.0.0:2379"),
    Key::with_default("health-listen", "0.0.0.0:9881"),
    Key::with_default("tls-dir", names::SERVER_CERT_DIR),
    caching::PEERS,
    caching::CLUSTER_TIMEOUT,
    caching::GLOBAL_TIMEOUT,
];

/// `causeway kvstoremesh`
#[derive(Debug, Args)]
#[command(
    after_help = "One connection per remote cluster instead of one per node: the agents read this store, whose
certificate names are clustermesh-apiserver.NAMESPACE.svc and the like. The clusters are the files of
--clustermesh-config, as in Cilium: each an etcd client configuration, named like its cluster. What is cached
of a cluster stays while it cannot be reached, and goes three minutes after its file.

Settings come from flags, then CAUSEWAY_* and CILIUM_* in the environment, then the
configuration directory (one file per key, as Kubernetes mounts ConfigMap cilium-config)."
)]
pub(crate) struct KvstoremeshArgs {
    /// Name of this cluster
    #[arg(long)]
    cluster_name: Option<String>,
    /// Id of this cluster, 1 to 255 (or 511)
    #[arg(long)]
    cluster_id: Option<String>,
    /// Folder with one etcd client configuration per remote cluster
    #[arg(long)]
    clustermesh_config: Option<PathBuf>,
    /// Address of the etcd protocol
    #[arg(long)]
    listen: Option<SocketAddr>,
    /// Address of /healthz, /readyz, /metrics and /debug/state
    #[arg(long)]
    health_listen: Option<SocketAddr>,
    /// Folder with ca.crt, tls.crt and tls.key
    #[arg(long)]
    tls_dir: Option<PathBuf>,
    /// How long /readyz waits for a cluster that cannot be reached
    #[arg(long)]
    per_cluster_ready_timeout: Option<String>,
    /// How long /readyz waits for clusters that are not cached completely
    #[arg(long)]
    global_ready_timeout: Option<String>,
    /// Configuration directory
    #[arg(long, default_value = names::CONFIG_DIR)]
    config_dir: PathBuf,
}

/// Caches and serves until told to stop.
pub(crate) async fn run(args: KvstoremeshArgs) -> Result<()> {
    let path = |path: &PathBuf| path.display().to_string();
    let config = Loader::new(KEYS)
        .flag("cluster-name", args.cluster_name)
        .flag("cluster-id", args.cluster_id)
        .flag("clustermesh-config", args.clustermesh_config.as_ref().map(path))
        .flag("listen", args.listen)
        .flag("health-listen", args.health_listen)
        .flag("tls-dir", args.tls_dir.as_ref().map(path))
        .flag("per-cluster-ready-timeout", args.per_cluster_ready_timeout)
        .flag("global-ready-timeout", args.global_ready_timeout)
        .env(std::env::vars())
        .dir(&args.config_dir)?
        .load();
    causeway_daemon::logs::init(config.text("log-level").unwrap_or("info"), Default::default())?;
    config.log();
    let info = cluster_info(&config)?;
    let shutdown = Shutdown::on_signals()?;
    let health = Health::new(Metrics::new("kvstoremesh", env!("CARGO_PKG_VERSION")));
    let health_listener = Health::listen(config.require("health-listen")?).await?;

    let files = TlsFiles::in_dir(&config.require::<PathBuf>("tls-dir")?);
    let store = Store::new(StoreOptions::default());
    let rules = access::rules(&info.name, Administrators::Read);
    let server = Server::mutual_tls(store.clone(), rules, files).context("the cache's certificates")?;
    let address: SocketAddr = config.require("listen")?;
    let listener = TcpListener::bind(address).await.with_context(|| format!("listen on {address}"))?;
    let address = listener.local_addr()?;

    caching::start(&config, &info, store.clone(), Some(HEARTBEAT), &health, &shutdown).await?;
    health.show(
        "store",
        move || serde_json::json!({ "revision": store.revision(), "bytes": store.live_bytes() }),
    );
    let token = shutdown.token();
    shutdown.spawn_vital("serve", {
        let token = token.clone();
        async move {
            server.serve(listener, token).await;
            anyhow::Ok(())
        }
    });
    shutdown.spawn_vital("health", health.serve(health_listener, token));
    tracing::info!(cluster = %info.name, id = %info.id, %address, "caching the other clusters");
    shutdown.finish(GRACE).await;
    Ok(())
}
