//! Clients outside of a node whose devices have XDP: the same answers as by traffic control, and flows that
//! go on when XDP comes and goes.

mod common;

use std::collections::BTreeMap;
use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream};
use std::os::fd::AsRawFd;

use causeway_datapath::{Accelerated, Acceleration, NodeRoutes, Routing};
use causeway_model::lb::FrontendKind;
use causeway_model::{Event, Protocol};
use common::ip;
use common::vpc::{
    DEADLINE, Pair, address, apply, ask, both_answer, eventually, frontends, line, node_port, server, stream,
    tap, udp_with,
};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

const BOTH: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];
const PORT: u16 = 30080;

fn accelerated(test: &str, how: Acceleration) -> Pair {
    let mut net = Pair::with(test, |node| node.config.balance.acceleration = how);
    net.vpc.with_xdp();
    for node in [&mut net.a, &mut net.b] {
        let devices = node.datapath(|d| d.accelerated().to_vec());
        let mode = if how == Acceleration::Generic { "generic" } else { "native" };
        assert_eq!(devices, [Accelerated { device: "eth0".into(), xdp: Some(mode), error: None }]);
    }
    net
}

/// How many frames of clients to the NodePort the node's stack has seen since the socket was made.
fn seen(tap: &impl AsRawFd, client: IpAddr) -> usize {
    use nix::sys::socket::{MsgFlags, recv};
    let mut frame = [0; 2048];
    let mut count = 0;
    while let Ok(n) = recv(tap.as_raw_fd(), &mut frame, MsgFlags::MSG_DONTWAIT) {
        let Ok(packet) = SlicedPacket::from_ethernet(&frame[..n]) else { continue };
        let from: IpAddr = match &packet.net {
            Some(NetSlice::Ipv4(ip)) => ip.header().source_addr().into(),
            Some(NetSlice::Ipv6(ip)) => ip.header().source_addr().into(),
            _ => continue,
        };
        let to = match &packet.transport {
            Some(TransportSlice::Tcp(tcp)) => tcp.destination_port(),
            Some(TransportSlice::Udp(udp)) => udp.destination_port(),
            _ => continue,
        };
        count += usize::from((from, to) == (client, PORT));
    }
    count
}

/// Asks a few times, so that the neighbours are known that XDP cannot ask for.
fn warm(net: &Pair, to: SocketAddr) {
    ask(&net.client.ns, Protocol::TCP, to, 4);
}

#[test]
fn netns_xdp_serves_clients_outside_with_backends_on_every_node() {
    let mut net = accelerated("xdp", Acceleration::Native);
    for v6 in [false, true] {
        let backends = net.backends(v6);
        apply(&mut net.a, node_port(v6, &backends));
        let to = SocketAddr::new(address(&net.a, v6), PORT);
        let internal = net.a.config.networks[usize::from(v6)].internal_ip;
        BOTH.into_iter().for_each(|protocol| both_answer(&net, v6, protocol, to, 60, internal));
    }
}

#[test]
fn netns_xdp_keeps_what_goes_to_other_nodes_from_the_stack() {
    let mut net = accelerated("xdpwire", Acceleration::Native);
    for v6 in [false, true] {
        let to = SocketAddr::new(address(&net.a, v6), PORT);
        apply(&mut net.a, node_port(v6, &[(net.remote.address(v6), 8080).into()]));
        warm(&net, to);
        for protocol in BOTH {
            let tap = net.a.ns.run(tap);
            let answers = ask(&net.client.ns, protocol, to, 20);
            assert_eq!(answers.values().sum::<usize>(), 20, "{answers:?}");
            assert_eq!(seen(&tap, net.client.address(v6)), 0, "v6 {v6} {protocol}: all of it was XDP's");
        }
        // What is for the node's own pods comes by the stack, translated.
        apply(&mut net.a, node_port(v6, &[(net.local.address(v6), 8080).into()]));
        let tap = net.a.ns.run(tap);
        let answers = ask(&net.client.ns, Protocol::UDP, to, 20);
        assert_eq!(answers.values().sum::<usize>(), 20, "{answers:?}");
        assert_eq!(seen(&tap, net.client.address(v6)), 0, "v6 {v6}: translated before the stack");
    }
}

#[test]
fn netns_xdp_serves_external_addresses_and_backends_in_the_nodes_own_networks() {
    let mut net = accelerated("xdpext", Acceleration::Native);
    for v6 in [false, true] {
        let vip: IpAddr = if v6 { "fd99::1" } else { "192.0.2.1" }.parse().unwrap();
        net.client.route(vip, &net.a);
        let (own, other) = (address(&net.a, v6), address(&net.b, v6));
        server(&net.a.ns, &[own], 9090, "this-node");
        server(&net.b.ns, &[other], 9090, "other-node");
        apply(
            &mut net.a,
            frontends(FrontendKind::LoadBalancer, vip, 80, &[(own, 9090).into(), (other, 9090).into()]),
        );
        for protocol in BOTH {
            let answers = ask(&net.client.ns, protocol, (vip, 80).into(), 40);
            let expected = [format!("other-node {own}"), format!("this-node {}", net.client.address(v6))];
            assert_eq!(answers.keys().cloned().collect::<Vec<_>>(), expected, "{protocol} {answers:?}");
        }
    }
}

#[test]
fn netns_xdp_long_streams_and_fragments_come_through_unchanged() {
    let mut net = accelerated("xdpstream", Acceleration::Native);
    for v6 in [false, true] {
        for (name, pod) in [("local", &net.local), ("remote", &net.remote)] {
            apply(&mut net.a, node_port(v6, &[(pod.address(v6), 8080).into()]));
            let to = SocketAddr::new(address(&net.a, v6), PORT);
            net.client.ns.run(move || stream(to));
            let data: Vec<u8> = (0..4096u32).map(|n| n as u8).collect();
            let sent = data.clone();
            let answer = net.client.ns.run(move || udp_with(to, &sent)).unwrap();
            assert!(answer.starts_with(name.as_bytes()) && answer.ends_with(&data), "{name} {to}");
        }
    }
}

#[test]
fn netns_xdp_leaves_refusals_to_traffic_control() {
    let mut net = accelerated("xdpempty", Acceleration::Native);
    for v6 in [false, true] {
        apply(&mut net.a, node_port(v6, &[]));
        let to = SocketAddr::new(address(&net.a, v6), PORT);
        for protocol in BOTH {
            let answers = ask(&net.client.ns, protocol, to, 3);
            assert_eq!(answers, BTreeMap::from([("ConnectionRefused".into(), 3)]), "{protocol} {to}");
        }
    }
}

#[test]
fn netns_flows_go_on_when_xdp_comes_and_goes_and_the_agent_restarts() {
    let mut net = Pair::new("xdpswitch");
    net.vpc.with_xdp();
    let to = SocketAddr::new(address(&net.a, false), PORT);
    let mut streams: Vec<TcpStream> = Vec::new();
    for pod in [&net.local, &net.remote] {
        apply(&mut net.a, node_port(false, &[(pod.address(false), 8080).into()]));
        streams.push(net.client.ns.run(move || {
            let mut stream = TcpStream::connect(to).unwrap();
            stream.set_read_timeout(Some(DEADLINE)).unwrap();
            line(&mut stream);
            stream
        }));
    }
    let backends = net.backends(false);
    apply(&mut net.a, node_port(false, &backends));
    let mut echo = |text: &str| {
        for stream in &mut streams {
            stream.write_all(text.as_bytes()).unwrap();
            let mut back = vec![0; text.len()];
            stream.read_exact(&mut back).unwrap();
            assert_eq!(back, text.as_bytes());
        }
    };
    echo("begun under traffic control");
    let links = net.a.config.bpffs.join("causeway/links");
    let pin = move |net: &Pair, mode: &str| {
        let path = links.join(format!("eth0_xdp_{mode}"));
        net.a.ns.run(move || path.exists())
    };
    let steps = [
        Acceleration::Native,
        // The same again: the program is replaced in its link.
        Acceleration::Native,
        Acceleration::Disabled,
        Acceleration::BestEffort,
        Acceleration::Generic,
        Acceleration::Native,
        Acceleration::Disabled,
    ];
    for how in steps {
        net.a.close();
        echo("without an agent");
        net.a.config.balance.acceleration = how;
        net.a.open();
        net.a.datapath(|d| d.apply_frontend(Event::Reset).unwrap());
        let (native, generic) = (pin(&net, "native"), pin(&net, "generic"));
        let expected = match how {
            Acceleration::Disabled => (false, false),
            Acceleration::Generic => (false, true),
            _ => (true, false),
        };
        assert_eq!((native, generic), expected, "{how:?}");
        echo("with one");
        let answers = ask(&net.client.ns, Protocol::UDP, to, 20);
        assert_eq!(answers.values().sum::<usize>(), 20, "{how:?} {answers:?}");
        assert!(answers.keys().all(|a| a.starts_with("local") || a.starts_with("remote")), "{answers:?}");
    }
    // Nothing is left at the device.
    eventually("the program is gone", || {
        net.a.ns.run(|| {
            let shown =
                std::process::Command::new("ip").args(["link", "show", "dev", "eth0"]).output().unwrap();
            !String::from_utf8_lossy(&shown.stdout).contains("xdp")
        })
    });
}

#[test]
fn netns_devices_that_cannot_have_xdp_are_served_by_traffic_control() {
    for (how, modes) in [
        (Acceleration::Native, [None, Some("native")]),
        (Acceleration::BestEffort, [None, Some("native")]),
        (Acceleration::Generic, [Some("generic"), Some("generic")]),
    ] {
        let mut net = Pair::new("xdpfall");
        net.vpc.with_xdp();
        net.a.close();
        // A bridge forwards what its ports have, and has no queues of its own.
        net.a.ns.run(|| ip("link add br9 type bridge"));
        net.a.config.balance.devices = vec!["br9".into(), "eth0".into()];
        net.a.config.balance.acceleration = how;
        net.a.open();
        let devices = net.a.datapath(|d| d.accelerated().to_vec());
        assert_eq!(devices.iter().map(|d| d.xdp).collect::<Vec<_>>(), modes, "{how:?} {devices:?}");
        assert_eq!(devices[0].error.is_some(), modes[0].is_none(), "{how:?} {devices:?}");
        assert_eq!(devices[1].error, None, "{how:?}");
        let backends = net.backends(false);
        apply(&mut net.a, node_port(false, &backends));
        let to = SocketAddr::new(address(&net.a, false), PORT);
        for protocol in BOTH {
            let answers = ask(&net.client.ns, protocol, to, 20);
            assert_eq!(answers.values().sum::<usize>(), 20, "{answers:?}");
            assert!(answers.keys().all(|a| a.starts_with("local") || a.starts_with("remote")), "{answers:?}");
        }
    }
}

#[test]
fn netns_native_routing_has_no_xdp() {
    let mut net = Pair::with("xdpnative", |node| node.config.balance.acceleration = Acceleration::Native);
    assert_eq!(net.a.datapath(|d| d.accelerated()[0].xdp), Some("native"));
    net.a.close();
    // What knows the tunnel only is taken off, and it is said why.
    net.a.config.routing = Routing::Native(NodeRoutes::Direct);
    net.a.open();
    let devices = net.a.datapath(|d| d.accelerated().to_vec());
    let error = devices[0].error.as_deref().unwrap();
    assert!(devices[0].xdp.is_none() && error.contains("routing-mode"), "{devices:?}");
}
