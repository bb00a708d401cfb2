use std::collections::BTreeMap;
use std::sync::Arc;

use k8s_openapi::api::core::v1::{Node, Pod, Service};
use k8s_openapi::api::discovery::v1::EndpointSlice;
use kube::ResourceExt;
use serde_json::{Value, json};

use super::endpoints::desired;
use super::pack::{Changes, pack};
use crate::controllers::pods::make;

fn service(rest: Value) -> Service {
    let mut v = json!({"metadata": {"name": "web", "namespace": "ns", "uid": "s", "labels": {"team": "a"}},
        "spec": {"clusterIP": "10.0.0.1", "selector": {"app": "web"},
            "ports": [{"name": "http", "port": 80, "targetPort": "web"}]}});
    for (k, x) in rest.as_object().unwrap() {
        v["spec"][k] = x.clone();
    }
    serde_json::from_value(v).unwrap()
}

fn pod(i: usize, port: i32, ready: bool) -> Pod {
    let mut p = make::pod(&format!("p{i:03}"), "n1", ready.then_some(1));
    p.status.as_mut().unwrap().pod_ip = Some(format!("10.1.{}.{}", i / 250, i % 250 + 1));
    let ports = json!([{"name": "web", "containerPort": port, "protocol": "TCP"}]);
    p.spec.as_mut().unwrap().containers[0].ports = serde_json::from_value(ports).unwrap();
    p
}

fn node(_: &str) -> Option<Arc<Node>> {
    let v = json!({"metadata": {"name": "n1", "labels": {"topology.kubernetes.io/zone": "z1"}}});
    Some(Arc::new(serde_json::from_value(v).unwrap()))
}

/// Slices of a server, which changes are applied to.
#[derive(Default)]
struct Server {
    slices: BTreeMap<String, Arc<EndpointSlice>>,
    serial: usize,
}

impl Server {
    fn sync(&mut self, service: &Service, pods: &[Pod]) -> Changes {
        let pods: Vec<Arc<Pod>> = pods.iter().cloned().map(Arc::new).collect();
        let existing: Vec<_> = self.slices.values().cloned().collect();
        let changes = pack(service, desired(service, &pods, node), &existing);
        for s in &changes.create {
            self.serial += 1;
            let mut s = s.clone();
            s.metadata.name = Some(format!("web-{}", self.serial));
            self.slices.insert(s.name_any(), Arc::new(s));
        }
        for s in &changes.update {
            self.slices.insert(s.name_any(), Arc::new(s.clone()));
        }
        for s in &changes.delete {
            self.slices.remove(&s.name_any());
        }
        changes
    }

    fn sizes(&self) -> Vec<usize> {
        self.slices.values().map(|s| s.endpoints.len()).collect()
    }
}

fn counts(c: &Changes) -> (usize, usize, usize) {
    (c.create.len(), c.update.len(), c.delete.len())
}

#[test]
fn states_of_pods_become_conditions() {
    let mut going = pod(2, 8080, true);
    going.metadata.deletion_timestamp = going.metadata.creation_timestamp.clone();
    let mut done = pod(3, 8080, true);
    done.status.as_mut().unwrap().phase = Some("Succeeded".into());
    let mut unaddressed = pod(4, 8080, true);
    unaddressed.status.as_mut().unwrap().pod_ip = None;
    let mut named = pod(5, 8080, true);
    named.spec.as_mut().unwrap().hostname = Some("web-0".into());
    named.spec.as_mut().unwrap().subdomain = Some("web".into());
    let pods = [pod(0, 8080, true), pod(1, 8080, false), going, done, unaddressed, named];
    let mut server = Server::default();
    server.sync(&service(json!({})), &pods);
    let slice = server.slices.values().next().unwrap().clone();
    let seen: Vec<_> = slice
        .endpoints
        .iter()
        .map(|e| {
            let c = e.conditions.clone().unwrap();
            (
                e.target_ref.clone().unwrap().name.unwrap(),
                c.ready.unwrap(),
                c.serving.unwrap(),
                c.terminating.unwrap(),
            )
        })
        .collect();
    let row = |n: &str, a, b, c| (n.to_string(), a, b, c);
    assert_eq!(
        seen,
        [
            row("p000", true, true, false),
            row("p001", false, false, false),
            row("p002", false, true, true),
            row("p005", true, true, false)
        ]
    );
    let e = &slice.endpoints[3];
    assert_eq!(
        (e.hostname.as_deref(), e.zone.as_deref(), e.node_name.as_deref()),
        (Some("web-0"), Some("z1"), Some("n1"))
    );
    let port = &slice.ports.as_ref().unwrap()[0];
    assert_eq!(
        (port.name.as_deref(), port.port, port.protocol.as_deref()),
        (Some("http"), Some(8080), Some("TCP"))
    );
    assert_eq!(slice.labels()["team"], "a");
    assert_eq!(slice.labels()["kubernetes.io/service-name"], "web");
    assert_eq!(slice.labels()["endpointslice.kubernetes.io/managed-by"], "endpointslice-controller.k8s.io");
    assert!(!slice.labels().contains_key("service.kubernetes.io/headless"));
    assert_eq!(slice.owner_references()[0].uid, "s");

    let all = service(json!({"publishNotReadyAddresses": true, "clusterIP": "None"}));
    server.sync(&all, &pods);
    let slice = server.slices.values().next().unwrap();
    assert!(slice.endpoints.iter().all(|e| e.conditions.as_ref().unwrap().ready == Some(true)));
    assert_eq!(slice.labels()["service.kubernetes.io/headless"], "");
}

#[test]
fn one_change_touches_one_slice() {
    let svc = service(json!({}));
    let mut pods: Vec<Pod> = (0..250).map(|i| pod(i, 8080, true)).collect();
    let mut server = Server::default();
    assert_eq!(counts(&server.sync(&svc, &pods)), (3, 0, 0));
    assert_eq!(server.sizes(), [100, 100, 50]);
    assert_eq!(counts(&server.sync(&svc, &pods)), (0, 0, 0));
    pods[120] = pod(120, 8080, false);
    assert_eq!(counts(&server.sync(&svc, &pods)), (0, 1, 0));
    pods.remove(10);
    assert_eq!(counts(&server.sync(&svc, &pods)), (0, 1, 0));
    assert_eq!(server.sizes(), [99, 100, 50]);
    // One comes and one goes: the one slice that changes anyway takes the new one.
    pods.remove(130);
    pods.push(pod(300, 8080, true));
    assert_eq!(counts(&server.sync(&svc, &pods)), (0, 1, 0));
    // Nothing changes but an addition: the fullest slice with room.
    pods.push(pod(301, 8080, true));
    assert_eq!(counts(&server.sync(&svc, &pods)), (0, 1, 0));
    assert_eq!(server.sizes().iter().sum::<usize>(), 250);
}

#[test]
fn ports_by_name_may_differ_and_empty_services_keep_a_slice() {
    let svc = service(json!({}));
    let mut server = Server::default();
    assert_eq!(counts(&server.sync(&svc, &[])), (1, 0, 0));
    assert_eq!(server.sizes(), [0]);
    assert_eq!(counts(&server.sync(&svc, &[])), (0, 0, 0));
    assert_eq!(counts(&server.sync(&svc, &[pod(0, 8080, true), pod(1, 9090, true)])), (2, 0, 1));
    let ports: Vec<i32> =
        server.slices.values().map(|s| s.ports.as_ref().unwrap()[0].port.unwrap()).collect();
    assert_eq!(ports, [8080, 9090]);
    assert_eq!(counts(&server.sync(&svc, &[pod(1, 9090, true)])), (0, 0, 1));
    assert_eq!(counts(&server.sync(&svc, &[])), (1, 0, 1));
    assert_eq!(server.sizes(), [0]);
}
