//! What belongs to a translated flow besides its plain packets: errors, sizes, fragments, and what is
//! on the wire.

mod common;

use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use causeway_model::Protocol;
use common::vpc::{
    DEADLINE, Pair, address, apply, ask, counted, eventually, frontends, node_port, stream, tap, udp_with,
};
use etherparse::{NetSlice, PacketBuilder, SlicedPacket, TransportSlice};
use nix::sys::socket::{self, MsgFlags};

#[test]
fn netns_errors_of_backends_find_the_client() {
    let mut net = Pair::new("errors");
    for v6 in [false, true] {
        for (name, pod) in [("local", &net.local), ("remote", &net.remote)] {
            // Nobody listens on this port of the pod: its kernel says so.
            let closed = [(pod.address(v6), 9).into()];
            apply(&mut net.a, node_port(v6, &closed));
            let to = SocketAddr::new(address(&net.a, v6), 30080);
            for protocol in [Protocol::UDP, Protocol::TCP] {
                let answers = ask(&net.client.ns, protocol, to, 3);
                assert_eq!(
                    answers.keys().collect::<Vec<_>>(),
                    ["ConnectionRefused"],
                    "{name} {protocol} {to}"
                );
            }
        }
    }
}

#[test]
fn netns_a_client_learns_what_fits_into_the_tunnel() {
    let mut net = Pair::new("pmtu");
    for v6 in [false, true] {
        apply(&mut net.a, node_port(v6, &[(net.remote.address(v6), 8080).into()]));
        let to = SocketAddr::new(address(&net.a, v6), 30080);
        let largest = net.client.ns.run(move || {
            let socket = UdpSocket::bind(if v6 { "[::]:0" } else { "0.0.0.0:0" }).unwrap();
            socket.connect(to).unwrap();
            // Never cut, and say what fits.
            let (level, option) = if v6 {
                (libc::IPPROTO_IPV6, libc::IPV6_MTU_DISCOVER)
            } else {
                (libc::IPPROTO_IP, libc::IP_MTU_DISCOVER)
            };
            let discover: libc::c_int = 2;
            // SAFETY: an option of four bytes.
            let set = unsafe {
                libc::setsockopt(socket.as_raw_fd(), level, option, (&raw const discover).cast(), 4)
            };
            assert_eq!(set, 0);
            let headers = if v6 { 48 } else { 28 };
            let full = vec![7u8; 1500 - headers];
            socket.set_read_timeout(Some(Duration::from_millis(200))).unwrap();
            eventually("the node says that the packet is too big", || {
                let failed = socket.send(&full).is_err_and(|e| e.raw_os_error() == Some(libc::EMSGSIZE));
                let _ = socket.recv(&mut [0; 2000]);
                failed
            });
            let option = if v6 { libc::IPV6_MTU } else { libc::IP_MTU };
            let (mut mtu, mut length): (libc::c_int, libc::socklen_t) = (0, 4);
            // SAFETY: a place of four bytes.
            let got = unsafe {
                libc::getsockopt(socket.as_raw_fd(), level, option, (&raw mut mtu).cast(), &raw mut length)
            };
            assert_eq!(got, 0);
            let fits = vec![7u8; usize::try_from(mtu).unwrap() - headers];
            let (start, mut answer) = (Instant::now(), vec![0; 2000]);
            loop {
                socket.send(&fits).expect("what fits can be sent");
                // The answer has more, so that it is cut on the way; what counts is that it comes.
                if socket.recv(&mut answer).is_ok() {
                    return mtu;
                }
                assert!(start.elapsed() < DEADLINE, "what fits is answered");
            }
        });
        assert_eq!(largest, 1450, "the underlay's less the tunnel's headers");
    }
}

#[test]
fn netns_long_streams_come_through_unchanged() {
    let mut net = Pair::new("stream");
    for v6 in [false, true] {
        for pod in [&net.local, &net.remote] {
            apply(&mut net.a, node_port(v6, &[(pod.address(v6), 8080).into()]));
            let to = SocketAddr::new(address(&net.a, v6), 30080);
            net.client.ns.run(move || stream(to));
        }
    }
}

#[test]
fn netns_datagrams_in_fragments_come_through_in_order() {
    let mut net = Pair::new("frag");
    for v6 in [false, true] {
        for (name, pod) in [("local", &net.local), ("remote", &net.remote)] {
            apply(&mut net.a, node_port(v6, &[(pod.address(v6), 8080).into()]));
            let to = SocketAddr::new(address(&net.a, v6), 30080);
            let data: Vec<u8> = (0..4096u32).map(|n| n as u8).collect();
            let sent = data.clone();
            let answer = net.client.ns.run(move || udp_with(to, &sent)).unwrap();
            let text = answer.split(|b| *b == b'\n').next().unwrap();
            assert!(text.starts_with(name.as_bytes()), "{}", String::from_utf8_lossy(text));
            assert!(answer.ends_with(&data), "{name} {to}");
        }
    }
}

/// Sends an IP packet to the node as it is (which IPPROTO_RAW means).
fn send_raw(net: &Pair, packet: Vec<u8>) {
    let to = net.a.ip;
    net.client.ns.run(move || {
        let raw = socket::socket(
            socket::AddressFamily::Inet,
            socket::SockType::Raw,
            socket::SockFlag::empty(),
            socket::SockProtocol::Raw,
        )
        .unwrap();
        let [a, b, c, d] = to.octets();
        let to = socket::SockaddrIn::new(a, b, c, d, 0);
        socket::sendto(raw.as_raw_fd(), &packet, &to, MsgFlags::empty()).unwrap();
    });
}

#[test]
fn netns_a_later_fragment_without_its_first_is_dropped() {
    let mut net = Pair::new("later");
    let backends = net.backends(false);
    apply(&mut net.a, node_port(false, &backends));
    // IP protocol UDP, identification 77, offset 8 units, no more fragments.
    let mut packet = vec![0x45, 0, 0, 36, 0, 77, 0, 8, 64, 17, 0, 0];
    packet.extend(net.client.ip.octets());
    packet.extend(net.a.ip.octets());
    packet.extend([1; 16]);
    send_raw(&net, packet);
    eventually("it is dropped and counted", || {
        net.a.datapath(|d| counted(d, "first fragment not found")) == 1
    });
}

/// An ICMP error of the client's network about an answer of the NodePort: too big for it.
fn complaint(net: &Pair, client_port: u16) -> Vec<u8> {
    let mut quote = Vec::new();
    PacketBuilder::ipv4(net.a.ip.octets(), net.client.ip.octets(), 63)
        .udp(30080, client_port)
        .write(&mut quote, b"too big")
        .unwrap();
    quote.truncate(28);
    let mut packet = Vec::new();
    PacketBuilder::ipv4(net.client.ip.octets(), net.a.ip.octets(), 64)
        .icmpv4_raw(3, 4, [0, 0, 0x05, 0x14])
        .write(&mut packet, &quote)
        .unwrap();
    packet
}

#[test]
fn netns_errors_about_answers_find_the_backend() {
    let mut net = Pair::new("complain");
    let to = SocketAddr::new(address(&net.a, false), 30080);
    for remote in [false, true] {
        let (pod, source) = if remote {
            (&net.remote, net.a.config.networks[0].internal_ip)
        } else {
            (&net.local, net.client.ip.into())
        };
        let backend = pod.ip;
        apply(&mut net.a, node_port(false, &[(backend, 8080).into()]));
        let port = net.client.ns.run(move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            socket.connect(to).unwrap();
            socket.set_read_timeout(Some(DEADLINE)).unwrap();
            socket.send(b"?").unwrap();
            socket.recv(&mut [0; 64]).unwrap();
            socket.local_addr().unwrap().port()
        });
        let seen = pod.ns.start({
            let tap = pod.ns.run(tap);
            move || {
                let mut frame = [0; 2048];
                let start = Instant::now();
                while start.elapsed() < DEADLINE {
                    let Ok(n) = socket::recv(tap.as_raw_fd(), &mut frame, MsgFlags::empty()) else {
                        continue;
                    };
                    let Ok(packet) = SlicedPacket::from_ethernet(&frame[..n]) else { continue };
                    let Some(TransportSlice::Icmpv4(icmp)) = &packet.transport else { continue };
                    let Ok(quoted) = etherparse::Ipv4HeaderSlice::from_slice(icmp.payload()) else {
                        continue;
                    };
                    let ports = &icmp.payload()[20..24];
                    let port = |at: usize| u16::from_be_bytes([ports[at], ports[at + 1]]);
                    let valid = icmp.header().icmp_type.calc_checksum(icmp.payload()) == icmp.checksum();
                    let mtu = u16::from_be_bytes([icmp.bytes5to8()[2], icmp.bytes5to8()[3]]);
                    return Some((
                        quoted.source_addr(),
                        port(0),
                        quoted.destination_addr(),
                        port(2),
                        mtu,
                        valid,
                    ));
                }
                None
            }
        });
        send_raw(&net, complaint(&net, port));
        let (from, sport, quoted_to, dport, mtu, valid) = seen.recv().unwrap().expect("the pod hears of it");
        // What it has sent itself, as it has sent it.
        assert_eq!((from, sport, IpAddr::V4(quoted_to)), (backend, 8080, source));
        assert_eq!((dport == port, mtu, valid), (!remote, 1300, true), "{dport} {port}");
    }
}

#[test]
fn netns_a_checksum_of_zero_stays_zero() {
    let mut net = Pair::new("zero");
    apply(&mut net.a, node_port(false, &[(net.local.ip, 8080).into()]));
    let seen = net.local.ns.start({
        let tap = net.local.ns.run(tap);
        move || {
            let mut frame = [0; 2048];
            let start = Instant::now();
            while start.elapsed() < DEADLINE {
                let Ok(n) = socket::recv(tap.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
                let Ok(packet) = SlicedPacket::from_ethernet(&frame[..n]) else { continue };
                let (Some(NetSlice::Ipv4(_)), Some(TransportSlice::Udp(udp))) =
                    (&packet.net, &packet.transport)
                else {
                    continue;
                };
                if udp.destination_port() == 8080 {
                    return Some(udp.checksum());
                }
            }
            None
        }
    });
    let builder = PacketBuilder::ipv4(net.client.ip.octets(), net.a.ip.octets(), 64).udp(4444, 30080);
    let mut packet = Vec::new();
    builder.write(&mut packet, b"no checksum").unwrap();
    packet[26..28].copy_from_slice(&[0, 0]);
    send_raw(&net, packet);
    assert_eq!(seen.recv().unwrap(), Some(0));
}

#[test]
fn netns_the_wire_carries_the_node_and_the_world() {
    let mut net = Pair::new("seen");
    let vip: IpAddr = "192.0.2.1".parse().unwrap();
    net.client.route(vip, &net.a);
    let backend: SocketAddr = (net.remote.ip, 8080).into();
    apply(&mut net.a, frontends(causeway_model::lb::FrontendKind::LoadBalancer, vip, 80, &[backend]));
    let capture = net.b.ns.start({
        let tap = net.b.ns.run(tap);
        move || {
            let mut frame = [0; 2048];
            let start = Instant::now();
            while start.elapsed() < DEADLINE {
                let Ok(n) = socket::recv(tap.as_raw_fd(), &mut frame, MsgFlags::empty()) else { continue };
                let Ok(outer) = SlicedPacket::from_ethernet(&frame[..n]) else { continue };
                let Some(TransportSlice::Udp(udp)) = &outer.transport else { continue };
                if udp.destination_port() != 8472 {
                    continue;
                }
                let vxlan = udp.payload();
                let vni = u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]);
                let inner = SlicedPacket::from_ethernet(&vxlan[8..]).unwrap();
                let (Some(NetSlice::Ipv4(ip)), Some(TransportSlice::Udp(udp))) = (inner.net, inner.transport)
                else {
                    continue;
                };
                if udp.destination_port() == 8080 {
                    let ip = ip.header();
                    return Some((vni, ip.source_addr(), ip.destination_addr(), udp.source_port()));
                }
            }
            None
        }
    });
    let answers = ask(&net.client.ns, Protocol::UDP, (vip, 80).into(), 1);
    assert_eq!(answers.values().sum::<usize>(), 1);
    let (vni, from, to, port) = capture.recv().unwrap().expect("a tunnelled packet");
    assert_eq!((vni, from.to_string(), to), (2, "10.1.0.1".into(), net.remote.ip));
    assert!((1024..30000).contains(&port), "{port} is no NodePort and no socket's");
}
