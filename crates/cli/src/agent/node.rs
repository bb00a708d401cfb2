//! This node: what Kubernetes says of it, and the CiliumNode we write.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::time::Duration;

use anyhow::{Context, Result};
use causeway_cluster::writeback::CiliumNodeWriter;
use causeway_datapath::ipam::Pools;
use causeway_model::{AddressType, ClusterInfo, Node, NodeAddress};
use ipnet::IpNet;
use k8s_openapi::api::core::v1::Node as KubeNode;
use kube::Client;
use kube::api::Api;

/// How often a Node that is not complete is looked at.
const POLL: Duration = Duration::from_millis(250);

/// The address families pods have: `enable-ipv4` and `enable-ipv6`.
#[derive(Debug, Clone, Copy)]
pub(super) struct Families {
    pub(super) v4: bool,
    pub(super) v6: bool,
}

impl Families {
    fn has(self, ip: IpAddr) -> bool {
        if ip.is_ipv6() { self.v6 } else { self.v4 }
    }
}

/// What the agent needs to know of its node.
#[derive(Debug, Clone)]
pub(super) struct NodeFacts {
    pub(super) name: String,
    pub(super) uid: String,
    /// The end of tunnels to it, whatever pods have.
    pub(super) node_ip: Ipv4Addr,
    /// Its other InternalIPs of the families in use, in the order of Kubernetes.
    pub(super) more_ips: Vec<IpAddr>,
    /// One of each family in use, in the order of Kubernetes.
    pub(super) pod_cidrs: Vec<IpNet>,
    pub(super) labels: BTreeMap<String, String>,
}

/// Waits until the Node exists with an address and a pod CIDR of each family.
pub(super) async fn wait(client: &Client, name: &str, families: Families) -> Result<NodeFacts> {
    let api: Api<KubeNode> = Api::all(client.clone());
    let mut told = String::new();
    loop {
        let missing = match api.get_opt(name).await {
            Ok(Some(node)) => match facts(&node, families) {
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
fn facts(node: &KubeNode, families: Families) -> Result<NodeFacts, &'static str> {
    let addresses = node.status.as_ref().and_then(|s| s.addresses.as_ref());
    let internal: Vec<IpAddr> = addresses
        .into_iter()
        .flatten()
        .filter(|a| a.type_ == "InternalIP")
        .filter_map(|a| a.address.parse().ok())
        .collect();
    let v4 = |ip: &IpAddr| if let IpAddr::V4(v4) = ip { Some(*v4) } else { None };
    let node_ip =
        internal.iter().find_map(v4).ok_or("it has no IPv4 InternalIP, over which tunnels are built")?;
    let more_ips =
        internal.into_iter().filter(|ip| *ip != IpAddr::V4(node_ip) && families.has(*ip)).collect();
    let spec = node.spec.as_ref();
    let cidrs = spec.and_then(|s| s.pod_cidrs.clone().or_else(|| Some(vec![s.pod_cidr.clone()?])));
    let mut pod_cidrs: Vec<IpNet> = vec![];
    for cidr in cidrs.into_iter().flatten().filter_map(|text| text.parse::<IpNet>().ok()) {
        let same = |other: &IpNet| other.addr().is_ipv6() == cidr.addr().is_ipv6();
        if families.has(cidr.addr()) && !pod_cidrs.iter().any(same) {
            pod_cidrs.push(cidr);
        }
    }
    let lacks = |v6: bool| !pod_cidrs.iter().any(|cidr| cidr.addr().is_ipv6() == v6);
    if families.v4 && lacks(false) {
        return Err("it has no IPv4 podCIDR (is the node IPAM controller running?)");
    }
    if families.v6 && lacks(true) {
        return Err("it has no IPv6 podCIDR (is the cluster dual stack? else set enable-ipv6=false)");
    }
    Ok(NodeFacts {
        name: node.metadata.name.clone().unwrap_or_default(),
        uid: node.metadata.uid.clone().unwrap_or_default(),
        node_ip,
        more_ips,
        pod_cidrs,
        labels: node.metadata.labels.clone().unwrap_or_default(),
    })
}

/// The node as the mesh sees it.
pub(super) fn describe(facts: &NodeFacts, info: &ClusterInfo, pools: &Pools) -> Node {
    let health = pools.health_ips();
    let internal = [IpAddr::V4(facts.node_ip)].into_iter().chain(facts.more_ips.iter().copied());
    let addresses = internal
        .map(|ip| NodeAddress { kind: AddressType::InternalIP, ip })
        .chain(pools.internal_ips().iter().map(|ip| NodeAddress { kind: AddressType::CiliumInternalIP, ip }));
    Node {
        addresses: addresses.collect(),
        pod_cidrs: facts.pod_cidrs.clone(),
        health_v4: health.v4.map(IpAddr::V4),
        health_v6: health.v6.map(IpAddr::V6),
        labels: facts.labels.clone(),
        boot_id: std::fs::read_to_string("/proc/sys/kernel/random/boot_id")
            .map(|text| text.trim().to_owned())
            .unwrap_or_default(),
        ..Node::new(facts.name.clone(), info.name.clone(), info.id)
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
        let single = Families { v4: true, v6: false };
        let lacking = |json, families| facts(&node(json), families).unwrap_err();
        assert!(lacking(serde_json::json!({}), single).contains("InternalIP"));
        assert!(lacking(addressed.clone(), single).contains("IPv4 podCIDR"));
        let mut complete = addressed;
        complete["spec"] = serde_json::json!({ "podCIDR": "10.1.0.0/24" });
        assert_eq!(
            facts(&node(complete.clone()), single).unwrap().pod_cidrs,
            ["10.1.0.0/24".parse().unwrap()]
        );
        let dual = Families { v4: true, v6: true };
        assert!(lacking(complete.clone(), dual).contains("IPv6 podCIDR"));
        complete["spec"]["podCIDRs"] = serde_json::json!(["10.1.0.0/24", "fd00:1::/64"]);
        let v6 = serde_json::json!({ "type": "InternalIP", "address": "fd00:172::10" });
        complete["status"]["addresses"].as_array_mut().unwrap().push(v6);
        let found = facts(&node(complete.clone()), dual).unwrap();
        assert_eq!(found.pod_cidrs.len(), 2);
        assert_eq!(found.more_ips, ["fd00:172::10".parse::<IpAddr>().unwrap()]);
        let found = facts(&node(complete.clone()), single).unwrap();
        assert_eq!((found.pod_cidrs.len(), found.more_ips.len()), (1, 0));
        let found = facts(&node(complete), Families { v4: false, v6: true }).unwrap();
        assert_eq!(found.pod_cidrs, ["fd00:1::/64".parse().unwrap()]);
    }
}
