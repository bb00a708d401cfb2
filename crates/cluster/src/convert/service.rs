//! Service → Service (mesh-protocol 6.3, 6.4; behaviours 2.1).

use std::collections::BTreeMap;

use causeway_model::{
    Affinity, Protocol, Service, ServiceKey, ServicePort, ServiceType, SessionAffinity, Sharing,
};
use k8s_openapi::api::core::v1 as core;

use super::{ip, names};

/// Annotations and their older names; the new name wins if present with any value.
const GLOBAL: [&str; 2] = ["service.cilium.io/global", "io.cilium/global-service"];
const SHARED: [&str; 2] = ["service.cilium.io/shared", "io.cilium/shared-service"];
const AFFINITY: [&str; 2] = ["service.cilium.io/affinity", "io.cilium/service-affinity"];
/// Marks a service as headless whatever its ClusterIP says.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Services with this label belong to another proxy.
const PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";

/// What the annotations say about the mesh.
pub fn sharing(annotations: &BTreeMap<String, String>) -> Sharing {
    let of = |names: [&str; 2]| names.iter().find_map(|name| annotations.get(*name));
    let is_true = |value: &String| value.eq_ignore_ascii_case("true");
    let global = of(GLOBAL).is_some_and(is_true);
    if !global {
        return Sharing::default();
    }
    let affinity = match of(AFFINITY).map(|value| value.to_ascii_lowercase()).as_deref() {
        Some("local") => Affinity::Local,
        Some("remote") => Affinity::Remote,
        _ => Affinity::None,
    };
    Sharing { global, shared: of(SHARED).is_none_or(is_true), affinity }
}

/// The service of an object; `None` if it belongs to another proxy. Ours are those labelled with the
/// name `proxy`, and without a name those without the label.
pub fn service(object: &core::Service, proxy: Option<&str>) -> Option<Service> {
    let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(PROXY_LABEL));
    (label.map(String::as_str) == proxy).then(|| any_service(object))
}

/// The service of an object, whoever's proxy it belongs to.
pub fn any_service(object: &core::Service) -> Service {
    let labels = object.metadata.labels.clone().unwrap_or_default();
    let (namespace, name) = names(&object.metadata);
    let spec = object.spec.clone().unwrap_or_default();
    let cluster_ip = spec.cluster_ip.unwrap_or_default();
    let is_none = cluster_ip.eq_ignore_ascii_case("none");
    let headless = is_none || labels.contains_key(HEADLESS_LABEL);
    let mut cluster_ips = spec.cluster_ips.unwrap_or_default();
    if cluster_ips.is_empty() {
        cluster_ips.push(cluster_ip);
    }
    let ports = spec.ports.unwrap_or_default().into_iter().filter_map(|port| {
        Some(ServicePort {
            name: port.name.unwrap_or_default(),
            protocol: protocol(port.protocol.as_deref())?,
            app_protocol: port.app_protocol,
            port: u16::try_from(port.port).ok()?,
            node_port: port.node_port.and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
        })
    });
    let balancer =
        object.status.as_ref().and_then(|s| s.load_balancer.as_ref()).and_then(|lb| lb.ingress.as_ref());
    let timeout = spec.session_affinity_config.and_then(|c| c.client_ip).and_then(|c| c.timeout_seconds);
    Service {
        key: ServiceKey { namespace, name },
        kind: match spec.type_.as_deref() {
            Some("NodePort") => ServiceType::NodePort,
            Some("LoadBalancer") => ServiceType::LoadBalancer,
            Some("ExternalName") => ServiceType::ExternalName,
            _ => ServiceType::ClusterIP,
        },
        cluster_ips: cluster_ips.iter().filter(|_| !headless).filter_map(|text| ip(text)).collect(),
        headless,
        external_name: spec.external_name.filter(|_| spec.type_.as_deref() == Some("ExternalName")),
        external_ips: spec.external_ips.unwrap_or_default().iter().filter_map(|text| ip(text)).collect(),
        load_balancer_ips: balancer.into_iter().flatten().filter_map(|i| ip(i.ip.as_deref()?)).collect(),
        ports: ports.collect(),
        session_affinity: match spec.session_affinity.as_deref() {
            Some("ClientIP") => SessionAffinity::ClientIP {
                timeout_seconds: timeout.and_then(|seconds| u32::try_from(seconds).ok()),
            },
            _ => SessionAffinity::None,
        },
        labels,
        selector: spec.selector.unwrap_or_default(),
        sharing: sharing(object.metadata.annotations.as_ref().unwrap_or(&BTreeMap::new())),
    }
}

/// The protocol of a port: TCP when not set, `None` for words no datapath knows.
pub(super) fn protocol(word: Option<&str>) -> Option<Protocol> {
    word.filter(|word| !word.is_empty()).map_or(Some(Protocol::TCP), |word| word.parse().ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn services_of_other_proxies_are_none_of_ours() {
        let of = |label: Option<&str>, proxy: Option<&str>| {
            let mut object = core::Service::default();
            object.metadata.labels = label.map(|name| [(PROXY_LABEL.to_owned(), name.to_owned())].into());
            service(&object, proxy).is_some()
        };
        assert!(of(None, None) && of(Some("causeway"), Some("causeway")));
        assert!(!of(Some("x"), None) && !of(Some(""), None));
        assert!(!of(None, Some("causeway")) && !of(Some("x"), Some("causeway")));
    }

    #[test]
    fn annotations_aliases_and_precedence() {
        let of = |pairs: &[(&str, &str)]| {
            sharing(&pairs.iter().map(|(k, v)| (k.to_string(), v.to_string())).collect())
        };
        assert_eq!(of(&[]), Sharing::default());
        assert_eq!(of(&[("service.cilium.io/shared", "true")]), Sharing::default());
        let global = Sharing { global: true, shared: true, affinity: Affinity::None };
        assert_eq!(of(&[("service.cilium.io/global", "TRUE")]), global);
        assert_eq!(of(&[("io.cilium/global-service", "true")]), global);
        // The new name wins with any value.
        assert!(!of(&[("service.cilium.io/global", ""), ("io.cilium/global-service", "true")]).global);
        assert!(!of(&[("service.cilium.io/global", "true"), ("io.cilium/shared-service", "no")]).shared);
        let both = [("service.cilium.io/global", "true"), ("service.cilium.io/affinity", "Remote")];
        assert_eq!(of(&both).affinity, Affinity::Remote);
        let none = [("service.cilium.io/global", "true"), ("service.cilium.io/affinity", "none")];
        assert_eq!(of(&none).affinity, Affinity::None);
    }
}
