//! Service → Service (mesh-protocol 6.3, 6.4; behaviours 2.1).

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_model::lb::{Balancing, Forwarding};
use causeway_model::mcs::IpFamily;
use causeway_model::{
    Protocol, Service, ServiceKey, ServicePort, ServiceType, SessionAffinity, TrafficPolicy,
};
use k8s_openapi::api::core::v1 as core;

use super::annotations::{Annotations, FORWARDING};
use super::{ip, names};

/// Marks a service as headless whatever its ClusterIP says.
const HEADLESS_LABEL: &str = "service.kubernetes.io/headless";
/// Services with this label belong to another proxy.
const PROXY_LABEL: &str = "service.kubernetes.io/service-proxy-name";
/// How long a client keeps its backend where Kubernetes has not said (its own default).
const AFFINITY_SECONDS: u32 = 10_800;
/// The maps have 24 bits for it.
const MAX_AFFINITY_SECONDS: u32 = (1 << 24) - 1;

/// The service of an object; `None` if it belongs to another proxy. Ours are those labelled with the
/// name `proxy`, and without a name those without the label.
pub fn service(object: &core::Service, proxy: Option<&str>) -> Option<Service> {
    let label = object.metadata.labels.as_ref().and_then(|labels| labels.get(PROXY_LABEL));
    (label.map(String::as_str) == proxy).then(|| any_service(object))
}

/// What a service is where nodes reach each other by a tunnel: VXLAN cannot tell a backend's node what to
/// answer with (behaviours 4.5).
pub fn over_tunnel(mut service: Service) -> Service {
    if service.balancing.forwarding == Some(Forwarding::Dsr) {
        Arc::make_mut(&mut service.balancing).forwarding = Some(Forwarding::Snat);
        service.warnings.push(format!(
            "{FORWARDING} \"dsr\" is not possible over VXLAN: clients' packets are forwarded as with snat"
        ));
    }
    service
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
    // Addresses that want to be gone through really (`ipMode: Proxy`) are not taken over.
    let through = |ingress: &&core::LoadBalancerIngress| ingress.ip_mode.as_deref() == Some("Proxy");
    let balancer = balancer.into_iter().flatten().filter(|ingress| !through(ingress));
    let timeout = spec.session_affinity_config.and_then(|c| c.client_ip).and_then(|c| c.timeout_seconds);
    let session_affinity = match spec.session_affinity.as_deref() {
        Some("ClientIP") => SessionAffinity::ClientIP {
            timeout_seconds: timeout.and_then(|seconds| u32::try_from(seconds).ok()),
        },
        _ => SessionAffinity::None,
    };
    let none = BTreeMap::new();
    let mut annotations = Annotations::new(object.metadata.annotations.as_ref().unwrap_or(&none));
    let sharing = annotations.sharing();
    let preference = annotations.preference(sharing);
    let ranges = spec.load_balancer_source_ranges.unwrap_or_default();
    let (source_ranges, deny_source_ranges) = annotations.source_ranges(&ranges);
    let balancing = Balancing {
        affinity_seconds: affinity_seconds(session_affinity),
        algorithm: annotations.algorithm(),
        forwarding: annotations.forwarding(),
        source_ranges,
        deny_source_ranges,
    };
    Service {
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
        load_balancer_ips: balancer.filter_map(|i| ip(i.ip.as_deref()?)).collect(),
        ports: ports.collect(),
        session_affinity,
        labels,
        selector: spec.selector.unwrap_or_default(),
        sharing,
        preference,
        external_traffic: policy(spec.external_traffic_policy.as_deref()),
        internal_traffic: policy(spec.internal_traffic_policy.as_deref()),
        health_check_node_port: spec.health_check_node_port.and_then(|n| u16::try_from(n).ok()).unwrap_or(0),
        families: spec.ip_families.iter().flatten().filter_map(|word| IpFamily::parse(word)).collect(),
        prefer_zone: annotations.prefers_zone(spec.traffic_distribution.as_deref()),
        traffic_distribution: spec.traffic_distribution.unwrap_or_default(),
        balancing: Arc::new(balancing),
        exposed: annotations.exposed(),
        nodes: annotations.nodes(),
        warnings: annotations.into_warnings(),
        ..Service::new(ServiceKey { namespace, name })
    }
}

/// Kubernetes refuses other words.
fn policy(word: Option<&str>) -> TrafficPolicy {
    if word == Some("Local") { TrafficPolicy::Local } else { TrafficPolicy::Cluster }
}

/// How long a client keeps its backend: bounded, and 0 where connections choose anew.
fn affinity_seconds(affinity: SessionAffinity) -> u32 {
    match affinity {
        SessionAffinity::None => 0,
        SessionAffinity::ClientIP { timeout_seconds } => {
            timeout_seconds.unwrap_or(AFFINITY_SECONDS).clamp(1, MAX_AFFINITY_SECONDS)
        }
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

    fn of(spec: serde_json::Value) -> Service {
        let object = serde_json::json!({ "metadata": { "namespace": "shop", "name": "web" }, "spec": spec });
        service(&serde_json::from_value(object).unwrap(), None).unwrap()
    }

    #[test]
    fn session_affinity_is_bounded() {
        for (config, seconds) in [
            (serde_json::json!({}), 0),
            (serde_json::json!({ "sessionAffinity": "None" }), 0),
            (serde_json::json!({ "sessionAffinity": "ClientIP" }), 10_800),
            (client_ip(60), 60),
            (client_ip(0), 1),
            (client_ip(i32::MAX), 16_777_215),
        ] {
            assert_eq!(of(config.clone()).balancing.affinity_seconds, seconds, "{config}");
        }
    }

    fn client_ip(seconds: i32) -> serde_json::Value {
        let config = serde_json::json!({ "clientIP": { "timeoutSeconds": seconds } });
        serde_json::json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": config })
    }

    #[test]
    fn a_tunnel_cannot_answer_directly() {
        let with = |word: &str| {
            let annotations = serde_json::json!({ "annotations": { FORWARDING: word } });
            let object = serde_json::json!({ "metadata": annotations });
            any_service(&serde_json::from_value(object).unwrap())
        };
        let (dsr, snat) = (with("dsr"), with("snat"));
        assert_eq!((dsr.balancing.forwarding, dsr.warnings.len()), (Some(Forwarding::Dsr), 0));
        let tunnelled = over_tunnel(dsr);
        assert_eq!(tunnelled.balancing.forwarding, Some(Forwarding::Snat));
        assert!(tunnelled.warnings[0].contains(FORWARDING), "{:?}", tunnelled.warnings);
        assert_eq!(over_tunnel(snat.clone()), snat);
    }

    #[test]
    fn policies_of_traffic() {
        let service = of(serde_json::json!({ "type": "LoadBalancer", "externalTrafficPolicy": "Local",
            "internalTrafficPolicy": "Cluster", "healthCheckNodePort": 31000,
            "loadBalancerSourceRanges": ["10.0.0.0/8"], "trafficDistribution": "PreferClose" }));
        assert_eq!(service.external_traffic, TrafficPolicy::Local);
        assert_eq!(service.internal_traffic, TrafficPolicy::Cluster);
        assert_eq!((service.health_check_node_port, service.prefer_zone), (31000, true));
        assert_eq!(service.balancing.source_ranges, ["10.0.0.0/8".parse().unwrap()]);
        assert_eq!(
            of(serde_json::json!({ "internalTrafficPolicy": "Local" })).internal_traffic,
            TrafficPolicy::Local
        );
    }

    #[test]
    fn an_address_that_wants_its_proxy_is_left_to_it() {
        let object = serde_json::json!({ "metadata": { "namespace": "shop", "name": "web" }, "spec": {},
            "status": { "loadBalancer": { "ingress": [
                { "ip": "203.0.113.5" }, { "ip": "203.0.113.6", "ipMode": "Proxy" },
                { "ip": "203.0.113.7", "ipMode": "VIP" }, { "hostname": "lb.example" },
            ] } } });
        let service = service(&serde_json::from_value(object).unwrap(), None).unwrap();
        let ips: Vec<_> = service.load_balancer_ips.iter().map(ToString::to_string).collect();
        assert_eq!(ips, ["203.0.113.5", "203.0.113.7"]);
    }
}
