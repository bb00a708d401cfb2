//! Services, endpoints, slices, policies and ingresses.

use serde_json::Value;

use super::{Columns, age, map_text, name, or_none, selector_text};
use crate::apiserver::object::{at, int, list, text};

/// Columns of services.
pub const SERVICE: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("Type", "string", 0),
        ("Cluster-IP", "string", 0),
        ("External-IP", "string", 0),
        ("Port(s)", "string", 0),
        ("Age", "string", 0),
        ("Selector", "string", 1),
    ],
    |o| {
        let ports: Vec<String> = list(o, "spec.ports")
            .iter()
            .map(|p| {
                let (port, protocol) = (int(p, "port").unwrap_or(0), text(p, "protocol"));
                match int(p, "nodePort").filter(|n| *n > 0) {
                    Some(node) => format!("{port}:{node}/{protocol}"),
                    None => format!("{port}/{protocol}"),
                }
            })
            .collect();
        vec![
            name(o),
            o["spec"]["type"].clone(),
            or_none(o, "spec.clusterIP"),
            external(o).into(),
            if ports.is_empty() { "<none>".into() } else { ports.join(",").into() },
            age(o),
            map_text(at(o, "spec.selector")).into(),
        ]
    },
);

fn external(o: &Value) -> String {
    let own: Vec<&str> = list(o, "spec.externalIPs").iter().filter_map(Value::as_str).collect();
    match text(o, "spec.type") {
        "ExternalName" => text(o, "spec.externalName").to_string(),
        "LoadBalancer" => {
            let mut all: Vec<&str> = list(o, "status.loadBalancer.ingress")
                .iter()
                .filter_map(|i| i["ip"].as_str().or_else(|| i["hostname"].as_str()))
                .collect();
            all.extend(own);
            if all.is_empty() { "<pending>".into() } else { all.join(",") }
        }
        _ if own.is_empty() => "<none>".into(),
        _ => own.join(","),
    }
}

/// Columns of endpoints.
pub const ENDPOINTS: Columns =
    Columns::Builtin(&[("Name", "string", 0), ("Endpoints", "string", 0), ("Age", "string", 0)], |o| {
        let mut all = Vec::new();
        for s in list(o, "subsets") {
            for a in list(s, "addresses") {
                let ip = text(a, "ip");
                match list(s, "ports") {
                    [] => all.push(ip.to_string()),
                    ports => {
                        all.extend(ports.iter().map(|p| format!("{ip}:{}", int(p, "port").unwrap_or(0))))
                    }
                }
            }
        }
        vec![name(o), shortened(&all).into(), age(o)]
    });

fn shortened(all: &[String]) -> String {
    match all.len() {
        0 => "<none>".into(),
        n if n > 3 => format!("{} + {} more...", all[..3].join(","), n - 3),
        _ => all.join(","),
    }
}

/// Columns of endpoint slices.
pub const ENDPOINT_SLICE: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("AddressType", "string", 0),
        ("Ports", "string", 0),
        ("Endpoints", "string", 0),
        ("Age", "string", 0),
    ],
    |o| {
        let ports: Vec<String> = list(o, "ports")
            .iter()
            .map(|p| int(p, "port").map_or("*".to_string(), |n| n.to_string()))
            .collect();
        let addresses: Vec<String> = list(o, "endpoints")
            .iter()
            .flat_map(|e| list(e, "addresses"))
            .filter_map(Value::as_str)
            .map(String::from)
            .collect();
        let ports = if ports.is_empty() { "<unset>".to_string() } else { shortened(&ports) };
        let addresses = if addresses.is_empty() { "<unset>".to_string() } else { shortened(&addresses) };
        vec![name(o), o["addressType"].clone(), ports.into(), addresses.into(), age(o)]
    },
);

/// Columns of network policies.
pub const NETWORK_POLICY: Columns =
    Columns::Builtin(&[("Name", "string", 0), ("Pod-Selector", "string", 0), ("Age", "string", 0)], |o| {
        vec![name(o), selector_text(at(o, "spec.podSelector")).into(), age(o)]
    });

/// Columns of ingresses.
pub const INGRESS: Columns = Columns::Builtin(
    &[
        ("Name", "string", 0),
        ("Class", "string", 0),
        ("Hosts", "string", 0),
        ("Address", "string", 0),
        ("Ports", "string", 0),
        ("Age", "string", 0),
    ],
    |o| {
        let hosts: Vec<&str> = list(o, "spec.rules").iter().filter_map(|r| r["host"].as_str()).collect();
        let addresses: Vec<&str> = list(o, "status.loadBalancer.ingress")
            .iter()
            .filter_map(|i| i["ip"].as_str().or_else(|| i["hostname"].as_str()))
            .collect();
        let ports = if list(o, "spec.tls").is_empty() { "80" } else { "80, 443" };
        vec![
            name(o),
            or_none(o, "spec.ingressClassName"),
            if hosts.is_empty() { "*".into() } else { hosts.join(",").into() },
            addresses.join(",").into(),
            ports.into(),
            age(o),
        ]
    },
);
