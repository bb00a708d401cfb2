//! Nodes find out by themselves which others answer.

use std::time::Instant;

use nix::sys::signal::{Signal, kill};
use serde_json::Value;

use crate::clusters::{Clusters, ONE, TWO, until};
use crate::failover::during;

/// What a node knows of another one; nothing while its agent does not answer.
fn known(mesh: &Clusters, node: &str, other: &str) -> Value {
    let output = mesh.lab.node_exec(ONE, node, &["causeway", "health", "status", "-o", "json"]).unwrap();
    let report: Value = serde_json::from_slice(&output.stdout).unwrap_or_default();
    let nodes = report["nodes"].as_array().cloned().unwrap_or_default();
    nodes.into_iter().find(|known| known["name"] == other).unwrap_or_default()
}

#[test]
fn netns_a_remote_node_loses_power_while_its_control_plane_is_gone() {
    let mesh = Clusters::meshed("t-power");
    let nodes = |cluster: &str| [1, 2].map(|n| format!("{cluster}-{n}"));
    let [here, there] = nodes(ONE);
    // The mesh server of the other cluster lives, so that its nodes can be read again.
    let server = ["-n", "kube-system", "get", "pods", "-l", "k8s-app=clustermesh-apiserver", "-o"];
    let server = mesh.kubectl(TWO, &[&server[..], &["jsonpath={.items[0].spec.nodeName}"]].concat());
    let (alive, dead) = (nodes(TWO).into_iter()).partition::<Vec<_>, _>(|node| *node == server);
    let (alive, dead) = (alive[0].clone(), dead[0].clone());
    let is = |node: &str, other: &str, status: &str| known(&mesh, node, other)["status"] == status;
    for (node, others) in [(&here, [&there, &dead, &alive]), (&there, [&here, &dead, &alive])] {
        for other in others {
            until(&format!("{node} to reach {other}"), || is(node, other, "reachable"));
        }
    }
    // All four ways, which are swept once a minute.
    until("all ways to be known", || {
        let node = known(&mesh, &here, &dead);
        ["tunnel-icmp", "tunnel-http", "underlay-icmp", "underlay-http"]
            .iter()
            .all(|way| node[way]["answered"] == true)
    });

    let url = mesh.web();
    mesh.answered_by(&url, &[ONE, TWO]);
    let places = ["-n", "shop", "get", "pods", "-l", "app=web", "-o", "jsonpath={.items[*].spec.nodeName}"];
    let left = mesh.kubectl(TWO, &places).contains(&alive);
    let answering = if left { &[ONE, TWO][..] } else { &[ONE] };

    mesh.causeway(&["lab", "link", "cut", ONE, TWO]);
    let counts = during(&mesh, &url, "a remote node loses power", || {
        mesh.lab.plug(TWO, &dead, false).unwrap();
        let off = Instant::now();
        for node in [&here, &there] {
            until(&format!("{node} to notice"), || is(node, &dead, "unreachable"));
        }
        println!("noticed after {:?}", off.elapsed());
        mesh.answered_by(&url, answering);
    });
    // Three seconds are promised; a machine that is busy with other tests may take longer.
    assert!(counts["failingMs"].as_u64() < Some(6000), "{counts}");
    let shown = mesh.on_node(ONE, &here, &["causeway", "health", "status", "--succinct"]);
    assert!(shown.starts_with("Cluster health: 2/3 reachable\n"), "{shown}");
    assert!(shown.contains(&format!("{TWO}/{dead}: unreachable, for ")), "{shown}");
    assert!(is(&here, &alive, "reachable") && is(&here, &there, "reachable"));
    let metrics = ["curl", "-s", "http://127.0.0.1:9879/metrics"];
    let metrics = mesh.on_node(ONE, &here, &metrics);
    let counted = |kind: &str, status: &str, count: u8| {
        let of = |line: &&str| line.starts_with("cilium_node_health_connectivity_status{");
        let mut of = metrics.lines().filter(of);
        let labels = format!("type=\"{kind}\",status=\"{status}\"}} {count}");
        assert!(of.any(|line| line.contains(&labels)), "{labels} in\n{metrics}");
    };
    counted("endpoint", "unreachable", 1);
    counted("endpoint", "reachable", 2);

    // A new agent knows it too, as soon as it can read which nodes there are.
    let killed = mesh.agent(ONE, &here).unwrap();
    kill(killed, Signal::SIGKILL).unwrap();
    until("another agent", || mesh.agent(ONE, &here).is_some_and(|pid| pid != killed));
    mesh.causeway(&["lab", "link", "restore", ONE, TWO]);
    until("the new agent to know", || is(&here, &dead, "unreachable"));

    mesh.lab.plug(TWO, &dead, true).unwrap();
    for node in [&here, &there] {
        until("its return", || is(node, &dead, "reachable"));
    }
    mesh.answered_by(&url, &[ONE, TWO]);
}
