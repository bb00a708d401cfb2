//! What a topology must be for a lab to come up from it.

use std::collections::BTreeSet;

use causeway_model::{ClusterId, ClusterName, MaxClusters};
use ipnet::IpNet;

use super::plan::Layout;
use super::{Cluster, Error, NODE_MASK_V6, Nodes, Topology};

/// Prefix lengths of IPv6 Services: Kubernetes allows at most 20 bits of addresses.
const SERVICES_V6: std::ops::RangeInclusive<u8> = 108..=124;
/// Longest prefix of a subnet's IPv6 addresses: it has an address for each that it can have in IPv4.
const SUBNET_V6: u8 = 112;

/// Most nodes of a cluster: each is a handful of processes on this machine.
const MAX_NODES: u32 = 64;

pub(super) fn check(topology: &Topology) -> Result<(), Error> {
    if topology.clusters.is_empty() {
        return invalid("clusters", "there is none", "describe at least one cluster");
    }
    subnets(topology)?;
    for (i, cluster) in topology.clusters.iter().enumerate() {
        name_and_id(topology, i, cluster)?;
        nodes(topology, i, cluster)?;
        dual_stack(topology, i, cluster)?;
    }
    ranges(topology)?;
    routes(topology)?;
    room(topology)
}

fn invalid<T>(
    field: impl Into<String>,
    problem: impl Into<String>,
    fix: impl Into<String>,
) -> Result<T, Error> {
    Err(Error::Invalid { field: field.into(), problem: problem.into(), fix: fix.into() })
}

fn subnets(topology: &Topology) -> Result<(), Error> {
    let mut seen = BTreeSet::new();
    for (i, subnet) in topology.subnets.iter().enumerate() {
        dns_name(&format!("subnets[{i}].id"), &subnet.id)?;
        dns_name(&format!("subnets[{i}].zone"), &subnet.zone)?;
        if !seen.insert(&subnet.id) {
            let problem = format!("{} is given twice", subnet.id);
            return invalid(format!("subnets[{i}].id"), problem, "give every subnet an id of its own");
        }
        let field = format!("subnets[{i}].cidr");
        network(&field, subnet.cidr.into())?;
        if subnet.cidr.prefix_len() > Layout::MAX_PREFIX {
            let problem = format!("{} has too few addresses", subnet.cidr);
            return invalid(field, problem, format!("use a prefix of at most /{}", Layout::MAX_PREFIX));
        }
        if let Some(cidr) = subnet.cidr_v6.filter(|cidr| cidr.prefix_len() > SUBNET_V6) {
            let fix = format!("use a prefix of at most /{SUBNET_V6}");
            return invalid(format!("subnets[{i}].cidrv6"), format!("{cidr} has too few addresses"), fix);
        }
    }
    Ok(())
}

/// A cluster has all that IPv6 takes, or nothing of it.
fn dual_stack(topology: &Topology, i: usize, cluster: &Cluster) -> Result<(), Error> {
    let (pods, services) = match (cluster.pod_cidr_v6, cluster.service_cidr_v6) {
        (None, None) => return Ok(()),
        (Some(pods), Some(services)) => (pods, services),
        (Some(_), None) => {
            let fix = "give both podCIDRv6 and serviceCIDRv6, or neither";
            return invalid(format!("clusters[{i}].serviceCIDRv6"), "it is missing", fix);
        }
        (None, Some(_)) => {
            let fix = "give both podCIDRv6 and serviceCIDRv6, or neither";
            return invalid(format!("clusters[{i}].podCIDRv6"), "it is missing", fix);
        }
    };
    let count = match &cluster.nodes {
        Nodes::Count(n) => u64::from(*n),
        Nodes::List(list) => list.len() as u64,
    };
    let room = NODE_MASK_V6.checked_sub(pods.prefix_len()).map_or(0, |bits| 1u64 << bits.min(32));
    if room < count {
        let problem = format!("{pods} has room for {room} nodes with a /{NODE_MASK_V6} each, not {count}");
        return invalid(format!("clusters[{i}].podCIDRv6"), problem, "use a shorter prefix, as in /48");
    }
    if !SERVICES_V6.contains(&services.prefix_len()) {
        let fix = format!("use a prefix from /{} to /{}", SERVICES_V6.start(), SERVICES_V6.end());
        let problem = format!("{services} is not possible");
        return invalid(format!("clusters[{i}].serviceCIDRv6"), problem, fix);
    }
    let listed: Vec<&str> = match &cluster.nodes {
        Nodes::Count(_) => vec![],
        Nodes::List(list) => list.iter().filter_map(|node| node.subnet.as_deref()).collect(),
    };
    let used = |id: &str| id == cluster.subnet || listed.contains(&id);
    match topology.subnets.iter().position(|s| s.cidr_v6.is_none() && used(&s.id)) {
        Some(n) => {
            let problem = format!("it is missing, and cluster {} is dual stack", cluster.name);
            invalid(format!("subnets[{n}].cidrv6"), problem, "give it one, as in fd00:172:1::/64")
        }
        None => Ok(()),
    }
}

fn name_and_id(topology: &Topology, i: usize, cluster: &Cluster) -> Result<(), Error> {
    let field = format!("clusters[{i}].name");
    if let Err(e) = ClusterName::new(cluster.name.as_str()) {
        return invalid(field, e.to_string(), "choose another name");
    }
    let before = &topology.clusters[..i];
    if before.iter().any(|c| c.name == cluster.name) {
        let problem = format!("{} is given twice", cluster.name);
        return invalid(field, problem, "give every cluster a name of its own");
    }
    let field = format!("clusters[{i}].id");
    if let Err(e) = ClusterId::new(cluster.id, MaxClusters::C255) {
        return invalid(field, e.to_string(), "choose an id from 1 to 255");
    }
    if let Some(other) = before.iter().find(|c| c.id == cluster.id) {
        let problem = format!("{} is taken by cluster {}", cluster.id, other.name);
        return invalid(field, problem, "give every cluster an id of its own");
    }
    Ok(())
}

fn nodes(topology: &Topology, i: usize, cluster: &Cluster) -> Result<(), Error> {
    let known = |id: &str| topology.subnets.iter().any(|s| s.id == id);
    let unknown = |field: String, id: &str| {
        let ids: Vec<_> = topology.subnets.iter().map(|s| s.id.as_str()).collect();
        let fix = format!("describe it under subnets, or use one of: {}", ids.join(", "));
        invalid(field, format!("there is no subnet {id}"), fix)
    };
    if !known(&cluster.subnet) {
        return unknown(format!("clusters[{i}].subnet"), &cluster.subnet);
    }
    for (z, zone) in cluster.zones.iter().enumerate() {
        dns_name(&format!("clusters[{i}].zones[{z}]"), zone)?;
    }
    let field = format!("clusters[{i}].nodes");
    let count = match &cluster.nodes {
        Nodes::Count(n) => *n,
        Nodes::List(list) => {
            let mut seen = BTreeSet::new();
            for (n, node) in list.iter().enumerate() {
                let field = format!("{field}[{n}]");
                dns_name(&format!("{field}.name"), &node.name)?;
                if !seen.insert(&node.name) {
                    let problem = format!("{} is given twice", node.name);
                    return invalid(format!("{field}.name"), problem, "give every node a name of its own");
                }
                if let Some(zone) = &node.zone {
                    dns_name(&format!("{field}.zone"), zone)?;
                }
                if let Some(id) = node.subnet.as_ref().filter(|id| !known(id)) {
                    return unknown(format!("{field}.subnet"), id);
                }
            }
            list.len() as u32
        }
    };
    if count == 0 || count > MAX_NODES {
        let fix = format!("use 1 to {MAX_NODES} nodes");
        return invalid(field, format!("{count} nodes are not possible"), fix);
    }
    let (mask, prefix) = (cluster.node_cidr_mask, cluster.pod_cidr.prefix_len());
    if !(16..=28).contains(&mask) || mask < prefix {
        let problem = format!("nodes cannot get a /{mask} of the pod CIDR {}", cluster.pod_cidr);
        let fix = format!("use a mask from {} to 28, or a larger podCIDR", prefix.max(16));
        return invalid(format!("clusters[{i}].nodeCIDRMask"), problem, fix);
    }
    let room = 1u64 << (mask - prefix);
    if u64::from(count) > room {
        let problem = format!("the pod CIDR {} has room for {room} nodes, not {count}", cluster.pod_cidr);
        let fix = "use fewer nodes, a larger podCIDR or a longer nodeCIDRMask";
        return invalid(field, problem, fix);
    }
    Ok(())
}

/// Pods are reached across clusters, and nodes across subnets, so none of their ranges may overlap with anything. Service
/// addresses mean something in their own cluster only: two clusters may use the same.
fn ranges(topology: &Topology) -> Result<(), Error> {
    let mut all: Vec<(String, String, IpNet, Option<usize>)> = Vec::new();
    for (i, s) in topology.subnets.iter().enumerate() {
        all.push((format!("subnets[{i}].cidr"), format!("subnet {}", s.id), s.cidr.into(), None));
        if let Some(cidr) = s.cidr_v6 {
            all.push((format!("subnets[{i}].cidrv6"), format!("subnet {}", s.id), cidr.into(), None));
        }
    }
    all.push(("publicCIDR".into(), "the public range".into(), topology.public_cidr.into(), None));
    for (i, c) in topology.clusters.iter().enumerate() {
        let (pods, services) = (format!("clusters[{i}].podCIDR"), format!("clusters[{i}].serviceCIDR"));
        if c.service_cidr.prefix_len() > 28 {
            let problem = format!("{} has too few addresses", c.service_cidr);
            return invalid(services, problem, "use a prefix of at most /28");
        }
        let (of_pods, of_services) =
            (format!("the pods of cluster {}", c.name), format!("the Services of cluster {}", c.name));
        if let Some(cidr) = c.pod_cidr_v6 {
            all.push((format!("{pods}v6"), of_pods.clone(), cidr.into(), None));
        }
        if let Some(cidr) = c.service_cidr_v6 {
            all.push((format!("{services}v6"), of_services.clone(), cidr.into(), Some(i)));
        }
        all.push((pods, of_pods, c.pod_cidr.into(), None));
        all.push((services, of_services, c.service_cidr.into(), Some(i)));
    }
    for (n, (field, _, range, service)) in all.iter().enumerate() {
        network(field, *range)?;
        for (_, whose, other, other_service) in &all[..n] {
            let both_services = service.is_some() && other_service.is_some();
            if !both_services && (range.contains(other) || other.contains(range)) {
                let problem = format!("{range} overlaps with {other} of {whose}");
                return invalid(field, problem, "choose ranges that do not overlap");
            }
        }
    }
    Ok(())
}

fn routes(topology: &Topology) -> Result<(), Error> {
    for (i, (a, b)) in topology.routes.iter().flatten().enumerate() {
        for (end, id) in [(0, a), (1, b)] {
            if !topology.subnets.iter().any(|s| &s.id == id) {
                let problem = format!("there is no subnet {id}");
                return invalid(format!("routes[{i}][{end}]"), problem, "describe it under subnets");
            }
        }
    }
    Ok(())
}

/// Whether every subnet has addresses for the machines placed in it.
fn room(topology: &Topology) -> Result<(), Error> {
    for subnet in &topology.subnets {
        let layout = Layout::of(subnet.cidr);
        let mut wanted = 0;
        let mut servers = 0;
        for (i, cluster) in topology.clusters.iter().enumerate() {
            servers += u32::from(cluster.subnet == subnet.id);
            wanted += match &cluster.nodes {
                Nodes::Count(n) if cluster.subnet == subnet.id => *n,
                Nodes::Count(_) => 0,
                Nodes::List(list) => {
                    let home = &cluster.subnet;
                    list.iter().filter(|n| n.subnet.as_ref().unwrap_or(home) == &subnet.id).count() as u32
                }
            };
            if wanted > layout.nodes() || servers > layout.servers() {
                let room = format!("{} nodes and {} API servers", layout.nodes(), layout.servers());
                let problem = format!("subnet {} ({}) has room for {room}", subnet.id, subnet.cidr);
                let fix = "use a larger subnet, or spread the clusters over several";
                return invalid(format!("clusters[{i}].nodes"), problem, fix);
            }
        }
    }
    let clusters = topology.clusters.len() as u32;
    for (i, subnet) in topology.subnets.iter().enumerate() {
        if Layout::of(subnet.cidr).balancers() < clusters {
            let problem = format!("{} has no load-balancer address for every cluster", subnet.cidr);
            return invalid(format!("subnets[{i}].cidr"), problem, "use a larger subnet");
        }
    }
    if topology.public_cidr.hosts().count() < topology.clusters.len() {
        let problem = format!("{} has no address for every cluster", topology.public_cidr);
        return invalid("publicCIDR", problem, "use a larger range");
    }
    Ok(())
}

/// A range written as its network address.
fn network(field: &str, range: IpNet) -> Result<(), Error> {
    if range.addr() != range.network() {
        let fix = format!("write {}", range.trunc());
        return invalid(field, format!("{range} has bits set behind its prefix"), fix);
    }
    Ok(())
}

/// A label of the domain name system (RFC 1123): what Kubernetes accepts as the name of a node, and a path component.
fn dns_name(field: &str, name: &str) -> Result<(), Error> {
    let edge = |c: Option<char>| c.is_some_and(|c| c.is_ascii_lowercase() || c.is_ascii_digit());
    let inner = name.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '-' || c == '.');
    if name.len() > 63 || !inner || !edge(name.chars().next()) || !edge(name.chars().last()) {
        let fix = "use 1 to 63 lower-case letters, digits, '-' and '.', beginning and ending with a letter or digit";
        return invalid(field, format!("{name:?} is not a name"), fix);
    }
    Ok(())
}
