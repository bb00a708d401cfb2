//! Pod to pod: on a node, between nodes, between clusters.

use crate::clusters::{Clusters, ONE, TWO};

#[test]
fn netns_pods_reach_each_other_at_all_distances() {
    let mesh = Clusters::meshed("t-pods");
    let (node1, node2, far) = (&*format!("{ONE}-1"), &*format!("{ONE}-2"), &*format!("{TWO}-1"));
    let pods = [(ONE, "a", node1), (ONE, "b", node1), (ONE, "c", node2), (TWO, "d", far)];
    let pods = pods.map(|(cluster, name, node)| (cluster, name, mesh.echo_pod(cluster, name, node)));
    let [a, others @ ..] = &pods;
    for other in others {
        for (from, to) in [(a, other), (other, a)] {
            let send = |args: &[&str]| mesh.workload(from.0, from.1, args);
            let echo = format!("{}:7000", to.2);
            for bytes in ["64", "1500", "65536", "1048576"] {
                send(&["tcp-stream", &echo, "--bytes", bytes]);
            }
            for bytes in ["64", "1400", "60000"] {
                let text = send(&["udp-request", &echo, "--count", "3", "--size", bytes, "-o", "json"]);
                assert!(text.contains("\"answered\":3"), "{text}");
                send(&["ping", &to.2, "--size", bytes]);
            }
        }
    }
    // What the tunnel adds fits into the underlay's MTU.
    let mtu = mesh.lab.exec(ONE, "default", "a", &["cat", "/sys/class/net/eth0/mtu"]).unwrap();
    assert_eq!(String::from_utf8_lossy(&mtu.stdout).trim(), "1450");
    carries_identities(&mesh, a, &pods[3]);
}

/// Looks at the underlay while two pods of different clusters talk: who sends is in every packet.
fn carries_identities(mesh: &Clusters, a: &(&str, &str, String), d: &(&str, &str, String)) {
    let identity = |(cluster, name, _): &(&str, &str, String)| {
        let get = ["get", "ciliumendpoint", name, "-o", "jsonpath={.status.identity.id}"];
        mesh.kubectl(cluster, &get).parse::<u32>().unwrap()
    };
    let node = format!("{ONE}-1");
    let tcpdump =
        "exec timeout 60 tcpdump -i eth0 -nn -l -T vxlan -c 8 udp port 8472 and host $0 2>/dev/null";
    let far = mesh.kubectl(TWO, &["get", "pod", d.1, "-o", "jsonpath={.status.hostIP}"]);
    let capture = std::thread::scope(|scope| {
        let capture = scope.spawn(|| mesh.on_node(ONE, &node, &["sh", "-c", tcpdump, &far]));
        while !capture.is_finished() {
            mesh.workload(a.0, a.1, &["ping", &d.2, "--count", "2"]);
        }
        capture.join().unwrap()
    });
    for (from, to) in [(a, d), (d, a)] {
        let inner = format!("IP {} > {}: ICMP echo", from.2, to.2);
        let mut outer =
            capture.lines().zip(capture.lines().skip(1)).filter(|(_, next)| next.contains(&inner));
        let (outer, _) = outer.next().unwrap_or_else(|| panic!("{inner} is not in\n{capture}"));
        assert!(outer.contains(".8472: VXLAN"), "{outer}");
        assert!(outer.ends_with(&format!("vni {}", identity(from))), "{outer}: identity {}", identity(from));
    }
    assert_eq!([identity(a) >> 16, identity(d) >> 16], [1, 2], "identities name their cluster");
}
