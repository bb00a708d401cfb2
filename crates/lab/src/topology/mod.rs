//! What a lab consists of, as a person writes it: clusters, their nodes, the VPC's subnets and the routes between them.
//!
//! ```yaml
//! clusters:
//! - name: cls-gz3k8a2m
//!   id: 1
//!   podCIDR: 10.0.0.0/16
//!   serviceCIDR: 10.96.0.0/16
//!   subnet: subnet-gz3abc
//!   zones: [ap-guangzhou-3, ap-guangzhou-4]
//!   nodes: 2                     # or a list of {name, zone, subnet}
//! subnets:
//! - {id: subnet-gz3abc, cidr: 172.16.1.0/24, zone: ap-guangzhou-3}
//! routes:                        # pairs of subnets; all are connected if this is left out
//! - [subnet-gz3abc, subnet-sh7def]
//! publicCIDR: 203.0.113.0/24     # load balancers without a subnet
//! podRoutes: true                # the VPC knows the way to every pod, by its node; not if this is left out
//! ```
//!
//! A cluster is dual stack, IPv4 first, with `podCIDRv6: fd00:10:1::/48` and `serviceCIDRv6: fd00:96:1::/112`, in subnets
//! with `cidrv6: fd00:172:1::/64`; [`Topology::dual_stack`] makes all of them so.
//!
//! [`Topology::parse`] refuses everything that cannot work, naming the field and the fix; [`plan::Plan`] is the same with
//! every address decided.

pub mod plan;
mod validate;

use std::fmt;

use ipnet::{Ipv4Net, Ipv6Net};
use serde::de::{self, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};

pub use plan::Plan;

/// A lab as it was asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Topology {
    /// The clusters.
    pub clusters: Vec<Cluster>,
    /// The VPC's subnets.
    pub subnets: Vec<Subnet>,
    /// Pairs of subnets with a route between them, both ways; none = all with all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub routes: Option<Vec<(String, String)>>,
    /// Addresses of load balancers whose Service names no subnet.
    #[serde(rename = "publicCIDR", default = "default_public")]
    pub public_cidr: Ipv4Net,
    /// The VPC routes nodes' pod CIDRs, as clouds do with their route tables.
    #[serde(default)]
    pub pod_routes: bool,
}

/// A cluster.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Cluster {
    /// Its name; [`causeway_model::ClusterName`].
    pub name: String,
    /// Its id, 1 to 255.
    pub id: u32,
    /// Addresses of pods.
    #[serde(rename = "podCIDR")]
    pub pod_cidr: Ipv4Net,
    /// Addresses of Services.
    #[serde(rename = "serviceCIDR")]
    pub service_cidr: Ipv4Net,
    /// IPv6 addresses of pods; a node's share is a /64. Goes with `serviceCIDRv6`.
    #[serde(rename = "podCIDRv6", default, skip_serializing_if = "Option::is_none")]
    pub pod_cidr_v6: Option<Ipv6Net>,
    /// IPv6 addresses of Services.
    #[serde(rename = "serviceCIDRv6", default, skip_serializing_if = "Option::is_none")]
    pub service_cidr_v6: Option<Ipv6Net>,
    /// The subnet of its API server and of nodes that name none.
    pub subnet: String,
    /// Zones that nodes which name none are spread over; none = the subnet's.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
    /// Its nodes.
    pub nodes: Nodes,
    /// Prefix length of a node's share of the pod CIDR.
    #[serde(rename = "nodeCIDRMask", default = "default_node_mask")]
    pub node_cidr_mask: u8,
}

/// The nodes of a cluster: how many, or which.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(untagged)]
pub enum Nodes {
    /// So many, named `<cluster>-1`, `<cluster>-2`, …
    Count(u32),
    /// These.
    List(Vec<Node>),
}

impl<'de> Deserialize<'de> for Nodes {
    /// By hand, because an untagged enum would hide what is wrong inside the list.
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Nodes, D::Error> {
        struct Shape;
        impl<'de> Visitor<'de> for Shape {
            type Value = Nodes;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a number of nodes or a list of {name, zone, subnet}")
            }
            fn visit_u64<E: de::Error>(self, n: u64) -> Result<Nodes, E> {
                u32::try_from(n).map(Nodes::Count).map_err(|_| E::custom(format!("{n} nodes are too many")))
            }
            fn visit_i64<E: de::Error>(self, n: i64) -> Result<Nodes, E> {
                u32::try_from(n)
                    .map(Nodes::Count)
                    .map_err(|_| E::custom(format!("{n} nodes are not possible")))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Nodes, A::Error> {
                let mut nodes = Vec::new();
                while let Some(node) = list.next_element()? {
                    nodes.push(node);
                }
                Ok(Nodes::List(nodes))
            }
        }
        deserializer.deserialize_any(Shape)
    }
}

/// A node.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Node {
    /// Its name, unique in its cluster.
    pub name: String,
    /// Its zone.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// Its subnet; none = the cluster's.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub subnet: Option<String>,
}

/// A subnet of the VPC.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub struct Subnet {
    /// Its id, as in `subnet-gz3abc`.
    pub id: String,
    /// Its addresses: the first is the gateway's, the upper half is the load balancers'.
    pub cidr: Ipv4Net,
    /// Its IPv6 addresses, divided in the same way.
    #[serde(rename = "cidrv6", default, skip_serializing_if = "Option::is_none")]
    pub cidr_v6: Option<Ipv6Net>,
    /// The zone it is in.
    pub zone: String,
}

/// Why a topology is refused.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// It is not YAML of the right shape.
    #[error("topology: {0}")]
    Parse(String),
    /// A value cannot be.
    #[error("topology: {field}: {problem}; {fix}")]
    Invalid {
        /// Where, as in `clusters[1].podCIDR`.
        field: String,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        fix: String,
    },
}

impl Topology {
    /// Reads and checks a topology.
    ///
    /// # Errors
    /// The first thing that is wrong, with its field and what to do about it.
    pub fn parse(text: &str) -> Result<Topology, Error> {
        let topology: Topology =
            serde_saphyr::from_str(text).map_err(|e| Error::Parse(e.to_string().trim().to_string()))?;
        topology.validate()?;
        Ok(topology)
    }

    /// Gives every cluster and subnet that has none IPv6 ranges out of `fd00::/16`, which is nobody's.
    #[must_use]
    pub fn dual_stack(mut self) -> Topology {
        let net = |text: String| text.parse().expect("numbers in a pattern");
        for (i, subnet) in (1u32..).zip(&mut self.subnets) {
            subnet.cidr_v6.get_or_insert_with(|| net(format!("fd00:172:{i:x}::/64")));
        }
        for cluster in &mut self.clusters {
            let id = cluster.id;
            cluster.pod_cidr_v6.get_or_insert_with(|| net(format!("fd00:10:{id:x}::/48")));
            cluster.service_cidr_v6.get_or_insert_with(|| net(format!("fd00:96:{id:x}::/112")));
        }
        self
    }

    /// Checks a topology made by a program.
    ///
    /// # Errors
    /// As [`Topology::parse`].
    pub fn validate(&self) -> Result<(), Error> {
        validate::check(self)
    }
}

impl Default for Topology {
    /// Two clusters of two nodes, one subnet each, routed.
    fn default() -> Topology {
        let net = |text: &str| text.parse().expect("a constant");
        let cluster = |name: &str, id, pods, services, subnet: &str, zones: [&str; 2]| Cluster {
            name: name.into(),
            id,
            pod_cidr: net(pods),
            service_cidr: net(services),
            pod_cidr_v6: None,
            service_cidr_v6: None,
            subnet: subnet.into(),
            zones: zones.map(String::from).to_vec(),
            nodes: Nodes::Count(2),
            node_cidr_mask: default_node_mask(),
        };
        let subnet = |id: &str, cidr, zone: &str| Subnet {
            id: id.into(),
            cidr: net(cidr),
            cidr_v6: None,
            zone: zone.into(),
        };
        let guangzhou = ["ap-guangzhou-3", "ap-guangzhou-4"];
        let shanghai = ["ap-shanghai-2", "ap-shanghai-5"];
        Topology {
            clusters: vec![
                cluster("cls-gz3k8a2m", 1, "10.10.0.0/16", "10.96.0.0/16", "subnet-gz3abc", guangzhou),
                cluster("cls-sh7d4f9q", 2, "10.20.0.0/16", "10.97.0.0/16", "subnet-sh7def", shanghai),
            ],
            subnets: vec![
                subnet("subnet-gz3abc", "172.16.1.0/24", guangzhou[0]),
                subnet("subnet-sh7def", "172.16.2.0/24", shanghai[0]),
            ],
            routes: None,
            public_cidr: default_public(),
            pod_routes: false,
        }
    }
}

/// TEST-NET-3: addresses that mean nothing anywhere else.
fn default_public() -> Ipv4Net {
    Ipv4Net::new_assert([203, 0, 113, 0].into(), 24)
}

fn default_node_mask() -> u8 {
    24
}

/// Prefix length of a node's share of a cluster's IPv6 pod CIDR, as Kubernetes' default.
pub const NODE_MASK_V6: u8 = 64;

#[cfg(test)]
mod tests;
