//! Maglev over two nodes: whichever a client's packets come to, they get to the same backend.

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::sync::Arc;
use std::time::Duration;

use causeway_datapath::conntrack::Conntrack;
use causeway_model::Protocol;
use causeway_model::lb::{Algorithm, Backend, Balancing, Frontend, FrontendKind, L4Addr};
use common::vpc::{Pair, apply, eventually, frontends, serve_pod};
use common::{Node, ip};

/// Flows of one client, by their source ports.
const FLOWS: std::ops::Range<u16> = 20_000..20_200;

/// A Service of these backends and weights, the same on both nodes.
fn serve(net: &mut Pair, vip: IpAddr, backends: &[(IpAddr, u16)]) {
    let balancing = Arc::new(Balancing { algorithm: Some(Algorithm::Maglev), ..Balancing::default() });
    let backend = |protocol: Protocol, (ip, weight): (IpAddr, u16)| Backend {
        weight,
        ..Backend::new(L4Addr { ip, port: 8080, protocol }, None)
    };
    let all: Vec<Frontend> = frontends(FrontendKind::LoadBalancer, vip, 80, &[])
        .into_iter()
        .map(|frontend| {
            let mut backends: Vec<_> =
                backends.iter().map(|one| backend(frontend.address.protocol, *one)).collect();
            backends.sort();
            Frontend { balancing: balancing.clone(), backends: backends.into(), ..frontend }
        })
        .collect();
    apply(&mut net.a, all.clone());
    apply(&mut net.b, all);
}

/// Who answers each flow, by one node or the other; no flow is known before.
fn answers(net: &Pair, vip: IpAddr, node: &Node) -> BTreeMap<u16, String> {
    for node in [&net.a, &net.b] {
        let bpffs = node.config.bpffs.clone();
        node.ns.run(move || Conntrack::open(&bpffs).unwrap().flush().unwrap());
    }
    let via: IpAddr = if vip.is_ipv6() { node.ip6.into() } else { node.ip.into() };
    let own = net.client.address(vip.is_ipv6());
    net.client.ns.run(move || {
        ip(&format!("route replace {vip} via {via}"));
        let ask = |port: u16| {
            let socket = UdpSocket::bind((own, port)).unwrap();
            socket.connect(SocketAddr::new(vip, 80)).unwrap();
            socket.set_read_timeout(Some(Duration::from_secs(1))).unwrap();
            let (mut answer, mut n) = ([0; 64], 0);
            eventually("an answer", || {
                socket.send(b"?").unwrap();
                n = socket.recv(&mut answer).unwrap_or(0);
                n > 0
            });
            String::from_utf8_lossy(&answer[..n]).split(' ').next().unwrap().to_owned()
        };
        FLOWS.map(|port| (port, ask(port))).collect()
    })
}

#[test]
fn netns_two_nodes_choose_the_same_backend() {
    let mut net = Pair::new("maglev");
    let third = net.b.pod(6, 131_101);
    net.a.learn(&[(&net.remote, net.b.ip), (&third, net.b.ip)], &[&net.b]);
    serve_pod(&third, "third");
    for v6 in [false, true] {
        let vip: IpAddr = if v6 { "fd99::1" } else { "192.0.2.1" }.parse().unwrap();
        let [local, remote, third] = [&net.local, &net.remote, &third].map(|pod| pod.address(v6));
        serve(&mut net, vip, &[(local, 1), (remote, 2), (third, 1)]);
        let first = answers(&net, vip, &net.a);
        assert_eq!(first, answers(&net, vip, &net.b));
        let share = |flows: &BTreeMap<u16, String>, name: &str| flows.values().filter(|f| *f == name).count();
        // A table's shares are exact; of 200 flows a quarter, give or take four standard deviations.
        for (name, expected) in [("local", 50), ("remote", 100), ("third", 50)] {
            let found = share(&first, name);
            assert!(found.abs_diff(expected) <= 28, "{name}: {found} of 200");
        }
        // One is gone: its flows go elsewhere, the same way on both, and hardly any other moves.
        serve(&mut net, vip, &[(local, 1), (remote, 2)]);
        let second = answers(&net, vip, &net.b);
        assert_eq!(second, answers(&net, vip, &net.a));
        assert_eq!(share(&second, "third"), 0);
        let moved = first.iter().filter(|(port, name)| *name != "third" && second[port] != **name).count();
        assert!(moved <= 10, "{moved} flows of backends that stay have moved");
        assert!(share(&second, "local").abs_diff(67) <= 28, "{second:?}");
    }
}
