//! The controllers and the scheduler against the lab's API server, driven with stock kubectl. Kubelets are played by the
//! test: they make pods run where they were bound.

mod support;

use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering};
use std::time::{Duration, Instant};

use causeway_lab::controllers::{self, ControllersConfig};
use causeway_lab::fabric::lb::{AddressPool, Frontends, Protocol};
use k8s_openapi::api::core::v1::{Node, Pod};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use k8s_openapi::jiff::Timestamp;
use kube::api::{DeleteParams, ListParams, Patch, PatchParams, PostParams};
use kube::{Api, Client, Config, ResourceExt};
use serde_json::{Value, json};
use support::{Cluster, PATIENCE};
use tokio_util::sync::CancellationToken;

/// A cluster with its controllers and played kubelets.
struct Lab {
    cluster: Cluster,
    client: Client,
    runtime: tokio::runtime::Runtime,
    shutdown: CancellationToken,
    /// While set, kubelets leave terminating pods alone.
    hold: Arc<AtomicBool>,
}

fn pool(first: &str, last: &str) -> AddressPool {
    AddressPool { first: first.parse().unwrap(), last: last.parse().unwrap() }
}

impl Lab {
    fn start(grace: Duration) -> Self {
        let _ = rustls::crypto::ring::default_provider().install_default();
        let cluster = Cluster::start();
        let runtime =
            tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let yaml = std::fs::read_to_string(cluster.kubeconfig()).unwrap();
        let kubeconfig = kube::config::Kubeconfig::from_yaml(&yaml).unwrap();
        let client = runtime.block_on(async {
            let config = Config::from_custom_kubeconfig(kubeconfig, &Default::default()).await.unwrap();
            Client::try_from(config).unwrap()
        });
        let config = ControllersConfig {
            cluster: "test".into(),
            pod_cidr: "10.10.0.0/16".parse().unwrap(),
            node_cidr_mask: 24,
            pod_cidr_v6: None,
            subnets: BTreeMap::from([("subnet-a1".to_string(), pool("172.16.0.10", "172.16.0.19"))]),
            public: Some(pool("203.0.113.10", "203.0.113.19")),
            load_balancers: cluster.dir.path().join("lb"),
            node_grace: grace,
        };
        let shutdown = CancellationToken::new();
        let hold = Arc::new(AtomicBool::new(false));
        let (stop, c) = (shutdown.clone(), client.clone());
        runtime.spawn(async move { controllers::run(c, config, stop).await.unwrap() });
        runtime.spawn(kubelets(client.clone(), hold.clone(), shutdown.clone()));
        Lab { cluster, client, runtime, shutdown, hold }
    }

    fn node(&self, name: &str, zone: &str, ip: &str) {
        let nodes: Api<Node> = Api::all(self.client.clone());
        let node = serde_json::from_value(json!({
            "metadata": {"name": name, "labels": {"topology.kubernetes.io/zone": zone, "kubernetes.io/hostname": name}},
            "status": {"addresses": [{"type": "InternalIP", "address": ip}],
                "conditions": [{"type": "Ready", "status": "True", "reason": "KubeletReady"}]},
        }))
        .unwrap();
        self.runtime.block_on(async {
            nodes.create(&PostParams::default(), &node).await.unwrap();
        });
    }

    fn three_nodes(&self) {
        self.node("n1", "z1", "172.16.0.1");
        self.node("n2", "z1", "172.16.0.2");
        self.node("n3", "z2", "172.16.0.3");
    }

    fn pods(&self, app: &str) -> Vec<Pod> {
        let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
        let label = format!("app={app}");
        self.runtime.block_on(async { pods.list(&ListParams::default().labels(&label)).await.unwrap().items })
    }

    fn slices(&self, service: &str) -> Vec<EndpointSlice> {
        let slices: Api<EndpointSlice> = Api::namespaced(self.client.clone(), "default");
        let label = format!("kubernetes.io/service-name={service}");
        self.runtime
            .block_on(async { slices.list(&ListParams::default().labels(&label)).await.unwrap().items })
    }

    fn set_ready(&self, pod: &str, ready: bool) {
        self.runtime.block_on(async {
            let pods: Api<Pod> = Api::namespaced(self.client.clone(), "default");
            pods.patch_status(pod, &PatchParams::default(), &Patch::Merge(&status(ready, None)))
                .await
                .unwrap();
        });
    }

    /// Waits until something holds of the cluster.
    fn until<T: std::fmt::Debug>(&self, look: impl Fn() -> T, holds: impl Fn(&T) -> bool) -> T {
        let end = Instant::now() + PATIENCE;
        loop {
            let seen = look();
            if holds(&seen) {
                return seen;
            }
            assert!(
                Instant::now() < end,
                "still: {seen:#?}\n{}",
                self.cluster.ok(&["get", "all,events,endpointslices", "-A"])
            );
            std::thread::sleep(Duration::from_millis(50));
        }
    }

    fn events(&self, reason: &str) -> String {
        self.cluster.ok(&[
            "get",
            "events",
            "--field-selector",
            &format!("reason={reason}"),
            "-o",
            "jsonpath={.items[*].message}",
        ])
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        self.shutdown.cancel();
    }
}

fn status(ready: bool, ip: Option<String>) -> Value {
    let now = Timestamp::now().strftime("%Y-%m-%dT%H:%M:%SZ").to_string();
    let state = if ready { "True" } else { "False" };
    let mut conditions = vec![json!({"type": "PodScheduled", "status": "True"})];
    for kind in ["Initialized", "ContainersReady", "Ready"] {
        let state = if kind == "Initialized" { "True" } else { state };
        conditions.push(json!({"type": kind, "status": state, "lastTransitionTime": now}));
    }
    let mut status = json!({"phase": "Running", "conditions": conditions});
    if let Some(ip) = ip {
        status["podIPs"] = json!([{"ip": ip}]);
        status["podIP"] = ip.into();
    }
    json!({"status": status})
}

/// All kubelets at once: pods that are bound run, and are ready unless their image is `broken`; pods that are deleted
/// are gone.
async fn kubelets(client: Client, hold: Arc<AtomicBool>, shutdown: CancellationToken) {
    let pods: Api<Pod> = Api::all(client.clone());
    let serial = AtomicU32::new(u32::from(Ipv4Addr::new(10, 10, 0, 2)));
    while !shutdown.is_cancelled() {
        let Ok(list) = pods.list(&ListParams::default()).await else { continue };
        for pod in list {
            let Some(spec) = pod.spec.as_ref().filter(|s| s.node_name.is_some()) else { continue };
            let api: Api<Pod> = Api::namespaced(client.clone(), &pod.namespace().unwrap());
            let name = pod.name_any();
            if pod.metadata.deletion_timestamp.is_some() {
                if !hold.load(Ordering::SeqCst) {
                    let _ = api.delete(&name, &DeleteParams::default().grace_period(0)).await;
                }
            } else if pod.status.as_ref().is_none_or(|s| s.pod_ip.is_none()) {
                let ip = Ipv4Addr::from(serial.fetch_add(1, Ordering::SeqCst)).to_string();
                let ready = spec.containers[0].image.as_deref() != Some("broken");
                let _ = api
                    .patch_status(&name, &PatchParams::default(), &Patch::Merge(&status(ready, Some(ip))))
                    .await;
            }
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

fn deployment(name: &str, replicas: i32, image: &str, more: &str) -> String {
    format!(
        "apiVersion: apps/v1\nkind: Deployment\nmetadata: {{name: {name}, labels: {{app: {name}}}}}\nspec:\n  replicas: {replicas}\n  \
         selector: {{matchLabels: {{app: {name}}}}}\n{more}  template:\n    metadata: {{labels: {{app: {name}}}}}\n    spec:\n      \
         containers: [{{name: c, image: {image}, ports: [{{name: web, containerPort: 8080}}]}}]\n"
    )
}

fn ready_pods(pods: &[Pod]) -> usize {
    let ready = |p: &&Pod| {
        let conditions = p.status.as_ref().and_then(|s| s.conditions.clone()).unwrap_or_default();
        p.metadata.deletion_timestamp.is_none()
            && conditions.iter().any(|c| c.type_ == "Ready" && c.status == "True")
    };
    pods.iter().filter(ready).count()
}

fn nodes_of(pods: &[Pod]) -> BTreeMap<String, usize> {
    let mut nodes = BTreeMap::new();
    for pod in pods {
        *nodes.entry(pod.spec.as_ref().unwrap().node_name.clone().unwrap_or_default()).or_default() += 1;
    }
    nodes
}

#[test]
fn deployments_roll_out_scale_undo_and_go() {
    let lab = Lab::start(Duration::from_secs(3600));
    lab.three_nodes();
    let c = &lab.cluster;
    c.apply(&deployment("web", 3, "v1", ""));
    c.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let pods = lab.pods("web");
    assert_eq!(pods.len(), 3, "no duplicates");
    assert_eq!(nodes_of(&pods).len(), 3, "spread: {:?}", nodes_of(&pods));
    c.ok(&["wait", "--for=condition=Available", "deployment/web", "--timeout=60s"]);
    c.ok(&["scale", "deployment/web", "--replicas=6"]);
    c.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let pods = lab.until(|| lab.pods("web"), |p| ready_pods(p) == 6);
    assert!(nodes_of(&pods).values().all(|n| *n == 2), "{:?}", nodes_of(&pods));

    c.ok(&["set", "image", "deployment/web", "c=v2"]);
    c.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    let pods = lab.until(|| lab.pods("web"), |p| p.len() == 6);
    assert!(pods.iter().all(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("v2")));
    let revision = || {
        c.ok(&[
            "get",
            "deployment",
            "web",
            "-o",
            "jsonpath={.metadata.annotations.deployment\\.kubernetes\\.io/revision}",
        ])
    };
    assert_eq!(revision(), "2");
    c.ok(&["rollout", "undo", "deployment/web"]);
    c.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(revision(), "3");
    let history = c.ok(&["rollout", "history", "deployment/web"]);
    assert!(history.contains('3') && history.contains('2') && !history.contains("\n1 "), "{history}");
    let described = c.ok(&["describe", "deployment", "web"]);
    assert!(
        described.contains("ScalingReplicaSet") && described.contains("Scaled up replica set web-"),
        "{described}"
    );
    lab.until(|| lab.events("SuccessfulCreate"), |e| e.contains("Created pod: web-"));
    lab.until(|| lab.events("Scheduled"), |e| e.contains("Successfully assigned default/web-"));

    c.ok(&["delete", "deployment", "web"]);
    lab.until(|| lab.pods("web").len(), |n| *n == 0);
    lab.until(|| c.ok(&["get", "replicasets", "-o", "name"]), String::is_empty);
}

#[test]
fn a_broken_version_stalls_within_its_limits() {
    let lab = Lab::start(Duration::from_secs(3600));
    lab.three_nodes();
    let c = &lab.cluster;
    let strategy = "  progressDeadlineSeconds: 3\n  strategy: {type: RollingUpdate, rollingUpdate: {maxSurge: 1, maxUnavailable: 1}}\n";
    c.apply(&deployment("web", 4, "v1", strategy));
    c.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    c.ok(&["set", "image", "deployment/web", "c=broken"]);
    let why = c.fails(&["rollout", "status", "deployment/web", "--timeout=60s"], None);
    assert!(why.contains("exceeded its progress deadline"), "{why}");
    for _ in 0..20 {
        let pods = lab.pods("web");
        let alive = pods.iter().filter(|p| p.metadata.deletion_timestamp.is_none()).count();
        assert!(ready_pods(&pods) >= 3 && alive <= 5, "{} ready of {alive}", ready_pods(&pods));
        std::thread::sleep(Duration::from_millis(20));
    }
    c.ok(&["wait", "--for=condition=Available", "deployment/web", "--timeout=60s"]);
    c.ok(&["rollout", "undo", "deployment/web"]);
    c.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    lab.until(|| lab.pods("web"), |p| p.len() == 4 && ready_pods(p) == 4);
}

#[test]
fn endpoint_slices_follow_pods() {
    let lab = Lab::start(Duration::from_secs(3600));
    lab.three_nodes();
    let c = &lab.cluster;
    c.apply(&deployment("web", 3, "v1", ""));
    c.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports: [{name: http, port: 80, targetPort: web}]\n");
    let conditions = || -> Vec<(bool, bool, bool)> {
        let slices = lab.slices("web");
        let mut all: Vec<_> = slices
            .iter()
            .flat_map(|s| &s.endpoints)
            .map(|e| {
                let c = e.conditions.clone().unwrap();
                (c.ready.unwrap(), c.serving.unwrap(), c.terminating.unwrap())
            })
            .collect();
        all.sort();
        all
    };
    let ready = (true, true, false);
    lab.until(conditions, |c| *c == [ready; 3]);
    let slices = lab.slices("web");
    assert_eq!(slices.len(), 1);
    assert_eq!(slices[0].ports.as_ref().unwrap()[0].port, Some(8080));
    let zones: BTreeSet<_> =
        slices[0].endpoints.iter().map(|e| (e.node_name.clone().unwrap(), e.zone.clone().unwrap())).collect();
    let wanted = [("n1", "z1"), ("n2", "z1"), ("n3", "z2")].map(|(n, z)| (n.to_string(), z.to_string()));
    assert_eq!(zones, BTreeSet::from(wanted));
    let described = c.ok(&["describe", "service", "web"]);
    assert!(described.contains(":8080"), "{described}");

    let pods = lab.pods("web");
    lab.set_ready(&pods[0].name_any(), false);
    lab.until(conditions, |c| *c == [(false, false, false), ready, ready]);
    lab.set_ready(&pods[0].name_any(), true);
    lab.until(conditions, |c| *c == [ready; 3]);
    // A pod that is going still serves and gets nothing new; its successor comes beside it.
    lab.hold.store(true, Ordering::SeqCst);
    c.ok(&["delete", "pod", &pods[0].name_any(), "--wait=false"]);
    lab.until(conditions, |c| *c == [(false, true, true), ready, ready, ready]);
    lab.hold.store(false, Ordering::SeqCst);
    lab.until(conditions, |c| *c == [ready; 3]);
    c.ok(&["scale", "deployment/web", "--replicas=0"]);
    lab.until(conditions, Vec::is_empty);
    c.ok(&["delete", "service", "web"]);
    lab.until(|| lab.slices("web").len(), |n| *n == 0);
}

#[test]
fn load_balancers_get_addresses_and_frontends() {
    let lab = Lab::start(Duration::from_secs(3600));
    lab.node("n1", "z1", "172.16.0.1");
    lab.node("n2", "z1", "172.16.0.2");
    let c = &lab.cluster;
    let service = |name: &str, kind: &str, annotation: &str| {
        format!(
            "apiVersion: v1\nkind: Service\nmetadata:\n  name: {name}\n  annotations: {{{annotation}}}\nspec:\n  type: {kind}\n  selector: {{app: web}}\n  ports: [{{port: 2379}}]\n"
        )
    };
    let subnet = |id: &str| format!("service.kubernetes.io/qcloud-loadbalancer-internal-subnetid: {id}");
    let address =
        |name: &str| c.ok(&["get", "service", name, "-o", "jsonpath={.status.loadBalancer.ingress[0].ip}"]);
    let frontends = || -> Frontends {
        let mut all = Frontends::read_all(&lab.cluster.dir.path().join("lb")).unwrap();
        all.pop().map(|(_, f)| f).unwrap_or_default()
    };
    c.apply(&service("inner", "LoadBalancer", &subnet("subnet-a1")));
    c.apply(&service("outer", "LoadBalancer", ""));
    lab.until(|| address("inner"), |a| a == "172.16.0.10");
    lab.until(|| address("outer"), |a| a == "203.0.113.10");
    let table =
        lab.until(frontends, |f| f.frontends.len() == 2 && f.frontends.iter().all(|f| f.targets.len() == 2));
    let inner = &table.frontends[0];
    let node_port = c.ok(&["get", "service", "inner", "-o", "jsonpath={.spec.ports[0].nodePort}"]);
    assert_eq!(
        (inner.port, inner.protocol, inner.subnet.as_deref()),
        (2379, Protocol::Tcp, Some("subnet-a1"))
    );
    assert_eq!(inner.targets[0].to_string(), format!("172.16.0.1:{node_port}"));
    lab.until(|| lab.events("EnsuredLoadBalancer"), |e| e.contains("Ensured load balancer"));

    c.apply(&service("lost", "LoadBalancer", &subnet("subnet-zz")));
    let told = lab.until(|| lab.events("SyncLoadBalancerFailed"), |e| !e.is_empty());
    assert!(told.contains("subnet-zz") && told.contains("subnet-a1"), "{told}");
    assert_eq!(address("lost"), "");
    c.apply(&service("lost", "LoadBalancer", &subnet("subnet-a1")));
    lab.until(|| address("lost"), |a| a == "172.16.0.11");

    // The address stays while the Service does, and goes with its type.
    c.ok(&["patch", "service", "inner", "--type=merge", "-p", r#"{"spec":{"ports":[{"port":2380}]}}"#]);
    lab.until(frontends, |f| {
        f.frontends.iter().any(|f| f.port == 2380 && f.vip == Ipv4Addr::new(172, 16, 0, 10))
    });
    c.ok(&["patch", "service", "inner", "-p", r#"{"spec":{"type":"ClusterIP"}}"#]);
    lab.until(|| address("inner"), String::is_empty);
    c.ok(&["delete", "service", "outer", "lost"]);
    lab.until(frontends, |f| f.frontends.is_empty());
}

#[test]
fn daemons_run_on_every_node_and_nodes_get_ranges() {
    let lab = Lab::start(Duration::from_secs(3600));
    lab.three_nodes();
    let c = &lab.cluster;
    let ranges = || c.ok(&["get", "nodes", "-o", "jsonpath={.items[*].spec.podCIDR}"]);
    let seen = lab.until(ranges, |r| r.split_whitespace().count() == 3);
    let distinct: BTreeSet<&str> = seen.split_whitespace().collect();
    assert_eq!(distinct, BTreeSet::from(["10.10.0.0/24", "10.10.1.0/24", "10.10.2.0/24"]));

    let daemon = |image: &str| {
        format!(
            "apiVersion: apps/v1\nkind: DaemonSet\nmetadata: {{name: agent}}\nspec:\n  selector: {{matchLabels: {{app: agent}}}}\n  template:\n    metadata: {{labels: {{app: agent}}}}\n    spec: {{containers: [{{name: c, image: {image}}}]}}\n"
        )
    };
    c.ok(&["cordon", "n3"]);
    c.apply(&daemon("v1"));
    c.ok(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
    assert_eq!(nodes_of(&lab.pods("agent")), BTreeMap::from(["n1", "n2", "n3"].map(|n| (n.to_string(), 1))));
    c.apply(&daemon("v2"));
    c.ok(&["rollout", "status", "daemonset/agent", "--timeout=60s"]);
    let pods = lab.until(|| lab.pods("agent"), |p| p.len() == 3);
    assert!(pods.iter().all(|p| p.spec.as_ref().unwrap().containers[0].image.as_deref() == Some("v2")));

    // Others stay away from the cordoned node, and say why when nothing is left.
    c.apply(&deployment("web", 2, "v1", ""));
    c.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    assert_eq!(nodes_of(&lab.pods("web")), BTreeMap::from(["n1", "n2"].map(|n| (n.to_string(), 1))));
    c.ok(&[
        "patch",
        "deployment",
        "web",
        "-p",
        r#"{"spec":{"template":{"spec":{"nodeSelector":{"kubernetes.io/hostname":"n3"}}}}}"#,
    ]);
    let told = lab.until(|| lab.events("FailedScheduling"), |e| !e.is_empty());
    assert!(told.contains("0/3 nodes are available: 2 node(s) didn't match Pod's node affinity/selector, 1 node(s) were unschedulable."), "{told}");
    c.ok(&["uncordon", "n3"]);
    c.ok(&["rollout", "status", "deployment/web", "--timeout=60s"]);
    lab.until(|| nodes_of(&lab.pods("web")), |n| *n == BTreeMap::from([("n3".to_string(), 2)]));

    // A new node gets its daemon and a range nobody has.
    lab.node("n4", "z2", "172.16.0.4");
    lab.until(|| nodes_of(&lab.pods("agent")).len(), |n| *n == 4);
    lab.until(ranges, |r| r.split_whitespace().any(|r| r == "10.10.3.0/24"));
}

#[test]
fn silent_nodes_become_unknown_and_vanished_ones_lose_their_pods() {
    let lab = Lab::start(Duration::from_secs(2));
    lab.node("n1", "z1", "172.16.0.1");
    let c = &lab.cluster;
    c.apply(&deployment("web", 1, "v1", ""));
    c.apply("apiVersion: v1\nkind: Service\nmetadata: {name: web}\nspec:\n  selector: {app: web}\n  ports: [{port: 80}]\n");
    let ready =
        || c.ok(&["get", "node", "n1", "-o", "jsonpath={.status.conditions[?(@.type=='Ready')].status}"]);
    // Nobody renews its Lease.
    lab.until(ready, |s| s == "Unknown");
    lab.until(|| ready_pods(&lab.pods("web")), |n| *n == 0);
    let serving = || {
        lab.slices("web")
            .iter()
            .flat_map(|s| &s.endpoints)
            .filter(|e| e.conditions.as_ref().unwrap().ready == Some(true))
            .count()
    };
    lab.until(serving, |n| *n == 0);
    let before: BTreeSet<String> = lab.pods("web").iter().filter_map(|p| p.uid()).collect();
    assert_eq!(before.len(), 1);
    c.ok(&["delete", "node", "n1"]);
    lab.until(|| lab.pods("web"), |p| p.len() == 1 && !before.contains(&p[0].uid().unwrap()));
}
