//! Native routing: pods of different nodes reach each other without encapsulation, by routes of the nodes,
//! under their own addresses; and what else a tunnel does otherwise.

mod common;

use std::net::{IpAddr, SocketAddr};
use std::process::Command;

use causeway_datapath::conntrack::{Conntrack, Kind};
use causeway_datapath::{NodeRoutes, RemoteNodes, Routing};
use causeway_model::{Event, IpEntry, NumericIdentity, Protocol};
use common::capture::{header, seen};
use common::vpc::{Pair, address, apply, ask, both_answer, counted, node_port, server};
use common::{Node, ip};
use etherparse::{SlicedPacket, TransportSlice};

const BOTH: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];

fn native(node: &mut Node) {
    node.config.routing = Routing::Native(NodeRoutes::Direct);
}

/// The same with masquerading, and a pod that begins flows on the first node.
fn masquerading(test: &str) -> Pair {
    Pair::with(test, |node| {
        native(node);
        node.config.networks.iter_mut().for_each(|network| network.masquerade = true);
    })
}

#[test]
fn netns_pods_of_two_clusters_meet_without_encapsulation() {
    let net = masquerading("native");
    for v6 in [false, true] {
        let (from, to) = (net.local.address(v6), net.remote.address(v6));
        for protocol in BOTH {
            // On the underlay: the packet as the pod has sent it, one hop later.
            let capture = seen(&net.b.ns, move |frame| {
                let packet = SlicedPacket::from_ethernet(frame).ok()?;
                if let Some(TransportSlice::Udp(udp)) = &packet.transport {
                    assert_ne!(udp.destination_port(), 8472, "there is no tunnel");
                }
                let (source, destination, hops) = header(&packet)?;
                (destination == to && hops == 63).then_some(source)
            });
            let answers = ask(&net.local.ns, protocol, (to, 8080).into(), 3);
            let expected = format!("remote {from}");
            assert_eq!(answers.into_iter().collect::<Vec<_>>(), [(expected, 3)], "{protocol}");
            assert_eq!(capture.recv().unwrap(), Some(from), "{protocol}");
        }
        // The other way round, and back from a node's own process.
        let answers = ask(&net.remote.ns, Protocol::UDP, (from, 8080).into(), 1);
        assert_eq!(answers.into_keys().collect::<Vec<_>>(), [format!("local {to}")]);
        let answers = ask(&net.a.ns, Protocol::TCP, (to, 8080).into(), 1);
        assert_eq!(answers.into_keys().collect::<Vec<_>>(), [format!("remote {}", address(&net.a, v6))]);
    }
}

#[test]
fn netns_pods_have_the_whole_mtu_and_what_is_too_big_is_said() {
    let net = Pair::with("nativemtu", native);
    for pod in [&net.local, &net.remote] {
        let mtu = pod.ns.run(|| {
            let output = Command::new("ip").args(["link", "show", "eth0"]).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        });
        assert!(mtu.contains("mtu 1500"), "{mtu}");
    }
    // The network gets smaller.
    for node in [&net.a, &net.b] {
        node.ns.run(|| ip("link set eth0 mtu 1400"));
    }
    for v6 in [false, true] {
        let to = SocketAddr::new(net.remote.address(v6), 8080);
        net.local.ns.run(move || {
            use std::io::{Read, Write};
            let mut stream = std::net::TcpStream::connect_timeout(&to, common::vpc::DEADLINE).unwrap();
            stream.set_read_timeout(Some(common::vpc::DEADLINE)).unwrap();
            common::vpc::line(&mut stream);
            let data = vec![7; 200_000];
            let mut sending = stream.try_clone().unwrap();
            let sent = data.clone();
            let sender = std::thread::spawn(move || sending.write_all(&sent));
            let mut back = vec![0; data.len()];
            stream.read_exact(&mut back).unwrap();
            sender.join().unwrap().unwrap();
            assert!(back == data, "{to}");
        });
    }
}

#[test]
fn netns_the_world_sees_the_node_and_the_mesh_the_pod() {
    let mut net = masquerading("nativemasq");
    for v6 in [false, true] {
        server(&net.client.ns, &[net.client.address(v6)], 9000, "world");
        server(&net.b.ns, &[address(&net.b, v6)], 9000, "node");
        let pod = net.local.address(v6);
        for protocol in BOTH {
            let world = ask(&net.local.ns, protocol, (net.client.address(v6), 9000).into(), 2);
            assert_eq!(world.into_keys().collect::<Vec<_>>(), [format!("world {}", address(&net.a, v6))]);
            let node = ask(&net.local.ns, protocol, (address(&net.b, v6), 9000).into(), 2);
            assert_eq!(node.into_keys().collect::<Vec<_>>(), [format!("node {pod}")], "row to-remote-node");
        }
    }
    // A native routing CIDR is not behind the node either. The world has to know the way back.
    let cidrs = ["172.31.0.96/28", "fd31::60/124"].map(|cidr| cidr.parse().unwrap());
    net.a.close();
    net.a.config.native_cidrs = cidrs.to_vec();
    net.a.open();
    net.a.learn(&[(&net.remote, net.b.ip)], &[&net.b]);
    for v6 in [false, true] {
        let pod = net.local.address(v6);
        net.client.route(pod, &net.a);
        for protocol in BOTH {
            let world = ask(&net.local.ns, protocol, (net.client.address(v6), 9000).into(), 2);
            assert_eq!(world.into_keys().collect::<Vec<_>>(), [format!("world {pod}")], "row native-cidr");
            // And a client that knows the way gets the pod's answer.
            let direct = ask(&net.client.ns, protocol, (pod, 8080).into(), 2);
            let expected = format!("local {}", net.client.address(v6));
            assert_eq!(direct.into_keys().collect::<Vec<_>>(), [expected], "{protocol}");
        }
    }
}

#[test]
fn netns_node_ports_reach_backends_of_other_nodes_by_their_routes() {
    let mut net = masquerading("nativenp");
    for v6 in [false, true] {
        let backends = net.backends(v6);
        apply(&mut net.a, node_port(v6, &backends));
        let to = SocketAddr::new(address(&net.a, v6), 30080);
        let node = address(&net.a, v6);
        BOTH.into_iter().for_each(|protocol| both_answer(&net, v6, protocol, to, 40, node));
    }
}

#[test]
fn netns_who_has_sent_a_packet_is_what_the_ipcache_says() {
    let mut net = masquerading("nativeid");
    for v6 in [false, true] {
        let own = address(&net.a, v6);
        apply(&mut net.a, node_port(v6, &[(net.local.address(v6), 8080).into()]));
        // Not this node, whatever the ipcache says of the client.
        let entry = IpEntry {
            prefix: net.client.address(v6).into(),
            identity: NumericIdentity(1),
            host_ip: None,
            key_index: 0,
            pod: None,
        };
        net.a.datapath(move |d| d.apply_addresses([Event::Upsert(entry)]).unwrap());
        for (ns, who, identity) in [
            (&net.remote.ns, net.remote.address(v6), net.remote.identity),
            (&net.client.ns, net.client.address(v6), 2),
        ] {
            let answers = ask(ns, Protocol::TCP, (own, 30080).into(), 1);
            assert_eq!(answers.into_keys().collect::<Vec<_>>(), [format!("local {who}")]);
            let bpffs = net.a.config.bpffs.clone();
            let flows = net.a.ns.run(move || Conntrack::open(&bpffs).unwrap().list().unwrap());
            let flow = flows.iter().find(|f| f.kind == Kind::In && f.source.ip() == who).expect("its flow");
            assert_eq!(flow.identity, identity, "{flow:?}");
        }
    }
}

/// Destination and gateway of every route of ours (202), and of the one that is not.
fn routes(node: &Node) -> Vec<String> {
    node.ns.run(|| {
        let mut all = vec![];
        for args in [["-4", "route", "show", "proto", "202"], ["-6", "route", "show", "proto", "202"]] {
            let output = Command::new("ip").args(args).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            all.extend(text.lines().map(|l| l.split(" dev").next().unwrap().trim().to_owned()));
        }
        all
    })
}

fn remote(nodes: &[(&str, &str)]) -> RemoteNodes {
    let parse = |(cidr, node): &(&str, &str)| (cidr.parse().unwrap(), node.parse::<IpAddr>().ok());
    RemoteNodes { pod_cidrs: nodes.iter().map(parse).collect(), ..RemoteNodes::default() }
}

#[test]
fn netns_routes_to_other_nodes_come_and_go_and_are_adopted() {
    let mut net = Pair::with("nativeroutes", native);
    let node = &mut net.a;
    let set = |node: &mut Node, nodes: &[(&str, &str)], complete| {
        let nodes = remote(nodes);
        node.datapath(move |d| {
            d.set_remote_nodes(nodes, complete).unwrap();
            d.stats().unreachable_nodes
        })
    };
    let b = [("10.2.0.0/24", "172.31.0.2"), ("fd00:2::/64", "fd31::2")];
    let via = ["10.2.0.0/24 via 172.31.0.2", "fd00:2::/64 via fd31::2"];
    assert_eq!(routes(node), via);
    // Somebody else's route is left, and one that only a router can reach is none of ours.
    node.ns.run(|| {
        ip("route add 10.4.0.0/24 via 172.31.0.100");
        ip("route add 192.168.7.0/24 via 172.31.0.100");
    });
    let more =
        [&b[..], &[("10.4.0.0/24", "172.31.0.4"), ("10.5.0.0/24", "192.168.7.5"), ("10.6.0.0/24", "")]]
            .concat();
    assert_eq!(set(node, &more, true), 2, "one is behind a router, one has no address");
    assert_eq!(routes(node), via);
    // Without the agent everything stays; the next one keeps what it does not know of yet.
    node.close();
    assert_eq!(routes(node), via);
    node.open();
    assert_eq!(set(node, &[("10.3.0.0/24", "172.31.0.3")], false), 0);
    assert_eq!(routes(node), [via[0], "10.3.0.0/24 via 172.31.0.3", via[1]]);
    assert_eq!(set(node, &b, true), 0);
    assert_eq!(routes(node), via);
    // A node has moved. A route that has gone with its link comes back.
    set(node, &[("10.2.0.0/24", "172.31.0.22"), b[1]], true);
    assert_eq!(routes(node), ["10.2.0.0/24 via 172.31.0.22", via[1]]);
    node.ns.run(|| ip("route del 10.2.0.0/24"));
    node.datapath(|d| d.recheck_routes());
    set(node, &b, true);
    assert_eq!(routes(node), via);
    set(node, &[], true);
    assert_eq!(routes(node), [""; 0]);
    let foreign = node.ns.run(|| Command::new("ip").args(["route", "show", "10.4.0.0/24"]).output().unwrap());
    assert!(String::from_utf8_lossy(&foreign.stdout).contains("via 172.31.0.100"), "it is not ours");
    // Who leaves the routes to the network takes its own away.
    set(node, &b, true);
    node.close();
    node.config.routing = Routing::Native(NodeRoutes::Network);
    node.open();
    assert_eq!(routes(node), [""; 0]);
}

#[test]
fn netns_a_node_changes_its_mode_and_keeps_its_pods() {
    let mut net = Pair::new("nativeswitch");
    let backends = net.backends(false);
    apply(&mut net.a, node_port(false, &backends));
    let link = |node: &Node, name: &'static str| {
        node.ns
            .run(move || Command::new("ip").args(["link", "show", name]).output().unwrap().status.success())
    };
    for routing in [Routing::Native(NodeRoutes::Direct), Routing::Tunnel] {
        for node in [&mut net.a, &mut net.b] {
            node.close();
            node.config.routing = routing;
            node.open();
            assert_eq!(link(node, "cilium_vxlan"), !routing.is_native());
            assert_eq!(link(node, "cilium_host"), routing.is_native());
        }
        net.a.learn(&[(&net.remote, net.b.ip)], &[&net.b]);
        net.b.learn(&[(&net.local, net.a.ip)], &[&net.a]);
        assert_eq!(routes(&net.a).len(), if routing.is_native() { 2 } else { 0 });
        for v6 in [false, true] {
            let answers = ask(&net.local.ns, Protocol::UDP, (net.remote.address(v6), 8080).into(), 1);
            assert_eq!(
                answers.into_keys().collect::<Vec<_>>(),
                [format!("remote {}", net.local.address(v6))]
            );
            // The node's own stack reaches the pod it has kept.
            let answers = ask(&net.a.ns, Protocol::TCP, (net.local.address(v6), 8080).into(), 1);
            assert_eq!(answers.into_keys().count(), 1);
        }
        let to = SocketAddr::new(address(&net.a, false), 30080);
        assert_eq!(ask(&net.client.ns, Protocol::TCP, to, 20).len(), 2);
    }
    assert_eq!(net.a.datapath(|d| counted(d, "no tunnel endpoint")), 0);
}
