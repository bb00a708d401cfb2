//! Services for pods whose sockets are not translated: packet by packet. The processes of these tests
//! are not in the node's cgroup, as those of another runtime would not be.

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use causeway_model::Protocol;
use causeway_model::lb::{Balancing, Frontend, FrontendKind};
use common::vpc::{Pair, address, apply, ask, frontends, node_port, server};

const BOTH: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];

fn vip(v6: bool) -> IpAddr {
    if v6 { "fd96::10" } else { "10.96.0.10" }.parse().unwrap()
}

fn cluster_ip(v6: bool, backends: &[SocketAddr]) -> Vec<Frontend> {
    frontends(FrontendKind::ClusterIP, vip(v6), 80, backends)
}

#[test]
fn netns_pods_reach_services_without_their_sockets() {
    let mut net = Pair::new("pp");
    let pod = net.a.pod(9, 65_700);
    net.b.learn(&[(&net.local, net.a.ip), (&pod, net.a.ip)], &[&net.a]);
    for v6 in [false, true] {
        let host = SocketAddr::new(address(&net.a, v6), 9090);
        server(&net.a.ns, &[host.ip()], 9090, "host");
        let mut backends = net.backends(v6);
        backends.push(host);
        apply(&mut net.a, cluster_ip(v6, &backends));
        let to = SocketAddr::new(vip(v6), 80);
        for protocol in BOTH {
            let answers = ask(&pod.ns, protocol, to, 90);
            // All see the pod itself.
            let expected = ["host", "local", "remote"].map(|name| format!("{name} {}", pod.address(v6)));
            assert_eq!(answers.keys().cloned().collect::<Vec<_>>(), expected, "{protocol} {answers:?}");
        }
        apply(&mut net.a, cluster_ip(v6, &[]));
        for protocol in BOTH {
            let answers = ask(&pod.ns, protocol, to, 2);
            assert_eq!(answers, BTreeMap::from([("ConnectionRefused".into(), 2)]), "{protocol} {to}");
        }
    }
}

#[test]
fn netns_a_pod_reaches_itself_by_its_service() {
    let mut net = Pair::new("hairpin");
    for v6 in [false, true] {
        let own = [(net.local.address(v6), 8080).into()];
        apply(&mut net.a, cluster_ip(v6, &own));
        let source = if v6 { "fdff:a9fe:2a01::1" } else { "169.254.42.1" };
        for protocol in BOTH {
            let answers = ask(&net.local.ns, protocol, (vip(v6), 80).into(), 5);
            assert_eq!(answers, BTreeMap::from([(format!("local {source}"), 5)]), "{protocol}");
        }
    }
}

#[test]
fn netns_errors_find_the_pod() {
    let mut net = Pair::new("pperr");
    let pod = net.a.pod(9, 65_700);
    net.b.learn(&[(&net.local, net.a.ip), (&pod, net.a.ip)], &[&net.a]);
    for v6 in [false, true] {
        for backend in [&net.local, &net.remote] {
            apply(&mut net.a, cluster_ip(v6, &[(backend.address(v6), 9).into()]));
            for protocol in BOTH {
                let answers = ask(&pod.ns, protocol, (vip(v6), 80).into(), 3);
                assert_eq!(answers.keys().collect::<Vec<_>>(), ["ConnectionRefused"], "{protocol}");
            }
        }
    }
}

#[test]
fn netns_node_ports_inside_answer_at_nodes_of_this_cluster_only() {
    let mut net = Pair::new("ppnp");
    let pod = net.a.pod(9, 65_700);
    // Somebody who is no node of this cluster serves a port of the same number himself.
    let stranger = net.vpc.client(101);
    server(&stranger.ns, &[stranger.ip.into(), stranger.ip6.into()], 30080, "stranger");
    for v6 in [false, true] {
        let back = pod.address(v6);
        let via: IpAddr = address(&net.a, v6);
        stranger.ns.run(move || common::ip(&format!("route add {back} via {via}")));
        let local = [net.backends(v6)[0]];
        apply(&mut net.a, node_port(v6, &local));
        for node in [&net.a, &net.b] {
            let answers = ask(&pod.ns, Protocol::TCP, (address(node, v6), 30080).into(), 3);
            assert_eq!(answers, BTreeMap::from([(format!("local {back}"), 3)]));
        }
        let answers = ask(&pod.ns, Protocol::TCP, (stranger.address(v6), 30080).into(), 3);
        assert_eq!(answers, BTreeMap::from([(format!("stranger {back}"), 3)]));
    }
}

#[test]
fn netns_a_pod_with_affinity_keeps_its_backend() {
    let mut net = Pair::new("ppaff");
    let pod = net.a.pod(9, 65_700);
    net.b.learn(&[(&net.local, net.a.ip), (&pod, net.a.ip)], &[&net.a]);
    let balancing = Arc::new(Balancing { affinity_seconds: 10_800, ..Balancing::default() });
    let kept = |backends: &[SocketAddr]| {
        let kept = cluster_ip(false, backends).into_iter();
        kept.map(|frontend| Frontend { balancing: balancing.clone(), ..frontend }).collect::<Vec<_>>()
    };
    let backends = net.backends(false);
    apply(&mut net.a, kept(&backends));
    let to = SocketAddr::new(vip(false), 80);
    let first = ask(&pod.ns, Protocol::TCP, to, 30);
    assert_eq!(first.len(), 1, "{first:?}");
    // The one it has is gone: then another one, and that for good.
    let gone = first.keys().next().unwrap().starts_with("local");
    apply(&mut net.a, kept(&[backends[usize::from(gone)]]));
    let second = ask(&pod.ns, Protocol::TCP, to, 5);
    apply(&mut net.a, kept(&backends));
    let third = ask(&pod.ns, Protocol::TCP, to, 30);
    assert_eq!((second.len(), second.keys().next()), (1, third.keys().next()), "{second:?} {third:?}");
    assert_ne!(first.keys().next(), second.keys().next());
}
