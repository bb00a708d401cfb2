//! Pod to pod with real packets: on a node, between nodes, both ways, every protocol and size.

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpListener, TcpStream, UdpSocket};
use std::process::Command;
use std::time::Duration;

use causeway_datapath::AttachMode;
use common::{Node, Pod, underlay};

const DEADLINE: Duration = Duration::from_secs(20);

/// Sends `size` bytes over TCP and gets them back.
fn tcp(from: &Pod, to: &Pod, v6: bool, size: usize) {
    let ip = to.address(v6);
    let (listening, ready) = std::sync::mpsc::channel();
    let served = to.ns.start(move || {
        let listener = TcpListener::bind((ip, 0)).unwrap();
        listening.send(listener.local_addr().unwrap()).unwrap();
        let (mut stream, peer) = listener.accept().unwrap();
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let mut data = vec![0; size];
        stream.read_exact(&mut data).unwrap();
        stream.write_all(&data).unwrap();
        peer.ip()
    });
    let address: SocketAddr = ready.recv().unwrap();
    from.ns.run(move || {
        let mut stream = TcpStream::connect_timeout(&address, DEADLINE).expect("the pod answers");
        stream.set_read_timeout(Some(DEADLINE)).unwrap();
        let data: Vec<u8> = (0..size).map(|n| n as u8).collect();
        let mut writer = stream.try_clone().unwrap();
        let copy = data.clone();
        let sent = std::thread::spawn(move || writer.write_all(&copy).unwrap());
        let mut back = vec![0; size];
        stream.read_exact(&mut back).expect("everything comes back");
        sent.join().unwrap();
        assert!(back == data, "the bytes differ");
    });
    assert_eq!(served.recv().unwrap(), from.address(v6), "the source is the pod's own address");
}

/// Sends a datagram and gets it back.
fn udp(from: &Pod, to: &Pod, v6: bool, size: usize) {
    let ip = to.address(v6);
    let (listening, ready) = std::sync::mpsc::channel();
    let served = to.ns.start(move || {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        listening.send(socket.local_addr().unwrap()).unwrap();
        let mut data = vec![0; 65536];
        let (n, peer) = socket.recv_from(&mut data).unwrap();
        socket.send_to(&data[..n], peer).unwrap();
    });
    let address: SocketAddr = ready.recv().unwrap();
    let ip = from.address(v6);
    from.ns.run(move || {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(DEADLINE)).unwrap();
        socket.send_to(&vec![7; size], address).unwrap();
        let mut back = vec![0; 65536];
        assert_eq!(socket.recv(&mut back).expect("the datagram comes back"), size);
    });
    served.recv().unwrap();
}

fn ping(from: &Pod, to: impl Into<IpAddr>, size: usize) {
    let to = to.into();
    from.ns.run(move || assert!(echo_of(to, size, DEADLINE), "no echo of {size} bytes from {to}"));
}

fn echo(to: IpAddr, limit: Duration) -> bool {
    echo_of(to, 64, limit)
}

/// One ICMP echo of `size` bytes by a ping socket.
fn echo_of(to: IpAddr, size: usize, limit: Duration) -> bool {
    std::fs::write("/proc/sys/net/ipv4/ping_group_range", "0 0").unwrap();
    use nix::sys::socket::*;
    let (family, protocol, asks, answers) = match to {
        IpAddr::V4(_) => (AddressFamily::Inet, SockProtocol::Icmp, 8, 0),
        IpAddr::V6(_) => (AddressFamily::Inet6, SockProtocol::IcmpV6, 128, 129),
    };
    let socket = socket(family, SockType::Datagram, SockFlag::empty(), protocol).unwrap();
    let timeout = nix::sys::time::TimeVal::new(limit.as_secs() as i64, i64::from(limit.subsec_micros()));
    setsockopt(&socket, sockopt::ReceiveTimeout, &timeout).unwrap();
    let fd = std::os::fd::AsRawFd::as_raw_fd(&socket);
    let mut request = vec![b'x'; size];
    request[..8].copy_from_slice(&[asks, 0, 0, 0, 0, 0, 0, 1]);
    sendto(fd, &request, &SockaddrStorage::from(SocketAddr::new(to, 0)), MsgFlags::empty()).unwrap();
    let mut answer = vec![0; size + 1];
    recv(fd, &mut answer, MsgFlags::empty()).is_ok_and(|n| n == request.len() && answer[0] == answers)
}

/// Three pods on two nodes that know of each other.
struct Pair {
    a: Node,
    b: Node,
    a1: Pod,
    a2: Pod,
    b1: Pod,
}

fn pair(test: &str, attach: Option<AttachMode>) -> Pair {
    let (mut a, mut b) = (Node::new(test, 1, attach), Node::new(test, 2, attach));
    underlay(&a, &b);
    a.open();
    b.open();
    let (a1, a2, b1) = (a.pod(5, 65_600), a.pod(6, 65_601), b.pod(5, 131_100));
    a.learn(&[(&b1, b.ip)], &[&b]);
    b.learn(&[(&a1, a.ip), (&a2, a.ip)], &[&a]);
    Pair { a, b, a1, a2, b1 }
}

fn everything(attach: AttachMode) {
    let mut p = pair(&format!("{attach:?}"), Some(attach));
    assert_eq!(p.a.datapath(|d| d.attach_mode()), attach);
    for (from, to) in [(&p.a1, &p.a2), (&p.a2, &p.a1), (&p.a1, &p.b1), (&p.b1, &p.a1)] {
        for v6 in [false, true] {
            for size in [64, 1400, 100_000, 1 << 20] {
                tcp(from, to, v6, size);
            }
            // The largest ones travel in fragments, of which only the first has ports.
            for size in [64, 1400, 60_000] {
                udp(from, to, v6, size);
            }
            for size in [64, 1400, 20_000] {
                ping(from, to.address(v6), size);
            }
        }
    }
}

#[test]
fn netns_pods_reach_each_other_by_tcx() {
    everything(AttachMode::Tcx);
}

#[test]
fn netns_pods_reach_each_other_by_clsact() {
    everything(AttachMode::Clsact);
}

#[test]
fn netns_the_node_reaches_its_pods_and_those_of_others() {
    let p = pair("host", None);
    for v6 in [false, true] {
        for to in [p.a1.address(v6), p.b1.address(v6)] {
            p.a.ns.run(move || assert!(echo(to, DEADLINE), "no echo from {to}"));
        }
        // Its own node, and the other one by its address inside the pod network.
        for network in p.a.config.networks.iter().chain(&p.b.config.networks) {
            ping(&p.a1, network.internal_ip, 64);
        }
    }
    let _ = &p.b;
}

#[test]
fn netns_a_pod_speaks_for_itself_only() {
    let mut p = pair("spoof", None);
    let refused = |p: &mut Pair| {
        let counters = p.a.datapath(|d| d.counters().unwrap());
        counters.iter().filter(|c| c.reason == "invalid source ip").map(|c| c.packets).sum::<u64>()
    };
    for (to, gateway, forged) in [
        (p.a2.address(false), "10.1.0.1", "10.1.0.77/32"),
        (p.b1.address(false), "10.1.0.1", "10.1.0.77/32"),
        (p.a2.address(true), "fd00:1::1", "fd00:1::77/128"),
        (p.b1.address(true), "fd00:1::1", "fd00:1::77/128"),
    ] {
        let before = refused(&mut p);
        p.a1.ns.run(move || {
            let address = forged.split('/').next().unwrap();
            let nodad = if to.is_ipv6() { "nodad" } else { "" };
            common::ip(&format!("addr replace {forged} dev eth0 {nodad}"));
            common::ip(&format!("route add {to} via {gateway} dev eth0 src {address} onlink"));
            assert!(!echo(to, Duration::from_millis(500)), "a forged source got an answer");
            common::ip(&format!("addr del {forged} dev eth0"));
        });
        assert!(refused(&mut p) > before, "{to}");
        ping(&p.a1, to, 64);
    }
}

#[test]
fn netns_forwarding_goes_on_without_the_agent_and_a_new_one_adopts_it() {
    let mut p = pair("restart", None);
    p.a.close();
    p.b.close();
    for v6 in [false, true] {
        tcp(&p.a1, &p.b1, v6, 100_000);
        ping(&p.a1, p.a2.address(v6), 64);
    }
    p.a.open();
    assert_eq!(p.a.datapath(|d| d.endpoints().len()), 2);
    for v6 in [false, true] {
        tcp(&p.a1, &p.b1, v6, 100_000);
    }
    p.a.datapath(|d| d.check_endpoint("pod5").unwrap());
    assert!(p.a.datapath(|d| d.remove_endpoint("pod6").unwrap()).is_some());
    assert!(p.a.datapath(|d| d.remove_endpoint("pod6").unwrap()).is_none());
    assert_eq!(p.a.datapath(|d| d.endpoints().len()), 1);
}

#[test]
fn netns_what_a_listing_no_longer_names_is_gone() {
    let mut p = pair("gone", None);
    for v6 in [false, true] {
        ping(&p.a1, p.b1.address(v6), 64);
    }
    p.a.learn(&[], &[]);
    for v6 in [false, true] {
        let to = p.b1.address(v6);
        p.a1.ns.run(move || assert!(!echo(to, Duration::from_millis(500)), "{to} is still reachable"));
    }
}

/// The pod CIDRs that a node routes into the tunnel, of both families.
fn routes(node: &Node) -> Vec<String> {
    node.ns.run(|| {
        let mut all = vec![];
        for family in ["-4", "-6"] {
            let args = [family, "route", "show", "dev", "cilium_vxlan", "proto", "static"];
            let output = Command::new("ip").args(args).output().unwrap();
            let text = String::from_utf8(output.stdout).unwrap();
            all.extend(text.lines().filter_map(|line| Some(line.split_whitespace().next()?.to_owned())));
        }
        all
    })
}

#[test]
fn netns_what_an_earlier_agent_routes_stays_until_everything_is_known() {
    let mut node = Node::new("routes", 1, None);
    let cidrs = |n: &u8| [format!("10.{n}.0.0/24"), format!("fd00:{n}::/64")];
    let both = move |numbers: &[u8]| -> Vec<String> {
        (0..2).flat_map(|family| numbers.iter().map(move |n| cidrs(n)[family].clone())).collect()
    };
    let set = |node: &mut Node, numbers: &[u8], complete| {
        let nodes = both(numbers).iter().map(|cidr| cidr.parse::<ipnet::IpNet>().unwrap()).collect();
        node.datapath(move |d| d.set_remote_nodes(nodes, complete).unwrap());
        routes(node)
    };
    node.open();
    assert_eq!(set(&mut node, &[2, 3], true), both(&[2, 3]));
    assert_eq!(set(&mut node, &[2, 4], true), both(&[2, 4]));
    node.close();
    node.open();
    assert_eq!(set(&mut node, &[], false), both(&[2, 4]), "none is known yet");
    assert_eq!(set(&mut node, &[4, 5], false), both(&[2, 4, 5]));
    assert_eq!(set(&mut node, &[4, 5], true), both(&[4, 5]));
    // An agent of another configuration: the routes of the family it has not are no longer wanted.
    node.close();
    let v6 = node.config.networks.pop().unwrap();
    node.open();
    assert_eq!(set(&mut node, &[4], true), ["10.4.0.0/24"]);
    node.close();
    node.config.networks.push(v6);
    node.open();
    assert_eq!(set(&mut node, &[4], true), both(&[4]));
    assert_eq!(set(&mut node, &[], true), [""; 0]);
}
