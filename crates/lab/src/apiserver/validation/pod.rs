//! Pods and pod templates.

use std::collections::BTreeSet;

use serde_json::Value;

use super::meta::{is_label, is_subdomain};
use crate::apiserver::error::FieldErrors;
use crate::apiserver::object::{int, list, text};

/// A pod; a stored pod's specification is fixed but for a few fields.
pub fn pod(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    pod_spec(&v["spec"], "spec", errors);
    let Some(old) = old else { return };
    // Compare with the mutable parts taken from the new object.
    let mut allowed = old["spec"].clone();
    for field in ["activeDeadlineSeconds", "terminationGracePeriodSeconds", "tolerations", "schedulingGates"]
    {
        match v["spec"].get(field) {
            Some(x) => allowed[field] = x.clone(),
            None => {
                allowed.as_object_mut().map(|m| m.remove(field));
            }
        }
    }
    for group in ["containers", "initContainers"] {
        for (i, c) in list(&v["spec"], group).iter().enumerate() {
            if allowed[group].get(i).is_some() {
                allowed[group][i]["image"] = c["image"].clone();
            }
        }
    }
    if text(old, "spec.nodeName").is_empty() && v["spec"].get("nodeName").is_some() {
        allowed["nodeName"] = v["spec"]["nodeName"].clone();
    }
    if allowed != v["spec"] {
        errors.forbidden(
            "spec",
            "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)",
        );
    }
}

/// A pod specification at `path`.
pub fn pod_spec(spec: &Value, path: &str, errors: &mut FieldErrors) {
    let containers = list(spec, "containers");
    if containers.is_empty() {
        errors.required(format!("{path}.containers"), "");
    }
    let volumes: BTreeSet<&str> = list(spec, "volumes").iter().filter_map(|v| v["name"].as_str()).collect();
    let mut seen = BTreeSet::new();
    for group in ["initContainers", "containers"] {
        for (i, c) in list(spec, group).iter().enumerate() {
            let at = format!("{path}.{group}[{i}]");
            container(c, &at, &volumes, errors);
            let name = c["name"].as_str().unwrap_or("");
            if !name.is_empty() && !seen.insert(name) {
                errors.duplicate(format!("{at}.name"), name);
            }
        }
    }
    let mut names = BTreeSet::new();
    for (i, v) in list(spec, "volumes").iter().enumerate() {
        let name = v["name"].as_str().unwrap_or("");
        let at = format!("{path}.volumes[{i}].name");
        if name.is_empty() {
            errors.required(at, "");
        } else if !is_label(name) {
            errors.invalid(
                at,
                name,
                "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-'",
            );
        } else if !names.insert(name) {
            errors.duplicate(at, name);
        }
    }
    one_of(spec, path, "restartPolicy", &["Always", "OnFailure", "Never"], errors);
    one_of(spec, path, "dnsPolicy", &["ClusterFirst", "ClusterFirstWithHostNet", "Default", "None"], errors);
    if int(spec, "terminationGracePeriodSeconds").is_some_and(|n| n < 0) {
        errors.invalid(
            format!("{path}.terminationGracePeriodSeconds"),
            spec["terminationGracePeriodSeconds"].clone(),
            "must be greater than or equal to 0",
        );
    }
    for field in ["nodeName", "serviceAccountName"] {
        let name = text(spec, field);
        if !name.is_empty() && !is_subdomain(name) {
            errors.invalid(format!("{path}.{field}"), name, "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.'");
        }
    }
}

/// Refuses a value outside a fixed set; absent is fine.
pub fn one_of(v: &Value, path: &str, field: &str, allowed: &[&str], errors: &mut FieldErrors) {
    let value = text(v, field);
    if !value.is_empty() && !allowed.contains(&value) {
        errors.unsupported(format!("{path}.{field}"), value, allowed);
    }
}

/// Refuses a port number outside 1..=65535.
pub fn port_number(v: &Value, path: &str, errors: &mut FieldErrors) {
    match v.as_i64() {
        Some(1..=65535) => {}
        _ => errors.invalid(path, v.clone(), "must be between 1 and 65535, inclusive"),
    }
}

fn container(c: &Value, path: &str, volumes: &BTreeSet<&str>, errors: &mut FieldErrors) {
    let name = c["name"].as_str().unwrap_or("");
    if name.is_empty() {
        errors.required(format!("{path}.name"), "");
    } else if !is_label(name) {
        errors.invalid(format!("{path}.name"), name, "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character (e.g. 'my-name',  or '123-abc', regex used for validation is '[a-z0-9]([-a-z0-9]*[a-z0-9])?')");
    }
    if c["image"].as_str().unwrap_or("").trim().is_empty() {
        errors.required(format!("{path}.image"), "");
    }
    one_of(c, path, "imagePullPolicy", &["Always", "IfNotPresent", "Never"], errors);
    let mut names = BTreeSet::new();
    for (i, port) in list(c, "ports").iter().enumerate() {
        let at = format!("{path}.ports[{i}]");
        match port.get("containerPort") {
            None => errors.required(format!("{at}.containerPort"), ""),
            Some(n) => port_number(n, &format!("{at}.containerPort"), errors),
        }
        one_of(port, &at, "protocol", &["TCP", "UDP", "SCTP"], errors);
        let name = port["name"].as_str().unwrap_or("");
        if !name.is_empty() {
            if name.len() > 15 || !is_label(name) || !name.contains(|c: char| c.is_ascii_alphabetic()) {
                errors.invalid(format!("{at}.name"), name, "must be no more than 15 characters of lower case alphanumerics or '-', with at least one letter");
            } else if !names.insert(name) {
                errors.duplicate(format!("{at}.name"), name);
            }
        }
    }
    for (i, env) in list(c, "env").iter().enumerate() {
        if env["name"].as_str().unwrap_or("").is_empty() {
            errors.required(format!("{path}.env[{i}].name"), "");
        }
    }
    for (i, mount) in list(c, "volumeMounts").iter().enumerate() {
        let at = format!("{path}.volumeMounts[{i}]");
        let name = mount["name"].as_str().unwrap_or("");
        if name.is_empty() {
            errors.required(format!("{at}.name"), "");
        } else if !volumes.contains(name) {
            errors.push(
                &format!("{at}.name"),
                crate::apiserver::error::FieldErrorKind::NotFound,
                Some(&mount["name"]),
                "",
            );
        }
        if mount["mountPath"].as_str().unwrap_or("").is_empty() {
            errors.required(format!("{at}.mountPath"), "");
        }
    }
    for probe in ["livenessProbe", "readinessProbe", "startupProbe"] {
        if let Some(p) = c.get(probe) {
            self::probe(p, &format!("{path}.{probe}"), probe != "readinessProbe", errors);
        }
    }
}

fn probe(p: &Value, path: &str, success_is_one: bool, errors: &mut FieldErrors) {
    let handlers = ["exec", "httpGet", "tcpSocket", "grpc"].iter().filter(|h| p.get(**h).is_some()).count();
    if handlers == 0 {
        errors.required(path, "must specify a handler type");
    } else if handlers > 1 {
        errors.forbidden(path, "may not specify more than 1 handler type");
    }
    for field in
        ["initialDelaySeconds", "timeoutSeconds", "periodSeconds", "successThreshold", "failureThreshold"]
    {
        if int(p, field).is_some_and(|n| n < 0) {
            errors.invalid(format!("{path}.{field}"), p[field].clone(), "must be greater than or equal to 0");
        }
    }
    if success_is_one && int(p, "successThreshold").is_some_and(|n| n != 1) {
        errors.invalid(format!("{path}.successThreshold"), p["successThreshold"].clone(), "must be 1");
    }
}
