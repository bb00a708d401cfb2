//! Global services (mesh-protocol 2.6).

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_model::{ClusterInfo, ClusterService, Port, Ports, Protocol, ServiceKey};

use super::go::{self, go_struct};
use super::{Fault, Reason, at_most, check_origin, claim, fault};
use crate::keys;

/// Bounds of one service. The value's size bounds the backends too; these catch nonsense earlier.
const MAX_FRONTENDS: usize = 64;
const MAX_BACKENDS: usize = 20_000;
const MAX_PORTS: usize = 1024;

go_struct! {
    struct Wire {
        cluster: String = "cluster",
        namespace: String = "namespace",
        name: String = "name",
        frontends: BTreeMap<String, Option<WirePorts>> = "frontends",
        backends: BTreeMap<String, Option<WirePorts>> = "backends",
        hostnames: BTreeMap<String, String> = "hostnames",
        labels: BTreeMap<String, String> = "labels",
        selector: BTreeMap<String, String> = "selector",
        include_external: bool = "includeExternal",
        shared: bool = "shared",
        cluster_id: u32 = "clusterID",
    }
}

type WirePorts = BTreeMap<String, Option<WirePort>>;

go_struct! {
    struct WirePort {
        protocol: String = "Protocol",
        port: u16 = "Port",
    }
}

pub(super) fn encode(service: &ClusterService) -> Vec<u8> {
    let ports = |ports: &Ports| -> WirePorts {
        let wire = |p: &Port| WirePort { protocol: p.protocol.as_str().to_owned(), port: p.port };
        ports.iter().map(|(name, port)| (name.clone(), Some(wire(port)))).collect()
    };
    let side = |side: &BTreeMap<IpAddr, Ports>| {
        side.iter().map(|(ip, p)| (ip.to_canonical().to_string(), Some(ports(p)))).collect()
    };
    go::print(&Wire {
        cluster: service.cluster.to_string(),
        namespace: service.key.namespace.clone(),
        name: service.key.name.clone(),
        frontends: side(&service.frontends),
        backends: side(&service.backends),
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
    at_most("frontends", wire.frontends.len(), MAX_FRONTENDS)?;
    at_most("backends", wire.backends.len(), MAX_BACKENDS)?;
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
        frontends: side("frontends", wire.frontends)?,
        backends: side("backends", wire.backends)?,
        hostnames,
        labels: wire.labels,
        selector: wire.selector,
        shared: wire.shared,
    })
}

fn side(
    field: &'static str,
    side: BTreeMap<String, Option<WirePorts>>,
) -> Result<BTreeMap<IpAddr, Ports>, Fault> {
    let mut out = BTreeMap::new();
    for (text, ports) in side {
        let Ok(ip) = text.parse::<IpAddr>() else {
            return fault(Reason::BadValue, field, format!("{text:?} is not an IP address"));
        };
        if field == "backends" {
            claim::check(field, &ip.to_canonical().into())?;
        }
        out.insert(ip.to_canonical(), self::ports(field, ports.unwrap_or_default())?);
    }
    Ok(out)
}

fn ports(field: &'static str, wire: WirePorts) -> Result<Ports, Fault> {
    at_most(field, wire.len(), MAX_PORTS)?;
    let mut out = Ports::new();
    for (name, port) in wire {
        let Some(port) = port else {
            return fault(Reason::BadValue, field, format!("port {name:?} is null"));
        };
        // Go keeps words it does not know; such a port could never be programmed, so it is skipped.
        let Ok(protocol) = port.protocol.to_ascii_uppercase().parse::<Protocol>() else { continue };
        out.insert(name, Port { protocol, port: port.port });
    }
    Ok(out)
}
