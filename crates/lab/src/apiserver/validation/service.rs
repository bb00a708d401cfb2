//! Services and EndpointSlices.

use std::collections::BTreeSet;
use std::net::IpAddr;

use serde_json::Value;

use super::meta::{immutable, is_label, labels};
use super::pod::{one_of, port_number};
use crate::apiserver::error::FieldErrors;
use crate::apiserver::object::{at, int, list, text};

/// A service.
pub fn service(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let spec = &v["spec"];
    let kind = text(spec, "type");
    one_of(spec, "spec", "type", &["ClusterIP", "ExternalName", "LoadBalancer", "NodePort"], errors);
    one_of(spec, "spec", "sessionAffinity", &["ClientIP", "None"], errors);
    one_of(spec, "spec", "externalTrafficPolicy", &["Cluster", "Local"], errors);
    one_of(spec, "spec", "internalTrafficPolicy", &["Cluster", "Local"], errors);
    if text(spec, "sessionAffinity") == "ClientIP"
        && !int(spec, "sessionAffinityConfig.clientIP.timeoutSeconds")
            .is_some_and(|n| (1..=86400).contains(&n))
    {
        errors.invalid(
            "spec.sessionAffinityConfig.clientIP.timeoutSeconds",
            at(spec, "sessionAffinityConfig.clientIP.timeoutSeconds").cloned().unwrap_or(Value::Null),
            "must be greater than 0 and less than 86400",
        );
    }
    labels(spec.get("selector"), "spec.selector", errors);
    let cluster_ip = text(spec, "clusterIP");
    if kind == "ExternalName" {
        if text(spec, "externalName").is_empty() {
            errors.required("spec.externalName", "");
        }
        if !cluster_ip.is_empty() {
            errors.forbidden("spec.clusterIPs", "may not be set when type is 'ExternalName'");
        }
    } else if !cluster_ip.is_empty() && cluster_ip != "None" && cluster_ip.parse::<IpAddr>().is_err() {
        errors.invalid(
            "spec.clusterIPs[0]",
            cluster_ip,
            "must be a valid IP address, (e.g. 10.9.8.7 or 2001:db8::ffff)",
        );
    }
    if kind == "LoadBalancer" && cluster_ip == "None" {
        errors.invalid("spec.clusterIPs[0]", "None", "may not be set to 'None' for LoadBalancer services");
    }
    if let Some(first) = list(spec, "clusterIPs").first().and_then(Value::as_str)
        && first != cluster_ip
    {
        errors.invalid("spec.clusterIPs", spec["clusterIPs"].clone(), "first value must match `clusterIP`");
    }
    for (i, ip) in list(spec, "clusterIPs").iter().enumerate().skip(1) {
        if ip.as_str().is_none_or(|text| text.parse::<IpAddr>().is_err()) {
            errors.invalid(format!("spec.clusterIPs[{i}]"), ip.clone(), "must be a valid IP address");
        }
    }
    ports(spec, kind, cluster_ip, errors);
    if let Some(old) = old {
        let (was, had) = (text(old, "spec.type"), text(old, "spec.clusterIP"));
        if was != "ExternalName" && kind != "ExternalName" && !had.is_empty() && had != cluster_ip {
            errors.invalid("spec.clusterIPs[0]", cluster_ip, "may not change once set");
        }
    }
}

fn ports(spec: &Value, kind: &str, cluster_ip: &str, errors: &mut FieldErrors) {
    let list = list(spec, "ports");
    if list.is_empty() && kind != "ExternalName" && cluster_ip != "None" {
        errors.required("spec.ports", "");
    }
    let (mut names, mut numbers, mut node_ports) = (BTreeSet::new(), BTreeSet::new(), BTreeSet::new());
    for (i, p) in list.iter().enumerate() {
        let path = format!("spec.ports[{i}]");
        let name = text(p, "name");
        if name.is_empty() {
            if list.len() > 1 {
                errors.required(format!("{path}.name"), "");
            }
        } else if !is_label(name) {
            errors.invalid(
                format!("{path}.name"),
                name,
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'",
            );
        } else if !names.insert(name) {
            errors.duplicate(format!("{path}.name"), name);
        }
        match p.get("port") {
            None => errors.required(format!("{path}.port"), ""),
            Some(n) => port_number(n, &format!("{path}.port"), errors),
        }
        one_of(p, &path, "protocol", &["SCTP", "TCP", "UDP"], errors);
        match p.get("targetPort") {
            Some(n @ Value::Number(_)) => port_number(n, &format!("{path}.targetPort"), errors),
            Some(Value::String(s)) if s.len() > 15 || !is_label(s) || s.parse::<u32>().is_ok() => {
                errors.invalid(
                    format!("{path}.targetPort"),
                    s.as_str(),
                    "must be a port number or a port name of at most 15 lower case alphanumerics or '-'",
                );
            }
            _ => {}
        }
        let protocol = text(p, "protocol");
        if let Some(n) = int(p, "port")
            && !numbers.insert((n, protocol))
        {
            errors.duplicate(path.as_str(), p.clone());
        }
        if let Some(n) = int(p, "nodePort").filter(|n| *n != 0) {
            if !matches!(kind, "NodePort" | "LoadBalancer") {
                errors.forbidden(format!("{path}.nodePort"), "may not be used when `type` is 'ClusterIP'");
            }
            if !node_ports.insert((n, protocol)) {
                errors.duplicate(format!("{path}.nodePort"), n);
            }
        }
    }
}

/// An EndpointSlice.
pub fn endpoint_slice(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let family = text(v, "addressType");
    match family {
        "" => errors.required("addressType", ""),
        "IPv4" | "IPv6" | "FQDN" => {}
        other => errors.unsupported("addressType", other, &["FQDN", "IPv4", "IPv6"]),
    }
    for (i, e) in list(v, "endpoints").iter().enumerate() {
        let addresses = list(e, "addresses");
        let path = format!("endpoints[{i}].addresses");
        if addresses.is_empty() {
            errors.required(path.as_str(), "must contain at least 1 address");
        }
        for (j, a) in addresses.iter().enumerate() {
            let text = a.as_str().unwrap_or("");
            let fine = match family {
                "IPv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
                "IPv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
                _ => true,
            };
            if !fine {
                errors.invalid(format!("{path}[{j}]"), text, format!("must be a valid {family} address"));
            }
        }
    }
    let mut names = BTreeSet::new();
    for (i, p) in list(v, "ports").iter().enumerate() {
        if !names.insert(text(p, "name")) {
            errors.duplicate(format!("ports[{i}].name"), text(p, "name"));
        }
        if let Some(n) = p.get("port") {
            port_number(n, &format!("ports[{i}].port"), errors);
        }
    }
    if let Some(old) = old {
        immutable(old, v, "addressType", errors);
    }
}
