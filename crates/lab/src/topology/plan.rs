//! A topology with every address decided.
//!
//! Of a subnet of n addresses the first is the gateway's, a few are API servers', those up to n/2 are nodes' and the upper
//! half is the load balancers', an equal share for every cluster.

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use super::{Cluster, NODE_MASK_V6, Nodes, Topology};
use crate::fabric::lb::AddressPool;

/// A lab with every address decided.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Plan {
    /// The clusters, in the topology's order.
    pub clusters: Vec<ClusterPlan>,
    /// The subnets, in the topology's order.
    pub subnets: Vec<SubnetPlan>,
    /// Pairs of subnets (by position, the lower first) that are not routed.
    pub unrouted: Vec<(usize, usize)>,
    /// Addresses of load balancers without a subnet.
    pub public_cidr: Ipv4Net,
    /// The VPC routes nodes' pod CIDRs.
    pub pod_routes: bool,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ClusterPlan {
    /// Its name.
    pub name: String,
    /// Its id.
    pub id: u32,
    /// Addresses of pods.
    pub pod_cidr: Ipv4Net,
    /// Prefix length of a node's share of it.
    pub node_cidr_mask: u8,
    /// Addresses of Services.
    pub service_cidr: Ipv4Net,
    /// IPv6 addresses of pods, if the cluster is dual stack.
    pub pod_cidr_v6: Option<Ipv6Net>,
    /// IPv6 addresses of Services, likewise.
    pub service_cidr_v6: Option<Ipv6Net>,
    /// Position of its subnet.
    pub subnet: usize,
    /// Address of its API server in the VPC; the port is [`API_PORT`].
    pub api_server: Ipv4Addr,
    /// Its nodes.
    pub nodes: Vec<NodePlan>,
    /// Load-balancer addresses by subnet id.
    pub pools: BTreeMap<String, AddressPool>,
    /// Load-balancer addresses without a subnet.
    pub public_pool: AddressPool,
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct NodePlan {
    /// Its name.
    pub name: String,
    /// Its zone.
    pub zone: String,
    /// Position of its subnet.
    pub subnet: usize,
    /// Its address.
    pub address: Ipv4Addr,
    /// Its IPv6 address, if the cluster is dual stack.
    pub address_v6: Option<Ipv6Addr>,
    /// Its pod CIDRs, where the VPC routes them; elsewhere a controller of the cluster decides.
    pub pod_cidrs: Vec<IpNet>,
}

impl NodePlan {
    /// Its addresses, IPv4 first.
    pub fn addresses(&self) -> Vec<IpAddr> {
        [IpAddr::V4(self.address)].into_iter().chain(self.address_v6.map(IpAddr::V6)).collect()
    }
}

/// A subnet.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct SubnetPlan {
    /// Its id.
    pub id: String,
    /// Its addresses.
    pub cidr: Ipv4Net,
    /// Its IPv6 addresses.
    pub cidr_v6: Option<Ipv6Net>,
    /// Its zone.
    pub zone: String,
    /// Address of the gateway.
    pub gateway: Ipv4Addr,
}

impl SubnetPlan {
    /// IPv6 address of the gateway.
    pub fn gateway_v6(&self) -> Option<Ipv6Addr> {
        Some(in_v6(self.cidr_v6?, GATEWAY))
    }
}

/// Offset of a subnet's gateway.
const GATEWAY: u32 = 1;

/// The address of a subnet at an offset.
fn in_v6(cidr: Ipv6Net, offset: u32) -> Ipv6Addr {
    (u128::from(cidr.network()) + u128::from(offset)).into()
}

/// Port of API servers in the VPC.
pub const API_PORT: u16 = 6443;

/// How a subnet is divided; offsets from its network address.
#[derive(Debug, Clone, Copy)]
pub(super) struct Layout {
    network: u32,
    size: u32,
    first_node: u32,
}

impl Layout {
    /// Longest usable prefix.
    pub(super) const MAX_PREFIX: u8 = 28;

    pub(super) fn of(cidr: Ipv4Net) -> Layout {
        // Nothing in a lab needs more than a /16's share, and arithmetic stays in 32 bits.
        let size = 1u32 << (32 - cidr.prefix_len().max(16));
        Layout { network: cidr.network().into(), size, first_node: if size >= 64 { 10 } else { 4 } }
    }

    fn at(self, offset: u32) -> Ipv4Addr {
        (self.network + offset).into()
    }

    /// How many API servers there is room for.
    pub(super) fn servers(self) -> u32 {
        self.first_node - 2
    }

    /// How many nodes there is room for.
    pub(super) fn nodes(self) -> u32 {
        self.size / 2 - self.first_node
    }

    /// How many load-balancer addresses there are.
    pub(super) fn balancers(self) -> u32 {
        self.size / 2 - 1
    }
}

/// The `i`th of `n` equal shares of `count` addresses from `first`.
fn share(first: u32, count: u32, i: u32, n: u32) -> AddressPool {
    let each = count / n;
    AddressPool { first: (first + i * each).into(), last: (first + (i + 1) * each - 1).into() }
}

impl ClusterPlan {
    /// Address of the cluster's DNS, the tenth of its Services; `None` if they are not so many.
    pub fn dns(&self) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from(u32::from(self.service_cidr.network()) + 10);
        (self.service_cidr.contains(&address) && address != self.service_cidr.broadcast()).then_some(address)
    }
}

impl Plan {
    /// Decides the addresses of a valid topology; the same for the same topology.
    pub fn new(topology: &Topology) -> Plan {
        let position = |id: &str| topology.subnets.iter().position(|s| s.id == id).unwrap_or_default();
        let layouts: Vec<Layout> = topology.subnets.iter().map(|s| Layout::of(s.cidr)).collect();
        let subnets: Vec<SubnetPlan> = topology
            .subnets
            .iter()
            .zip(&layouts)
            .map(|(s, l)| SubnetPlan {
                id: s.id.clone(),
                cidr: s.cidr,
                cidr_v6: s.cidr_v6,
                zone: s.zone.clone(),
                gateway: l.at(GATEWAY),
            })
            .collect();
        let mut next_server = vec![2; layouts.len()];
        let mut next_node: Vec<u32> = layouts.iter().map(|l| l.first_node).collect();
        let count = topology.clusters.len() as u32;
        let mut clusters = Vec::new();
        for (i, cluster) in (0u32..).zip(&topology.clusters) {
            let subnet = position(&cluster.subnet);
            let server = next_server[subnet];
            next_server[subnet] += 1;
            let asked: Vec<super::Node> = match &cluster.nodes {
                Nodes::List(list) => list.clone(),
                Nodes::Count(n) => (1..=*n)
                    .map(|k| super::Node { name: format!("{}-{k}", cluster.name), zone: None, subnet: None })
                    .collect(),
            };
            let nodes = asked.into_iter().enumerate().map(|(k, node)| {
                let subnet = node.subnet.as_deref().map_or(subnet, position);
                let offset = next_node[subnet];
                next_node[subnet] += 1;
                let spread = || match cluster.zones.as_slice() {
                    [] => topology.subnets[subnet].zone.clone(),
                    zones => zones[k % zones.len()].clone(),
                };
                let zone = node.zone.unwrap_or_else(spread);
                let v6 = topology.subnets[subnet].cidr_v6.filter(|_| cluster.pod_cidr_v6.is_some());
                let pod_cidrs = if topology.pod_routes { pod_cidrs(cluster, k) } else { vec![] };
                NodePlan {
                    pod_cidrs,
                    name: node.name,
                    zone,
                    subnet,
                    address: layouts[subnet].at(offset),
                    address_v6: v6.map(|cidr| in_v6(cidr, offset)),
                }
            });
            let nodes = nodes.collect();
            let pools = topology
                .subnets
                .iter()
                .zip(&layouts)
                .map(|(s, l)| (s.id.clone(), share(l.network + l.size / 2, l.balancers(), i, count)));
            let public = Layout::of(topology.public_cidr);
            clusters.push(ClusterPlan {
                name: cluster.name.clone(),
                id: cluster.id,
                pod_cidr: cluster.pod_cidr,
                node_cidr_mask: cluster.node_cidr_mask,
                service_cidr: cluster.service_cidr,
                pod_cidr_v6: cluster.pod_cidr_v6,
                service_cidr_v6: cluster.service_cidr_v6,
                subnet,
                api_server: layouts[subnet].at(server),
                nodes,
                pools: pools.collect(),
                public_pool: share(public.network + 1, public.size - 2, i, count),
            });
        }
        let (public_cidr, pod_routes) = (topology.public_cidr, topology.pod_routes);
        Plan { clusters, subnets, unrouted: unrouted(topology), public_cidr, pod_routes }
    }

    /// The cluster of a name.
    pub fn cluster(&self, name: &str) -> Option<&ClusterPlan> {
        self.clusters.iter().find(|c| c.name == name)
    }

    /// The subnets a cluster has machines in, by position, each once.
    pub fn subnets_of(&self, cluster: &ClusterPlan) -> Vec<usize> {
        let mut all: Vec<usize> = cluster.nodes.iter().map(|n| n.subnet).chain([cluster.subnet]).collect();
        all.sort_unstable();
        all.dedup();
        all
    }
}

/// The parts of a cluster's pod CIDRs that its `n`th node gets.
fn pod_cidrs(cluster: &Cluster, n: usize) -> Vec<IpNet> {
    let v4 = cluster.pod_cidr.subnets(cluster.node_cidr_mask).ok().and_then(|mut parts| parts.nth(n));
    let v6 = cluster.pod_cidr_v6.and_then(|cidr| cidr.subnets(NODE_MASK_V6).ok()?.nth(n));
    v4.map(IpNet::V4).into_iter().chain(v6.map(IpNet::V6)).collect()
}

fn unrouted(topology: &Topology) -> Vec<(usize, usize)> {
    let Some(routes) = &topology.routes else { return Vec::new() };
    let ids: Vec<&str> = topology.subnets.iter().map(|s| s.id.as_str()).collect();
    let routed = |a: &str, b: &str| routes.iter().any(|(x, y)| (x == a && y == b) || (x == b && y == a));
    let pairs = (0..ids.len()).flat_map(|i| (i + 1..ids.len()).map(move |j| (i, j)));
    pairs.filter(|(i, j)| !routed(ids[*i], ids[*j])).collect()
}
