//! The endpoints a Service should have: its pods, their states, and the ports they serve it on.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Container, Node, ObjectReference, Pod, Service, ServicePort};
use k8s_openapi::api::discovery::v1::{Endpoint, EndpointConditions, EndpointPort};
use k8s_openapi::apimachinery::pkg::util::intstr::IntOrString;
use kube::ResourceExt;

use crate::controllers::pods;

const ZONE: &str = "topology.kubernetes.io/zone";

/// What endpoints share a slice: family of addresses and ports.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Group {
    /// `IPv4` or `IPv6`.
    pub(super) family: String,
    /// Ports, in the Service's order: name, protocol, number, application protocol.
    ports: Vec<(String, String, i32, Option<String>)>,
}

impl Group {
    /// The group without ports.
    pub(super) fn empty(family: &str) -> Self {
        Group { family: family.into(), ports: Vec::new() }
    }

    /// The group of a slice.
    pub(super) fn of(family: &str, ports: &[EndpointPort]) -> Self {
        let port = |p: &EndpointPort| {
            let protocol = p.protocol.clone().unwrap_or_else(|| "TCP".into());
            (p.name.clone().unwrap_or_default(), protocol, p.port.unwrap_or(0), p.app_protocol.clone())
        };
        Group { family: family.into(), ports: ports.iter().map(port).collect() }
    }

    /// Its ports as a slice has them.
    pub(super) fn ports(&self) -> Vec<EndpointPort> {
        let port = |(name, protocol, number, app): &(String, String, i32, Option<String>)| EndpointPort {
            name: Some(name.clone()),
            protocol: Some(protocol.clone()),
            port: Some(*number),
            app_protocol: app.clone(),
        };
        self.ports.iter().map(port).collect()
    }
}

/// Families of addresses a Service has.
pub(super) fn families(service: &Service) -> Vec<String> {
    let named = service.spec.as_ref().and_then(|s| s.ip_families.clone()).unwrap_or_default();
    if named.is_empty() { vec!["IPv4".into()] } else { named }
}

/// The endpoints a Service should have, by group, in order of pod name.
pub(super) fn desired(
    service: &Service,
    all: &[Arc<Pod>],
    node: impl Fn(&str) -> Option<Arc<Node>>,
) -> BTreeMap<Group, Vec<Endpoint>> {
    let mut groups: BTreeMap<Group, Vec<Endpoint>> = BTreeMap::new();
    let Some(spec) = &service.spec else { return groups };
    let selector = spec.selector.clone().unwrap_or_default();
    let selected = |p: &&Arc<Pod>| selector.iter().all(|(k, v)| p.labels().get(k) == Some(v));
    for pod in all.iter().filter(selected).filter(|p| !pods::is_finished(p)) {
        for family in families(service) {
            let Some(address) = address(pod, &family) else { continue };
            let ports = spec.ports.iter().flatten().filter_map(|port| {
                let number = target_port(port, pod)?;
                let protocol = port.protocol.clone().unwrap_or_else(|| "TCP".into());
                Some((port.name.clone().unwrap_or_default(), protocol, number, port.app_protocol.clone()))
            });
            let group = Group { family, ports: ports.collect() };
            let unready_too = spec.publish_not_ready_addresses == Some(true);
            let zone = || node(pods::node_of(pod))?.labels().get(ZONE).cloned();
            groups.entry(group).or_default().push(endpoint(service, pod, address, unready_too, zone()));
        }
    }
    groups
}

fn endpoint(
    service: &Service,
    pod: &Pod,
    address: String,
    unready_too: bool,
    zone: Option<String>,
) -> Endpoint {
    let serving = pods::is_ready(pod);
    let terminating = pods::is_terminating(pod);
    let spec = pod.spec.as_ref();
    let in_service = spec.and_then(|s| s.subdomain.as_deref()) == Some(&service.name_any());
    Endpoint {
        addresses: vec![address],
        conditions: Some(EndpointConditions {
            ready: Some(unready_too || (serving && !terminating)),
            serving: Some(serving),
            terminating: Some(terminating),
        }),
        hostname: spec.and_then(|s| s.hostname.clone()).filter(|h| in_service && !h.is_empty()),
        node_name: Some(pods::node_of(pod).to_string()).filter(|n| !n.is_empty()),
        zone,
        target_ref: Some(ObjectReference {
            kind: Some("Pod".into()),
            namespace: pod.namespace(),
            name: pod.metadata.name.clone(),
            uid: pod.uid(),
            ..ObjectReference::default()
        }),
        ..Endpoint::default()
    }
}

fn address(pod: &Pod, family: &str) -> Option<String> {
    let status = pod.status.as_ref()?;
    let all = status.pod_ips.iter().flatten().map(|ip| &ip.ip).chain(&status.pod_ip);
    let fits = |ip: &&String| ip.parse::<IpAddr>().is_ok_and(|a| a.is_ipv4() == (family == "IPv4"));
    all.into_iter().find(fits).cloned()
}

/// The number a Service's port leads to on a pod; none if the pod has no port of that name.
fn target_port(port: &ServicePort, pod: &Pod) -> Option<i32> {
    match &port.target_port {
        None => Some(port.port),
        Some(IntOrString::Int(0)) => Some(port.port),
        Some(IntOrString::Int(n)) => Some(*n),
        Some(IntOrString::String(name)) => {
            let spec = pod.spec.as_ref()?;
            let sidecar = |c: &&Container| c.restart_policy.as_deref() == Some("Always");
            let containers =
                spec.containers.iter().chain(spec.init_containers.iter().flatten().filter(sidecar));
            let protocol = port.protocol.as_deref().unwrap_or("TCP");
            let ports = containers.flat_map(|c| c.ports.as_deref().unwrap_or_default());
            let named = |p: &&k8s_openapi::api::core::v1::ContainerPort| {
                p.name.as_ref() == Some(name) && p.protocol.as_deref().unwrap_or("TCP") == protocol
            };
            ports.into_iter().find(named).map(|p| p.container_port)
        }
    }
}
