//! EndpointSlice → EndpointSlice (mesh-protocol 6.4).

use causeway_model::names::{
    IMPORTED_SERVICE, MESH_SLICE_MANAGER, SLICE_MANAGER, SLICE_SERVICE, SOURCE_CLUSTER,
};
use causeway_model::{EndpointConditions, EndpointSlice, ServiceKey, SliceEndpoint, SliceKey, SlicePort};
use k8s_openapi::api::discovery::v1 as discovery;

use super::service::protocol;
use super::{ip, names};

/// `None` for slices without service, of host names, or that mirror other clusters.
pub fn slice(object: &discovery::EndpointSlice) -> Option<EndpointSlice> {
    let manager = object.metadata.labels.as_ref()?.get(SLICE_MANAGER);
    any_slice(object).filter(|_| manager.is_none_or(|manager| manager != MESH_SLICE_MANAGER))
}

/// The same with those that mirror other clusters.
pub fn any_slice(object: &discovery::EndpointSlice) -> Option<EndpointSlice> {
    let labels = object.metadata.labels.as_ref()?;
    if !matches!(object.address_type.as_str(), "IPv4" | "IPv6") {
        return None;
    }
    let service = labels.get(SLICE_SERVICE).filter(|name| !name.is_empty())?;
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
        source_cluster: labels.get(SOURCE_CLUSTER).cloned(),
        import: labels.get(IMPORTED_SERVICE).cloned(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slices_of_other_clusters_are_for_names_only() {
        let of = |labels: &[(&str, &str)]| {
            let mut object = discovery::EndpointSlice { address_type: "IPv4".into(), ..Default::default() };
            let labels = labels.iter().map(|(key, value)| (key.to_string(), value.to_string()));
            object.metadata.labels =
                Some(labels.chain([(SLICE_SERVICE.to_owned(), "db".to_owned())]).collect());
            (slice(&object), any_slice(&object))
        };
        let (own, any) = of(&[]);
        assert!(own.is_some() && own == any);
        let labels =
            [(SLICE_MANAGER, MESH_SLICE_MANAGER), (SOURCE_CLUSTER, "cls-b"), (IMPORTED_SERVICE, "kv")];
        let (own, any) = of(&labels);
        let any = any.unwrap();
        assert_eq!(
            (own, any.source_cluster.as_deref(), any.import.as_deref()),
            (None, Some("cls-b"), Some("kv"))
        );
    }
}
