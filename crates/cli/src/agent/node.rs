//! This node: what Kubernetes says of it, and the CiliumNode we write.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use causeway_cluster::writeback::CiliumNodeWriter;
use causeway_datapath::ipam::Pool;
use causeway_model::{AddressType, ClusterInfo, Node, NodeAddress};
use ipnet::Ipv4Net;
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::Client;
use kube::api::Api;

/// How often a Node that is not complete is looked at.
const POLL: Duration = Duration::from_millis(250);

/// What the agent needs to know of its node.
#[derive(Debug, Clone)]
pub(super) struct NodeFacts {
    pub(super) name: String,
    pub(super) uid: String,
    pub(super) node_ip: Ipv4Addr,
    pub(super) pod_cidr: Ipv4Net,
    pub(super) labels: BTreeMap<String, String>,
}

/// Waits until the Node exists with an address and a pod CIDR.
pub(super) async fn wait(client: &Client, name: &str) -> Result<NodeFacts> {
    let api: Api<KubeNode> = Api::all(client.clone());
    let mut told = String::new();
    loop {
        let missing = match api.get_opt(name).await {
            Ok(Some(node)) => match facts(&node) {
                Ok(facts) => return Ok(facts),
                Err(missing) => missing.to_owned(),
            },
            Ok(None) => format!("there is no Node {name}"),
            Err(error) => format!("the Kubernetes API does not answer: {error}"),
        };
        if missing != told {
            tracing::info!(node = name, missing, "waiting for the node");
            told = missing;
        }
        tokio::time::sleep(POLL).await;
    }
}

/// Takes the facts out of a Node, or says what is missing.
fn facts(node: &KubeNode) -> Result<NodeFacts, &'static str> {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref());
    let node_ip = addresses
        .into_iter()
        .flatten()
        .filter(|a| a.type_ == "InternalIP")
        .find_map(|a| a.address.parse().ok())
        .ok_or("it has no IPv4 InternalIP")?;
    let spec = node.spec.as_ref();
    let cidrs = spec.and_then(|s| s.pod_cidrs.clone().or_else(|| Some(vec![s.pod_cidr.clone()?])));
    let pod_cidr = cidrs
        .into_iter()
        .flatten()
        .find_map(|cidr| cidr.parse().ok())
        .ok_or("it has no IPv4 podCIDR (is the node IPAM controller running?)")?;
    Ok(NodeFacts {
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        node_ip,
        pod_cidr,
        labels: node.metadata.labels.clone().unwrap_or_default(),
    })
}

/// The node as the mesh sees it.
pub(super) fn describe(facts: &NodeFacts, info: &ClusterInfo, pool: &Pool) -> Node {
    let address = |kind, ip| NodeAddress { kind, ip: IpAddr::V4(ip) };
    Node {
        name: facts.name.clone(),
        cluster: info.name.clone(),
        cluster_id: info.id,
        addresses: vec![
            address(AddressType::InternalIP, facts.node_ip),
            address(AddressType::CiliumInternalIP, pool.internal_ip()),
        ],
        pod_cidrs: vec![facts.pod_cidr.into()],
        health_v4: Some(IpAddr::V4(pool.health_ip())),
        health_v6: None,
        ingress_v4: None,
        ingress_v6: None,
        encryption_key: 0,
        labels: facts.labels.clone(),
        annotations: BTreeMap::new(),
        wireguard_pub_key: String::new(),
        boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|text| text.trim().to_owned())
            .unwrap_or_default(),
    }
}

/// Writes the CiliumNode.
pub(super) async fn publish(client: &Client, node: &Node, uid: &str) -> Result<()> {
    let writer = CiliumNodeWriter::new(client.clone());
    writer.upsert(node, Some(uid)).await.context("write the CiliumNode")?;
    Ok(())
}

/// MTU of the interface with the node's address; Ethernet's where it cannot be found out.
pub(super) fn underlay_mtu(node_ip: Ipv4Addr) -> u32 {
    let interfaces = nix::ifaddrs::getifaddrs().into_iter().flatten();
    let named = interfaces
        .filter(|i| i.address.as_ref().and_then(|a| a.as_sockaddr_in()).is_some_and(|a| a.ip() == node_ip))
        .map(|i| i.interface_name)
        .next();
    let mtu = named.and_then(|name| std::fs::read_to_string(format!("/sys/class/net/{name}/mtu")).ok());
    mtu.and_then(|text| text.trim().parse().ok()).unwrap_or(1500)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn says_what_a_node_lacks() {
        let node = |json: serde_json::Value| serde_json::from_value::<KubeNode>(json).unwrap();
        let addressed = serde_json::json!({ "status": { "addresses": [
            { "type": "Hostname", "address": "n1" }, { "type": "InternalIP", "address": "172.20.1.10" },
        ] } });
        assert!(facts(&node(serde_json::json!({}))).unwrap_err().contains("InternalIP"));
        assert!(facts(&node(addressed.clone())).unwrap_err().contains("podCIDR"));
        let mut complete = addressed;
        complete["spec"] = serde_json::json!({ "podCIDR": "10.1.0.0/24" });
        assert_eq!(facts(&node(complete)).unwrap().pod_cidr.to_string(), "10.1.0.0/24");
    }
}
