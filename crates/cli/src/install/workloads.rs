//! The workloads: the agent on every node, the mesh server and the operator once.

use serde_json::{Value, json};

use super::Options;
use super::manifests::labels;
use crate::names;

/// Path of the executable in the image.
pub(super) const BINARY: &str = "/usr/local/bin/causeway";

/// The agent: in the node's network, with the node's bpffs, CNI directories and run directory.
pub(super) fn agent(o: &Options) -> Value {
    let (label, value) = names::AGENT_LABEL;
    let mut env = vec![
        json!({ "name": "K8S_NODE_NAME", "valueFrom": { "fieldRef": { "fieldPath": "spec.nodeName" } } }),
        json!({ "name": "POD_NAMESPACE", "valueFrom": { "fieldRef": { "fieldPath": "metadata.namespace" } } }),
    ];
    env.extend(api_env(o));
    json!({
        "apiVersion": "apps/v1", "kind": "DaemonSet",
        "metadata": { "name": names::AGENT, "namespace": o.namespace, "labels": labels(names::AGENT) },
        "spec": {
            "selector": { "matchLabels": { label: value } },
            "updateStrategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 2 } },
            "template": {
                "metadata": { "labels": { label: value, "app.kubernetes.io/part-of": "causeway",
                                          "app.kubernetes.io/name": names::AGENT } },
                "spec": {
                    "serviceAccountName": names::AGENT,
                    "hostNetwork": true,
                    "priorityClassName": "system-node-critical",
                    "terminationGracePeriodSeconds": 5,
                    // It is what makes nodes usable, so it runs on those that are not yet.
                    "tolerations": [{ "operator": "Exists" }],
                    "containers": [{
                        "name": "agent",
                        "image": o.image,
                        "command": [BINARY, "agent"],
                        "env": env,
                        "securityContext": { "privileged": true },
                        "readinessProbe": {
                            "httpGet": { "host": "127.0.0.1", "path": "/readyz", "port": crate::agent::HEALTH_PORT },
                            "periodSeconds": 2, "failureThreshold": 3,
                        },
                        "volumeMounts": [
                            { "name": "config", "mountPath": names::CONFIG_DIR, "readOnly": true },
                            { "name": "clustermesh", "mountPath": names::PEERS_DIR, "readOnly": true },
                            { "name": "run", "mountPath": "/run/causeway", "mountPropagation": "HostToContainer" },
                            { "name": "netns", "mountPath": "/run/netns", "mountPropagation": "HostToContainer" },
                            { "name": "bpffs", "mountPath": "/sys/fs/bpf", "mountPropagation": "Bidirectional" },
                            { "name": "cni-conf", "mountPath": "/etc/cni/net.d" },
                            { "name": "cni-bin", "mountPath": "/opt/cni/bin" },
                        ],
                    }],
                    "volumes": [
                        { "name": "config", "configMap": { "name": names::CONFIG_MAP } },
                        peers_volume(
                            names::PEERS,
                            &[(names::REMOTE_CERT, "common"), (names::LOCAL_CERT, "local")],
                        ),
                        host_path("run", "/run/causeway"),
                        host_path("netns", "/run/netns"),
                        host_path("bpffs", "/sys/fs/bpf"),
                        host_path("cni-conf", "/etc/cni/net.d"),
                        host_path("cni-bin", "/opt/cni/bin"),
                    ],
                },
            },
        },
    })
}

/// The mesh server: an ordinary pod, reached through the Service of the same name.
pub(super) fn apiserver(o: &Options) -> Value {
    let label = json!({ "k8s-app": names::APISERVER });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": names::APISERVER, "namespace": o.namespace, "labels": labels(names::APISERVER) },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": label },
            "template": {
                // The settings are read once, so what depends on them must be a new pod.
                "metadata": { "labels": { "k8s-app": names::APISERVER, "app.kubernetes.io/part-of": "causeway",
                                          "app.kubernetes.io/name": names::APISERVER },
                              "annotations": {
                                  "causeway.io/enable-kvstoremesh": o.kvstoremesh.to_string(),
                                  "causeway.io/enable-mcs-api": o.mcs_api.to_string(),
                              } },
                "spec": {
                    "serviceAccountName": names::APISERVER,
                    "priorityClassName": "system-cluster-critical",
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{
                        "name": "apiserver",
                        "image": o.image,
                        "command": [BINARY, "clustermesh-apiserver"],
                        "env": api_env(o),
                        "ports": [
                            { "name": "etcd", "containerPort": names::MESH_PORT, "protocol": "TCP" },
                            { "name": "health", "containerPort": crate::apiserver::HEALTH_PORT, "protocol": "TCP" },
                        ],
                        "readinessProbe": {
                            "httpGet": { "path": "/readyz", "port": crate::apiserver::HEALTH_PORT },
                            "periodSeconds": 1,
                        },
                        "volumeMounts": [
                            { "name": "config", "mountPath": names::CONFIG_DIR, "readOnly": true },
                            { "name": "server-cert", "mountPath": names::SERVER_CERT_DIR, "readOnly": true },
                            { "name": "peer-trust", "mountPath": names::PEER_TRUST_DIR, "readOnly": true },
                            { "name": "clustermesh", "mountPath": names::PEERS_DIR, "readOnly": true },
                        ],
                    }],
                    "volumes": [
                        { "name": "config", "configMap": { "name": names::CONFIG_MAP } },
                        { "name": "server-cert", "secret": { "secretName": names::SERVER_CERT, "defaultMode": 256 } },
                        { "name": "peer-trust",
                          "secret": { "secretName": names::PEER_TRUST, "optional": true, "defaultMode": 256 } },
                        peers_volume(names::KVSTOREMESH_PEERS, &[(names::REMOTE_CERT, "common")]),
                    ],
                },
            },
        },
    })
}

/// The operator: an ordinary pod that reads the other clusters as an agent does. More replicas stand by.
pub(super) fn operator(o: &Options) -> Value {
    let (label, value) = names::OPERATOR_LABEL;
    let field =
        |name: &str, path: &str| json!({ "name": name, "valueFrom": { "fieldRef": { "fieldPath": path } } });
    let mut env = vec![field("POD_NAME", "metadata.name"), field("POD_NAMESPACE", "metadata.namespace")];
    env.extend(api_env(o));
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": names::OPERATOR, "namespace": o.namespace, "labels": labels(names::OPERATOR) },
        "spec": {
            "replicas": 1,
            "selector": { "matchLabels": { label: value, "app.kubernetes.io/part-of": "causeway" } },
            "template": {
                "metadata": { "labels": { label: value, "app.kubernetes.io/part-of": "causeway",
                                          "app.kubernetes.io/name": names::OPERATOR },
                              // The settings are read once, so what depends on them must be a new pod.
                              "annotations": {
                                  "causeway.io/enable-endpoint-sync": o.endpoint_slices.to_string(),
                                  "causeway.io/enable-mcs-api": o.mcs_api.to_string(),
                              } },
                "spec": {
                    "serviceAccountName": names::OPERATOR,
                    "priorityClassName": "system-cluster-critical",
                    "terminationGracePeriodSeconds": 10,
                    "containers": [{
                        "name": "operator",
                        "image": o.image,
                        "command": [BINARY, "operator"],
                        "env": env,
                        "ports": [
                            { "name": "prometheus", "containerPort": crate::operator::HEALTH_PORT, "protocol": "TCP" },
                        ],
                        "livenessProbe": {
                            "httpGet": { "path": "/healthz", "port": crate::operator::HEALTH_PORT },
                            "periodSeconds": 10, "failureThreshold": 3,
                        },
                        "readinessProbe": {
                            "httpGet": { "path": "/readyz", "port": crate::operator::HEALTH_PORT },
                            "periodSeconds": 1,
                        },
                        "volumeMounts": [
                            { "name": "config", "mountPath": names::CONFIG_DIR, "readOnly": true },
                            { "name": "clustermesh", "mountPath": names::PEERS_DIR, "readOnly": true },
                        ],
                    }],
                    "volumes": [
                        { "name": "config", "configMap": { "name": names::CONFIG_MAP } },
                        peers_volume(
                            names::PEERS,
                            &[(names::REMOTE_CERT, "common"), (names::LOCAL_CERT, "local")],
                        ),
                    ],
                },
            },
        },
    })
}

/// Where to reach the Kubernetes API when services do not work yet.
pub(super) fn api_env(o: &Options) -> Vec<Value> {
    o.api_server.map_or_else(Vec::new, |address| {
        vec![
            json!({ "name": "KUBERNETES_SERVICE_HOST", "value": address.ip().to_string() }),
            json!({ "name": "KUBERNETES_SERVICE_PORT", "value": address.port().to_string() }),
        ]
    })
}

fn host_path(name: &str, path: &str) -> Value {
    json!({ "name": name, "hostPath": { "path": path, "type": "DirectoryOrCreate" } })
}

/// `/var/lib/cilium/clustermesh` as Cilium's agent and kvstoremesh see it (mesh-protocol 5.5): the entries of
/// a Secret, and client certificates with the prefixes of their files.
fn peers_volume(entries: &str, certificates: &[(&str, &str)]) -> Value {
    let cert = |(secret, prefix): &(&str, &str)| {
        let item = |key: &str, path: String| json!({ "key": key, "path": path });
        json!({ "secret": { "name": secret, "optional": true, "items": [
            item("tls.key", format!("{prefix}-etcd-client.key")),
            item("tls.crt", format!("{prefix}-etcd-client.crt")),
            item("ca.crt", format!("{prefix}-etcd-client-ca.crt")),
        ] } })
    };
    let mut sources = vec![json!({ "secret": { "name": entries, "optional": true } })];
    sources.extend(certificates.iter().map(cert));
    json!({ "name": "clustermesh", "projected": { "defaultMode": 256, "sources": sources } })
}
