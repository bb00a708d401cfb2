//! The edges of the mesh: what a forged tunnel packet may do, and what the world sees of a pod.

mod common;

use std::net::{IpAddr, Ipv6Addr, UdpSocket};
use std::time::Duration;

use causeway_datapath::Datapath;
use common::{Node, underlay};
use etherparse::PacketBuilder;

const DEADLINE: Duration = Duration::from_secs(20);

/// A datagram from a pod of node 1 to port 7000 of `to`, in VXLAN with this VNI.
fn tunnelled(vni: u32, to: IpAddr, text: &[u8]) -> Vec<u8> {
    let [_, high, mid, low] = vni.to_be_bytes();
    let mut packet = vec![8, 0, 0, 0, high, mid, low, 0];
    let inner = PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [2, 0, 0, 0, 0, 2]);
    let inner = match to {
        IpAddr::V4(to) => inner.ipv4([10, 1, 0, 5], to.octets(), 64),
        IpAddr::V6(to) => inner.ipv6("fd00:1::5".parse::<Ipv6Addr>().unwrap().octets(), to.octets(), 64),
    };
    inner.udp(7001, 7000).write(&mut packet, text).unwrap();
    packet
}

fn dropped(datapath: &mut Datapath, reason: &str) -> u64 {
    datapath.counters().unwrap().iter().filter(|c| c.reason == reason).map(|c| c.packets).sum()
}

#[test]
fn netns_nobody_else_is_this_host() {
    let (mut a, mut b) = (Node::new("vni", 1, None), Node::new("vni", 2, None));
    underlay(&a, &b);
    a.open();
    b.open();
    let pod = b.pod(5, 131_100);
    let node = b.ip;
    for (v6, source) in [(false, "10.1.0.5:7001"), (true, "[fd00:1::5]:7001")] {
        let ip = pod.address(v6);
        let socket = pod.ns.run(move || {
            let socket = UdpSocket::bind((ip, 7000)).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket
        });
        let before = b.datapath(|d| dropped(d, "invalid identity"));
        a.ns.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            // The order is kept on the way, so the second one says that the first is not to come.
            socket.send_to(&tunnelled(1, ip, b"forged"), (node, 8472)).unwrap();
            socket.send_to(&tunnelled(65_600, ip, b"honest"), (node, 8472)).unwrap();
        });
        let mut text = [0; 16];
        let (n, from) = socket.recv_from(&mut text).expect("the honest one arrives");
        assert_eq!((&text[..n], from.to_string().as_str()), (&b"honest"[..], source));
        assert_eq!(b.datapath(|d| dropped(d, "invalid identity")), before + 1);
    }
}

#[test]
fn netns_the_world_sees_the_node_and_pods_see_the_pod() {
    let (mut a, mut b) = (Node::new("masq", 1, None), Node::new("masq", 2, None));
    underlay(&a, &b);
    for node in [&mut a, &mut b] {
        node.config.networks.iter_mut().for_each(|network| network.masquerade = true);
        node.open();
    }
    let (client, server) = (a.pod(5, 65_600), b.pod(5, 131_100));
    a.learn(&[(&server, b.ip)], &[&b]);
    b.learn(&[(&client, a.ip)], &[&a]);
    // The other node's own addresses are no pod's: that is as good as the world.
    let (a6, b6) = (IpAddr::from(a.ip6), IpAddr::from(b.ip6));
    for (ns, ip, seen) in [
        (&b.ns, IpAddr::from(b.ip), IpAddr::from(a.ip)),
        (&server.ns, server.address(false), client.address(false)),
        (&b.ns, b6, a6),
        (&server.ns, server.address(true), client.address(true)),
    ] {
        let (listening, ready) = std::sync::mpsc::channel();
        let served = ns.start(move || {
            let socket = UdpSocket::bind((ip, 7000)).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            listening.send(()).unwrap();
            let mut text = [0; 16];
            let (n, from) = socket.recv_from(&mut text).expect("the pod's datagram arrives");
            socket.send_to(&text[..n], from).unwrap();
            from.ip()
        });
        ready.recv().unwrap();
        client.ns.run(move || {
            let any = if ip.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
            let socket = UdpSocket::bind(any).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.send_to(b"hello", (ip, 7000)).unwrap();
            let (n, from) = socket.recv_from(&mut [0; 16]).expect("the answer finds the pod");
            assert_eq!((n, from.ip()), (5, ip));
        });
        assert_eq!(served.recv().unwrap(), seen);
    }
}
