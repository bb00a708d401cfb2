//! CiliumNode → Node (mesh-protocol 2.3).

use causeway_model::{AddressType, ClusterInfo, Node, NodeAddress};
use ipnet::IpNet;

use super::ip;
use crate::crd::CiliumNode;

/// Annotations with the WireGuard public key, newest name first.
const WIREGUARD_KEY: [&str; 2] = ["network.cilium.io/wg-pub-key", "io.cilium.network.wg-pub-key"];

/// The node of a CiliumNode of cluster `info`. Addresses and CIDRs that cannot be read are dropped.
pub fn node(object: &CiliumNode, info: &ClusterInfo) -> Node {
    let spec = &object.spec;
    let annotations = object.metadata.annotations.clone().unwrap_or_default();
    let pools = spec.ipam.pools.iter().flat_map(|pools| &pools.allocated).flat_map(|pool| &pool.cidrs);
    let mut pod_cidrs: Vec<IpNet> = vec![];
    for cidr in spec.ipam.pod_cidrs.iter().chain(pools) {
        if let Ok(cidr) = cidr.parse::<IpNet>() {
            let cidr = cidr.trunc();
            if !pod_cidrs.contains(&cidr) {
                pod_cidrs.push(cidr);
            }
        }
    }
    let wireguard = WIREGUARD_KEY.iter().find_map(|name| annotations.get(*name)).cloned();
    Node {
        name: object.metadata.name.clone().unwrap_or_default(),
        cluster: info.name.clone(),
        cluster_id: info.id,
        addresses: spec
            .addresses
            .iter()
            .filter_map(|a| Some(NodeAddress { kind: AddressType::parse(&a.kind)?, ip: ip(&a.ip)? }))
            .collect(),
        pod_cidrs,
        health_v4: ip(&spec.health.ipv4),
        health_v6: ip(&spec.health.ipv6),
        ingress_v4: ip(&spec.ingress.ipv4),
        ingress_v6: ip(&spec.ingress.ipv6),
        encryption_key: u8::try_from(spec.encryption.key).unwrap_or(0),
        labels: object.metadata.labels.clone().unwrap_or_default(),
        wireguard_pub_key: wireguard.unwrap_or_default(),
        annotations,
        boot_id: spec.bootid.clone(),
    }
}
