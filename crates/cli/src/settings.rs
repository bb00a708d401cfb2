//! Settings that every daemon has.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::Result;
use causeway_daemon::config::{Config, Key, Loader};
use causeway_model::{ClusterId, ClusterInfo, ClusterName, MaxClusters};
use clap::Args;

use crate::names;

const KEYS: [Key; 5] = [
    Key::without_default("cluster-name"),
    Key::without_default("cluster-id"),
    Key::with_default("max-connected-clusters", "255"),
    Key::with_default("clustermesh-config", names::PEERS_DIR),
    Key::with_default("log-level", "info"),
];

/// Where settings come from, for the end of a help text.
pub(crate) const HELP: &str =
    "Settings come from flags, then CAUSEWAY_* and CILIUM_* in the environment, then the
configuration directory (one file per key, as Kubernetes mounts ConfigMap cilium-config).";

#[derive(Debug, Args)]
pub(crate) struct DaemonArgs {
    /// Name of this cluster
    #[arg(long)]
    cluster_name: Option<String>,
    /// Id of this cluster, 1 to 255 (or 511)
    #[arg(long)]
    cluster_id: Option<String>,
    /// Folder with one etcd client configuration per remote cluster
    #[arg(long)]
    clustermesh_config: Option<PathBuf>,
    /// Address of /healthz, /readyz, /metrics and /debug/state
    #[arg(long)]
    health_listen: Option<SocketAddr>,
    /// Configuration directory
    #[arg(long, default_value = names::CONFIG_DIR)]
    config_dir: PathBuf,
}

impl DaemonArgs {
    /// The configuration of a role with these keys and flags of its own. Logging begins with it.
    ///
    /// # Errors
    /// When the configuration directory cannot be read, or the log level is none.
    pub(crate) fn load(self, keys: &[&[Key]], flags: impl FnOnce(Loader) -> Loader) -> Result<Config> {
        let loader = Loader::new(&[&KEYS, keys.concat().as_slice()].concat())
            .flag("cluster-name", self.cluster_name)
            .flag("cluster-id", self.cluster_id)
            .flag("clustermesh-config", self.clustermesh_config.as_deref().map(Path::display))
            .flag("health-listen", self.health_listen)
            .env(std::env::vars())
            .dir(&self.config_dir)?;
        let config = flags(loader).load();
        causeway_daemon::logs::init(config.text("log-level").unwrap_or("info"), Default::default())?;
        config.log();
        Ok(config)
    }
}

/// Whether nodes reach each other without a tunnel (`routing-mode`).
pub(crate) fn is_native(config: &Config) -> bool {
    config.text("routing-mode") == Some("native")
}

/// Who we are, as every daemon is told.
pub(crate) fn cluster_info(config: &Config) -> Result<ClusterInfo> {
    let name: ClusterName = config.require("cluster-name")?;
    let max = MaxClusters::try_from(config.require::<u32>("max-connected-clusters")?)?;
    let id = ClusterId::new(config.require("cluster-id")?, max)?;
    Ok(ClusterInfo { name, id, max_clusters: max })
}
