//! Direct server return: what the node in front puts into packets, what the backend sees, by which way the
//! answers go, and who may not say what they have as source.

mod common;

use std::io::{Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;

use causeway_datapath::{LbMode, NodeRoutes, Routing};
use causeway_model::lb::{Balancing, Forwarding, Frontend, FrontendKind};
use causeway_model::{Event, IpEntry, NumericIdentity, Protocol};
use common::capture::{header, seen};
use common::vpc::{DEADLINE, Pair, address, apply, ask, counted, eventually, frontends, node_port};
use common::{Node, Ns};
use etherparse::SlicedPacket;

const BOTH: [Protocol; 2] = [Protocol::TCP, Protocol::UDP];
const REFUSED: &str = "dsr option refused";

fn native(mode: LbMode) -> impl Fn(&mut Node) {
    move |node| {
        node.config.routing = Routing::Native(NodeRoutes::Direct);
        node.config.balance.mode = mode;
        node.config.networks.iter_mut().for_each(|network| network.masquerade = true);
    }
}

/// Both nodes know the service; its only backend is on the second one.
fn serve(net: &mut Pair, of: impl Fn(SocketAddr) -> Vec<Frontend>) {
    for v6 in [false, true] {
        let list = of((net.remote.address(v6), 8080).into());
        apply(&mut net.a, list.clone());
        apply(&mut net.b, list);
    }
}

fn on_node_port(net: &mut Pair) {
    serve(net, |backend| node_port(backend.is_ipv6(), &[backend]));
}

fn forwarded(frontends: Vec<Frontend>, how: Forwarding) -> Vec<Frontend> {
    let balancing = Arc::new(Balancing { forwarding: Some(how), ..Balancing::default() });
    frontends.into_iter().map(|frontend| Frontend { balancing: balancing.clone(), ..frontend }).collect()
}

/// The option, or the extension header without what follows it, that names a frontend.
fn option(frontend: SocketAddr) -> Vec<u8> {
    let port = frontend.port();
    match frontend.ip() {
        IpAddr::V4(ip) => {
            let [a, b, c, d] = ip.octets();
            vec![0x9a, 8, port.to_le_bytes()[0], port.to_le_bytes()[1], d, c, b, a]
        }
        IpAddr::V6(ip) => [&[2, 0x1b, 20][..], &ip.octets(), &port.to_be_bytes(), &[0, 0]].concat(),
    }
}

/// Who a new connection's or datagram's backend sees.
fn peers(net: &Pair, protocol: Protocol, v6: bool) -> Vec<String> {
    ask(&net.client.ns, protocol, (address(&net.a, v6), 30080).into(), 4).into_keys().collect()
}

/// The MAC address of a namespace's `eth0`.
fn mac(ns: &Ns) -> Vec<u8> {
    let show = || std::process::Command::new("ip").args(["-o", "link", "show", "eth0"]).output().unwrap();
    let text = String::from_utf8(ns.run(show).stdout).unwrap();
    let mac = text.split("link/ether ").nth(1).unwrap().split(' ').next().unwrap();
    mac.split(':').map(|byte| u8::from_str_radix(byte, 16).unwrap()).collect()
}

#[test]
fn netns_the_frontend_is_in_the_packet_and_the_answer_comes_from_the_backends_node() {
    let mut net = Pair::with("dsr", native(LbMode::Dsr));
    on_node_port(&mut net);
    let mac_b = mac(&net.b.ns);
    for v6 in [false, true] {
        let (client, pod) = (net.client.address(v6), net.remote.address(v6));
        let frontend = SocketAddr::new(address(&net.a, v6), 30080);
        for protocol in BOTH {
            let expected = option(frontend);
            let on_the_wire = seen(&net.b.ns, move |frame| {
                let (source, destination, _) = header(&SlicedPacket::from_ethernet(frame).ok()?)?;
                let ip = &frame[14..];
                let carried = match v6 {
                    false => ip[0] & 0xf == 7 && ip[20..28] == expected,
                    // After the number of what follows.
                    true => ip[6] == 60 && ip[41..64] == expected,
                };
                (destination == pod && carried).then_some(source)
            });
            let answer = seen(&net.client.ns, move |frame| {
                let (source, destination, _) = header(&SlicedPacket::from_ethernet(frame).ok()?)?;
                let transport = if v6 { frame[14 + 6] } else { frame[14 + 9] };
                let is_answer = transport == protocol.number() && destination == client;
                (is_answer && source == frontend.ip()).then(|| frame[6..12].to_vec())
            });
            assert_eq!(peers(&net, protocol, v6), [format!("remote {client}")], "{protocol}");
            assert_eq!(on_the_wire.recv().unwrap(), Some(client), "{protocol}");
            assert_eq!(answer.recv().unwrap(), Some(mac_b.clone()), "{protocol}: straight from the node");
        }
        // Long data both ways, of which only the first packet has said the frontend.
        let stream = net.client.ns.run(move || echo(frontend, 300_000));
        drop(stream);
    }
    for node in [&mut net.a, &mut net.b] {
        assert_eq!(node.datapath(|d| counted(d, REFUSED)), 0);
    }
}

/// Sends so many bytes and gets them back.
fn echo(to: SocketAddr, len: usize) -> TcpStream {
    let mut stream = TcpStream::connect_timeout(&to, DEADLINE).unwrap();
    stream.set_read_timeout(Some(DEADLINE)).unwrap();
    common::vpc::line(&mut stream);
    exchange(&mut stream, len);
    stream
}

fn exchange(stream: &mut TcpStream, len: usize) {
    let mut sending = stream.try_clone().unwrap();
    let sender = std::thread::spawn(move || sending.write_all(&vec![7; len]));
    let mut back = vec![0; len];
    stream.read_exact(&mut back).unwrap();
    sender.join().unwrap().unwrap();
    assert!(back.iter().all(|byte| *byte == 7));
}

#[test]
fn netns_a_service_and_a_protocol_may_have_their_own_mode() {
    // Mode, annotation, and who sees the client: TCP, UDP.
    let cases = [
        (LbMode::Hybrid, None, [true, false]),
        (LbMode::Snat, None, [false, false]),
        (LbMode::Snat, Some(Forwarding::Dsr), [true, true]),
        (LbMode::Dsr, Some(Forwarding::Snat), [false, false]),
        (LbMode::Hybrid, Some(Forwarding::Dsr), [true, true]),
    ];
    for (mode, annotation, expected) in cases {
        let mut net = Pair::with("dsrmode", native(mode));
        serve(&mut net, |backend| {
            let list = node_port(backend.is_ipv6(), &[backend]);
            annotation.map_or(list.clone(), |how| forwarded(list, how))
        });
        for v6 in [false, true] {
            for (protocol, kept) in BOTH.into_iter().zip(expected) {
                let peer = if kept { net.client.address(v6) } else { address(&net.a, v6) };
                let peers = peers(&net, protocol, v6);
                assert_eq!(peers, [format!("remote {peer}")], "{mode:?} {annotation:?} {protocol}");
            }
        }
    }
}

#[test]
fn netns_in_a_tunnel_nobody_answers_directly() {
    let mut net = Pair::new("dsrtunnel");
    serve(&mut net, |backend| forwarded(node_port(backend.is_ipv6(), &[backend]), Forwarding::Dsr));
    for v6 in [false, true] {
        let internal = net.a.config.networks[usize::from(v6)].internal_ip;
        assert_eq!(peers(&net, Protocol::TCP, v6), [format!("remote {internal}")]);
    }
    let mut config = net.a.config.clone();
    config.balance.mode = LbMode::Hybrid;
    let refused = net.a.ns.run(move || causeway_datapath::Datapath::open(config).unwrap_err().to_string());
    assert!(refused.contains("bpf-lb-mode") && refused.contains("routing-mode=native"), "{refused}");
}

#[test]
fn netns_addresses_of_load_balancers_with_affinity_and_source_ranges() {
    let mut net = Pair::with("dsrlb", |node| {
        native(LbMode::Dsr)(node);
        // Of one cluster.
        node.config.identities = 65_536..=196_607;
    });
    let stranger = net.vpc.client(101);
    for v6 in [false, true] {
        let ip: IpAddr = if v6 { "fd99::1" } else { "192.0.2.1" }.parse().unwrap();
        let range = if v6 { "fd31::64/128" } else { "172.31.0.100/32" };
        let balancing = Arc::new(Balancing {
            source_ranges: vec![range.parse().unwrap()],
            affinity_seconds: 600,
            ..Balancing::default()
        });
        let list = frontends(FrontendKind::LoadBalancer, ip, 80, &net.backends(v6));
        let list: Vec<_> =
            list.into_iter().map(|frontend| Frontend { balancing: balancing.clone(), ..frontend }).collect();
        apply(&mut net.a, list.clone());
        apply(&mut net.b, list);
        net.client.route(ip, &net.a);
        stranger.route(ip, &net.a);
        let client = net.client.address(v6);
        for protocol in BOTH {
            let answers = ask(&net.client.ns, protocol, (ip, 80).into(), 20);
            assert_eq!(answers.len(), 1, "one backend: {answers:?}");
            assert!(answers.into_keys().all(|peer| peer.ends_with(&format!(" {client}"))), "{protocol}");
        }
        let before = net.a.datapath(|d| counted(d, "denied by lb source ranges"));
        stranger.ns.run(move || {
            let socket = UdpSocket::bind(if v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            socket.send_to(b"?", (ip, 80)).unwrap();
        });
        eventually("the stranger is refused", || {
            net.a.datapath(|d| counted(d, "denied by lb source ranges")) > before
        });
    }
}

#[test]
fn netns_another_cluster_has_not_heard_of_the_address_of_a_load_balancer() {
    let mut net = Pair::with("dsrfar", native(LbMode::Dsr));
    for v6 in [false, true] {
        let ip: IpAddr = if v6 { "fd99::1" } else { "192.0.2.1" }.parse().unwrap();
        net.client.route(ip, &net.a);
        let backend = [(net.remote.address(v6), 8080).into()];
        apply(&mut net.a, frontends(FrontendKind::LoadBalancer, ip, 80, &backend));
        for protocol in BOTH {
            let answers = ask(&net.client.ns, protocol, (ip, 80).into(), 4);
            let expected = format!("remote {}", address(&net.a, v6));
            assert_eq!(answers.into_iter().collect::<Vec<_>>(), [(expected, 4)], "{protocol}");
        }
    }
}

#[test]
fn netns_connections_outlive_the_agents() {
    let mut net = Pair::with("dsrrestart", native(LbMode::Dsr));
    on_node_port(&mut net);
    for v6 in [false, true] {
        let to = SocketAddr::new(address(&net.a, v6), 30080);
        let mut stream = net.client.ns.run(move || echo(to, 10));
        for node in [&mut net.a, &mut net.b] {
            node.close();
            exchange(&mut stream, 1000);
            node.open();
            exchange(&mut stream, 1000);
        }
    }
}

#[test]
fn netns_a_backends_refusal_reaches_the_client() {
    let mut net = Pair::with("dsricmp", native(LbMode::Dsr));
    serve(&mut net, |backend| node_port(backend.is_ipv6(), &[SocketAddr::new(backend.ip(), 8081)]));
    for v6 in [false, true] {
        for protocol in BOTH {
            let to = (address(&net.a, v6), 30080).into();
            let answers = ask(&net.client.ns, protocol, to, 2);
            assert_eq!(
                answers.into_iter().collect::<Vec<_>>(),
                [("ConnectionRefused".into(), 2)],
                "{protocol}"
            );
        }
    }
}

fn set(socket: &UdpSocket, level: i32, name: i32, value: &[u8]) {
    let len = libc::socklen_t::try_from(value.len()).unwrap();
    // SAFETY: the kernel reads as many bytes as there are.
    let done = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, value.as_ptr().cast(), len) };
    assert_eq!(done, 0, "{}", std::io::Error::last_os_error());
}

fn get(socket: &UdpSocket, level: i32, name: i32) -> i32 {
    let (mut value, mut len) = (0i32, 4);
    let to = (&raw mut value).cast();
    // SAFETY: the kernel writes an int.
    assert_eq!(unsafe { libc::getsockopt(socket.as_raw_fd(), level, name, to, &raw mut len) }, 0);
    value
}

#[test]
fn netns_what_is_too_big_with_the_frontend_in_it_is_said_or_cut() {
    let mut net = Pair::with("dsrmtu", native(LbMode::Dsr));
    on_node_port(&mut net);
    for v6 in [false, true] {
        let to = SocketAddr::new(address(&net.a, v6), 30080);
        let (level, discover, mtu, most) = match v6 {
            false => (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER, libc::IP_MTU, 1500 - 28),
            true => (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER, libc::IPV6_MTU, 1500 - 48),
        };
        let learnt = net.client.ns.run(move || {
            let socket = UdpSocket::bind(if v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            socket.connect(to).unwrap();
            set(&socket, level, discover, &libc::IP_PMTUDISC_DO.to_ne_bytes());
            eventually("the client is told", || socket.send(&vec![7; most]).is_err());
            get(&socket, level, mtu)
        });
        assert_eq!(learnt, if v6 { 1500 - 24 } else { 1500 - 8 });
        // Who lets routers cut gets its answer, and so does who cuts itself.
        let answer = net.client.ns.run(move || {
            let socket = UdpSocket::bind(if v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(std::time::Duration::from_secs(1))).unwrap();
            if !v6 {
                set(&socket, level, discover, &libc::IP_PMTUDISC_DONT.to_ne_bytes());
            }
            let (mut answer, mut got) = (vec![0; 65536], 0);
            eventually("an answer", || {
                socket.send(&vec![7; most]).unwrap();
                got = socket.recv(&mut answer).unwrap_or(0);
                got > most
            });
            String::from_utf8_lossy(&answer[..got]).lines().next().unwrap().to_owned()
        });
        assert_eq!(answer, format!("remote {}", net.client.address(v6)));
    }
}

/// Sends a datagram to a pod that says it was for `frontend`.
fn forge(ns: &Ns, pod: SocketAddr, frontend: SocketAddr) {
    ns.run(move || {
        let socket = UdpSocket::bind(if pod.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
        let mut says = option(frontend);
        match pod {
            SocketAddr::V4(_) => set(&socket, libc::IPPROTO_IP, libc::IP_OPTIONS, &says),
            SocketAddr::V6(_) => {
                says.insert(0, 0);
                set(&socket, libc::IPPROTO_IPV6, libc::IPV6_DSTOPTS, &says);
            }
        }
        socket.send_to(b"?", pod).unwrap();
    });
}

#[test]
fn netns_nobody_chooses_the_source_of_answers() {
    let mut net = Pair::with("dsrforged", native(LbMode::Dsr));
    on_node_port(&mut net);
    let bystander = net.b.pod(7, 131_102);
    for v6 in [false, true] {
        let pod = SocketAddr::new(net.remote.address(v6), 8080);
        net.client.route(pod.ip(), &net.b);
        net.client.route(bystander.address(v6), &net.b);
        let (a, client) = (address(&net.a, v6), net.client.address(v6));
        let nobody: IpAddr = if v6 { "fd99::66" } else { "192.0.2.66" }.parse().unwrap();
        let refused = |net: &mut Pair| net.b.datapath(|d| counted(d, REFUSED));
        let unlisted = SocketAddr::new(bystander.address(v6), 8080);
        for (to, frontend, why) in [
            (pod, (nobody, 30080).into(), "an address that is nobody's frontend"),
            (pod, (client, 30080).into(), "the client's own"),
            (pod, (a, 30081).into(), "a port of a node that is no NodePort"),
            (pod, (a, 0).into(), "no port"),
            (unlisted, (a, 30080).into(), "a pod that is no backend"),
        ] {
            let before = refused(&mut net);
            forge(&net.client.ns, to, frontend);
            eventually(why, || refused(&mut net) == before + 1);
        }
        // No pod of the node may say it, not even the truth.
        let before = refused(&mut net);
        forge(&bystander.ns, pod, (a, 30080).into());
        eventually("a pod", || refused(&mut net) == before + 1);
        // What a node in front says is taken.
        forge(&net.client.ns, pod, (a, 30080).into());
        // Of other clusters' nodes only the addresses are known.
        let other: IpAddr = if v6 { "fd32::1" } else { "172.32.0.1" }.parse().unwrap();
        let before = refused(&mut net);
        forge(&net.client.ns, pod, (other, 31000).into());
        eventually("a node that is not known", || refused(&mut net) == before + 1);
        let entry = IpEntry {
            prefix: other.into(),
            identity: NumericIdentity(6),
            host_ip: None,
            key_index: 0,
            pod: None,
        };
        net.b.datapath(move |d| d.apply_addresses([Event::Upsert(entry)]).unwrap());
        let answer = seen(&net.b.ns, move |frame| {
            let (source, destination, _) = header(&SlicedPacket::from_ethernet(frame).ok()?)?;
            (destination == client && source == other).then_some(())
        });
        forge(&net.client.ns, pod, (other, 31000).into());
        assert!(answer.recv().unwrap().is_some(), "answered with the other cluster's node as source");
        assert_eq!(refused(&mut net), before + 1);
    }
}

#[test]
fn netns_a_connection_keeps_its_frontend() {
    let mut net = Pair::with("dsrkeeps", native(LbMode::Dsr));
    on_node_port(&mut net);
    let (frontend, other) = (SocketAddr::from((net.a.ip, 30080)), SocketAddr::from((net.b.ip, 30080)));
    let mut stream = net.client.ns.run(move || echo(frontend, 10));
    let (client, pod) = (net.client.ip, net.remote.ip);
    let port = stream.local_addr().unwrap().port();
    net.client.route(pod.into(), &net.b);
    // Another beginning of the same connection, by somebody who knows its ports.
    let mut packet = vec![0x47, 0, 0, 48, 0, 1, 0, 0, 64, 6, 0, 0];
    packet.extend(client.octets());
    packet.extend(pod.octets());
    packet.extend(option(other));
    packet.extend([&port.to_be_bytes()[..], &8080u16.to_be_bytes()].concat());
    packet.extend([0, 0, 0, 1, 0, 0, 0, 0, 0x50, 2, 0xff, 0xff, 0, 0, 0, 0]);
    net.client.ns.run(move || {
        use nix::sys::socket::*;
        let raw = socket(AddressFamily::Inet, SockType::Raw, SockFlag::empty(), SockProtocol::Raw).unwrap();
        let to = SockaddrIn::from(std::net::SocketAddrV4::new(pod, 0));
        sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
    });
    eventually("it is refused", || net.b.datapath(|d| counted(d, REFUSED)) == 1);
    exchange(&mut stream, 1000);
}
