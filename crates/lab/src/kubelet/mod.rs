//! The kubelet stand-in of one lab node: registers the node, runs the pods assigned to it, and serves their logs.
//!
//! It runs as a process inside the node's namespaces and is a plain client of the cluster's API server. Pods are real
//! processes: a sandbox process holds the network namespace, containers are host commands in a mount namespace of their
//! own over the host's root filesystem, in a cgroup of their own. Networks are attached through the CNI plugin, exactly as
//! a container runtime does it. Started by `causeway lab kubelet` through [`run`].
//!
//! The middle is pure: [`machine`] decides what happens to a pod, [`env`], [`files`] and [`volumes`] what its containers
//! see. The edges are thin: [`process`], [`cni`], [`logs`], [`probes`], [`pods`].

pub mod cni;
pub mod config;
pub mod env;
pub mod events;
pub mod files;
pub mod logs;
pub mod machine;
pub mod node;
pub mod pods;
pub mod probes;
pub mod process;
pub mod sources;
pub mod volumes;

use std::sync::Arc;
use std::time::Duration;

pub use config::{Error, KubeletConfig};
use tokio::sync::{broadcast, watch};
use tokio_util::sync::CancellationToken;

/// How long processes of an earlier kubelet may take to vanish.
const LEFTOVERS: Duration = Duration::from_secs(10);

/// Runs the kubelet until `shutdown`; all containers have ended when it returns.
///
/// Containers of an earlier kubelet of this node are killed at start, and their pods started again.
///
/// # Errors
/// If its directories, its port or its cgroup cannot be used. API server outages are survived.
pub async fn run(config: KubeletConfig, shutdown: CancellationToken) -> Result<(), Error> {
    let top = pods::kubepods(&config);
    let leftovers = |source| Error::Leftovers { path: top.clone(), source };
    process::cgroup::remove(&top, LEFTOVERS).await.map_err(leftovers)?;
    let pod_dirs = config.state_dir.join("pods");
    let records = config.record_dir.join("pods");
    for stale in [&pod_dirs, &records] {
        let _ = std::fs::remove_dir_all(stale);
    }
    for dir in [&top, &pod_dirs, &records, &config.log_dir] {
        std::fs::create_dir_all(dir).map_err(|source| Error::Directory { path: dir.clone(), source })?;
    }
    let listener = logs::bind(config.listen).await?;
    let spawner = process::Spawner::start().map_err(Error::Thread)?;
    let cni = cni::Cni {
        conf_dir: config.cni_conf_dir.clone(),
        bin_dirs: config.cni_bin_dirs.clone(),
        cache_dir: config.state_dir.join("cni"),
        timeout: config.cni_timeout,
    };
    let client = config.client.clone();
    let (events, writer) = events::Events::new(client.clone(), config.node_name.clone(), shutdown.clone());
    let (network, ready) = watch::channel(Err("not asked yet".to_string()));
    let (changes, _) = broadcast::channel(1024);
    let shared = Arc::new(pods::Shared {
        spawner,
        cni: cni.clone(),
        network: ready.clone(),
        logs: logs::Logs::new(config.log_dir.clone()),
        events: events.clone(),
        changes: changes.clone(),
        attachments: std::sync::Mutex::default(),
        config: config.clone(),
    });

    let mut tasks = tokio::task::JoinSet::new();
    tasks.spawn(writer);
    tasks.spawn(node::watch_network(cni, network, shutdown.clone()));
    tasks.spawn(node::run(config.clone(), ready, shutdown.clone()));
    tasks.spawn(node::renew_lease(config.clone(), shutdown.clone()));
    tasks.spawn(sources::watch(client.clone(), changes, shutdown.clone()));
    tasks.spawn(logs::serve(listener, shared.logs.clone(), shutdown.clone()));
    tasks.spawn(pods::maintain_network(shared.clone(), shutdown.clone()));
    pods::run(shared, shutdown).await;
    while tasks.join_next().await.is_some() {}
    process::cgroup::remove(&top, LEFTOVERS).await.map_err(leftovers)
}
