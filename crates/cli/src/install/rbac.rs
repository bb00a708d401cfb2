//! Service accounts and what they may do: the agent writes its own objects, the mesh server reads, and
//! writes events, the operator writes what comes of other clusters.

use serde_json::{Value, json};

use super::Options;
use super::manifests::labels;
use crate::names;

pub(super) fn all(o: &Options) -> Vec<Value> {
    let agent = json!([
        rule(&[""], &["nodes", "pods", "namespaces", "services"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["apiextensions.k8s.io"], &["customresourcedefinitions"], WRITE),
        rule(&["cilium.io"], &["ciliumnodes", "ciliumidentities", "ciliumendpoints"], WRITE),
        rule(&["cilium.io"], &["ciliumendpointslices"], READ),
        rule(&["cilium.io"], &["ciliumnodes/status", "ciliumendpoints/status"], &["get", "update", "patch"]),
    ]);
    let apiserver = json!([
        rule(&[""], &["namespaces", "services", "endpoints"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["apiextensions.k8s.io"], &["customresourcedefinitions"], READ),
        rule(&["multicluster.x-k8s.io"], &["serviceexports"], READ),
        // Warnings about annotations that mean nothing.
        rule(&[""], &["events"], &["create"]),
        rule(
            &["cilium.io"],
            &["ciliumnodes", "ciliumidentities", "ciliumendpoints", "ciliumendpointslices"],
            READ,
        ),
    ]);
    let operator = json!([
        rule(&[""], &["services"], WRITE),
        rule(&[""], &["namespaces"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], WRITE),
        rule(&["apiextensions.k8s.io"], &["customresourcedefinitions"], &["get", "list", "watch", "create"]),
        rule(&["multicluster.x-k8s.io"], &["serviceexports"], READ),
        rule(&["multicluster.x-k8s.io"], &["serviceimports"], WRITE),
        rule(
            &["multicluster.x-k8s.io"],
            &["serviceexports/status", "serviceimports/status"],
            &["get", "update", "patch"],
        ),
        // Owner references that hold their owners need it where an admission plugin checks them.
        rule(&["multicluster.x-k8s.io"], &["serviceimports/finalizers"], &["update"]),
        rule(&[""], &["services/finalizers"], &["update"]),
    ]);
    // Which replica works.
    let leases = json!([rule(&["coordination.k8s.io"], &["leases"], &["get", "create", "update"])]);
    // Reports are ConfigMaps of the agent's own namespace; it may not touch any elsewhere.
    let reports = json!([rule(&[""], &["configmaps"], WRITE)]);
    let mut list = Vec::new();
    for (name, rules) in [(names::AGENT, agent), (names::APISERVER, apiserver), (names::OPERATOR, operator)] {
        list.push(json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": name, "namespace": o.namespace, "labels": labels(name) } }));
        list.push(json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": name, "labels": labels(name) }, "rules": rules }));
        list.push(binding(o, "ClusterRoleBinding", "ClusterRole", name, None));
    }
    for (name, rules) in [(names::AGENT, reports), (names::OPERATOR, leases)] {
        list.push(json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "Role",
            "metadata": { "name": name, "namespace": o.namespace, "labels": labels(name) },
            "rules": rules }));
        list.push(binding(o, "RoleBinding", "Role", name, Some(&o.namespace)));
    }
    list
}

pub(super) const READ: &[&str] = &["get", "list", "watch"];
const WRITE: &[&str] = &["get", "list", "watch", "create", "update", "patch", "delete"];

pub(super) fn rule(groups: &[&str], resources: &[&str], verbs: &[&str]) -> Value {
    json!({ "apiGroups": groups, "resources": resources, "verbs": verbs })
}

pub(super) fn binding(o: &Options, kind: &str, role: &str, name: &str, namespace: Option<&str>) -> Value {
    let mut metadata = json!({ "name": name, "labels": labels(name) });
    if let Some(namespace) = namespace {
        metadata["namespace"] = json!(namespace);
    }
    json!({
        "apiVersion": "rbac.authorization.k8s.io/v1", "kind": kind, "metadata": metadata,
        "roleRef": { "apiGroup": "rbac.authorization.k8s.io", "kind": role, "name": name },
        "subjects": [{ "kind": "ServiceAccount", "name": name, "namespace": o.namespace }],
    })
}
