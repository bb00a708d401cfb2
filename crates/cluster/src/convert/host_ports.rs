//! Pod → the ports of its node that it asks for.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway_model::PodRef;
use causeway_model::lb::{HostPort, HostPorts, L4Addr};
use k8s_openapi::api::core::v1::Pod;

use super::service::protocol;
use super::{ip, names};

/// `None` for pods that ask for none, that have no address yet or no longer, and for those in the node's
/// own network, whose ports are the node's anyhow.
pub fn host_ports(object: &Pod) -> Option<HostPorts> {
    let (namespace, name) = names(&object.metadata);
    let (spec, status) = (object.spec.as_ref()?, object.status.as_ref()?);
    let over = matches!(status.phase.as_deref(), Some("Succeeded" | "Failed"));
    if over || spec.host_network == Some(true) {
        return None;
    }
    let mut ips: Vec<IpAddr> = status.pod_ips.iter().flatten().filter_map(|pod| ip(&pod.ip)).collect();
    if ips.is_empty() {
        ips.extend(status.pod_ip.as_deref().and_then(ip));
    }
    let mut ports = vec![];
    for port in spec.containers.iter().flat_map(|container| container.ports.iter().flatten()) {
        let number = |number: i32| u16::try_from(number).ok().filter(|number| *number != 0);
        let wanted = port.host_port.and_then(number).zip(number(port.container_port));
        let Some(((host, container), protocol)) = wanted.zip(protocol(port.protocol.as_deref())) else {
            continue;
        };
        let at = port.host_ip.as_deref().and_then(ip).filter(|ip| !ip.is_unspecified());
        for pod in &ips {
            let everywhere = match pod {
                IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
                IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
            };
            let at = at.unwrap_or(everywhere);
            if at.is_ipv6() == pod.is_ipv6() {
                ports.push(HostPort {
                    address: L4Addr { ip: at, port: host, protocol },
                    backend: L4Addr { ip: *pod, port: container, protocol },
                });
            }
        }
    }
    ports.sort_unstable();
    (!ports.is_empty()).then_some(HostPorts { pod: PodRef { namespace, name }, ports })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn of(spec: serde_json::Value, status: serde_json::Value) -> Option<Vec<String>> {
        let pod = serde_json::json!({ "metadata": { "namespace": "shop", "name": "web" },
            "spec": spec, "status": status });
        let ports = host_ports(&serde_json::from_value(pod).unwrap())?.ports;
        Some(ports.iter().map(|port| format!("{} {}", port.address, port.backend)).collect())
    }

    #[test]
    fn ports_of_both_families_and_of_one_address() {
        let port =
            |json: serde_json::Value| serde_json::json!({ "containers": [{ "name": "c", "ports": [json] }] });
        let both =
            serde_json::json!({ "phase": "Running", "podIPs": [{ "ip": "10.1.0.5" }, { "ip": "fd00::5" }] });
        let any = port(serde_json::json!({ "hostPort": 8080, "containerPort": 80 }));
        let want = ["0.0.0.0:8080/TCP 10.1.0.5:80/TCP", "[::]:8080/TCP [fd00::5]:80/TCP"];
        assert_eq!(of(any.clone(), both.clone()).unwrap(), want);
        let one = port(serde_json::json!({ "hostPort": 53, "containerPort": 5353, "protocol": "UDP",
            "hostIP": "127.0.0.1" }));
        assert_eq!(of(one, both.clone()).unwrap(), ["127.0.0.1:53/UDP 10.1.0.5:5353/UDP"]);
        assert_eq!(of(port(serde_json::json!({ "containerPort": 80 })), both.clone()), None);
        assert_eq!(of(any.clone(), serde_json::json!({ "phase": "Pending" })), None);
        assert_eq!(of(any.clone(), serde_json::json!({ "phase": "Failed", "podIP": "10.1.0.5" })), None);
        let mut own = any;
        own["hostNetwork"] = serde_json::json!(true);
        assert_eq!(of(own, both), None);
    }
}
