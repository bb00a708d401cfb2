//! kube-rs against the lab's API server: clients, watchers, reflectors and server-side apply as against Kubernetes.

mod support;

use std::collections::BTreeMap;
use std::time::Duration;

use futures::{StreamExt, TryStreamExt};
use k8s_openapi::api::core::v1::{ConfigMap, Service};
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams, WatchEvent, WatchParams};
use kube::runtime::{WatchStreamExt, reflector, watcher};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::json;
use support::{Cluster, PATIENCE};

async fn client(c: &Cluster) -> Client {
    let _ = rustls::crypto::ring::default_provider().install_default();
    let yaml = std::fs::read_to_string(c.kubeconfig()).unwrap();
    let kubeconfig = kube::config::Kubeconfig::from_yaml(&yaml).unwrap();
    let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
    Client::try_from(config).unwrap()
}

fn config_map(name: &str) -> ConfigMap {
    serde_json::from_value(json!({"metadata": {"name": name}, "data": {"k": "v"}})).unwrap()
}

async fn soon<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(PATIENCE, future).await.expect("in time")
}

#[tokio::test]
async fn reflectors_follow_in_both_start_modes() {
    let c = Cluster::start();
    let maps: Api<ConfigMap> = Api::namespaced(client(&c).await, "default");
    for config in [watcher::Config::default(), watcher::Config::default().streaming_lists()] {
        let (reader, writer) = reflector::store();
        let stream = reflector(writer, watcher(maps.clone(), config)).applied_objects();
        let task = tokio::spawn(async move { stream.for_each(|_| async {}).await });
        soon(reader.wait_until_ready()).await.unwrap();
        maps.create(&PostParams::default(), &config_map("seen")).await.unwrap();
        soon(async {
            while !reader.state().iter().any(|m| m.name_any() == "seen") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        maps.delete("seen", &DeleteParams::default()).await.unwrap();
        soon(async {
            while reader.state().iter().any(|m| m.name_any() == "seen") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await;
        task.abort();
    }
}

#[tokio::test]
async fn a_compacted_revision_is_gone() {
    let c = Cluster::start();
    let maps: Api<ConfigMap> = Api::namespaced(client(&c).await, "default");
    let first = maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    for name in ["b", "b2"] {
        maps.create(&PostParams::default(), &config_map(name)).await.unwrap();
    }
    let page = maps.list(&ListParams::default().limit(1)).await.unwrap();
    let token = page.metadata.continue_.clone().unwrap();
    c.store.compact(c.store.revision()).unwrap();
    let rv = first.resource_version().unwrap();
    let mut events = maps.watch(&WatchParams::default(), &rv).await.unwrap().boxed();
    match soon(events.try_next()).await.unwrap().unwrap() {
        WatchEvent::Error(e) => assert_eq!(e.code, 410),
        other => panic!("{other:?}"),
    }
    let page = maps.list(&ListParams::default().limit(1).continue_token(&token)).await;
    assert!(page.is_ok(), "the newest revision is still readable");
    maps.create(&PostParams::default(), &config_map("c")).await.unwrap();
    c.store.compact(c.store.revision()).unwrap();
    match maps.list(&ListParams::default().limit(1).continue_token(&token)).await {
        Err(kube::Error::Api(e)) => assert_eq!((e.code, e.reason.as_str()), (410, "Expired")),
        other => panic!("{other:?}"),
    }
}

#[tokio::test]
async fn pages_make_one_consistent_list() {
    let c = Cluster::start();
    let maps: Api<ConfigMap> = Api::namespaced(client(&c).await, "default");
    for i in 0..7 {
        maps.create(&PostParams::default(), &config_map(&format!("m{i}"))).await.unwrap();
    }
    let mut names = Vec::new();
    let mut params = ListParams::default().limit(3).labels("!absent");
    loop {
        let page = maps.list(&params).await.unwrap();
        assert!(page.items.len() <= 3);
        names.extend(page.items.iter().map(|m| m.name_any()));
        // Changes after the first page are not part of the list.
        let _ = maps.delete("m6", &DeleteParams::default()).await;
        match page.metadata.continue_.filter(|t| !t.is_empty()) {
            Some(token) => params = params.continue_token(&token),
            None => break,
        }
    }
    assert_eq!(names, ["kube-root-ca.crt", "m0", "m1", "m2", "m3", "m4", "m5", "m6"]);
}

#[tokio::test]
async fn writers_at_once_see_conflicts_and_unique_addresses() {
    let c = Cluster::start();
    let client = client(&c).await;
    let maps: Api<ConfigMap> = Api::namespaced(client.clone(), "default");
    let stale = maps.create(&PostParams::default(), &config_map("a")).await.unwrap();
    let merge = Patch::Merge(json!({"data": {"x": "1"}}));
    maps.patch("a", &PatchParams::default(), &merge).await.unwrap();
    match maps.replace("a", &PostParams::default(), &stale).await {
        Err(kube::Error::Api(e)) => assert_eq!((e.code, e.reason.as_str()), (409, "Conflict")),
        other => panic!("{other:?}"),
    }
    let unchanged = maps.patch("a", &PatchParams::default(), &merge).await.unwrap();
    let again = maps.patch("a", &PatchParams::default(), &merge).await.unwrap();
    assert_eq!(
        unchanged.resource_version(),
        again.resource_version(),
        "a patch without effect writes nothing"
    );

    let services: Api<Service> = Api::namespaced(client, "default");
    let made = futures::future::join_all((0..40).map(|i| {
        let services = services.clone();
        async move {
            let s: Service = serde_json::from_value(json!({
                "metadata": {"name": format!("s{i}")}, "spec": {"type": "NodePort", "ports": [{"port": 80}]},
            }))
            .unwrap();
            services.create(&PostParams::default(), &s).await.unwrap()
        }
    }))
    .await;
    let mut seen = BTreeMap::new();
    for s in made {
        let spec = s.spec.unwrap();
        let port = spec.ports.unwrap()[0].node_port.unwrap();
        assert!((30000..=32767).contains(&port));
        assert!(seen.insert(spec.cluster_ip.unwrap(), port).is_none());
    }
    let ports: std::collections::BTreeSet<_> = seen.values().collect();
    assert_eq!(ports.len(), 40);
}

#[tokio::test]
async fn apply_creates_updates_and_conflicts() {
    let c = Cluster::start();
    let maps: Api<ConfigMap> = Api::namespaced(client(&c).await, "default");
    let config = |v: &str| json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}, "data": {"k": v}});
    let one = PatchParams::apply("one");
    maps.patch("a", &one, &Patch::Apply(config("1"))).await.unwrap();
    let same = maps.patch("a", &one, &Patch::Apply(config("1"))).await.unwrap();
    let again = maps.patch("a", &one, &Patch::Apply(config("1"))).await.unwrap();
    assert_eq!(same.resource_version(), again.resource_version());
    match maps.patch("a", &PatchParams::apply("two"), &Patch::Apply(config("2"))).await {
        Err(kube::Error::Api(e)) => assert!(e.code == 409 && e.message.contains(".data.k"), "{e:?}"),
        other => panic!("{other:?}"),
    }
    let forced =
        maps.patch("a", &PatchParams::apply("two").force(), &Patch::Apply(config("2"))).await.unwrap();
    assert_eq!(forced.data.unwrap()["k"], "2");
    // What an applier no longer names goes.
    let without = json!({"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "a"}});
    let left = maps.patch("a", &PatchParams::apply("two").force(), &Patch::Apply(without)).await.unwrap();
    assert!(left.data.unwrap_or_default().is_empty());
}
