//! Two dual-stack clusters without tunnels: the VPC knows the way to every pod.

use serde_json::Value;

use crate::clusters::{Clusters, ONE, TWO, until};

#[test]
fn netns_clusters_under_native_routing() {
    let mesh = Clusters::meshed_with("t-native", &["--routing-mode", "native", "--ip-families", "ipv4,ipv6"]);
    let (node1, node2, far) = (&*format!("{ONE}-1"), &*format!("{ONE}-2"), &*format!("{TWO}-1"));
    let pods = [(ONE, "a", node1), (ONE, "b", node1), (ONE, "c", node2), (TWO, "d", far)];
    let pods = pods.map(|(cluster, name, node)| {
        mesh.echo_pod(cluster, name, node);
        let ips = ["get", "pod", name, "-o", "jsonpath={.status.podIPs[*].ip}"];
        let ips = mesh.kubectl(cluster, &ips);
        (cluster, name, ips.split(' ').map(str::to_owned).collect::<Vec<_>>())
    });
    let [a, others @ ..] = &pods;
    for other in others {
        assert_eq!(other.2.len(), 2, "{:?}", other.2);
        for (from, to) in [(a, other), (other, a)] {
            for ip in &to.2 {
                let echo = if ip.contains(':') { format!("[{ip}]:7000") } else { format!("{ip}:7000") };
                mesh.workload(from.0, from.1, &["tcp-stream", &echo, "--bytes", "1048576"]);
                for bytes in ["64", "1472", "60000"] {
                    let text =
                        mesh.workload(from.0, from.1, &["udp-request", &echo, "--size", bytes, "-o", "json"]);
                    assert!(text.contains("\"answered\":1"), "{text}");
                }
            }
        }
    }
    let mtu = mesh.lab.exec(ONE, "default", "a", &["cat", "/sys/class/net/eth0/mtu"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&mtu.stdout).trim(), "1500", "there is nothing to add");
    assert!(
        !mesh.lab.node_exec(ONE, node1, &["ip", "link", "show", "cilium_vxlan"]).unwrap().status.success()
    );
    uncovered(&mesh, a, &pods[3]);
    // Nodes ask each other by the pod network as well.
    until("all nodes to answer", || {
        let report = mesh.on_node(ONE, node1, &["causeway", "health", "status", "-o", "json"]);
        let report: Value = serde_json::from_str(&report).unwrap_or_default();
        let nodes = report["nodes"].as_array().cloned().unwrap_or_default();
        let all = |way: &str| nodes.iter().all(|node| node[way]["answered"] == true);
        nodes.len() == 3 && all("tunnel-icmp") && all("tunnel-http")
    });
    let url = mesh.web();
    mesh.answered_by(&url, &[ONE, TWO]);
    // A cluster with tunnels cannot become a peer of one without.
    mesh.install(TWO, &["--routing-mode", "tunnel", "--enable-ipv6"]);
    let connect = ["clustermesh", "connect", "--context", ONE, "--destination-context", TWO];
    let refused = mesh.try_causeway(&connect);
    let said = String::from_utf8_lossy(&refused.stderr);
    assert!(!refused.status.success() && said.contains("routing mode differs"), "{said}");
}

/// On the underlay are the pods' own packets.
fn uncovered(mesh: &Clusters, a: &(&str, &str, Vec<String>), d: &(&str, &str, Vec<String>)) {
    let node = format!("{ONE}-1");
    let tcpdump = "exec timeout 60 tcpdump -i eth0 -nn -l -c 4 icmp and host $0 2>/dev/null";
    let capture = std::thread::scope(|scope| {
        let capture = scope.spawn(|| mesh.on_node(ONE, &node, &["sh", "-c", tcpdump, &d.2[0]]));
        while !capture.is_finished() {
            mesh.workload(a.0, a.1, &["ping", &d.2[0], "--count", "2"]);
        }
        capture.join().unwrap()
    });
    for (from, to) in [(a, d), (d, a)] {
        let packet = format!("IP {} > {}: ICMP echo", from.2[0], to.2[0]);
        assert!(capture.contains(&packet), "{packet} is not in\n{capture}");
    }
}
