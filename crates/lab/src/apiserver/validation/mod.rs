//! What Kubernetes refuses, with the field path and the reason: 422 `Invalid`.

pub mod meta;
pub mod pod;
pub mod service;
pub mod workload;

use serde_json::Value;

use super::error::FieldErrors;
use super::object::text;

pub use meta::{label_value, metadata, qualified_name};

/// Node: addresses of the pod CIDR cannot change once set.
pub fn node(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    let Some(old) = old else { return };
    for field in ["podCIDR", "providerID"] {
        let (before, after) = (text(old, &format!("spec.{field}")), text(v, &format!("spec.{field}")));
        if !before.is_empty() && before != after {
            errors.forbidden(
                format!("spec.{field}"),
                "node updates may not change this field except from \"\" to valid",
            );
        }
    }
}

/// ConfigMap: keys, immutability.
pub fn config_map(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    data_keys(v, &["data", "binaryData"], errors);
    if let Some(old) = old.filter(|o| o["immutable"] == true) {
        for field in ["data", "binaryData"] {
            if old.get(field) != v.get(field) {
                errors.forbidden(field, "field is immutable when `immutable` is set");
            }
        }
        if v["immutable"] != true {
            errors.forbidden("immutable", "field is immutable when `immutable` is set");
        }
    }
}

/// Secret: keys, base64, required keys of typed secrets, immutable type.
pub fn secret(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    use base64::Engine;
    data_keys(v, &["data"], errors);
    for (k, value) in v.get("data").and_then(Value::as_object).into_iter().flatten() {
        let text = value.as_str().unwrap_or("");
        if base64::engine::general_purpose::STANDARD.decode(text).is_err() {
            errors.invalid(format!("data[{k}]"), "<redacted>", "must be base64");
        }
    }
    if text(v, "type") == "kubernetes.io/tls" {
        for key in ["tls.crt", "tls.key"] {
            if v.get("data").and_then(|d| d.get(key)).is_none() {
                errors.required(format!("data[{key}]"), "");
            }
        }
    }
    if text(v, "type") == "kubernetes.io/service-account-token"
        && v["metadata"]["annotations"]["kubernetes.io/service-account.name"]
            .as_str()
            .unwrap_or("")
            .is_empty()
    {
        errors.required("metadata.annotations[kubernetes.io/service-account.name]", "");
    }
    if let Some(old) = old {
        meta::immutable(old, v, "type", errors);
        if old["immutable"] == true && (old.get("data") != v.get("data") || v["immutable"] != true) {
            errors.forbidden("data", "field is immutable when `immutable` is set");
        }
    }
}

fn data_keys(v: &Value, fields: &[&str], errors: &mut FieldErrors) {
    for field in fields {
        for key in v.get(field).and_then(Value::as_object).into_iter().flat_map(|m| m.keys()) {
            let fine = !key.is_empty()
                && key.len() <= 253
                && key.chars().all(|c| c.is_ascii_alphanumeric() || "-_.".contains(c))
                && key != "."
                && key != "..";
            if !fine {
                errors.invalid(
                    format!("{field}[{key}]"),
                    key.as_str(),
                    "a valid config key must consist of alphanumeric characters, '-', '_' or '.' (e.g. 'key.name', or 'KEY_NAME', or 'key-name', regex used for validation is '[-._a-zA-Z0-9]+')",
                );
            }
        }
    }
}

/// Event: it must live in the namespace of what it is about.
pub fn event(v: &Value, _old: Option<&Value>, errors: &mut FieldErrors) {
    let (about, own) = (text(v, "involvedObject.namespace"), text(v, "metadata.namespace"));
    let fine = about == own || (about.is_empty() && matches!(own, "default" | "kube-system"));
    if !fine {
        errors.invalid("involvedObject.namespace", about, "does not match event.namespace");
    }
}

/// RoleBinding, ClusterRoleBinding: the role cannot be exchanged.
pub fn role_binding(v: &Value, old: Option<&Value>, errors: &mut FieldErrors) {
    if text(v, "roleRef.name").is_empty() {
        errors.required("roleRef.name", "");
    }
    if let Some(old) = old
        && old.get("roleRef") != v.get("roleRef")
    {
        errors.invalid("roleRef", v["roleRef"].clone(), "cannot change roleRef");
    }
}
