//! What a load balancer does with traffic: the frontends of one Service.

use std::collections::BTreeSet;
use std::net::{Ipv4Addr, SocketAddrV4};
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;

use super::address::Assigned;
use crate::controllers::scheduler::affinity;
use crate::fabric::lb::{Frontend, Protocol};

/// Label that keeps a node out of load balancers.
const EXCLUDED: &str = "node.kubernetes.io/exclude-from-external-load-balancers";

/// Address of a node that load balancers may send to.
pub(super) fn address(node: &Node) -> Option<Ipv4Addr> {
    let usable = affinity::ready_status(node) == "True"
        && !node.labels().contains_key(EXCLUDED)
        && node.metadata.deletion_timestamp.is_none();
    let all = node.status.as_ref()?.addresses.as_ref()?;
    let mut internal = all.iter().filter(|a| a.type_ == "InternalIP");
    usable.then(|| internal.find_map(|a| a.address.parse().ok())).flatten()
}

/// The frontends of one Service, one for each TCP or UDP port with a node port. With `externalTrafficPolicy: Local` only nodes with
/// a ready endpoint (`local`) are targets.
pub(super) fn frontends(
    service: &Service,
    assigned: &Assigned,
    nodes: &[Arc<Node>],
    local: &BTreeSet<String>,
) -> Vec<Frontend> {
    let Some(spec) = &service.spec else { return Vec::new() };
    let local_only = spec.external_traffic_policy.as_deref() == Some("Local");
    let usable = nodes.iter().filter(|n| !local_only || local.contains(&n.name_any()));
    let addresses: BTreeSet<Ipv4Addr> = usable.filter_map(|n| address(n)).collect();
    let ports = spec.ports.iter().flatten();
    ports
        .filter_map(|p| {
            let protocol = match p.protocol.as_deref() {
                None | Some("TCP") => Protocol::Tcp,
                Some("UDP") => Protocol::Udp,
                Some(_) => return None,
            };
            let node_port = p.node_port.and_then(|n| u16::try_from(n).ok()).filter(|n| *n > 0)?;
            Some(Frontend {
                vip: assigned.ip,
                port: u16::try_from(p.port).ok()?,
                protocol,
                subnet: assigned.subnet.clone(),
                targets: addresses.iter().map(|a| SocketAddrV4::new(*a, node_port)).collect(),
            })
        })
        .collect()
}

/// Nodes with a ready endpoint in these slices.
pub(super) fn local_nodes(slices: &[Arc<EndpointSlice>]) -> BTreeSet<String> {
    let endpoints = slices.iter().flat_map(|s| &s.endpoints);
    let ready = endpoints.filter(|e| e.conditions.as_ref().is_none_or(|c| c.ready != Some(false)));
    ready.filter_map(|e| e.node_name.clone()).collect()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn node(name: &str, ip: &str, ready: &str) -> Arc<Node> {
        let v = json!({"metadata": {"name": name}, "status": {"addresses": [{"type": "InternalIP", "address": ip}],
            "conditions": [{"type": "Ready", "status": ready}]}});
        Arc::new(serde_json::from_value(v).unwrap())
    }

    #[test]
    fn ready_nodes_are_targets_of_every_port() {
        let nodes =
            [node("a", "10.0.0.2", "True"), node("b", "10.0.0.3", "True"), node("c", "10.0.0.4", "Unknown")];
        let mut service: Service = serde_json::from_value(json!({"metadata": {"namespace": "ns", "name": "s"},
            "spec": {"ports": [{"port": 2379, "nodePort": 30001}, {"port": 53, "protocol": "UDP", "nodePort": 30002}, {"port": 9}]}}))
        .unwrap();
        let assigned = Assigned { ip: "10.0.0.10".parse().unwrap(), subnet: None };
        let local = BTreeSet::from(["b".to_string()]);
        let of = |s: &Service| -> Vec<String> {
            let all = frontends(s, &assigned, &nodes, &local);
            all.iter().map(|e| format!("{:?}/{} {:?}", e.protocol, e.port, e.targets)).collect()
        };
        assert_eq!(
            of(&service),
            ["Tcp/2379 [10.0.0.2:30001, 10.0.0.3:30001]", "Udp/53 [10.0.0.2:30002, 10.0.0.3:30002]"]
        );
        service.spec.as_mut().unwrap().external_traffic_policy = Some("Local".into());
        assert_eq!(of(&service)[0], "Tcp/2379 [10.0.0.3:30001]");
    }
}
