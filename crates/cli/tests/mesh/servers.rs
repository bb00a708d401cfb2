//! Mesh servers come and go: the cache of the own cluster, the server of the other one, one of its replicas.

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use serde_json::Value;

use crate::clusters::{Clusters, ONE, TWO, until};
use crate::scrape::compare;

/// Kills the processes; nothing else happens, so every request is answered until others run in their place.
fn replaced(mesh: &Clusters, url: &str, cluster: &str, killed: &[Pid]) {
    let running = mesh.apiservers(cluster).len();
    killed.iter().for_each(|pid| kill(*pid, Signal::SIGKILL).unwrap());
    until("another mesh server", || {
        mesh.always_answered_by(url, &[ONE, TWO]);
        let now = mesh.apiservers(cluster);
        now.len() == running && !killed.iter().any(|pid| now.contains(pid))
    });
}

/// What happens in the second cluster arrives in the first.
fn changes_arrive(mesh: &Clusters, url: &str) {
    for (replicas, answering) in [("0", &[ONE][..]), ("2", &[ONE, TWO])] {
        mesh.kubectl(TWO, &["-n", "shop", "scale", "deployment/web", "--replicas", replicas]);
        mesh.answered_by(url, answering);
    }
    mesh.always_answered_by(url, &[ONE, TWO]);
}

/// An agent, a mesh server and its cache expose every name.
fn scrapes(mesh: &Clusters, node: &str) {
    let server = ["-n", "kube-system", "get", "pods", "-l", "k8s-app=clustermesh-apiserver", "-o"];
    let server = mesh.kubectl(ONE, &[&server[..], &["jsonpath={.items[0].status.podIP}"]].concat());
    let scrape = |at: &str| mesh.on_node(ONE, node, &["curl", "-s", &format!("http://{at}/metrics")]);
    compare("agent", &scrape("127.0.0.1:9879"), false);
    let server = scrape(&format!("{server}:9880"));
    compare("apiserver", &server, false);
    compare("kvstoremesh", &server, false);
}

#[test]
fn netns_the_cache_and_what_it_reads_are_killed_and_no_request_is_lost() {
    let mesh = Clusters::up("t-cache");
    mesh.cache(ONE);
    mesh.connect();
    mesh.ready(ONE);
    mesh.ready(TWO);
    let node = format!("{ONE}-1");
    let agent: Value =
        serde_json::from_str(&mesh.on_node(ONE, &node, &["causeway", "status", "-o", "json"])).unwrap();
    assert_eq!(agent["remotes"][0]["config"]["kvstoremesh"], true, "{agent}");
    let url = mesh.web();
    mesh.answered_by(&url, &[ONE, TWO]);
    // The cache is part of the first cluster's mesh server; it reads the second's.
    scrapes(&mesh, &node);
    for cluster in [ONE, TWO] {
        replaced(&mesh, &url, cluster, &mesh.apiservers(cluster));
        // Now it is gone for ten seconds, as the kubelet has it, and what happens then is not missed.
        mesh.apiservers(cluster).iter().for_each(|pid| kill(*pid, Signal::SIGKILL).unwrap());
        changes_arrive(&mesh, &url);
    }
}

#[test]
fn netns_replicas_of_a_mesh_server_take_over_from_each_other() {
    let mesh = Clusters::meshed("t-ha");
    let url = mesh.web();
    mesh.answered_by(&url, &[ONE, TWO]);
    let of = ["-n", "kube-system"];
    mesh.kubectl(TWO, &[&of[..], &["scale", "deployment/clustermesh-apiserver", "--replicas", "2"]].concat());
    until("two replicas", || mesh.apiservers(TWO).len() == 2);
    for round in 0..4 {
        let wait = ["rollout", "status", "deployment/clustermesh-apiserver", "--timeout=60s"];
        mesh.kubectl(TWO, &[&of[..], &wait[..]].concat());
        replaced(&mesh, &url, TWO, &mesh.apiservers(TWO)[round % 2..=round % 2]);
        changes_arrive(&mesh, &url);
    }
}
