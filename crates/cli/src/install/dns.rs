//! The name server: a Deployment with a Service, as the cluster's own DNS or beside it.

use std::net::IpAddr;

use anyhow::{Context, Result};
use k8s_openapi::api::core::v1::Service;
use kube::Client;
use kube::api::Api;
use serde_json::{Value, json};

use super::manifests::labels;
use super::rbac::{READ, binding, rule};
use super::workloads::{BINARY, api_env};
use super::{Dns, Options};
use crate::names;

/// Everything about it but its Service.
pub(super) fn workload(o: &Options, dns: &Dns) -> Vec<Value> {
    let name = name(dns);
    let rules = json!([
        rule(&[""], &["services"], READ),
        rule(&["discovery.k8s.io"], &["endpointslices"], READ),
        rule(&["apiextensions.k8s.io"], &["customresourcedefinitions"], READ),
        rule(&["multicluster.x-k8s.io"], &["serviceimports"], READ),
    ]);
    vec![
        json!({ "apiVersion": "v1", "kind": "ServiceAccount",
            "metadata": { "name": name, "namespace": o.namespace, "labels": labels(name) } }),
        json!({ "apiVersion": "rbac.authorization.k8s.io/v1", "kind": "ClusterRole",
            "metadata": { "name": name, "labels": labels(name) }, "rules": rules }),
        binding(o, "ClusterRoleBinding", "ClusterRole", name, None),
        deployment(o, dns),
    ]
}

fn name(dns: &Dns) -> &'static str {
    if dns.cluster_ip.is_some() { names::CLUSTER_DNS } else { names::DNS }
}

/// Its Service. It comes before others: its address may be one that they could be given.
pub(super) fn service(o: &Options, dns: &Dns) -> Value {
    let port = |name: &str, protocol: &str, port: u16| json!({ "name": name, "protocol": protocol, "port": port, "targetPort": port });
    let name = name(dns);
    let mut service = json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": name, "namespace": o.namespace,
            "labels": { "k8s-app": name, "app.kubernetes.io/part-of": "causeway",
                        "app.kubernetes.io/name": name },
            "annotations": { "prometheus.io/port": crate::dns::HEALTH_PORT.to_string(), "prometheus.io/scrape": "true" },
        },
        "spec": {
            "selector": { "k8s-app": name },
            "ports": [port("dns", "UDP", 53), port("dns-tcp", "TCP", 53), port("metrics", "TCP", crate::dns::HEALTH_PORT)],
        },
    });
    if let Some(ip) = dns.cluster_ip {
        service["spec"]["clusterIP"] = json!(ip.to_string());
        service["metadata"]["labels"]["kubernetes.io/cluster-service"] = json!("true");
    }
    service
}

fn deployment(o: &Options, dns: &Dns) -> Value {
    let name = name(dns);
    let mut command = vec![BINARY, "dns"];
    if dns.cluster_ip.is_none() {
        // The cluster's own DNS asks us for the cluster set only, and would ask itself through us for the rest.
        command.extend(["--cluster-domain=", "--dns-upstreams=none"]);
    }
    let health = |path: &str| json!({ "path": path, "port": crate::dns::HEALTH_PORT });
    json!({
        "apiVersion": "apps/v1", "kind": "Deployment",
        "metadata": { "name": name, "namespace": o.namespace, "labels": labels(name) },
        "spec": {
            "replicas": dns.replicas,
            "selector": { "matchLabels": { "k8s-app": name } },
            "strategy": { "type": "RollingUpdate", "rollingUpdate": { "maxUnavailable": 0 } },
            "template": {
                "metadata": { "labels": { "k8s-app": name, "app.kubernetes.io/part-of": "causeway",
                                          "app.kubernetes.io/name": name } },
                "spec": {
                    "serviceAccountName": name,
                    "priorityClassName": "system-cluster-critical",
                    // Whom it asks must not be itself.
                    "dnsPolicy": "Default",
                    "terminationGracePeriodSeconds": 10,
                    "affinity": { "podAntiAffinity": { "preferredDuringSchedulingIgnoredDuringExecution": [{
                        "weight": 100,
                        "podAffinityTerm": { "topologyKey": "kubernetes.io/hostname",
                                             "labelSelector": { "matchLabels": { "k8s-app": name } } },
                    }] } },
                    "containers": [{
                        "name": "dns",
                        "image": o.image,
                        "command": command,
                        "env": api_env(o),
                        "ports": [
                            { "name": "dns", "containerPort": 53, "protocol": "UDP" },
                            { "name": "dns-tcp", "containerPort": 53, "protocol": "TCP" },
                            { "name": "metrics", "containerPort": crate::dns::HEALTH_PORT, "protocol": "TCP" },
                        ],
                        "readinessProbe": { "httpGet": health("/readyz"), "periodSeconds": 1 },
                        "livenessProbe": { "httpGet": health("/healthz"), "periodSeconds": 10, "failureThreshold": 5 },
                        "volumeMounts": [{ "name": "config", "mountPath": names::CONFIG_DIR, "readOnly": true }],
                    }],
                    "volumes": [{ "name": "config", "configMap": { "name": names::CONFIG_MAP } }],
                },
            },
        },
    })
}

/// What CoreDNS needs to know of the server that was installed beside it.
///
/// # Errors
/// When the Service cannot be read or has no address.
pub(super) async fn stanza(client: &Client, namespace: &str) -> Result<String> {
    let api: Api<Service> = Api::namespaced(client.clone(), namespace);
    let service =
        api.get(names::DNS).await.with_context(|| format!("read Service {namespace}/{}", names::DNS))?;
    let address = service.spec.and_then(|spec| spec.cluster_ip?.parse::<IpAddr>().ok());
    let address = address.with_context(|| format!("Service {namespace}/{} has no address", names::DNS))?;
    let at = if address.is_ipv6() { format!("[{address}]") } else { address.to_string() };
    Ok(format!("clusterset.local:53 {{\n    errors\n    cache 5\n    forward . {at}\n}}\n"))
}
