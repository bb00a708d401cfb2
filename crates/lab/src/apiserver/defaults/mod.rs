//! What Kubernetes fills in when a field is left out. Only fields that clients and controllers rely on, which is nearly
//! all of them for the kinds the lab runs.

pub mod pod;
pub mod service;
pub mod workload;

use serde_json::{Value, json};

use super::object::{default, default_text, each, object};

/// Namespace: the `kubernetes` finalizer, phase Active, the name label.
pub fn namespace(v: &mut Value) {
    let name = super::object::name(v).to_string();
    let meta = super::object::metadata(v);
    let labels = meta.entry("labels").or_insert_with(|| json!({}));
    labels["kubernetes.io/metadata.name"] = Value::from(name);
    if v.get("spec").and_then(|s| s.get("finalizers")).is_none() && !super::object::is_terminating(v) {
        object(v, "spec").insert("finalizers".into(), json!(["kubernetes"]));
    }
    object(v, "status").entry("phase").or_insert_with(|| "Active".into());
}

/// Node: nothing but an empty specification.
pub fn node(v: &mut Value) {
    object(v, "spec");
    object(v, "status");
}

/// Secret: type Opaque, `stringData` folded into `data`.
pub fn secret(v: &mut Value) {
    use base64::Engine;
    default_text(v, "type", "Opaque");
    let Some(Value::Object(plain)) = v.as_object_mut().and_then(|m| m.remove("stringData")) else { return };
    let data = object(v, "data");
    for (k, text) in plain {
        let encoded = base64::engine::general_purpose::STANDARD.encode(text.as_str().unwrap_or(""));
        data.insert(k, encoded.into());
    }
}

/// RoleBinding, ClusterRoleBinding: API groups of the role and the subjects.
pub fn role_binding(v: &mut Value) {
    if let Some(role) = v.get_mut("roleRef") {
        default_text(role, "apiGroup", "rbac.authorization.k8s.io");
    }
    for subject in each(v, "subjects") {
        if matches!(subject["kind"].as_str(), Some("User" | "Group")) {
            default_text(subject, "apiGroup", "rbac.authorization.k8s.io");
        }
    }
}

/// NetworkPolicy: policy types from the rules present, protocol TCP.
pub fn network_policy(v: &mut Value) {
    object(v, "spec");
    let Some(spec) = v.get_mut("spec") else { return };
    for direction in ["ingress", "egress"] {
        for rule in each(spec, direction) {
            for port in each(rule, "ports") {
                default_text(port, "protocol", "TCP");
            }
        }
    }
    let has_egress = spec.get("egress").is_some();
    default(spec, "policyTypes", if has_egress { json!(["Ingress", "Egress"]) } else { json!(["Ingress"]) });
}
