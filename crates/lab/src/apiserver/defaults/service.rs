//! Defaults of services and their endpoints. Addresses, their families and node ports are not defaults: see `allocate`.

use serde_json::{Value, json};

use crate::apiserver::object::{default, default_text, each, object};

/// A service.
pub fn service(v: &mut Value) {
    object(v, "spec");
    object(v, "status").entry("loadBalancer").or_insert_with(|| json!({}));
    let spec = &mut v["spec"];
    default_text(spec, "type", "ClusterIP");
    default_text(spec, "sessionAffinity", "None");
    if spec["sessionAffinity"] == "ClientIP" {
        default(spec, "sessionAffinityConfig", json!({"clientIP": {"timeoutSeconds": 10800}}));
    }
    let kind = spec["type"].as_str().unwrap_or("").to_string();
    for port in each(spec, "ports") {
        default_text(port, "protocol", "TCP");
        let number = port["port"].clone();
        default(port, "targetPort", number);
        if matches!(port.get("targetPort"), Some(Value::String(s)) if s.is_empty()) {
            port["targetPort"] = port["port"].clone();
        }
    }
    if kind != "ExternalName" {
        default_text(spec, "internalTrafficPolicy", "Cluster");
    }
    if matches!(kind.as_str(), "NodePort" | "LoadBalancer") {
        default_text(spec, "externalTrafficPolicy", "Cluster");
    }
    if kind == "LoadBalancer" {
        default(spec, "allocateLoadBalancerNodePorts", true);
    }
}

/// Endpoints: protocol of the ports.
pub fn endpoints(v: &mut Value) {
    for subset in each(v, "subsets") {
        for port in each(subset, "ports") {
            default_text(port, "protocol", "TCP");
        }
    }
}

/// An EndpointSlice: protocol and name of the ports.
pub fn endpoint_slice(v: &mut Value) {
    if v.get("endpoints").is_none() {
        v["endpoints"] = json!([]);
    }
    for port in each(v, "ports") {
        default_text(port, "protocol", "TCP");
        default(port, "name", "");
    }
}
