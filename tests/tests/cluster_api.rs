//! The cluster crate against a Kubernetes API server: definitions, watchers and write-back; and the
//! recorded objects from `kubectl apply` to the published keys.

use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::time::Duration;

use causeway_cluster::crd::{self, CiliumEndpoint, CiliumIdentity, CiliumNode, NamedPort};
use causeway_cluster::source;
use causeway_cluster::writeback::{
    CiliumNodeWriter, EndpointReport, EndpointWriter, IdentityAllocator, KubeIdentities,
};
use causeway_kvstore::{Store, StoreOptions, pb};
use causeway_lab::apiserver::loopback::Loopback;
use causeway_mesh::publish::{self, PublishStatus, Publisher, Sources, StoreSink};
use causeway_model::{
    AddressType, ClusterId, ClusterInfo, ClusterName, Event, Labels, MaxClusters, Node, NodeAddress,
    NumericIdentity, PodRef,
};
use futures::{Stream, StreamExt};
use k8s_openapi::api::core::v1::Pod;
use kube::api::{Api, DeleteParams, DynamicObject, ListParams, Patch, PatchParams};
use kube::core::{ApiResource, GroupVersionKind};
use kube::{Client, Config, ResourceExt};
use serde_json::Value;
use tokio::sync::watch;
use tokio_util::sync::{CancellationToken, DropGuard};

const PATIENCE: Duration = Duration::from_secs(60);

struct Cluster {
    client: Client,
    _stop: DropGuard,
}

async fn start() -> Cluster {
    drop(rustls::crypto::ring::default_provider().install_default());
    let api = Loopback::new("cls-a", 0).unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&api.kubeconfig).unwrap();
    let stop = CancellationToken::new();
    tokio::spawn(api.serve(stop.clone()).unwrap());
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    let client = Client::try_from(config).unwrap();
    crd::ensure_crds(client.clone()).await.unwrap();
    // Twice is as good as once.
    crd::ensure_crds(client.clone()).await.unwrap();
    Cluster { client, _stop: stop.drop_guard() }
}

fn info() -> ClusterInfo {
    let max_clusters = MaxClusters::C255;
    ClusterInfo {
        name: ClusterName::new("cls-a").unwrap(),
        id: ClusterId::new(1, max_clusters).unwrap(),
        max_clusters,
    }
}

async fn next<T: causeway_model::Keyed>(stream: &mut (impl Stream<Item = Event<T>> + Unpin)) -> Event<T> {
    tokio::time::timeout(PATIENCE, stream.next()).await.expect("in time").expect("never ends")
}

fn node() -> Node {
    Node {
        addresses: vec![
            NodeAddress { kind: AddressType::InternalIP, ip: "172.18.0.11".parse().unwrap() },
            NodeAddress { kind: AddressType::CiliumInternalIP, ip: "10.1.0.1".parse().unwrap() },
        ],
        pod_cidrs: vec!["10.1.0.0/24".parse().unwrap()],
        boot_id: "boot".into(),
        ..Node::new("a-node-1", info().name, info().id)
    }
}

fn report(container: &str, uid: &str, ip: &str) -> EndpointReport {
    EndpointReport {
        pod: PodRef { namespace: "default".into(), name: "web-1".into() },
        pod_uid: uid.into(),
        pod_labels: BTreeMap::from([("app".to_owned(), "web".to_owned())]),
        container_id: container.into(),
        interface: "eth0".into(),
        endpoint_id: 7,
        identity: NumericIdentity(65_600),
        labels: Labels::parse("k8s:app=web;"),
        ips: vec![ip.parse().unwrap()],
        node_ip: "172.18.0.11".parse().unwrap(),
        named_ports: vec![NamedPort { name: "http".into(), port: 8080, protocol: "TCP".into() }],
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_and_endpoints_are_written_and_watched() {
    let cluster = start().await;
    let mut nodes = source::nodes(cluster.client.clone(), info()).boxed();
    assert_eq!(next(&mut nodes).await, Event::Reset);
    assert_eq!(next(&mut nodes).await, Event::Synced);
    let writer = CiliumNodeWriter::new(cluster.client.clone());
    writer.upsert(&node(), None).await.unwrap();
    assert_eq!(next(&mut nodes).await, Event::Upsert(node()));
    // An address that is no longer wanted goes, and a restart with the same content changes nothing.
    let mut less = node();
    less.addresses.truncate(1);
    let first = writer.upsert(&less, None).await.unwrap();
    assert_eq!(next(&mut nodes).await, Event::Upsert(less.clone()));
    let second = writer.upsert(&less, None).await.unwrap();
    assert_eq!(first.resource_version(), second.resource_version());
    let api: Api<CiliumNode> = Api::all(cluster.client.clone());
    api.delete("a-node-1", &DeleteParams::default()).await.unwrap();
    assert!(matches!(next(&mut nodes).await, Event::Remove(key) if key.name == "a-node-1"));

    let mut addresses = source::addresses(cluster.client.clone(), false);
    // Only differences come out of the owners: no Reset.
    assert_eq!(next(&mut addresses).await, Event::Synced);
    let writer = EndpointWriter::new(cluster.client.clone());
    let pods: Api<Pod> = Api::namespaced(cluster.client.clone(), "default");
    let pod = serde_json::json!({"metadata": {"name": "web-1"}, "spec": {"containers": [{"name": "c", "image": "i"}]}});
    let pod: Pod = serde_json::from_value(pod).unwrap();
    let uid = pods.create(&Default::default(), &pod).await.unwrap().uid().unwrap();
    writer.upsert(&report("sandbox-1", &uid, "10.1.0.21")).await.unwrap();
    let Event::Upsert(entry) = next(&mut addresses).await else { panic!() };
    assert_eq!((entry.prefix.to_string().as_str(), entry.identity.0), ("10.1.0.21/32", 65_600));
    // The pod came back under the same name: the late removal of the old sandbox must not hit it.
    writer.upsert(&report("sandbox-2", &uid, "10.1.0.22")).await.unwrap();
    assert_eq!(next(&mut addresses).await, Event::Remove("10.1.0.21/32".parse().unwrap()));
    assert!(matches!(next(&mut addresses).await, Event::Upsert(_)));
    let pod = report("", "", "10.1.0.1").pod;
    writer.remove(&pod, "sandbox-1").await.unwrap();
    let api: Api<CiliumEndpoint> = Api::namespaced(cluster.client.clone(), "default");
    let held = api.get("web-1").await.unwrap();
    assert_eq!(held.status.networking.unwrap().addressing.len(), 1, "nothing of the old pod is left");
    writer.remove(&pod, "sandbox-2").await.unwrap();
    assert_eq!(next(&mut addresses).await, Event::Remove("10.1.0.22/32".parse().unwrap()));
    writer.remove(&pod, "sandbox-2").await.unwrap();
    // Leftovers of this node, and only of this node.
    writer.upsert(&report("sandbox-3", &uid, "10.1.0.23")).await.unwrap();
    let other = "172.18.0.12".parse().unwrap();
    assert_eq!(writer.remove_stale(other, &BTreeSet::new()).await.unwrap(), 0);
    let alive = BTreeSet::from(["sandbox-3".to_owned()]);
    assert_eq!(writer.remove_stale("172.18.0.11".parse().unwrap(), &alive).await.unwrap(), 0);
    assert_eq!(writer.remove_stale("172.18.0.11".parse().unwrap(), &BTreeSet::new()).await.unwrap(), 1);
    // Without a writer's help: the object goes with its pod.
    writer.upsert(&report("sandbox-4", &uid, "10.1.0.24")).await.unwrap();
    pods.delete("web-1", &DeleteParams::default().grace_period(0)).await.unwrap();
    loop {
        if next(&mut addresses).await == Event::Remove("10.1.0.24/32".parse().unwrap()) {
            break;
        }
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn slices_of_endpoints_are_read_too_once_they_are_defined() {
    let cluster = start().await;
    let object = |kind: &str, version: &str, more: Value| {
        let mut object = serde_json::json!({ "apiVersion": format!("cilium.io/{version}"), "kind": kind });
        object.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        object
    };
    let networking = |ip: &str| serde_json::json!({ "addressing": [{ "ipv4": ip }], "node": "172.18.0.11" });
    let single = object(
        "CiliumEndpoint",
        "v2",
        serde_json::json!({ "metadata": { "name": "a", "namespace": "default" },
            "status": { "identity": { "id": 65600 }, "networking": networking("10.1.0.5") } }),
    );
    apply(&cluster.client, &single).await;
    let mut addresses = source::addresses(cluster.client.clone(), true);
    // Without the definition there are no slices, and nothing waits for them.
    assert!(matches!(next(&mut addresses).await, Event::Upsert(entry) if entry.identity.0 == 65_600));
    assert_eq!(next(&mut addresses).await, Event::Synced);
    apply(&cluster.client, &serde_json::to_value(crd::endpoint_slice_crd()).unwrap()).await;
    let slices: Api<crd::CiliumEndpointSlice> = Api::all(cluster.client.clone());
    let deadline = tokio::time::Instant::now() + PATIENCE;
    while slices.list(&ListParams::default()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let slice = |pods: &[(&str, &str)]| {
        let endpoints: Vec<Value> = pods
            .iter()
            .map(|(name, ip)| serde_json::json!({ "name": name, "id": 65600, "networking": networking(ip) }))
            .collect();
        let more = serde_json::json!({ "metadata": { "name": "ces-1" }, "namespace": "default", "endpoints": endpoints });
        object("CiliumEndpointSlice", "v2alpha1", more)
    };
    // The pod that is known already is no news; the other one is.
    apply(&cluster.client, &slice(&[("a", "10.1.0.5"), ("b", "10.1.0.6")])).await;
    assert!(matches!(next(&mut addresses).await, Event::Upsert(e) if e.prefix.to_string() == "10.1.0.6/32"));
    // Its CiliumEndpoint goes: the slice holds it.
    let endpoints: Api<CiliumEndpoint> = Api::namespaced(cluster.client.clone(), "default");
    endpoints.delete("a", &DeleteParams::default()).await.unwrap();
    apply(&cluster.client, &slice(&[("a", "10.1.0.5")])).await;
    assert_eq!(next(&mut addresses).await, Event::Remove("10.1.0.6/32".parse().unwrap()));
    slices.delete("ces-1", &DeleteParams::default()).await.unwrap();
    assert_eq!(next(&mut addresses).await, Event::Remove("10.1.0.5/32".parse().unwrap()));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn exports_are_published_once_they_are_defined() {
    let cluster = start().await;
    let mut exports = source::exports(cluster.client.clone()).boxed();
    assert_eq!([next(&mut exports).await, next(&mut exports).await], [Event::Reset, Event::Synced]);
    apply(&cluster.client, &serde_json::to_value(crd::service_export_crd()).unwrap()).await;
    assert_eq!([next(&mut exports).await, next(&mut exports).await], [Event::Reset, Event::Synced]);
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn imports_are_seen_once_they_are_defined_in_whatever_version() {
    for versions in [&["v1alpha1"][..], &["v1alpha1", "v1beta1"]] {
        let cluster = start().await;
        let mut imports = source::imports(cluster.client.clone()).boxed();
        assert_eq!([next(&mut imports).await, next(&mut imports).await], [Event::Reset, Event::Synced]);
        let mut crd = serde_json::to_value(crd::service_export_crd()).unwrap();
        crd["metadata"]["name"] = "serviceimports.multicluster.x-k8s.io".into();
        crd["spec"]["names"] = serde_json::json!({ "kind": "ServiceImport", "listKind": "ServiceImportList", "plural": "serviceimports", "singular": "serviceimport" });
        let of = |version: &&str| {
            let schema =
                serde_json::json!({ "type": "object", "x-kubernetes-preserve-unknown-fields": true });
            serde_json::json!({ "name": version, "served": true, "storage": *version == versions[0], "schema": { "openAPIV3Schema": schema } })
        };
        crd["spec"]["versions"] = versions.iter().map(of).collect();
        apply(&cluster.client, &crd).await;
        assert_eq!([next(&mut imports).await, next(&mut imports).await], [Event::Reset, Event::Synced]);
        let api = format!("multicluster.x-k8s.io/{}", versions[0]);
        apply(
            &cluster.client,
            &serde_json::json!({ "apiVersion": api, "kind": "ServiceImport", "metadata": { "name": "db", "namespace": "default" },
                "spec": { "type": "ClusterSetIP", "ips": ["10.96.0.7"], "ports": [{ "name": "sql", "port": 5432 }] } }),
        )
        .await;
        let Event::Upsert(import) = next(&mut imports).await else { panic!("an import") };
        assert_eq!((import.key.to_string().as_str(), import.ips.len()), ("default/db", 1));
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nodes_that_race_agree_on_one_identity_per_label_set() {
    let cluster = start().await;
    let range = info().id.identities(info().max_clusters);
    let mut tasks = tokio::task::JoinSet::new();
    for node in 0..8 {
        let allocator = IdentityAllocator::new(KubeIdentities::new(cluster.client.clone()), range.clone());
        tasks.spawn(async move {
            let mut out = vec![];
            for n in 0..10 {
                let n = (n * 3 + node) % 10;
                let labels = Labels::parse(&format!(
                    "k8s:app=a{n};k8s:io.cilium.k8s.policy.cluster=cls-a;k8s:io.kubernetes.pod.namespace=shop;"
                ));
                out.push((n, allocator.allocate(&labels).await.unwrap()));
            }
            out
        });
    }
    let mut agreed: BTreeMap<usize, NumericIdentity> = BTreeMap::new();
    while let Some(found) = tasks.join_next().await {
        for (n, id) in found.unwrap() {
            assert_eq!(*agreed.entry(n).or_insert(id), id);
        }
    }
    assert_eq!(agreed.values().collect::<BTreeSet<_>>().len(), 10);
    let api: Api<CiliumIdentity> = Api::all(cluster.client.clone());
    let found = api.list(&ListParams::default().labels("io.kubernetes.pod.namespace=shop")).await.unwrap();
    assert_eq!(found.items.len(), 10);
}

fn data(file: &str) -> String {
    let path = PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../crates/mesh/tests/interop").join(file);
    std::fs::read_to_string(path).unwrap()
}

async fn apply(client: &Client, object: &Value) {
    let (group, version) = object["apiVersion"].as_str().unwrap().rsplit_once('/').unwrap_or(("", "v1"));
    let kind = object["kind"].as_str().unwrap();
    let plural = match kind {
        "CiliumIdentity" => "ciliumidentities".to_owned(),
        kind => format!("{}s", kind.to_lowercase()),
    };
    let resource = ApiResource::from_gvk_with_plural(&GroupVersionKind::gvk(group, version, kind), &plural);
    let api: Api<DynamicObject> = match object["metadata"]["namespace"].as_str() {
        Some(namespace) => Api::namespaced_with(client.clone(), namespace, &resource),
        None => Api::all_with(client.clone(), &resource),
    };
    let name = object["metadata"]["name"].as_str().unwrap();
    let params = PatchParams::apply("kubectl").force();
    api.patch(name, &params, &Patch::Apply(object)).await.unwrap_or_else(|e| panic!("{kind} {name}: {e}"));
}

/// Drops what differs from run to run: times, allocated ClusterIPs.
fn comparable(key: &str, value: &str) -> Value {
    let mut value: Value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
    if key.starts_with("cilium/synced/") || key == "cilium/.heartbeat" {
        return Value::Null;
    }
    if let Some(object) = value.as_object_mut() {
        if object.contains_key("exportCreationTimestamp") {
            object.insert("exportCreationTimestamp".into(), Value::Null);
        }
        // Fields of 1.19, of exports and of services: the record is of 1.18, whose readers pass over them.
        for field in ["ipFamilies", "internalTrafficPolicy", "trafficDistribution", "zones"] {
            object.remove(field);
        }
        if let Some(frontends) = object.get_mut("frontends").and_then(Value::as_object_mut) {
            let ports: Vec<Value> = std::mem::take(frontends).into_iter().map(|(_, ports)| ports).collect();
            frontends.insert("ports".into(), ports.into());
        }
        // The known defect of 1.18.0: the unnamed port of these backends is missing in the record.
        if key.ends_with("/shop/unnamed") {
            object.remove("backends");
        }
    }
    value
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn interop_the_recorded_objects_through_an_api_server() {
    let cluster = start().await;
    let crd = serde_json::to_value(crd::service_export_crd()).unwrap();
    apply(&cluster.client, &crd).await;
    let deadline = tokio::time::Instant::now() + PATIENCE;
    let exports: Api<crd::ServiceExport> = Api::all(cluster.client.clone());
    while exports.list(&ListParams::default()).await.is_err() {
        assert!(tokio::time::Instant::now() < deadline);
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    let objects: Vec<Value> = serde_saphyr::from_multiple(&data("kubernetes-objects.yaml")).unwrap();
    for object in &objects {
        apply(&cluster.client, object).await;
    }
    let client = || cluster.client.clone();
    let sources = Sources {
        nodes: source::nodes(client(), info()).boxed(),
        identities: source::identities(client()).boxed(),
        addresses: source::addresses(client(), false),
        services: source::services(client(), None, false).boxed(),
        slices: source::endpoint_slices(client()).boxed(),
        exports: Some(source::exports(client()).boxed()),
    };
    let store = Store::new(StoreOptions::default());
    let (sender, mut status) = watch::channel(PublishStatus::default());
    let stop = CancellationToken::new();
    let publisher = Publisher::new(info(), true);
    let sink = StoreSink(store.clone());
    tokio::spawn(publish::run(publisher, sources, sink, Default::default(), sender, stop.clone()));
    let ready = status.wait_for(|status| status.ready && status.pending == 0);
    tokio::time::timeout(PATIENCE, ready).await.expect("in time").unwrap();

    let everything =
        pb::RangeRequest { key: "cilium/".into(), range_end: "cilium0".into(), ..Default::default() };
    let range = store.range(&everything).unwrap();
    assert!(range.kvs.iter().all(|kv| kv.lease != 0), "every key is leased");
    let text = |bytes: &[u8]| String::from_utf8(bytes.to_vec()).unwrap();
    let ours: BTreeMap<String, String> =
        range.kvs.iter().map(|kv| (text(&kv.key), text(&kv.value))).collect();
    let recorded: Value = serde_json::from_str(&data("kvstore-recorded.json")).unwrap();
    let recorded = recorded["published-by-cls-a"].as_array().unwrap();
    let recorded: BTreeMap<&str, &str> =
        recorded.iter().map(|e| (e["key"].as_str().unwrap(), e["value"].as_str().unwrap())).collect();
    assert_eq!(
        ours.keys().map(String::as_str).collect::<Vec<_>>(),
        recorded.keys().copied().collect::<Vec<_>>()
    );
    for (key, value) in &ours {
        assert_eq!(comparable(key, value), comparable(key, recorded[key.as_str()]), "{key}");
    }
    stop.cancel();
}
