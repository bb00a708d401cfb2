//! Service → Service with what the operator needs beyond the datapath; Namespace → Namespace.

use std::collections::BTreeMap;

use causeway_model::mcs::{LocalService, Namespace, TargetPort};
use k8s_openapi::api::core::v1 as core;
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;

use super::service::protocol;
use crate::crd::ServiceImport;

/// Whether endpoints of other clusters become EndpointSlices of this one.
const SYNC_SLICES: &str = "service.cilium.io/global-sync-endpoint-slices";

/// The service of an object; `None` as [`super::service`] says.
pub fn local_service(object: &core::Service, proxy: Option<&str>) -> Option<LocalService> {
    let service = super::service(object, proxy)?;
    let spec = object.spec.clone().unwrap_or_default();
    let targets = spec.ports.unwrap_or_default().into_iter().filter_map(|port| {
        let target = match port.target_port? {
            IntOrString::Int(number) => TargetPort::Number(u16::try_from(number).ok()?),
            IntOrString::String(name) => TargetPort::Name(name),
        };
        Some(((u16::try_from(port.port).ok()?, protocol(port.protocol.as_deref())?), target))
    });
    let annotations = object.metadata.annotations.as_ref();
    let owners = object.metadata.owner_references.iter().flatten();
    let import = owners.filter(|owner| {
        owner.kind == ServiceImport::KIND && owner.api_version.starts_with("multicluster.x-k8s.io/")
    });
    Some(LocalService {
        service,
        uid: object.metadata.uid.clone().unwrap_or_default(),
        sync_slices: annotations.and_then(|all| all.get(SYNC_SLICES)).map(|v| v.eq_ignore_ascii_case("true")),
        targets: targets.collect::<BTreeMap<_, _>>(),
        import: import.map(|owner| owner.name.clone()).next(),
    })
}

/// The namespace of an object; `None` while it is being deleted.
pub fn namespace(object: &core::Namespace) -> Option<Namespace> {
    let name = object.metadata.name.clone()?;
    object.metadata.deletion_timestamp.is_none().then_some(Namespace { name })
}

#[cfg(test)]
mod tests {
    use causeway_model::mcs::IpFamily;
    use causeway_model::{Protocol, TrafficPolicy};

    use super::*;

    #[test]
    fn what_the_operator_needs() {
        let object = |value| serde_json::from_value::<core::Service>(value).unwrap();
        let full = object(serde_json::json!({
            "metadata": { "namespace": "shop", "name": "web", "uid": "u",
                "annotations": { "service.cilium.io/global-sync-endpoint-slices": "TRUE" },
                "ownerReferences": [
                    { "apiVersion": "v1", "kind": "ServiceImport", "name": "other", "uid": "1" },
                    { "apiVersion": "multicluster.x-k8s.io/v1alpha1", "kind": "ServiceImport", "name": "cart", "uid": "2" },
                ] },
            "spec": { "ipFamilies": ["IPv6", "IPv4"], "internalTrafficPolicy": "Local",
                "trafficDistribution": "PreferClose",
                "ports": [{ "port": 80, "targetPort": 8080 }, { "port": 80, "protocol": "UDP", "targetPort": "dns" },
                          { "port": 81 }] },
        }));
        let service = local_service(&full, None).unwrap();
        assert_eq!((service.uid.as_str(), service.sync_slices), ("u", Some(true)));
        assert_eq!(service.service.families, [IpFamily::V6, IpFamily::V4]);
        let of = &service.service;
        assert_eq!(
            (of.internal_traffic, of.traffic_distribution.as_str()),
            (TrafficPolicy::Local, "PreferClose")
        );
        assert_eq!(service.import.as_deref(), Some("cart"));
        let targets = [
            ((80, Protocol::TCP), TargetPort::Number(8080)),
            ((80, Protocol::UDP), TargetPort::Name("dns".into())),
        ];
        assert_eq!(service.targets, targets.into());
        let plain =
            local_service(&object(serde_json::json!({ "metadata": { "name": "web" } })), None).unwrap();
        assert_eq!((plain.sync_slices, plain.import), (None, None));
        assert_eq!(local_service(&full, Some("other")), None);
    }

    #[test]
    fn a_namespace_that_goes_is_none() {
        let mut object = core::Namespace::default();
        object.metadata.name = Some("shop".into());
        assert_eq!(namespace(&object), Some(Namespace { name: "shop".into() }));
        object.metadata.deletion_timestamp = Some(serde_json::from_str(r#""2026-02-10T09:00:00Z""#).unwrap());
        assert_eq!(namespace(&object), None);
    }
}
