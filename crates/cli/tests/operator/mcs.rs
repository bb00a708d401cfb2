//! ServiceImports and derived Services, and the requirements of the published conformance tests of mcs-api that
//! speak of objects in one cluster.

use causeway_cluster::crd;
use causeway_mesh::mcs::derived_name;
use causeway_model::ServiceKey;
use kube::api::{DeleteParams, Patch, PatchParams};
use serde_json::{Value, json};

use crate::fixture::Mesh;
use crate::kubernetes::{Kubernetes, until};
use crate::scrape::compare;

const MCS: &[&str] = &["--clustermesh-enable-mcs-api"];

fn derived() -> String {
    derived_name(&ServiceKey { namespace: "shop".into(), name: "cart".into() })
}

fn export_key(mesh: &Mesh) -> String {
    format!("cilium/state/serviceexports/v1/{}/shop/cart", mesh.name)
}

/// `shop/cart` as another cluster exports it, changed by `more`.
fn export(mesh: &Mesh, more: Value) {
    let mut value = json!({
        "cluster": mesh.name.as_str(), "name": "cart", "namespace": "shop", "Annotations": null, "Labels": null,
        "exportCreationTimestamp": "2026-02-10T09:00:00Z",
        "ports": [{ "name": "http", "protocol": "TCP", "port": 80 }],
        "type": "ClusterSetIP", "sessionAffinity": "None",
    });
    value.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
    mesh.put(&export_key(mesh), value.to_string().as_bytes());
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<(&'a str, &'a str)> {
    let all = object["status"]["conditions"].as_array()?;
    let one = all.iter().find(|condition| condition["type"] == kind)?;
    Some((one["status"].as_str()?, one["reason"].as_str()?))
}

fn service(name: &str, port: u16) -> Value {
    json!({
        "apiVersion": "v1", "kind": "Service", "metadata": { "name": name, "namespace": "shop" },
        "spec": { "selector": { "app": "cart" }, "ports": [{ "name": "http", "port": port, "targetPort": 8080 }] },
    })
}

fn own_export() -> Value {
    json!({
        "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceExport",
        "metadata": { "name": "cart", "namespace": "shop" },
    })
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_export_elsewhere_is_imported_until_it_goes() {
    let (kube, mesh) = (Kubernetes::start().await, Mesh::start().await);
    let affinity = json!({ "sessionAffinity": "ClientIP", "sessionAffinityConfig": { "clientIP": { "timeoutSeconds": 60 } },
        "Labels": { "l": "1" }, "Annotations": { "a": "1" } });
    export(&mesh, affinity);
    let operator = kube.operator(&mesh.peers(), MCS).await;
    let ready = |import: &Value| {
        condition(import, "Ready") == Some(("True", "Ready")) && !import["spec"]["ips"].is_null()
    };
    let import = kube.wait(&kube.imports(), "cart", ready).await;
    let spec = &import["spec"];
    assert_eq!((&spec["type"], &spec["sessionAffinity"]), (&json!("ClusterSetIP"), &json!("ClientIP")));
    assert_eq!(spec["sessionAffinityConfig"], json!({ "clientIP": { "timeoutSeconds": 60 } }));
    assert_eq!(spec["ports"], json!([{ "name": "http", "port": 80, "protocol": "TCP" }]));
    assert_eq!(import["status"]["clusters"], json!([{ "cluster": "cls-b" }]));
    assert_eq!(import["metadata"]["labels"], json!({ "l": "1" }));
    assert_eq!(
        import["metadata"]["annotations"]["multicluster.kubernetes.io/derived-service"],
        json!(derived())
    );
    let service = kube.wait(&kube.services(), &derived(), |_| true).await;
    assert_eq!(json!([service["spec"]["clusterIP"]]), spec["ips"]);
    let owner = &service["metadata"]["ownerReferences"][0];
    assert_eq!((&owner["kind"], &owner["uid"]), (&json!("ServiceImport"), &import["metadata"]["uid"]));
    let labels = json!({ "l": "1", "multicluster.kubernetes.io/service-name": "cart",
        "multicluster.kubernetes.io/source-cluster": "cls-a" });
    assert_eq!(service["metadata"]["labels"], labels);
    assert_eq!(service["metadata"]["annotations"], json!({ "a": "1", "service.cilium.io/global": "true" }));
    assert_eq!(
        (&service["spec"]["sessionAffinity"], &service["spec"]["selector"]["app"]),
        (&json!("ClientIP"), &Value::Null)
    );

    // What somebody changes comes back, what somebody adds stays.
    let patch = json!({ "metadata": { "labels": { "theirs": "1" } }, "spec": { "sessionAffinity": "None" } });
    kube.services().patch(&derived(), &PatchParams::default(), &Patch::Merge(&patch)).await.unwrap();
    let restored =
        |s: &Value| s["spec"]["sessionAffinity"] == "ClientIP" && s["metadata"]["labels"]["theirs"] == "1";
    kube.wait(&kube.services(), &derived(), restored).await;
    // The export changes: what it had and has no more goes.
    export(&mesh, json!({ "ports": [{ "name": "grpc", "protocol": "TCP", "port": 90 }] }));
    let now = kube.wait(&kube.services(), &derived(), |s| s["spec"]["ports"][0]["port"] == 90).await;
    assert_eq!(now["spec"]["ports"].as_array().unwrap().len(), 1);
    assert_eq!(now["metadata"]["labels"]["l"], Value::Null);
    assert_eq!(now["spec"]["clusterIP"], service["spec"]["clusterIP"]);
    // Headless: the Service is made anew.
    export(&mesh, json!({ "type": "Headless" }));
    kube.wait(&kube.services(), &derived(), |s| s["spec"]["clusterIP"] == "None").await;
    let import =
        kube.wait(&kube.imports(), "cart", |i| i["spec"]["type"] == "Headless" && ready_headless(i)).await;
    assert_eq!(import["spec"]["ips"], Value::Null);

    let metrics = operator.get("/metrics").unwrap().1;
    for line in [
        r#"cilium_operator_mcsapi_serviceimport_info{serviceimport="cart",namespace="shop"} 1"#,
        r#"cilium_operator_mcsapi_serviceimport_status_clusters{serviceimport="cart",namespace="shop"} 1"#,
        "causeway_operator_problems{} 0",
    ] {
        assert!(metrics.contains(line), "{line} is missing in\n{metrics}");
    }
    mesh.delete(&export_key(&mesh));
    kube.gone(&kube.imports(), "cart").await;
    kube.gone(&kube.services(), &derived()).await;
    operator.stop().await;
}

fn ready_headless(import: &Value) -> bool {
    condition(import, "Ready") == Some(("True", "Ready"))
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_own_export_has_conditions_and_conflicts() {
    let (kube, mesh) = (Kubernetes::start().await, Mesh::start().await);
    let operator = kube.operator(&mesh.peers(), MCS).await;
    let name = crd::ServiceExport::DEFINITION;
    let definitions = kube.client.clone();
    until(name, async || {
        use k8s_openapi::apiextensions_apiserver::pkg::apis::apiextensions::v1::CustomResourceDefinition;
        let api: kube::Api<CustomResourceDefinition> = kube::Api::all(definitions.clone());
        api.get_opt(name).await.ok().flatten()
    })
    .await;
    kube.apply(own_export()).await;
    let exports = kube.exports();
    kube.wait(&exports, "cart", |e| condition(e, "Valid") == Some(("False", "NoService"))).await;
    let external = json!({ "apiVersion": "v1", "kind": "Service", "metadata": { "name": "cart", "namespace": "shop" },
        "spec": { "type": "ExternalName", "externalName": "example.com" } });
    kube.apply(external).await;
    kube.wait(&exports, "cart", |e| condition(e, "Valid") == Some(("False", "InvalidServiceType"))).await;
    kube.gone(&kube.imports(), "cart").await;
    kube.services().delete("cart", &DeleteParams::default()).await.unwrap();
    kube.apply(service("cart", 80)).await;
    let fine =
        kube.wait(&exports, "cart", |e| condition(e, "Conflict") == Some(("False", "NoConflicts"))).await;
    assert_eq!(
        (condition(&fine, "Valid"), condition(&fine, "Ready")),
        (Some(("True", "Valid")), Some(("True", "Ready")))
    );
    let service =
        kube.wait(&kube.services(), &derived(), |s| s["spec"]["selector"] == json!({ "app": "cart" })).await;
    assert_eq!(service["spec"]["ports"][0]["targetPort"], 8080);

    // An older export elsewhere wins, whatever is different.
    export(&mesh, json!({ "ports": [{ "name": "http", "protocol": "TCP", "port": 81 }] }));
    kube.wait(&exports, "cart", |e| condition(e, "Conflict") == Some(("True", "PortConflict"))).await;
    kube.wait(&kube.imports(), "cart", |i| i["spec"]["ports"][0]["port"] == 81).await;
    export(&mesh, json!({ "type": "Headless" }));
    kube.wait(&exports, "cart", |e| condition(e, "Conflict") == Some(("True", "TypeConflict"))).await;
    let import = kube.wait(&kube.imports(), "cart", |i| i["spec"]["type"] == "Headless").await;
    assert_eq!(import["status"]["clusters"], json!([{ "cluster": "cls-a" }, { "cluster": "cls-b" }]));
    export(&mesh, json!({ "sessionAffinity": "ClientIP" }));
    kube.wait(&exports, "cart", |e| condition(e, "Conflict") == Some(("True", "SessionAffinityConflict")))
        .await;
    compare("operator", &operator.get("/metrics").unwrap().1, false);
    // The import lives as long as one cluster exports.
    exports.delete("cart", &DeleteParams::default()).await.unwrap();
    kube.wait(&kube.imports(), "cart", |i| i["status"]["clusters"] == json!([{ "cluster": "cls-b" }])).await;
    kube.wait(&kube.services(), &derived(), |s| s["spec"]["selector"]["app"].is_null()).await;
    mesh.delete(&export_key(&mesh));
    kube.gone(&kube.imports(), "cart").await;
    kube.gone(&kube.services(), &derived()).await;
    assert!(kube.services().get("cart").await.is_ok(), "the exported Service is nobody's business");
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_restart_forgets_no_cluster_that_cannot_be_asked() {
    let (kube, mesh) = (Kubernetes::start().await, Mesh::start().await);
    export(&mesh, json!({}));
    let operator = kube.operator(&mesh.peers(), MCS).await;
    let import = kube.wait(&kube.imports(), "cart", |i| !i["spec"]["ips"].is_null()).await;
    operator.crash();
    // The cluster cannot be reached; another name shows that the operator works.
    mesh.peer("cls-b", &[1], &mesh.host());
    let operator = kube.operator(&mesh.peers(), MCS).await;
    kube.apply(service("cart", 80)).await;
    let mut other = own_export();
    other["metadata"]["name"] = "other".into();
    kube.apply(other).await;
    kube.apply(service("other", 80)).await;
    kube.wait(&kube.imports(), "other", |i| !i["spec"]["ips"].is_null()).await;
    let held = kube.imports().get("cart").await.unwrap();
    assert_eq!(held.metadata.uid.as_deref(), import["metadata"]["uid"].as_str());
    // It is reached again, and no longer exports.
    mesh.delete(&export_key(&mesh));
    mesh.peer("cls-b", &[mesh.port], &mesh.host());
    kube.gone(&kube.imports(), "cart").await;
    assert!(kube.imports().get("other").await.is_ok());
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn what_others_made_is_told_and_left_alone() {
    let (kube, mesh) = (Kubernetes::start().await, Mesh::start().await);
    let foreign = kube.apply(service(&derived(), 7)).await;
    export(&mesh, json!({}));
    let operator = kube.operator(&mesh.peers(), MCS).await;
    let import =
        kube.wait(&kube.imports(), "cart", |i| condition(i, "Ready") == Some(("False", "Pending"))).await;
    let message = import["status"]["conditions"][0]["message"].as_str().unwrap();
    assert!(message.contains(&derived()), "{message}");
    let now = kube.services().get(&derived()).await.unwrap();
    assert_eq!(now.metadata.resource_version.as_deref(), foreign["metadata"]["resourceVersion"].as_str());
    kube.services().delete(&derived(), &DeleteParams::default()).await.unwrap();
    kube.wait(&kube.imports(), "cart", |i| condition(i, "Ready") == Some(("True", "Ready"))).await;

    // An import of somebody else.
    mesh.delete(&export_key(&mesh));
    kube.gone(&kube.imports(), "cart").await;
    let theirs = json!({ "apiVersion": "multicluster.x-k8s.io/v1beta1", "kind": "ServiceImport",
        "metadata": { "name": "cart", "namespace": "shop" },
        "spec": { "type": "ClusterSetIP", "ports": [{ "port": 7 }] } });
    kube.apply(theirs).await;
    export(&mesh, json!({}));
    until("the problem to be told", async || {
        operator.problems().contains("ServiceImport shop/cart").then_some(())
    })
    .await;
    assert_eq!(kube.imports().get("cart").await.unwrap().data["spec"]["ports"][0]["port"], 7);
    kube.gone(&kube.services(), &derived()).await;
    kube.imports().delete("cart", &DeleteParams::default()).await.unwrap();
    kube.wait(&kube.imports(), "cart", |i| condition(i, "Ready") == Some(("True", "Ready"))).await;
    until("the problem to be over", async || (operator.problems() == "{}").then_some(())).await;
    operator.stop().await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn the_version_a_cluster_has_is_used_and_namespaces_decide() {
    let (kube, mesh) = (Kubernetes::start().await, Mesh::start().await);
    // As an older release of mcs-api installs them.
    for mut definition in [crd::service_export_crd(), crd::service_import_crd()] {
        definition.spec.versions.retain(|version| version.name == "v1alpha1");
        definition.spec.versions[0].storage = true;
        let mut manifest = serde_json::to_value(definition).unwrap();
        manifest["apiVersion"] = "apiextensions.k8s.io/v1".into();
        manifest["kind"] = "CustomResourceDefinition".into();
        kube.apply(manifest).await;
    }
    export(&mesh, json!({}));
    let lost = export_key(&mesh).replace("/shop/", "/elsewhere/");
    let value = json!({ "cluster": "cls-b", "name": "cart", "namespace": "elsewhere",
        "exportCreationTimestamp": "2026-02-10T09:00:00Z", "ports": [], "type": "Headless", "sessionAffinity": "None" });
    mesh.put(&lost, value.to_string().as_bytes());
    let operator = kube.operator(&mesh.peers(), MCS).await;
    let imports = kube.api("multicluster.x-k8s.io/v1alpha1", "ServiceImport");
    let import = kube.wait(&imports, "cart", |i| condition(i, "Ready") == Some(("True", "Ready"))).await;
    let service = kube.services().get(&derived()).await.unwrap();
    let owner = &service.metadata.owner_references.unwrap()[0];
    assert_eq!(
        (owner.api_version.as_str(), Some(owner.uid.as_str())),
        ("multicluster.x-k8s.io/v1alpha1", import["metadata"]["uid"].as_str())
    );
    // Without the namespace there is nothing; it comes, and with it the import.
    assert_eq!(operator.problems(), "{}");
    kube.apply(json!({ "apiVersion": "v1", "kind": "Namespace", "metadata": { "name": "elsewhere" } })).await;
    let resource = kube::core::ApiResource::from_gvk(&kube::core::GroupVersionKind::gvk(
        "multicluster.x-k8s.io",
        "v1alpha1",
        "ServiceImport",
    ));
    let elsewhere = kube::Api::namespaced_with(kube.client.clone(), "elsewhere", &resource);
    kube.wait(&elsewhere, "cart", |i| i["spec"]["type"] == "Headless").await;
    operator.stop().await;
}
