//! EndpointSlice → EndpointSlice (mesh-protocol 6.4).

use causeway_model::{EndpointConditions, EndpointSlice, ServiceKey, SliceEndpoint, SliceKey, SlicePort};
use k8s_openapi::api::discovery::v1 as discovery;

use super::service::protocol;
use super::{ip, names};

/// `endpointslice.kubernetes.io/managed-by` of slices that mirror other clusters' endpoints: they
/// must be neither published nor balanced over, or backends would come back as our own.
pub const MESH_SLICE_MANAGER: &str = "endpointslice-mesh-controller.cilium.io";
const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
const SERVICE_NAME: &str = "kubernetes.io/service-name";

/// `None` for slices without service, of host names, or that mirror other clusters.
pub fn slice(object: &discovery::EndpointSlice) -> Option<EndpointSlice> {
    let labels = object.metadata.labels.as_ref()?;
    if labels.get(MANAGED_BY).is_some_and(|manager| manager == MESH_SLICE_MANAGER) {
        return None;
    }
    if !matches!(object.address_type.as_str(), "IPv4" | "IPv6") {
        return None;
    }
    let service = labels.get(SERVICE_NAME).filter(|name| !name.is_empty())?;
    let (namespace, name) = names(&object.metadata);
    let ports = object.ports.iter().flatten().filter_map(|port| {
        Some(SlicePort {
            name: port.name.clone().unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref())?,
            port: u16::try_from(port.port?).ok()?,
        })
    });
    let endpoints = object.endpoints.iter().map(|endpoint| {
        let conditions = endpoint.conditions.clone().unwrap_or_default();
        let ready = conditions.ready.unwrap_or(true);
        let zones = endpoint.hints.as_ref().and_then(|hints| hints.for_zones.as_ref());
        SliceEndpoint {
            addresses: endpoint.addresses.iter().filter_map(|text| ip(text)).collect(),
            conditions: EndpointConditions {
                ready,
                serving: conditions.serving.unwrap_or(ready),
                terminating: conditions.terminating.unwrap_or(false),
            },
            hostname: endpoint.hostname.clone().unwrap_or_default(),
            node: endpoint.node_name.clone(),
            zone: endpoint.zone.clone(),
            for_zones: zones.into_iter().flatten().map(|zone| zone.name.clone()).collect(),
        }
    });
    Some(EndpointSlice {
        key: SliceKey { namespace: namespace.clone(), name },
        service: ServiceKey { namespace, name: service.clone() },
        endpoints: endpoints.collect(),
        ports: ports.collect(),
    })
}
