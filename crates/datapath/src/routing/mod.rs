//! How packets get to pods of other nodes: in a tunnel, or by the node's own routes.

pub(crate) mod device;
mod direct;
mod remote;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use ipnet::IpNet;

pub(crate) use remote::{Routes, withdraw};

/// How packets get to pods of other nodes (`routing-mode`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Routing {
    /// In VXLAN, from node to node.
    #[default]
    Tunnel,
    /// As they are, by the node's routes. Whose routes these are is told with it.
    Native(NodeRoutes),
}

/// Where a node's routes to the pods of others come from, under native routing.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum NodeRoutes {
    /// Of the network: a router or the cloud knows all pod CIDRs.
    #[default]
    Network,
    /// We make them, by the address of each node (`auto-direct-node-routes`). Nodes that are not on a
    /// network of this one are warned of.
    Direct,
    /// The same, but the network is trusted to know those other nodes (`direct-routing-skip-unreachable`).
    DirectWherePossible,
}

impl Routing {
    /// Whether packets go as they are.
    pub fn is_native(self) -> bool {
        matches!(self, Self::Native(_))
    }
}

/// All other nodes, of every cluster.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct RemoteNodes {
    /// Their pod CIDRs, each with its node's address of the same family, where it has one.
    pub pod_cidrs: BTreeMap<IpNet, Option<IpAddr>>,
    /// Their own addresses.
    pub addresses: BTreeSet<IpAddr>,
}

impl FromIterator<IpNet> for RemoteNodes {
    /// Pod CIDRs of nodes whose addresses are not known.
    fn from_iter<I: IntoIterator<Item = IpNet>>(cidrs: I) -> Self {
        Self { pod_cidrs: cidrs.into_iter().map(|cidr| (cidr, None)).collect(), addresses: BTreeSet::new() }
    }
}
