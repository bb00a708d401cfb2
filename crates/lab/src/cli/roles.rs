//! The lab's own processes, started by its supervisor: hidden from people.

use std::os::fd::RawFd;
use std::path::PathBuf;

use clap::Subcommand;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::runtime::Context;
use crate::topology::{Plan, Topology};
use crate::{control_plane, fabric, node, supervisor};

/// A process of the lab.
#[derive(Debug, Subcommand)]
pub(super) enum Role {
    /// Parent of everything
    #[command(hide = true)]
    Supervise {
        /// Descriptor of the lab's lock
        #[arg(long)]
        lock_fd: RawFd,
    },
    /// Cleans up after the supervisor
    #[command(hide = true)]
    Watchdog,
    /// Load balancers of the VPC
    #[command(hide = true)]
    Fabric {
        /// State directory of the lab
        #[arg(long)]
        state: PathBuf,
    },
    /// API server and controllers of a cluster
    #[command(hide = true)]
    ControlPlane {
        /// State directory of the lab
        #[arg(long)]
        state: PathBuf,
        /// Name of the cluster
        #[arg(long)]
        cluster: String,
        /// Descriptor of the listener on the host's 127.0.0.1
        #[arg(long)]
        listener_fd: RawFd,
    },
    /// Runs the pods of the node it is started in
    #[command(hide = true)]
    Kubelet,
}

impl Role {
    pub(super) async fn run(self, name: &str) -> Result<()> {
        match self {
            Role::Supervise { lock_fd } => supervisor::run(name, lock_fd).await,
            Role::Watchdog => supervisor::watchdog::run(name),
            Role::Fabric { state } => {
                let plan = plan(&state)?;
                Ok(fabric::forward::run(plan, state, until_told()?).await?)
            }
            Role::ControlPlane { state, cluster, listener_fd } => {
                let plan = plan(&state)?;
                control_plane::run(&state, &plan, &cluster, listener_fd, until_told()?).await
            }
            Role::Kubelet => node::run(until_told()?).await,
        }
    }
}

fn plan(state: &std::path::Path) -> Result<Plan> {
    let path = state.join("topology.yaml");
    let text = std::fs::read_to_string(&path).what(|| format!("read {}", path.display()))?;
    Ok(Plan::new(&Topology::parse(&text)?))
}

/// Cancelled by SIGTERM or SIGINT.
pub(super) fn until_told() -> Result<CancellationToken> {
    let token = CancellationToken::new();
    for kind in [SignalKind::terminate(), SignalKind::interrupt()] {
        let mut signals = signal(kind).what(|| "listen for signals".into())?;
        let token = token.clone();
        tokio::spawn(async move {
            signals.recv().await;
            token.cancel();
        });
    }
    Ok(token)
}
