//! Nodes, of this and of other clusters.

use std::collections::BTreeMap;
use std::net::IpAddr;

use ipnet::IpNet;

use crate::{ClusterId, ClusterName, Keyed};

/// What kind of address a node address is; the words are Kubernetes' and Cilium's.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum AddressType {
    /// A host name.
    Hostname,
    /// Reachable from outside the VPC.
    ExternalIP,
    /// Reachable inside the VPC: the tunnel endpoint.
    InternalIP,
    /// A name that resolves to an external address.
    ExternalDNS,
    /// A name that resolves to an internal address.
    InternalDNS,
    /// The node's own address inside the pod network.
    CiliumInternalIP,
}

impl AddressType {
    /// The word on the wire.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Hostname => "Hostname",
            Self::ExternalIP => "ExternalIP",
            Self::InternalIP => "InternalIP",
            Self::ExternalDNS => "ExternalDNS",
            Self::InternalDNS => "InternalDNS",
            Self::CiliumInternalIP => "CiliumInternalIP",
        }
    }

    /// The kind of a word on the wire; `None` for an unknown word.
    pub fn parse(word: &str) -> Option<Self> {
        [
            Self::Hostname,
            Self::ExternalIP,
            Self::InternalIP,
            Self::ExternalDNS,
            Self::InternalDNS,
            Self::CiliumInternalIP,
        ]
        .into_iter()
        .find(|kind| kind.as_str() == word)
    }
}

/// One address of a node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct NodeAddress {
    /// Its kind.
    pub kind: AddressType,
    /// The address.
    pub ip: IpAddr,
}

/// Cluster and name of a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeKey {
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// Its Kubernetes name.
    pub name: String,
}

/// A node as the mesh sees it (mesh-protocol 2.3).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Its Kubernetes name.
    pub name: String,
    /// The cluster it belongs to.
    pub cluster: ClusterName,
    /// The id of that cluster.
    pub cluster_id: ClusterId,
    /// Its addresses in the order Kubernetes gives them.
    pub addresses: Vec<NodeAddress>,
    /// The pod CIDRs in order; the first of a family is its primary one.
    pub pod_cidrs: Vec<IpNet>,
    /// Address of the health endpoint, IPv4.
    pub health_v4: Option<IpAddr>,
    /// Address of the health endpoint, IPv6.
    pub health_v6: Option<IpAddr>,
    /// Address of the ingress endpoint, IPv4.
    pub ingress_v4: Option<IpAddr>,
    /// Address of the ingress endpoint, IPv6.
    pub ingress_v6: Option<IpAddr>,
    /// IPsec key index; 0 = none.
    pub encryption_key: u8,
    /// Kubernetes labels.
    pub labels: BTreeMap<String, String>,
    /// Kubernetes annotations.
    pub annotations: BTreeMap<String, String>,
    /// WireGuard public key, base64; empty = none.
    pub wireguard_pub_key: String,
    /// The kernel's boot id; empty = unknown.
    pub boot_id: String,
}

impl Node {
    /// A node of which no more is known than who it is.
    pub fn new(name: impl Into<String>, cluster: ClusterName, cluster_id: ClusterId) -> Self {
        Self {
            name: name.into(),
            cluster,
            cluster_id,
            addresses: vec![],
            pod_cidrs: vec![],
            health_v4: None,
            health_v6: None,
            ingress_v4: None,
            ingress_v6: None,
            encryption_key: 0,
            labels: BTreeMap::new(),
            annotations: BTreeMap::new(),
            wireguard_pub_key: String::new(),
            boot_id: String::new(),
        }
    }

    /// The node's own address of a family: the first `InternalIP`, else the last `ExternalIP`,
    /// else any other but never `CiliumInternalIP` (mesh-protocol 2.3).
    pub fn node_ip(&self, v6: bool) -> Option<IpAddr> {
        let family = || self.addresses.iter().filter(move |a| a.ip.is_ipv6() == v6);
        family()
            .find(|a| a.kind == AddressType::InternalIP)
            .or_else(|| family().rfind(|a| a.kind == AddressType::ExternalIP))
            .or_else(|| family().find(|a| a.kind != AddressType::CiliumInternalIP))
            .map(|a| a.ip)
    }

    /// The node's address inside the pod network.
    pub fn cilium_internal_ip(&self, v6: bool) -> Option<IpAddr> {
        self.addresses
            .iter()
            .find(|a| a.kind == AddressType::CiliumInternalIP && a.ip.is_ipv6() == v6)
            .map(|a| a.ip)
    }
}

impl Keyed for Node {
    type Key = NodeKey;
    fn key(&self) -> NodeKey {
        NodeKey { cluster: self.cluster.clone(), name: self.name.clone() }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::MaxClusters;

    fn node(addresses: &[(AddressType, &str)]) -> Node {
        Node {
            addresses: addresses
                .iter()
                .map(|(kind, ip)| NodeAddress { kind: *kind, ip: ip.parse().unwrap() })
                .collect(),
            ..Node::new("n", ClusterName::new("c").unwrap(), ClusterId::new(1, MaxClusters::C255).unwrap())
        }
    }

    #[test]
    fn node_ip_prefers_internal_then_last_external() {
        use AddressType::*;
        let ip = |list: &[(AddressType, &str)]| node(list).node_ip(false).map(|ip| ip.to_string());
        assert_eq!(ip(&[(ExternalIP, "1.1.1.1"), (InternalIP, "10.0.0.1")]).as_deref(), Some("10.0.0.1"));
        assert_eq!(ip(&[(ExternalIP, "1.1.1.1"), (ExternalIP, "1.1.1.2")]).as_deref(), Some("1.1.1.2"));
        assert_eq!(ip(&[(CiliumInternalIP, "10.1.0.2")]), None);
        assert_eq!(ip(&[(InternalIP, "fd00::1")]), None);
    }
}
