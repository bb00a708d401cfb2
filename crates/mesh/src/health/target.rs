//! What is probed of a node.

use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::{AddressType, Keyed, Node, NodeKey};

use super::{Kind, Way};

/// The addresses of a node that are probed. In dual stack these are IPv4's: the tunnel is the same.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// The node.
    pub node: NodeKey,
    /// Inside the pod network, where its kernel answers ICMP: its CiliumInternalIP, else its health endpoint.
    pub internal: Option<IpAddr>,
    /// Inside the pod network, where HTTP is answered: its health endpoint, else its CiliumInternalIP.
    pub health: Option<IpAddr>,
    /// Its own address outside the tunnel.
    pub underlay: Option<IpAddr>,
    /// The addresses by which the entries of its pods name it.
    pub hosts: Arc<[IpAddr]>,
}

impl Target {
    /// Of a node as it is announced. Addresses no single machine can have are left out: who announces nodes
    /// says where we send packets.
    pub fn of(node: &Node) -> Self {
        let pick = |of: &dyn Fn(bool) -> Option<IpAddr>| {
            [false, true].into_iter().filter_map(of).find(|ip| is_one_machine(*ip))
        };
        let internal = pick(&|v6| node.cilium_internal_ip(v6));
        let health = pick(&|v6| if v6 { node.health_v6 } else { node.health_v4 });
        let outside = node.addresses.iter().filter(|a| a.kind != AddressType::CiliumInternalIP);
        Self {
            node: node.key(),
            internal: internal.or(health),
            health: health.or(internal),
            underlay: pick(&|v6| node.node_ip(v6)),
            hosts: outside.map(|a| a.ip).filter(|ip| is_one_machine(*ip)).collect(),
        }
    }

    /// Where a probe goes.
    pub(super) fn address(&self, way: Way, kind: Kind) -> Option<IpAddr> {
        match (way, kind) {
            (Way::Tunnel, Kind::Icmp) => self.internal,
            (Way::Tunnel, Kind::Http) => self.health,
            (Way::Underlay, _) => self.underlay,
        }
    }
}

impl Keyed for Target {
    type Key = NodeKey;
    fn key(&self) -> NodeKey {
        self.node.clone()
    }
}

fn is_one_machine(ip: IpAddr) -> bool {
    let common = !ip.is_unspecified() && !ip.is_loopback() && !ip.is_multicast();
    common
        && match ip {
            IpAddr::V4(v4) => !v4.is_broadcast(),
            // Without a scope such an address leads nowhere.
            IpAddr::V6(v6) => !v6.is_unicast_link_local(),
        }
}

#[cfg(test)]
mod tests {
    use causeway_model::{ClusterId, ClusterName, MaxClusters, NodeAddress};

    use super::*;

    #[test]
    fn addresses_of_a_node() {
        let id = ClusterId::new(2, MaxClusters::C255).unwrap();
        let address = |kind, ip: &str| NodeAddress { kind, ip: ip.parse().unwrap() };
        let ip = |text: &str| Some(text.parse::<IpAddr>().unwrap());
        let mut node = Node::new("n", ClusterName::new("cls-b").unwrap(), id);
        assert_eq!(Target::of(&node).internal, None);
        node.addresses = vec![
            address(AddressType::InternalIP, "172.20.0.11"),
            address(AddressType::CiliumInternalIP, "10.2.0.2"),
            address(AddressType::ExternalIP, "127.0.0.1"),
        ];
        let target = Target::of(&node);
        assert_eq!((target.internal, target.health), (ip("10.2.0.2"), ip("10.2.0.2")));
        assert_eq!(target.underlay, ip("172.20.0.11"));
        assert_eq!(*target.hosts, ["172.20.0.11".parse::<IpAddr>().unwrap()], "no loopback, nothing inside");
        node.health_v4 = ip("10.2.0.3");
        assert_eq!(Target::of(&node).health, ip("10.2.0.3"));
        node.addresses[1].ip = "224.0.0.1".parse().unwrap();
        assert_eq!(Target::of(&node).internal, ip("10.2.0.3"), "nobody makes us send to a group");
        // IPv6 alone.
        node.addresses = vec![address(AddressType::InternalIP, "fd00::1")];
        (node.health_v4, node.health_v6) = (None, ip("fd00:2::3"));
        let target = Target::of(&node);
        assert_eq!((target.internal, target.underlay), (ip("fd00:2::3"), ip("fd00::1")));
    }
}
