//! Single frames through the programs of a native device, compared byte for byte: XDP, and traffic control,
//! which has to come to the same.

mod common;

use std::net::{IpAddr, SocketAddr};

use causeway_datapath::Acceleration;
use causeway_model::Protocol;
use common::testrun::{Attached, Ran, TC_REDIRECT, XDP_PASS, XDP_TX};
use common::vpc::{Pair, address, apply, eventually, node_port};
use common::{Node, ip};
use etherparse::{Ipv4Header, PacketBuilder, PacketBuilderStep, SlicedPacket, TransportSlice};

/// The router the client is behind, and the other node.
const CLIENT_MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x64];
const OTHER_MAC: [u8; 6] = [2, 0, 0, 0, 0, 2];
/// What XDP puts in front of what it has translated to a backend of the node, in the machine's order.
const MARK: u32 = 0xca5e_0001;
const OUTER: usize = 50;
const NODE_PORT: u16 = 30080;

/// Two nodes, of which the first has all neighbours and XDP.
struct Bench {
    net: Pair,
    ifindex: u32,
    mac: [u8; 6],
}

impl Bench {
    fn new(test: &str) -> Self {
        let net = Pair::with(test, |node| node.config.balance.acceleration = Acceleration::Native);
        let text = |mac: [u8; 6]| mac.map(|b| format!("{b:02x}")).join(":");
        let neighbours = [
            (net.client.address(false), CLIENT_MAC),
            (net.client.address(true), CLIENT_MAC),
            (net.b.ip.into(), OTHER_MAC),
            (net.b.ip6.into(), OTHER_MAC),
        ];
        let (ifindex, mac) = net.a.ns.run(move || {
            for (to, mac) in neighbours {
                ip(&format!("neigh replace {to} lladdr {} nud permanent dev eth0", text(mac)));
            }
            link("eth0")
        });
        Self { net, ifindex, mac }
    }

    /// Gives a frame to XDP and to traffic control of the first node.
    fn run(&self, frame: &[u8]) -> (Ran, Ran) {
        (self.run_at("eth0_xdp_native", frame), self.run_at("eth0_ingress", frame))
    }

    fn run_at(&self, hook: &'static str, frame: &[u8]) -> Ran {
        let (bpffs, ifindex, frame) = (self.net.a.config.bpffs.clone(), self.ifindex, frame.to_vec());
        self.net.a.ns.run(move || Attached::find(&bpffs, hook).run(ifindex, &frame))
    }

    /// A client's frame as it comes in.
    fn request(&self, v6: bool, flow: &Flow) -> Vec<u8> {
        let from = SocketAddr::new(self.net.client.address(v6), 40000);
        let to = SocketAddr::new(address(&self.net.a, v6), NODE_PORT);
        flow.frame((CLIENT_MAC, self.mac), from, to, 64)
    }
}

/// Index and MAC of a link of the calling thread's namespace.
fn link(name: &str) -> (u32, [u8; 6]) {
    let output = std::process::Command::new("ip").args(["-o", "link", "show", "dev", name]).output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let index = text.split(':').next().unwrap().parse().unwrap();
    let mac = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    let mac: Vec<u8> = mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect();
    (index, mac.try_into().unwrap())
}

/// What a frame carries.
#[derive(Debug, Clone)]
struct Flow {
    protocol: Protocol,
    data: Vec<u8>,
    /// Of TCP: it is the first packet of its connection.
    begins: bool,
}

impl Flow {
    fn new(protocol: Protocol) -> Self {
        Self { protocol, data: b"some words of a client".to_vec(), begins: true }
    }

    /// A whole frame with all checksums.
    fn frame(&self, macs: ([u8; 6], [u8; 6]), from: SocketAddr, to: SocketAddr, hops: u8) -> Vec<u8> {
        let builder = PacketBuilder::ethernet2(macs.0, macs.1);
        let builder = match (from.ip(), to.ip()) {
            (IpAddr::V4(from), IpAddr::V4(to)) => builder.ipv4(from.octets(), to.octets(), hops),
            (IpAddr::V6(from), IpAddr::V6(to)) => builder.ipv6(from.octets(), to.octets(), hops),
            _ => panic!("{from} and {to} are of two families"),
        };
        let mut frame = Vec::new();
        match self.protocol {
            Protocol::TCP => {
                let builder = builder.tcp(from.port(), to.port(), 1000, 8000);
                let builder = if self.begins { builder.syn() } else { builder.ack(77) };
                builder.write(&mut frame, &self.data)
            }
            Protocol::UDP => builder.udp(from.port(), to.port()).write(&mut frame, &self.data),
            _ => panic!("no such flows here"),
        }
        .unwrap();
        frame
    }
}

/// Source and destination of a frame.
fn ends(frame: &[u8]) -> (SocketAddr, SocketAddr) {
    let packet = SlicedPacket::from_ethernet(frame).unwrap();
    let (from, to): (IpAddr, IpAddr) = match packet.net.unwrap() {
        etherparse::NetSlice::Ipv4(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        etherparse::NetSlice::Ipv6(ip) => {
            (ip.header().source_addr().into(), ip.header().destination_addr().into())
        }
        other => panic!("{other:?}"),
    };
    let (sport, dport) = match packet.transport.unwrap() {
        TransportSlice::Tcp(tcp) => (tcp.source_port(), tcp.destination_port()),
        TransportSlice::Udp(udp) => (udp.source_port(), udp.destination_port()),
        other => panic!("{other:?}"),
    };
    ((from, sport).into(), (to, dport).into())
}

/// The outer header of the tunnel. Identification and port are free.
fn outer(
    macs: ([u8; 6], [u8; 6]),
    nodes: (&Node, &Node),
    inner: usize,
    id: u16,
    port: u16,
    vni: u32,
) -> Vec<u8> {
    let mut ip = Ipv4Header::new(
        (16 + inner).try_into().unwrap(),
        64,
        etherparse::IpNumber::UDP,
        nodes.0.ip.octets(),
        nodes.1.ip.octets(),
    )
    .unwrap();
    ip.identification = id;
    ip.dont_fragment = false;
    ip.header_checksum = ip.calc_header_checksum();
    let mut bytes = [macs.1, macs.0].concat();
    bytes.extend([8, 0]);
    ip.write(&mut bytes).unwrap();
    bytes.extend(port.to_be_bytes());
    bytes.extend(8472u16.to_be_bytes());
    bytes.extend(u16::try_from(16 + inner).unwrap().to_be_bytes());
    bytes.extend([0, 0, 8, 0, 0, 0]);
    bytes.extend((vni << 8).to_be_bytes());
    bytes
}

fn half(bytes: &[u8], at: usize) -> u16 {
    u16::from_be_bytes([bytes[at], bytes[at + 1]])
}

const FLOWS: [(bool, Protocol); 4] =
    [(false, Protocol::TCP), (false, Protocol::UDP), (true, Protocol::TCP), (true, Protocol::UDP)];

#[test]
fn netns_packets_to_a_backend_of_the_node() {
    let mut bench = Bench::new("xlocal");
    for (v6, protocol) in FLOWS {
        let backend = SocketAddr::new(bench.net.local.address(v6), 8080);
        apply(&mut bench.net.a, node_port(v6, &[backend]));
        let flow = Flow::new(protocol);
        let frame = bench.request(v6, &flow);
        let (from, _) = ends(&frame);
        let (xdp, tc) = bench.run(&frame);
        let translated = flow.frame((CLIENT_MAC, bench.mac), from, backend, 64);
        let marked = [&MARK.to_ne_bytes()[..], &translated].concat();
        assert_eq!(xdp, Ran { verdict: XDP_PASS, frame: marked }, "v6 {v6} {protocol}");
        let pod = &bench.net.local.endpoint;
        let delivered = flow.frame((pod.host_mac, pod.mac), from, backend, 63);
        assert_eq!(tc, Ran { verdict: TC_REDIRECT, frame: delivered }, "v6 {v6} {protocol}");
    }
}

#[test]
fn netns_packets_to_a_backend_of_another_node_and_back() {
    let mut bench = Bench::new("xremote");
    for (v6, protocol) in FLOWS {
        let what = format!("v6 {v6} {protocol}");
        let backend = SocketAddr::new(bench.net.remote.address(v6), 8080);
        apply(&mut bench.net.a, node_port(v6, &[backend]));
        let flow = Flow::new(protocol);
        let frame = bench.request(v6, &flow);
        let (client, frontend) = ends(&frame);
        let (xdp, tc) = bench.run(&frame);

        // To the backend: from the node, by a port of its own.
        assert_eq!(xdp.verdict, XDP_TX, "{what}");
        let (header, inner) = xdp.frame.split_at(OUTER);
        let (node, to) = ends(inner);
        let internal = bench.net.a.config.networks[usize::from(v6)].internal_ip;
        assert_eq!((node.ip(), to), (internal, backend), "{what}");
        assert!((1024..30000).contains(&node.port()), "{what} {node}");
        let translated = flow.frame((CLIENT_MAC, bench.mac), node, backend, 63);
        assert_eq!(inner, translated, "{what}");
        assert_eq!(tc, Ran { verdict: TC_REDIRECT, frame: translated.clone() }, "{what}");
        let (id, port) = (half(header, 18), half(header, 34));
        assert!(port >= 0xc000, "{what} {port}");
        let nodes = (&bench.net.a, &bench.net.b);
        let expected = outer((bench.mac, OTHER_MAC), nodes, inner.len(), id, port, 2);
        assert_eq!(header, expected, "{what}");
        // A flow keeps its ports, inner and outer, also where its packets take the shortcut.
        let more = Flow { begins: false, data: b"more".to_vec(), ..flow.clone() };
        let translated = more.frame((CLIENT_MAC, bench.mac), node, backend, 63);
        for _ in 0..3 {
            let again = bench.run_at("eth0_xdp_native", &bench.request(v6, &more));
            assert_eq!((half(&again.frame, 34), &again.frame[OUTER..]), (port, &translated[..]), "{what}");
        }

        // And back: from the frontend, with one hop less.
        let flow = more;
        let reply = flow.frame((OTHER_MAC, bench.mac), backend, node, 60);
        let mut carried = outer((OTHER_MAC, bench.mac), (nodes.1, nodes.0), reply.len(), 7, 50000, 131_100);
        carried.extend(&reply);
        for _ in 0..3 {
            let back = bench.run_at("eth0_xdp_native", &carried);
            let expected = flow.frame((bench.mac, CLIENT_MAC), frontend, client, 59);
            assert_eq!(back, Ran { verdict: XDP_TX, frame: expected }, "{what}");
        }
        // Nobody of the wire is "this node".
        let mut forged = outer((OTHER_MAC, bench.mac), (nodes.1, nodes.0), reply.len(), 7, 50000, 1);
        forged.extend(&reply);
        let passed = bench.run_at("eth0_xdp_native", &forged);
        assert_eq!(passed, Ran { verdict: XDP_PASS, frame: forged }, "{what}");
    }
}

#[test]
fn netns_packets_to_another_nodes_own_network_and_back() {
    let mut bench = Bench::new("xhost");
    for (v6, protocol) in FLOWS {
        let what = format!("v6 {v6} {protocol}");
        let backend = SocketAddr::new(address(&bench.net.b, v6), 9090);
        apply(&mut bench.net.a, node_port(v6, &[backend]));
        let flow = Flow::new(protocol);
        let frame = bench.request(v6, &flow);
        let (client, frontend) = ends(&frame);
        let (xdp, tc) = bench.run(&frame);
        let (node, _) = ends(&xdp.frame);
        assert_eq!(node.ip(), address(&bench.net.a, v6), "{what}");
        let sent = flow.frame((bench.mac, OTHER_MAC), node, backend, 63);
        assert_eq!(xdp, Ran { verdict: XDP_TX, frame: sent.clone() }, "{what}");
        assert_eq!(tc, Ran { verdict: TC_REDIRECT, frame: sent }, "{what}");
        let reply = flow.frame((OTHER_MAC, bench.mac), backend, node, 60);
        let (xdp, tc) = bench.run(&reply);
        let expected = flow.frame((bench.mac, CLIENT_MAC), frontend, client, 59);
        assert_eq!(xdp, Ran { verdict: XDP_TX, frame: expected.clone() }, "{what}");
        assert_eq!(tc, Ran { verdict: TC_REDIRECT, frame: expected }, "{what}");
    }
}

#[test]
fn netns_changes_reach_busy_flows() {
    let mut bench = Bench::new("xchange");
    let old = SocketAddr::new(bench.net.remote.address(false), 8080);
    let new = SocketAddr::new(address(&bench.net.b, false), 9090);
    apply(&mut bench.net.a, node_port(false, &[old]));
    let frame = bench.request(false, &Flow::new(Protocol::UDP));
    let to = |ran: Ran| ends(&ran.frame[ran.frame.len() - frame.len()..]).1;
    for _ in 0..100 {
        assert_eq!(to(bench.run_at("eth0_xdp_native", &frame)), old);
    }
    apply(&mut bench.net.a, node_port(false, &[new]));
    eventually("the flow has another backend", || to(bench.run_at("eth0_xdp_native", &frame)) == new);
    for _ in 0..100 {
        assert_eq!(to(bench.run_at("eth0_xdp_native", &frame)), new);
    }
}

#[test]
fn netns_datagrams_without_a_checksum_stay_without() {
    let mut bench = Bench::new("xnosum");
    for pod in ["local", "remote"] {
        let pod = if pod == "local" { &bench.net.local } else { &bench.net.remote };
        let backend = SocketAddr::new(pod.address(false), 8080);
        apply(&mut bench.net.a, node_port(false, &[backend]));
        let mut frame = bench.request(false, &Flow::new(Protocol::UDP));
        frame[40..42].fill(0);
        let (xdp, tc) = bench.run(&frame);
        for out in [xdp.frame, tc.frame] {
            let inner = &out[out.len() - frame.len()..];
            assert_eq!((ends(inner).1, half(inner, 40)), (backend, 0));
        }
    }
}

#[test]
fn netns_what_xdp_does_not_do_passes_unchanged() {
    let mut bench = Bench::new("xpass");
    let unchanged = |bench: &Bench, what: &str, frame: &[u8]| {
        let ran = bench.run_at("eth0_xdp_native", frame);
        assert_eq!(ran, Ran { verdict: XDP_PASS, frame: frame.to_vec() }, "{what}");
    };
    for (v6, protocol) in FLOWS {
        let backends = [(bench.net.remote.address(v6), 8080).into()];
        apply(&mut bench.net.a, node_port(v6, &backends));
        let flow = Flow::new(protocol);
        let frame = bench.request(v6, &flow);
        assert_eq!(
            bench.run_at("eth0_xdp_native", &frame).verdict,
            XDP_TX,
            "the frame itself is one it does"
        );
        let text = |what: &str| format!("{what}, v6 {v6} {protocol}");
        let (from, to) = ends(&frame);

        // Cut anywhere before its transport header ends.
        let whole = frame.len() - flow.data.len();
        for length in 14..whole {
            unchanged(&bench, &text(&format!("cut to {length}")), &frame[..length]);
        }
        unchanged(&bench, &text("last hop"), &flow.frame((CLIENT_MAC, bench.mac), from, to, 1));
        unchanged(&bench, &text("other MAC"), &flow.frame((CLIENT_MAC, OTHER_MAC), from, to, 64));
        unchanged(
            &bench,
            &text("other port"),
            &flow.frame((CLIENT_MAC, bench.mac), from, (to.ip(), 1).into(), 64),
        );
        let mut other = frame.clone();
        other[14] ^= 0xf0;
        unchanged(&bench, &text("other version"), &other);
        let large = Flow { data: vec![7; 1440], ..flow.clone() };
        unchanged(&bench, &text("too big for the tunnel"), &bench.request(v6, &large));
        if v6 {
            // A fragment header before the transport header: the first, and a later one.
            for offset in [1u16, 8 | 1, 8] {
                let mut fragment = frame[..54].to_vec();
                let next = std::mem::replace(&mut fragment[20], 44);
                let length = half(&fragment, 18) + 8;
                fragment[18..20].copy_from_slice(&length.to_be_bytes());
                fragment.extend([next, 0]);
                fragment.extend(offset.to_be_bytes());
                fragment.extend([0, 0, 0, 9]);
                fragment.extend(&frame[54..]);
                unchanged(&bench, &text(&format!("fragment {offset}")), &fragment);
            }
        } else {
            for offset in [0x2000u16, 0x2001, 0x0001] {
                let mut fragment = frame.clone();
                fragment[20..22].copy_from_slice(&offset.to_be_bytes());
                unchanged(&bench, &text(&format!("fragment {offset:x}")), &fragment);
            }
        }
        // Nobody behind it: refused by traffic control.
        apply(&mut bench.net.a, node_port(v6, &[]));
        let fresh = flow.frame((CLIENT_MAC, bench.mac), (from.ip(), 40001).into(), to, 64);
        unchanged(&bench, &text("no backend"), &fresh);
        let refused = bench.run_at("eth0_ingress", &fresh);
        assert_eq!(refused.verdict, TC_REDIRECT, "{}", text("no backend"));
        let expected = refusal(&fresh, v6, protocol);
        assert_eq!(refused.frame, expected, "{}", text("no backend"));
    }
    // ARP, and noise behind a good Ethernet header.
    let mut noise = 1u64;
    for n in 0..2000 {
        let kind: [u8; 2] = [[8, 0], [0x86, 0xdd], [8, 6]][n % 3];
        let mut frame = [bench.mac, CLIENT_MAC].concat();
        frame.extend(kind);
        while frame.len() < 14 + n % 120 {
            noise = noise.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
            frame.push((noise >> 56) as u8);
        }
        // Some with a good first byte and address.
        if frame.len() >= 34 && n % 2 == 0 && kind == [8, 0] {
            frame[14] = 0x45 + (n % 4) as u8;
            frame[30..34].copy_from_slice(&bench.net.a.ip.octets());
        }
        unchanged(&bench, &format!("noise {n} {frame:x?}"), &frame);
    }
}

/// What the client of a frame to nobody gets.
fn refusal(frame: &[u8], v6: bool, protocol: Protocol) -> Vec<u8> {
    let (from, to) = ends(frame);
    let macs: ([u8; 6], [u8; 6]) = (frame[..6].try_into().unwrap(), frame[6..12].try_into().unwrap());
    let builder = PacketBuilder::ethernet2(macs.0, macs.1);
    let mut answer = Vec::new();
    let tcp_reset = |builder: PacketBuilderStep<etherparse::IpHeaders>| {
        let mut tcp = etherparse::TcpHeader::new(to.port(), from.port(), 0, 0);
        (tcp.rst, tcp.ack) = (true, true);
        // The frame's own data count, and its SYN.
        tcp.acknowledgment_number = 1000 + 1 + 22;
        builder.tcp_header(tcp)
    };
    match (from.ip(), to.ip()) {
        (IpAddr::V4(client), IpAddr::V4(service)) => {
            let builder = builder.ipv4(service.octets(), client.octets(), 64);
            match protocol {
                Protocol::TCP => tcp_reset(builder).write(&mut answer, &[]),
                _ => builder.icmpv4_raw(3, 3, [0; 4]).write(&mut answer, &frame[14..42]),
            }
        }
        (IpAddr::V6(client), IpAddr::V6(service)) => {
            let builder = builder.ipv6(service.octets(), client.octets(), 64);
            match protocol {
                Protocol::TCP => tcp_reset(builder).write(&mut answer, &[]),
                _ => builder.icmpv6_raw(1, 4, [0; 4]).write(&mut answer, &frame[14..62]),
            }
        }
        _ => panic!("v6 {v6}: two families"),
    }
    .unwrap();
    if !v6 {
        // Answers may be cut on the way, and have no number.
        answer[20..22].fill(0);
        let mut ip = Ipv4Header::from_slice(&answer[14..34]).unwrap().0;
        ip.header_checksum = ip.calc_header_checksum();
        answer[24..26].copy_from_slice(&ip.header_checksum.to_be_bytes());
    }
    answer
}
