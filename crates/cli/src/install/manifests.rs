//! The small manifests: namespace, settings, Service.

use serde_json::{Map, Value, json};

use super::Options;
use crate::names;

/// Labels every object of an installation carries.
pub(super) fn labels(component: &str) -> Value {
    json!({ "app.kubernetes.io/part-of": "causeway", "app.kubernetes.io/name": component })
}

pub(super) fn namespace(o: &Options) -> Value {
    json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": o.namespace } })
}

/// `cilium-config`: Cilium's own keys, read by our daemons and by Cilium's tools alike.
pub(super) fn config_map(o: &Options) -> Value {
    let mut config = json!({
        "apiVersion": "v1", "kind": "ConfigMap",
        "metadata": { "name": names::CONFIG_MAP, "namespace": o.namespace, "labels": labels("causeway-config") },
        "data": {
            "cluster-name": o.cluster.name.as_str(),
            "cluster-id": o.cluster.id.to_string(),
            "max-connected-clusters": o.cluster.max_clusters.max_id().to_string(),
            "identity-allocation-mode": "crd",
            "ipam": "kubernetes",
            "enable-ipv4": "true",
            "enable-ipv6": o.ipv6.to_string(),
            "enable-kvstoremesh": o.kvstoremesh.to_string(),
            "clustermesh-enable-endpoint-sync": o.endpoint_slices.to_string(),
            "clustermesh-enable-mcs-api": o.mcs_api.to_string(),
        },
    });
    config["data"].as_object_mut().into_iter().for_each(|data| data.extend(o.network.settings()));
    config
}

/// The Service other clusters dial.
pub(super) fn service(o: &Options) -> Value {
    let mut annotations = Map::new();
    if let Some(subnet) = &o.subnet {
        annotations.insert(names::TKE_SUBNET.into(), json!(subnet));
    }
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": {
            "name": names::APISERVER, "namespace": o.namespace,
            "labels": { "k8s-app": names::APISERVER, "app.kubernetes.io/part-of": "causeway",
                        "app.kubernetes.io/name": names::APISERVER },
            "annotations": annotations,
        },
        "spec": {
            "type": "LoadBalancer",
            "selector": { "k8s-app": names::APISERVER },
            "ports": [{ "name": "etcd", "protocol": "TCP", "port": names::MESH_PORT, "targetPort": names::MESH_PORT }],
        },
    })
}
