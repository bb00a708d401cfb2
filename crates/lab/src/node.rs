//! The process `causeway lab kubelet`: what it reads about the node it runs on, inside the node.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::path::Path;

use ipnet::IpNet;
use serde::{Deserialize, Serialize};
use tokio_util::sync::CancellationToken;

use crate::error::Result;
use crate::kubelet::{self, KubeletConfig};
use crate::runtime::{Context, EXECUTABLE, HOST_ROOT, NODE_CGROUP, NODE_STATE};
use crate::topology::plan::API_PORT;

/// `node.json` in the node's state directory.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodeConfig {
    /// Name of the cluster.
    pub cluster: String,
    /// Name of the node.
    pub name: String,
    /// Address of the node in the VPC.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if the cluster is dual stack.
    pub address_v6: Option<Ipv6Addr>,
    /// Its pod CIDRs, where they are planned.
    #[serde(default)]
    pub pod_cidrs: Vec<IpNet>,
    /// Its zone.
    pub zone: String,
    /// Address of the cluster's API server in the VPC.
    pub api_server: Ipv4Addr,
    /// Address of the cluster's DNS.
    pub cluster_dns: Option<Ipv4Addr>,
}

impl NodeConfig {
    /// Reads it from the node's state directory.
    ///
    /// # Errors
    /// If the file is missing or not a node's.
    fn read(state: &Path) -> Result<NodeConfig> {
        let path = state.join("node.json");
        let text = std::fs::read(&path).what(|| format!("read {}", path.display()))?;
        Ok(serde_json::from_slice(&text).what(|| format!("decode {}", path.display()))?)
    }

    /// Where the node is, as Kubernetes labels it. A zone is its region and a number: `ap-guangzhou-3`.
    fn labels(&self) -> BTreeMap<String, String> {
        let region = self.zone.rsplit_once('-').map_or(self.zone.as_str(), |(region, _)| region);
        BTreeMap::from([
            ("topology.kubernetes.io/zone".into(), self.zone.clone()),
            ("topology.kubernetes.io/region".into(), region.into()),
        ])
    }
}

/// Runs the pods of the node this process was started in.
///
/// # Errors
/// If the node's files cannot be read or the kubelet cannot start.
pub async fn run(shutdown: CancellationToken) -> Result<()> {
    let state = Path::new(NODE_STATE);
    let node = NodeConfig::read(state)?;
    let client = crate::kubeconfig::client(&state.join("kubeconfig"), &node.cluster).await?;
    let config = KubeletConfig {
        labels: node.labels(),
        pod_cidrs: node.pod_cidrs.clone(),
        more_ips: node.address_v6.map(IpAddr::V6).into_iter().collect(),
        record_dir: state.into(),
        log_dir: state.join("logs"),
        image_root: HOST_ROOT.into(),
        executable: Some(EXECUTABLE.into()),
        api_host: node.api_server.to_string(),
        api_port: API_PORT,
        cluster_dns: node.cluster_dns.map(IpAddr::V4),
        ..KubeletConfig::new(client, &node.name, IpAddr::V4(node.address), NODE_CGROUP.into())
    };
    Ok(kubelet::run(config, shutdown).await?)
}
