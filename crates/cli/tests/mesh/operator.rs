//! The operator: a Service exported in one cluster is reached from the other, and headless services span both.

use serde_json::Value;

use crate::clusters::{Clusters, ONE, TWO, until};

/// `shop/NAME` of the pods of the web Deployment.
fn service(name: &str, more: &str) -> String {
    format!(
        "apiVersion: v1\nkind: Service\nmetadata: {{name: {name}, namespace: shop{more}}}\nspec:\n  \
         selector: {{app: web}}\n  ports: [{{name: http, port: 80, targetPort: 8080}}]\n"
    )
}

const EXPORT: &str = "apiVersion: multicluster.x-k8s.io/v1beta1\nkind: ServiceExport\n\
                      metadata: {name: cart, namespace: shop}\n";

#[test]
fn netns_exports_and_headless_services_span_the_clusters() {
    let mesh = Clusters::meshed("t-mcs");
    mesh.web();
    for cluster in [ONE, TWO] {
        mesh.operator(cluster);
    }
    let get = |cluster: &str, words: &[&str]| -> Option<Value> {
        let argv = [&["-n", "shop", "get", "-o", "json"], words].concat();
        let output = mesh.lab.kubectl(cluster, &argv).unwrap();
        output.status.success().then(|| serde_json::from_slice(&output.stdout).unwrap())
    };
    for cluster in [ONE, TWO] {
        until("the definitions", || get(cluster, &["serviceexports,serviceimports"]).is_some());
    }

    // Exported in the second cluster: the first one, which has no such Service, imports it.
    mesh.apply(TWO, &service("cart", ""));
    mesh.apply(TWO, EXPORT);
    let ip = |cluster: &str| {
        let mut ip = String::new();
        until("the import", || {
            let import = get(cluster, &["serviceimport", "cart"]);
            ip = import.and_then(|i| Some(i["spec"]["ips"][0].as_str()?.to_owned())).unwrap_or_default();
            !ip.is_empty()
        });
        ip
    };
    let url = format!("http://{}", ip(ONE));
    mesh.answered_by(&url, &[TWO]);
    mesh.always_answered_by(&url, &[TWO]);
    assert!(get(ONE, &["service", "cart"]).is_none());
    assert_ne!(ip(TWO), ip(ONE), "every cluster has an address of its own");

    // In the first one too: both answer at the same address.
    mesh.apply(ONE, &service("cart", ""));
    mesh.apply(ONE, EXPORT);
    mesh.answered_by(&url, &[ONE, TWO]);
    mesh.always_answered_by(&url, &[ONE, TWO]);
    let agreed = |cluster: &str| {
        let path = "jsonpath={.status.conditions[?(@.type=='Conflict')].reason}";
        mesh.kubectl(cluster, &["-n", "shop", "get", "serviceexport", "cart", "-o", path]) == "NoConflicts"
    };
    until("the exports to agree", || agreed(ONE) && agreed(TWO));
    mesh.kubectl(ONE, &["-n", "shop", "delete", "serviceexport", "cart"]);
    mesh.answered_by(&url, &[TWO]);

    // The operator starts anew: the address stays.
    mesh.kubectl(ONE, &["-n", "kube-system", "rollout", "restart", "deployment/causeway-operator"]);
    mesh.kubectl(
        ONE,
        &["-n", "kube-system", "rollout", "status", "deployment/causeway-operator", "--timeout=60s"],
    );
    mesh.always_answered_by(&url, &[TWO]);
    assert_eq!(format!("http://{}", ip(ONE)), url);

    // A headless global service has the pods of the other cluster as EndpointSlices, and nobody sends to them twice.
    let headless = service("pods", ", annotations: {service.cilium.io/global: 'true'}");
    let headless = headless.replace("spec:\n", "spec:\n  clusterIP: None\n");
    for cluster in [ONE, TWO] {
        mesh.apply(cluster, &headless);
    }
    let theirs = |cluster: &str, other: &str| -> Vec<String> {
        let label =
            format!("kubernetes.io/service-name=pods,multicluster.kubernetes.io/source-cluster={other}");
        let list = get(cluster, &["endpointslices", "-l", &label]).unwrap();
        let slices = list["items"].as_array().unwrap().iter();
        let endpoints = slices.flat_map(|slice| slice["endpoints"].as_array().unwrap());
        endpoints.map(|endpoint| endpoint["addresses"][0].as_str().unwrap().to_owned()).collect()
    };
    until("the pods of the second cluster", || {
        let ips = theirs(ONE, TWO);
        ips.len() == 2 && ips.iter().all(|ip| ip.starts_with("10.20."))
    });
    until("the pods of the first cluster", || theirs(TWO, ONE).len() == 2);
    mesh.kubectl(TWO, &["-n", "shop", "scale", "deployment/web", "--replicas", "3"]);
    until("a third pod", || theirs(ONE, TWO).len() == 3);

    // Nothing is exported any more: nothing is left.
    mesh.kubectl(TWO, &["-n", "shop", "delete", "serviceexport", "cart"]);
    for cluster in [ONE, TWO] {
        until("the import to be gone", || get(cluster, &["serviceimport", "cart"]).is_none());
        until("the derived Service to be gone", || {
            let services = get(cluster, &["services"]).unwrap();
            services["items"]
                .as_array()
                .unwrap()
                .iter()
                .all(|s| !s["metadata"]["name"].as_str().unwrap().starts_with("derived-"))
        });
    }
    // Disconnected: its pods are gone from the slices.
    mesh.causeway(&["clustermesh", "disconnect", "--context", ONE, "--destination-context", TWO]);
    until("the other's pods to be gone", || theirs(ONE, TWO).is_empty());
}
