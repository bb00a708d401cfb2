//! Global services (mesh-protocol 2.6).

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_model::{ClusterInfo, ClusterService, PortsByAddress, ServiceKey};

use super::go::{self, go_struct};
use super::ports::WirePorts;
use super::{Fault, Reason, at_most, check_origin, claim, fault};
use crate::keys;

/// Bounds of one service. The value's size bounds the backends too; these catch nonsense earlier.
const MAX_FRONTENDS: usize = 64;
const MAX_BACKENDS: usize = 20_000;

go_struct! {
    struct Wire {
        cluster: String = "cluster",
        namespace: String = "namespace",
        name: String = "name",
        frontends: WirePorts = "frontends",
        backends: WirePorts = "backends",
        hostnames: BTreeMap<String, String> = "hostnames",
        labels: BTreeMap<String, String> = "labels",
        selector: BTreeMap<String, String> = "selector",
        include_external: bool = "includeExternal",
        shared: bool = "shared",
        cluster_id: u32 = "clusterID",
    }
}

pub(super) fn encode(service: &ClusterService) -> Vec<u8> {
    go::print(&Wire {
        cluster: service.cluster.to_string(),
        namespace: service.key.namespace.clone(),
        name: service.key.name.clone(),
        frontends: WirePorts::of(&service.frontends),
        backends: WirePorts::of(&service.backends),
        hostnames: service.hostnames.iter().map(|(ip, name)| (ip.to_string(), name.clone())).collect(),
        labels: service.labels.clone(),
        selector: service.selector.clone(),
        include_external: true,
        shared: service.shared,
        cluster_id: service.cluster_id.get(),
    })
}

pub(super) fn decode(suffix: &str, value: &[u8], from: &ClusterInfo) -> Result<ClusterService, Fault> {
    let wire: Wire = go::parse(value)?;
    check_origin("cluster", &wire.cluster, "clusterID", wire.cluster_id, from)?;
    if keys::parse_service(suffix).is_none() {
        return fault(Reason::BadKey, "key", format!("{suffix:?} is not <namespace>/<name>"));
    }
    let key = ServiceKey { namespace: wire.namespace, name: wire.name };
    if keys::service_suffix(&key) != suffix {
        return fault(
            Reason::BadKey,
            "name",
            format!("{key} is not the namespace and name in the key, {suffix:?}"),
        );
    }
    at_most("frontends", wire.frontends.entries.len(), MAX_FRONTENDS)?;
    at_most("backends", wire.backends.entries.len(), MAX_BACKENDS)?;
    wire.frontends.check("frontends")?;
    wire.backends.check("backends")?;
    wire.backends.entries.iter().try_for_each(|(ip, _)| claim::check_host("backends", *ip))?;
    let mut hostnames = BTreeMap::new();
    for (ip, hostname) in wire.hostnames {
        // Informative only: one that names no address is dropped, not the service.
        if let Ok(ip) = ip.parse::<IpAddr>() {
            hostnames.insert(ip.to_canonical(), hostname);
        }
    }
    Ok(ClusterService {
        cluster: from.name.clone(),
        cluster_id: from.id,
        key,
        frontends: PortsByAddress::from_iter(wire.frontends.entries),
        backends: PortsByAddress::from_iter(wire.backends.entries),
        hostnames,
        labels: wire.labels,
        selector: wire.selector,
        shared: wire.shared,
    })
}
