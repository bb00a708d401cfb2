//! Clients outside the cluster: NodePorts, external addresses and host ports, with backends on the
//! node they reach and on another one, in both families.

mod common;

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;

use causeway_model::lb::{Balancing, Frontend, FrontendKind};
use causeway_model::{Event, Protocol};
use common::vpc::{Pair, address, apply, ask, both_answer, counted, frontends, node_port, server};

const BOTH: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];

#[test]
fn netns_a_client_outside_reaches_backends_on_every_node() {
    let mut net = Pair::new("np");
    for v6 in [false, true] {
        let backends = net.backends(v6);
        apply(&mut net.a, node_port(v6, &backends));
        let to = SocketAddr::new(address(&net.a, v6), 30080);
        let internal = net.a.config.networks[usize::from(v6)].internal_ip;
        BOTH.into_iter().for_each(|protocol| both_answer(&net, v6, protocol, to, 60, internal));
    }
}

#[test]
fn netns_external_addresses_are_served_and_cluster_addresses_are_not() {
    let mut net = Pair::new("ext");
    for v6 in [false, true] {
        let text = |n: u8| if v6 { format!("fd99::{n}") } else { format!("192.0.2.{n}") };
        let ip = |n: u8| text(n).parse::<IpAddr>().unwrap();
        let backends = net.backends(v6);
        for n in 1..=4 {
            net.client.route(ip(n), &net.a);
        }
        apply(&mut net.a, frontends(FrontendKind::LoadBalancer, ip(1), 80, &backends));
        apply(&mut net.a, frontends(FrontendKind::ExternalIP, ip(2), 80, &backends));
        // Nobody but clients inside may use a ClusterIP.
        apply(&mut net.a, frontends(FrontendKind::ClusterIP, ip(3), 80, &backends));
        for (n, protocol) in [(1, BOTH[0]), (1, BOTH[1]), (2, BOTH[0]), (2, BOTH[1])] {
            let answers = ask(&net.client.ns, protocol, (ip(n), 80).into(), 20);
            assert!(answers.keys().all(|a| a.starts_with("local") || a.starts_with("remote")), "{answers:?}");
        }
        // The node has no route for it and says so, or the port is closed.
        let closed = ask(&net.client.ns, Protocol::TCP, (ip(3), 80).into(), 1);
        assert!(!closed.keys().any(|a| a.starts_with("local") || a.starts_with("remote")), "{closed:?}");
    }
}

#[test]
fn netns_source_ranges_decide_who_may_come() {
    let mut net = Pair::new("ranges");
    let stranger = net.vpc.client(101);
    for v6 in [false, true] {
        let ip: IpAddr = if v6 { "fd99::1" } else { "192.0.2.1" }.parse().unwrap();
        let range = if v6 { "fd31::64/128" } else { "172.31.0.100/32" };
        net.client.route(ip, &net.a);
        stranger.route(ip, &net.a);
        for deny in [false, true] {
            let balancing = Arc::new(Balancing {
                source_ranges: vec![range.parse().unwrap()],
                deny_source_ranges: deny,
                ..Balancing::default()
            });
            let limited = frontends(FrontendKind::LoadBalancer, ip, 80, &net.backends(v6))
                .into_iter()
                .map(|frontend| Frontend { balancing: balancing.clone(), ..frontend });
            apply(&mut net.a, limited.collect());
            let (welcome, refused) =
                if deny { (&stranger.ns, &net.client.ns) } else { (&net.client.ns, &stranger.ns) };
            let answers = ask(welcome, Protocol::UDP, (ip, 80).into(), 3);
            assert_eq!(answers.values().sum::<usize>(), 3);
            assert!(answers.keys().all(|a| a.starts_with("local") || a.starts_with("remote")), "{answers:?}");
            let before = net.a.datapath(|d| counted(d, "denied by lb source ranges"));
            refused.run(move || {
                let any = if v6 { "[::]:0" } else { "0.0.0.0:0" };
                let socket = std::net::UdpSocket::bind(any).unwrap();
                socket.send_to(b"?", (ip, 80)).unwrap();
            });
            common::vpc::eventually("the packet is dropped and counted", || {
                net.a.datapath(|d| counted(d, "denied by lb source ranges")) > before
            });
        }
    }
}

#[test]
fn netns_nobody_there_is_refused_at_once() {
    let mut net = Pair::new("empty");
    for v6 in [false, true] {
        apply(&mut net.a, node_port(v6, &[]));
        let to = SocketAddr::new(address(&net.a, v6), 30080);
        for protocol in BOTH {
            let before = std::time::Instant::now();
            let answers = ask(&net.client.ns, protocol, to, 3);
            assert_eq!(answers, BTreeMap::from([("ConnectionRefused".into(), 3)]), "{protocol} {to}");
            assert!(before.elapsed() < std::time::Duration::from_secs(20), "at once");
        }
    }
    assert!(net.a.datapath(|d| counted(d, "service backend not found")) >= 12);
}

#[test]
fn netns_a_node_may_say_nothing_for_services_without_backends() {
    let mut net = Pair::with("silent", |node| node.config.balance.drop_no_backend = true);
    apply(&mut net.a, node_port(false, &[]));
    let to = SocketAddr::new(address(&net.a, false), 30080);
    net.client.ns.run(move || {
        let socket = std::net::UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.connect(to).unwrap();
        socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
        socket.send(b"?").unwrap();
        let error = socket.recv(&mut [0; 8]).unwrap_err();
        assert_eq!(error.kind(), std::io::ErrorKind::WouldBlock);
    });
    assert_eq!(net.a.datapath(|d| counted(d, "service backend not found")), 1);
}

#[test]
fn netns_backends_in_the_nodes_own_network() {
    let mut net = Pair::new("hostnet");
    for v6 in [false, true] {
        let (own, other) = (address(&net.a, v6), address(&net.b, v6));
        server(&net.a.ns, &[own], 9090, "this-node");
        server(&net.b.ns, &[other], 9090, "other-node");
        apply(&mut net.a, node_port(v6, &[(own, 9090).into(), (other, 9090).into()]));
        for protocol in BOTH {
            let answers = ask(&net.client.ns, protocol, (own, 30080).into(), 40);
            // By the device the node's own address is the source.
            let expected = [format!("other-node {own}"), format!("this-node {}", net.client.address(v6))];
            assert_eq!(answers.keys().cloned().collect::<Vec<_>>(), expected, "{protocol} {answers:?}");
        }
    }
}

#[test]
fn netns_host_ports_answer_at_one_node() {
    let mut net = Pair::new("hostport");
    let any: IpAddr = "0.0.0.0".parse().unwrap();
    let backends = [net.backends(false)[0]];
    apply(&mut net.a, frontends(FrontendKind::HostPort, any, 8088, &backends));
    let to = |node| SocketAddr::new(address(node, false), 8088);
    let answers = ask(&net.client.ns, Protocol::TCP, to(&net.a), 5);
    assert_eq!(answers, BTreeMap::from([(format!("local {}", net.client.ip), 5)]));
    let other = ask(&net.client.ns, Protocol::TCP, to(&net.b), 1);
    assert_eq!(other, BTreeMap::from([("ConnectionRefused".into(), 1)]));
}

#[test]
fn netns_forwarding_goes_on_without_the_agent_and_after_its_restart() {
    let mut net = Pair::new("restart");
    let backends = net.backends(false);
    apply(&mut net.a, node_port(false, &backends));
    let to = SocketAddr::new(address(&net.a, false), 30080);
    // One connection lives through all of it.
    let mut stream = net.client.ns.run(move || {
        let mut stream = std::net::TcpStream::connect(to).unwrap();
        stream.set_read_timeout(Some(common::vpc::DEADLINE)).unwrap();
        common::vpc::line(&mut stream);
        stream
    });
    let mut echo = |text: &str| {
        use std::io::{Read, Write};
        stream.write_all(text.as_bytes()).unwrap();
        let mut back = vec![0; text.len()];
        stream.read_exact(&mut back).unwrap();
        assert_eq!(back, text.as_bytes());
    };
    echo("with the agent");
    net.a.close();
    echo("without it");
    assert_eq!(ask(&net.client.ns, Protocol::TCP, to, 20).values().sum::<usize>(), 20);
    net.a.open();
    echo("with another one");
    net.a.datapath(|d| d.apply_frontend(Event::Reset).unwrap());
    assert_eq!(ask(&net.client.ns, Protocol::UDP, to, 20).values().sum::<usize>(), 20);
    echo("still");
}
