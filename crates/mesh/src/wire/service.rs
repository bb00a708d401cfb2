//! Global services (mesh-protocol 2.6).

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::{BackendZone, ClusterInfo, ClusterService, PortsByAddress, ServiceKey};

use super::go::{self, go_struct};
use super::ports::WirePorts;
use super::{Fault, Reason, at_most, check_origin, claim, fault};
use crate::keys;

/// Bounds of one service. The value's size bounds the backends too; these catch nonsense earlier.
const MAX_FRONTENDS: usize = 64;
const MAX_BACKENDS: usize = 20_000;
/// Zones that a backend may be hinted for; Kubernetes allows 8.
const MAX_HINTS: usize = 8;
/// Bytes of the name of a zone: that of a label's value.
const MAX_ZONE: usize = 63;

go_struct! {
    struct WireForZone {
        name: String = "name",
    }
}

go_struct! {
    /// Zone hints of a backend, as writers newer than 1.18 have them.
    struct WireZone {
        zone: String = "zone",
        for_zones: Vec<WireForZone> = "forZones",
    }
}

go_struct! {
    struct Wire {
        cluster: String = "cluster",
        namespace: String = "namespace",
        name: String = "name",
        frontends: WirePorts = "frontends",
        backends: WirePorts = "backends",
        hostnames: BTreeMap<String, String> = "hostnames",
        #[serde(skip_serializing_if = "BTreeMap::is_empty")]
        zones: BTreeMap<String, Option<WireZone>> = "zones",
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
        zones: service.zones.iter().map(|(ip, zone)| (ip.to_string(), Some(wire_zone(zone)))).collect(),
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
        zones: zones(wire.zones),
        labels: wire.labels,
        selector: wire.selector,
        shared: wire.shared,
    })
}

fn wire_zone(zone: &BackendZone) -> WireZone {
    let for_zones = zone.for_zones.iter().map(|name| WireForZone { name: name.clone() });
    WireZone { zone: zone.zone.clone(), for_zones: for_zones.collect() }
}

/// The hints that can be used. One that breaks a bound is dropped, not the service: without it no
/// backend is preferred for its zone. Equal ones are shared.
fn zones(wire: BTreeMap<String, Option<WireZone>>) -> BTreeMap<IpAddr, Arc<BackendZone>> {
    let mut seen: BTreeSet<Arc<BackendZone>> = BTreeSet::new();
    let mut out = BTreeMap::new();
    for (ip, zone) in wire {
        let WireZone { zone, for_zones } = zone.unwrap_or_default();
        let for_zones: Vec<String> = for_zones.into_iter().map(|zone| zone.name).collect();
        let legal = |name: &String| name.len() <= MAX_ZONE;
        let usable =
            (1..=MAX_HINTS).contains(&for_zones.len()) && for_zones.iter().all(legal) && legal(&zone);
        let Ok(ip) = ip.parse::<IpAddr>() else { continue };
        if usable {
            let zone = Arc::new(BackendZone { zone, for_zones });
            let shared = seen.get(&zone).cloned().unwrap_or(zone);
            seen.insert(shared.clone());
            out.insert(ip.to_canonical(), shared);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use causeway_model::{ClusterId, ClusterName, MaxClusters};

    use super::*;

    #[test]
    fn zone_hints_travel_and_bad_ones_are_dropped() {
        let max_clusters = MaxClusters::C255;
        let from = ClusterInfo {
            name: ClusterName::new("cls-b").unwrap(),
            id: ClusterId::new(2, max_clusters).unwrap(),
            max_clusters,
        };
        let long = "z".repeat(MAX_ZONE + 1);
        let many = r#"{"name":"z"},"#.repeat(MAX_HINTS) + r#"{"name":"z"}"#;
        let text = format!(
            r#"{{"cluster":"cls-b","namespace":"shop","name":"web","clusterID":2,"shared":true,
            "backends":{{"10.2.0.1":{{}},"10.2.0.2":{{}}}},
            "zones":{{"10.2.0.1":{{"zone":"z1","forZones":[{{"name":"z1"}},{{"name":"z2"}}]}},
            "10.2.0.2":{{"zone":"z1","forZones":[{{"name":"z1"}},{{"name":"z2"}}]}},
            "10.2.0.3":{{"zone":"z1"}},"10.2.0.4":{{"forZones":[{{"name":"{long}"}}]}},
            "10.2.0.5":{{"forZones":[{many}]}},"nowhere":{{"forZones":[{{"name":"z1"}}]}},"10.2.0.6":null}}}}"#
        );
        let service = decode("shop/web", text.as_bytes(), &from).ok().unwrap();
        let zone = BackendZone { zone: "z1".into(), for_zones: vec!["z1".into(), "z2".into()] };
        let all: Vec<_> = service.zones.iter().map(|(ip, zone)| (ip.to_string(), zone)).collect();
        let shared = Arc::new(zone);
        assert_eq!(all, [("10.2.0.1".to_owned(), &shared), ("10.2.0.2".to_owned(), &shared)]);
        let again = decode("shop/web", &encode(&service), &from).ok().unwrap();
        assert_eq!(again, service);
        // Readers of 1.18 know no zones, and see none where nobody hints.
        let without = encode(&ClusterService { zones: BTreeMap::new(), ..service });
        assert!(!String::from_utf8(without).unwrap().contains("zones"));
    }
}
