//! The security labels of a pod: what its identity stands for.
//!
//! The rules are Cilium's default label filter (`pkg/labelsfilter`, 1.18): pod labels except those
//! that change with every pod or revision, all labels of the namespace, the cluster and the service
//! account.

use std::collections::BTreeMap;

use causeway_model::{
    CLUSTER_LABEL, ClusterName, Labels, NAMESPACE_LABEL, NAMESPACE_LABELS_PREFIX, SERVICE_ACCOUNT_LABEL,
};
use k8s_openapi::api::core::v1::{Namespace, Pod};

/// Prefixes of label keys that are kept although an ignored prefix matches them too.
const INCLUDED: [&str; 4] =
    ["reserved:", NAMESPACE_LABEL, "io.cilium.k8s.namespace.labels", "app.kubernetes.io"];

/// Prefixes of label keys that do not make an identity.
const IGNORED: [&str; 14] = [
    "io.kubernetes",
    "kubernetes.io",
    "statefulset.kubernetes.io/pod-name",
    "apps.kubernetes.io/pod-index",
    "batch.kubernetes.io/job-completion-index",
    "batch.kubernetes.io/controller-uid",
    "beta.kubernetes.io",
    "k8s.io",
    "pod-template-generation",
    "pod-template-hash",
    "controller-revision-hash",
    "annotation",
    "controller-uid",
    "etcd_node",
];

/// The labels of a pod in its namespace, all of source `k8s`.
pub fn pod_labels(cluster: &ClusterName, pod: &Pod, namespace: &Namespace) -> Labels {
    let none = BTreeMap::new();
    let mut keys: BTreeMap<String, String> = BTreeMap::new();
    let own = pod.metadata.labels.as_ref().unwrap_or(&none);
    keys.extend(own.iter().map(|(key, value)| (key.clone(), value.clone())));
    let of_namespace = namespace.metadata.labels.as_ref().unwrap_or(&none);
    keys.extend(
        of_namespace.iter().map(|(key, value)| (format!("{NAMESPACE_LABELS_PREFIX}{key}"), value.clone())),
    );
    // These four say where the pod is and cannot be claimed by a label of its own.
    let account = pod.spec.as_ref().and_then(|spec| spec.service_account_name.clone());
    keys.insert(SERVICE_ACCOUNT_LABEL.to_owned(), account.unwrap_or_else(|| "default".to_owned()));
    keys.insert(NAMESPACE_LABEL.to_owned(), pod.metadata.namespace.clone().unwrap_or_default());
    keys.insert(CLUSTER_LABEL.to_owned(), cluster.to_string());
    let mut labels = Labels::new();
    for (key, value) in keys.into_iter().filter(|(key, _)| counts(key)) {
        labels.insert("k8s", key, value);
    }
    labels
}

/// The longest included prefix must beat the shortest ignored one.
fn counts(key: &str) -> bool {
    let included = INCLUDED.iter().filter(|p| key.starts_with(**p)).map(|p| p.len()).max();
    let mut ignored: Option<usize> = IGNORED.iter().filter(|p| key.starts_with(**p)).map(|p| p.len()).min();
    // Cilium's pattern is `.*beta\.kubernetes\.io`: it matches anywhere.
    if let Some(at) = key.find("beta.kubernetes.io") {
        let end = at + "beta.kubernetes.io".len();
        ignored = Some(ignored.map_or(end, |len| len.min(end)));
    }
    ignored.is_none() || included > ignored
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_default_filter() {
        let pod: Pod = serde_json::from_value(serde_json::json!({
            "metadata": {"namespace": "shop", "labels": {
                "app": "web", "app.kubernetes.io/name": "edge", "pod-template-hash": "5d9",
                "io.kubernetes.pod.namespace": "fake", "io.cilium.k8s.policy.cluster": "fake",
                "statefulset.kubernetes.io/pod-name": "web-0", "topology.beta.kubernetes.io/zone": "z",
                "kubernetes.io/x": "y", "empty": ""
            }},
            "spec": {"containers": []}
        }))
        .unwrap();
        let namespace: Namespace = serde_json::from_value(serde_json::json!({
            "metadata": {"name": "shop", "labels": {"team": "web", "kubernetes.io/metadata.name": "shop"}}
        }))
        .unwrap();
        let cluster = ClusterName::new("cls-a").unwrap();
        assert_eq!(
            pod_labels(&cluster, &pod, &namespace).to_string(),
            "k8s:app=web;k8s:app.kubernetes.io/name=edge;k8s:empty=;\
             k8s:io.cilium.k8s.namespace.labels.kubernetes.io/metadata.name=shop;\
             k8s:io.cilium.k8s.namespace.labels.team=web;k8s:io.cilium.k8s.policy.cluster=cls-a;\
             k8s:io.cilium.k8s.policy.serviceaccount=default;k8s:io.kubernetes.pod.namespace=shop;"
        );
    }
}
