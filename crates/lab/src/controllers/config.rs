//! What the controllers of one cluster are started with.

use std::collections::BTreeMap;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::time::Duration;

use ipnet::{IpNet, Ipv4Net, Ipv6Net};
use serde::{Deserialize, Serialize};

use crate::fabric::lb::AddressPool;
use crate::topology::NODE_MASK_V6;

/// Settings of [`super::run`].
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ControllersConfig {
    /// Name of the cluster, for messages.
    pub cluster: String,
    /// Range that nodes' pod CIDRs are cut from.
    pub pod_cidr: Ipv4Net,
    /// Prefix length of a node's pod CIDR; 24 is usual.
    pub node_cidr_mask: u8,
    /// Range that nodes' IPv6 pod CIDRs are cut from, [`crate::topology::NODE_MASK_V6`] each; none = single stack.
    pub pod_cidr_v6: Option<Ipv6Net>,
    /// Addresses for load balancers in VPC subnets, by subnet id. Clusters that share a subnet get pools that do not
    /// overlap.
    pub subnets: BTreeMap<String, AddressPool>,
    /// Addresses for load balancers without a subnet. Without it those get no address.
    pub public: Option<AddressPool>,
    /// Directory the load balancers are written to, for the process that answers at their addresses:
    /// [`crate::fabric::lb::Frontends::dir`] of the lab's state.
    pub load_balancers: PathBuf,
    /// How long a node may miss renewing its Lease before it counts as unreachable; 40 s in Kubernetes.
    pub node_grace: Duration,
}

/// Why controllers cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nodes' ranges do not fit into the cluster's.
    #[error(
        "cluster {cluster}: nodes get a /{mask} of the pod CIDR {pod_cidr}: use a mask from {least} to 30",
        least = .pod_cidr.prefix_len()
    )]
    NodeMask {
        /// Cluster.
        cluster: String,
        /// Mask asked for.
        mask: u8,
        /// Range to cut from.
        pod_cidr: Ipv4Net,
    },
    /// A pool whose first address is above its last.
    #[error("cluster {cluster}: load-balancer pool of {of} starts at {first} and ends before it, at {last}")]
    Pool {
        /// Cluster.
        cluster: String,
        /// Subnet id or `public`.
        of: String,
        /// First address.
        first: Ipv4Addr,
        /// Last address.
        last: Ipv4Addr,
    },
    /// A bug: a controller panicked.
    #[error("a controller panicked: {0}")]
    Panicked(String),
}

impl ControllersConfig {
    /// What nodes get a part of, and the prefix length of a part.
    pub(crate) fn pod_ranges(&self) -> Vec<(IpNet, u8)> {
        let v6 = self.pod_cidr_v6.map(|cidr| (cidr.into(), NODE_MASK_V6));
        [(self.pod_cidr.into(), self.node_cidr_mask)].into_iter().chain(v6).collect()
    }

    pub(crate) fn check(&self) -> Result<(), Error> {
        let cluster = || self.cluster.clone();
        if !(self.pod_cidr.prefix_len()..=30).contains(&self.node_cidr_mask) {
            return Err(Error::NodeMask {
                cluster: cluster(),
                mask: self.node_cidr_mask,
                pod_cidr: self.pod_cidr,
            });
        }
        let public = self.public.iter().map(|p| ("public", p));
        for (of, pool) in self.subnets.iter().map(|(n, p)| (n.as_str(), p)).chain(public) {
            if pool.first > pool.last {
                let (first, last) = (pool.first, pool.last);
                return Err(Error::Pool { cluster: cluster(), of: of.into(), first, last });
            }
        }
        Ok(())
    }
}
