//! Nodes (mesh-protocol 2.3).

use std::collections::BTreeMap;

use causeway_model::{AddressType, ClusterInfo, Node, NodeAddress};
use ipnet::IpNet;

use super::go::{self, GoCidr, GoIp, go_struct};
use super::{Fault, Reason, at_most, check_origin, claim, fault};

/// Most addresses and most pod CIDRs of one node; real ones have a handful.
const MAX_ADDRESSES: usize = 256;
const MAX_CIDRS: usize = 1024;

go_struct! {
    struct Wire {
        name: String = "Name",
        cluster: String = "Cluster",
        addresses: Option<Vec<WireAddress>> = "IPAddresses",
        v4_cidr: Option<GoCidr> = "IPv4AllocCIDR",
        v4_more: Option<Vec<Option<GoCidr>>> = "IPv4SecondaryAllocCIDRs",
        v6_cidr: Option<GoCidr> = "IPv6AllocCIDR",
        v6_more: Option<Vec<Option<GoCidr>>> = "IPv6SecondaryAllocCIDRs",
        health_v4: GoIp = "IPv4HealthIP",
        health_v6: GoIp = "IPv6HealthIP",
        ingress_v4: GoIp = "IPv4IngressIP",
        ingress_v6: GoIp = "IPv6IngressIP",
        cluster_id: u32 = "ClusterID",
        source: String = "Source",
        encryption_key: u8 = "EncryptionKey",
        labels: Option<BTreeMap<String, String>> = "Labels",
        annotations: Option<BTreeMap<String, String>> = "Annotations",
        node_identity: u32 = "NodeIdentity",
        wireguard_pub_key: String = "WireguardPubKey",
        boot_id: String = "BootID",
    }
}

go_struct! {
    struct WireAddress {
        kind: String = "Type",
        ip: GoIp = "IP",
    }
}

pub(super) fn encode(node: &Node) -> Vec<u8> {
    let (v4, v6): (Vec<&IpNet>, Vec<&IpNet>) =
        node.pod_cidrs.iter().partition(|cidr| matches!(cidr, IpNet::V4(_)));
    let more = |cidrs: &[&IpNet]| {
        let rest: Vec<_> = cidrs.iter().skip(1).map(|net| Some(GoCidr::of(net))).collect();
        (!rest.is_empty()).then_some(rest)
    };
    let map = |map: &BTreeMap<String, String>| (!map.is_empty()).then(|| map.clone());
    go::print(&Wire {
        name: node.name.clone(),
        cluster: node.cluster.to_string(),
        addresses: (!node.addresses.is_empty()).then(|| {
            let address =
                |a: &NodeAddress| WireAddress { kind: a.kind.as_str().to_owned(), ip: GoIp(Some(a.ip)) };
            node.addresses.iter().map(address).collect()
        }),
        v4_cidr: v4.first().map(|net| GoCidr::of(net)),
        v4_more: more(&v4),
        v6_cidr: v6.first().map(|net| GoCidr::of(net)),
        v6_more: more(&v6),
        health_v4: GoIp(node.health_v4),
        health_v6: GoIp(node.health_v6),
        ingress_v4: GoIp(node.ingress_v4),
        ingress_v6: GoIp(node.ingress_v6),
        cluster_id: node.cluster_id.get(),
        source: "custom-resource".to_owned(),
        encryption_key: node.encryption_key,
        labels: map(&node.labels),
        annotations: map(&node.annotations),
        // Any other number makes readers re-label the node's addresses (trap 15).
        node_identity: 0,
        wireguard_pub_key: node.wireguard_pub_key.clone(),
        boot_id: node.boot_id.clone(),
    })
}

pub(super) fn decode(suffix: &str, value: &[u8], from: &ClusterInfo) -> Result<Node, Fault> {
    let wire: Wire = go::parse(value)?;
    check_origin("Cluster", &wire.cluster, "ClusterID", wire.cluster_id, from)?;
    if wire.name.is_empty() || wire.name != suffix {
        return fault(
            Reason::BadKey,
            "Name",
            format!("{:?} is not the name in the key, {suffix:?}", wire.name),
        );
    }
    let addresses = wire.addresses.unwrap_or_default();
    at_most("IPAddresses", addresses.len(), MAX_ADDRESSES)?;
    // Kinds a newer version may add, and addresses that are not set or mean nothing outside the node,
    // are no reason to lose it.
    let addresses = addresses
        .iter()
        .filter_map(|a| Some(NodeAddress { kind: AddressType::parse(&a.kind)?, ip: a.ip.0? }))
        .filter(|a| claim::special(&a.ip.into()).is_none())
        .collect();
    let own = [
        ("IPv4HealthIP", wire.health_v4),
        ("IPv6HealthIP", wire.health_v6),
        ("IPv4IngressIP", wire.ingress_v4),
        ("IPv6IngressIP", wire.ingress_v6),
    ];
    for (field, ip) in own {
        ip.0.map_or(Ok(()), |ip| claim::check(field, &ip.into()))?;
    }
    let mut pod_cidrs = vec![];
    for (first, first_field, more, more_field, v6) in [
        (wire.v4_cidr, "IPv4AllocCIDR", wire.v4_more, "IPv4SecondaryAllocCIDRs", false),
        (wire.v6_cidr, "IPv6AllocCIDR", wire.v6_more, "IPv6SecondaryAllocCIDRs", true),
    ] {
        let more = more.unwrap_or_default();
        at_most(more_field, more.len(), MAX_CIDRS)?;
        let first = first.iter().map(|cidr| (first_field, cidr));
        for (field, cidr) in first.chain(more.iter().flatten().map(|cidr| (more_field, cidr))) {
            let net = cidr.prefix(field)?;
            if matches!(net, IpNet::V6(_)) != v6 {
                return fault(Reason::BadValue, field, format!("{net} is of the other address family"));
            }
            claim::check(field, &net)?;
            pod_cidrs.push(net);
        }
    }
    Ok(Node {
        name: wire.name,
        cluster: from.name.clone(),
        cluster_id: from.id,
        addresses,
        pod_cidrs,
        health_v4: wire.health_v4.0,
        health_v6: wire.health_v6.0,
        ingress_v4: wire.ingress_v4.0,
        ingress_v6: wire.ingress_v6.0,
        encryption_key: wire.encryption_key,
        labels: wire.labels.unwrap_or_default(),
        annotations: wire.annotations.unwrap_or_default(),
        wireguard_pub_key: wire.wireguard_pub_key,
        boot_id: wire.boot_id,
    })
}
