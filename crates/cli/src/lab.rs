//! `causeway lab`: the lab's command line with Causeway as what is installed on a new one.

use std::net::SocketAddr;
use std::process::ExitCode;

use anyhow::{Context, Result};
use causeway_lab::Lab;
use causeway_lab::cli::LabCommand;
use causeway_lab::topology::plan::{API_PORT, ClusterPlan};
use causeway_model::{ClusterId, ClusterInfo, ClusterName, MaxClusters};

use crate::install;

/// Namespace of the installation.
const NAMESPACE: &str = "kube-system";
/// Informative: a lab runs the host's files.
const IMAGE: &str = "causeway";

/// Runs a lab command; its exit code is that of the command run in a pod, where there is one.
pub(crate) async fn run(command: LabCommand) -> Result<ExitCode> {
    if command.is_process() {
        let filter = std::env::var("RUST_LOG").unwrap_or_else(|_| "info".into());
        causeway_daemon::logs::init(&filter, Default::default())?;
    }
    let code = command.run(async |lab: &Lab| Ok(install_all(lab).await?)).await?;
    Ok(ExitCode::from(code))
}

/// Installs on every cluster of a lab, as on any clusters.
async fn install_all(lab: &Lab) -> Result<()> {
    for cluster in &lab.plan().clusters {
        let client = lab.client(&cluster.name).await?;
        let options = options(lab, cluster)?;
        install::apply(&client, &options).await.with_context(|| format!("install on {}", cluster.name))?;
    }
    Ok(())
}

/// Where the VPC knows the way to pods, no tunnel is needed.
fn network(lab: &Lab) -> install::Network {
    let routing_mode = match lab.plan().pod_routes {
        true => install::RoutingMode::Native,
        false => install::RoutingMode::Tunnel,
    };
    install::Network { routing_mode, ..install::Network::default() }
}

fn options(lab: &Lab, cluster: &ClusterPlan) -> Result<install::Options> {
    let max_clusters = MaxClusters::C255;
    Ok(install::Options {
        cluster: ClusterInfo {
            name: ClusterName::new(cluster.name.as_str())?,
            id: ClusterId::new(cluster.id, max_clusters)?,
            max_clusters,
        },
        namespace: NAMESPACE.into(),
        subnet: Some(lab.plan().subnets[cluster.subnet].id.clone()),
        api_server: Some(SocketAddr::from((cluster.api_server, API_PORT))),
        image: IMAGE.into(),
        kvstoremesh: false,
        ipv6: cluster.pod_cidr_v6.is_some(),
        network: network(lab),
        dns: cluster.dns().map(|ip| install::Dns { cluster_ip: Some(ip.into()), replicas: 1 }),
        endpoint_slices: false,
        mcs_api: false,
    })
}
