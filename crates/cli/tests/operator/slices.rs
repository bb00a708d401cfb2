//! EndpointSlices with the endpoints of other clusters.

use std::collections::BTreeMap;

use kube::api::{DeleteParams, ListParams};
use serde_json::{Value, json};

use crate::fixture::Mesh;
use crate::kubernetes::{Kubernetes, until};

const SYNC: &[&str] = &["--clustermesh-enable-endpoint-sync", "--clustermesh-endpoints-per-slice", "10"];
const OURS: &str = "endpointslice.kubernetes.io/managed-by=endpointslice-mesh-controller.cilium.io";

fn share(mesh: &Mesh, count: usize) {
    let backends: BTreeMap<String, Value> = (1..=count)
        .map(|n| (format!("10.2.0.{n}"), json!({ "http": { "Protocol": "TCP", "Port": 8080 } })))
        .collect();
    let value = json!({
        "cluster": mesh.name.as_str(), "namespace": "shop", "name": "web", "frontends": {}, "backends": backends,
        "hostnames": { "10.2.0.1": "web-0" }, "labels": {}, "selector": {}, "includeExternal": true,
        "shared": true, "clusterID": 2,
    });
    mesh.put(&key(mesh), value.to_string().as_bytes());
}

fn key(mesh: &Mesh) -> String {
    format!("cilium/state/services/v1/{}/shop/web", mesh.name)
}

fn headless(annotations: Value) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service",
        "metadata": { "name": "web", "namespace": "shop", "labels": { "app": "web" }, "annotations": annotations },
        "spec": { "clusterIP": "None", "selector": { "app": "web" }, "ports": [{ "name": "http", "port": 80 }] },
    })
}

/// The slices of the operator by name, once they hold this many endpoints.
async fn slices(kube: &Kubernetes, endpoints: usize) -> BTreeMap<String, Value> {
    let count = |slice: &Value| slice["endpoints"].as_array().map_or(0, Vec::len);
    until(&format!("{endpoints} endpoints"), async || {
        let list = kube.slices().list(&ListParams::default().labels(OURS)).await.ok()?;
        let all: BTreeMap<String, Value> = list
            .into_iter()
            .map(|s| (s.metadata.name.clone().unwrap(), serde_json::to_value(s).unwrap()))
            .collect();
        (all.values().map(count).sum::<usize>() == endpoints).then_some(all)
    })
    .await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_headless_global_service_gets_the_endpoints_of_others() {
    let (kube, mesh) = (Kubernetes::start().await, Mesh::start().await);
    share(&mesh, 2);
    let operator = kube.operator(&mesh.peers(), SYNC).await;
    let global = json!({ "service.cilium.io/global": "true" });
    let service = kube.apply(headless(global.clone())).await;
    let all = slices(&kube, 2).await;
    let (name, slice) = all.first_key_value().unwrap();
    assert!(all.len() == 1 && name.starts_with("web-cls-b-"), "{name}");
    let metadata = &slice["metadata"];
    let labels = json!({ "app": "web", "endpointslice.kubernetes.io/managed-by": "endpointslice-mesh-controller.cilium.io",
        "kubernetes.io/service-name": "web", "multicluster.kubernetes.io/source-cluster": "cls-b",
        "service.kubernetes.io/headless": "" });
    assert_eq!(metadata["labels"], labels);
    assert_eq!(metadata["ownerReferences"][0]["uid"], service["metadata"]["uid"]);
    assert_eq!(
        (&slice["addressType"], &slice["endpoints"][0]["hostname"]),
        (&json!("IPv4"), &json!("web-0"))
    );
    assert_eq!(slice["ports"], json!([{ "name": "http", "port": 8080, "protocol": "TCP" }]));

    // A restart finds them as they are; one more endpoint is one more write.
    operator.stop().await;
    let operator = kube.operator(&mesh.peers(), SYNC).await;
    share(&mesh, 3);
    let more = slices(&kube, 3).await;
    assert_eq!(more[name]["metadata"]["uid"], metadata["uid"]);
    // Many: slices of ten at most, and a change touches one or two of them.
    share(&mesh, 60);
    let many = slices(&kube, 60).await;
    assert!(many.values().all(|s| s["endpoints"].as_array().unwrap().len() <= 10));
    share(&mesh, 59);
    let fewer = slices(&kube, 59).await;
    let version = |s: &Value| s["metadata"]["resourceVersion"].clone();
    let kept = many.iter().filter(|(name, s)| fewer.get(*name).is_some_and(|now| version(now) == version(s)));
    assert!(kept.count() + 2 >= many.len());
    // One that somebody deletes comes back, and the annotation turns it off and on.
    kube.slices().delete(fewer.first_key_value().unwrap().0, &DeleteParams::default()).await.unwrap();
    slices(&kube, 59).await;
    let off = json!({ "service.cilium.io/global": "true", "service.cilium.io/global-sync-endpoint-slices": "false" });
    kube.apply(headless(off)).await;
    slices(&kube, 0).await;
    kube.apply(headless(global)).await;
    slices(&kube, 59).await;
    // The service goes there, the peer goes: nothing is left.
    mesh.delete(&key(&mesh));
    slices(&kube, 0).await;
    share(&mesh, 2);
    slices(&kube, 2).await;
    std::fs::remove_file(mesh.peers().join("cls-b")).unwrap();
    slices(&kube, 0).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_is_not_its_own_or_not_known_stays() {
    let (kube, mesh) = (Kubernetes::start().await, Mesh::start().await);
    kube.apply(headless(json!({ "service.cilium.io/global": "true" }))).await;
    let foreign = json!({
        "apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice",
        "metadata": { "name": "web-theirs", "namespace": "shop", "labels": { "kubernetes.io/service-name": "web",
            "endpointslice.kubernetes.io/managed-by": "endpointslice-controller.k8s.io" } },
        "addressType": "IPv4", "endpoints": [{ "addresses": ["10.1.0.9"] }], "ports": [],
    });
    kube.apply(foreign.clone()).await;
    share(&mesh, 2);
    let operator = kube.operator(&mesh.peers(), SYNC).await;
    let name = slices(&kube, 2).await.into_keys().next().unwrap();
    assert!(kube.slices().get("web-theirs").await.is_ok());

    // Somebody takes the name of a slice.
    operator.stop().await;
    kube.slices().delete(&name, &DeleteParams::default()).await.unwrap();
    let mut taken = foreign;
    taken["metadata"]["name"] = name.clone().into();
    let taken = kube.apply(taken).await;
    let operator = kube.operator(&mesh.peers(), SYNC).await;
    until("the problem to be told", async || operator.problems().contains(&name).then_some(())).await;
    let now = kube.slices().get(&name).await.unwrap();
    assert_eq!(now.metadata.resource_version.as_deref(), taken["metadata"]["resourceVersion"].as_str());
    kube.slices().delete(&name, &DeleteParams::default()).await.unwrap();
    slices(&kube, 2).await;

    // The cluster cannot be asked after a restart: its endpoints stay until it is no peer any more.
    operator.crash();
    mesh.peer("cls-b", &[1], &mesh.host());
    let operator = kube.operator(&mesh.peers(), SYNC).await;
    until("an attempt to connect", async || {
        let state: Value = serde_json::from_str(&operator.get("/debug/state")?.1).ok()?;
        state["remotes"]["cls-b"]["num-failures"].as_u64().filter(|count| *count > 0)
    })
    .await;
    assert_eq!(slices(&kube, 2).await.into_keys().next().unwrap(), name);
    std::fs::remove_file(mesh.peers().join("cls-b")).unwrap();
    slices(&kube, 0).await;
    operator.stop().await;
}
