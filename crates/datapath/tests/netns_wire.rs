//! What is on the wire between nodes, and what a restart costs.

mod common;

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::capture::{header, seen};
use common::{Node, Pod, underlay};
use etherparse::{SlicedPacket, TransportSlice};

const DEADLINE: Duration = Duration::from_secs(20);

/// Two nodes that know each other, with two pods on the first and one on the second.
fn nodes(test: &str) -> (Node, Node, [Pod; 3]) {
    let (mut a, mut b) = (Node::new(test, 1, None), Node::new(test, 2, None));
    underlay(&a, &b);
    a.open();
    b.open();
    let (a1, a2, b1) = (a.pod(5, 65_600), a.pod(6, 65_601), b.pod(5, 131_100));
    a.learn(&[(&b1, b.ip)], &[&b]);
    b.learn(&[(&a1, a.ip), (&a2, a.ip)], &[&a]);
    (a, b, [a1, a2, b1])
}

/// Sends a datagram that starts with so many hops.
fn send(to: IpAddr, hops: u8) {
    let any = if to.is_ipv6() { "[::]:0" } else { "0.0.0.0:0" };
    let socket = UdpSocket::bind(any).unwrap();
    let (level, name) = match to {
        IpAddr::V4(_) => (libc::IPPROTO_IP, libc::IP_TTL),
        IpAddr::V6(_) => (libc::IPPROTO_IPV6, libc::IPV6_UNICAST_HOPS),
    };
    let value = libc::c_int::from(hops);
    let size = size_of_val(&value) as libc::socklen_t;
    // SAFETY: the option's value is an int that outlives the call.
    let set = unsafe { libc::setsockopt(socket.as_raw_fd(), level, name, (&raw const value).cast(), size) };
    assert_eq!(set, 0);
    socket.send_to(b"who am I", (to, 9)).unwrap();
}

#[test]
fn netns_the_tunnel_carries_the_senders_identity_and_address() {
    let (a, b, [a1, _, b1]) = nodes("wire");
    for v6 in [false, true] {
        let to = b1.address(v6);
        let capture = seen(&b.ns, move |frame| {
            let outer = SlicedPacket::from_ethernet(frame).ok()?;
            let Some(TransportSlice::Udp(udp)) = &outer.transport else { return None };
            if udp.destination_port() != 8472 {
                return None;
            }
            let vxlan = udp.payload();
            let vni = u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]);
            let (source, destination, _) = header(&SlicedPacket::from_ethernet(&vxlan[8..]).ok()?)?;
            (destination == to).then_some((header(&outer)?.0, vni, source))
        });
        a1.ns.run(move || send(to, 64));
        let seen = capture.recv().unwrap().expect("a VXLAN packet on the underlay");
        assert_eq!(seen, (a.ip.into(), 65_600, a1.address(v6)));
    }
}

#[test]
fn netns_every_node_on_the_way_takes_a_hop() {
    let (_a, _b, [a1, a2, b1]) = nodes("hops");
    for v6 in [false, true] {
        for (pod, nodes) in [(&a2, 1), (&b1, 2)] {
            let to = pod.address(v6);
            let arrived = move |frame: &[u8]| {
                let packet = SlicedPacket::from_ethernet(frame).ok()?;
                let Some(TransportSlice::Udp(_)) = packet.transport else { return None };
                header(&packet).filter(|(_, destination, _)| *destination == to).map(|(_, _, hops)| hops)
            };
            for hops in [64, nodes + 1] {
                let capture = seen(&pod.ns, arrived);
                a1.ns.run(move || send(to, hops));
                assert_eq!(capture.recv().unwrap(), Some(hops - nodes), "to {to} with {hops} hops");
            }
            // The node where the last hop is used up says so, and the pod gets nothing.
            let complaint = seen(&a1.ns, move |frame| {
                let packet = SlicedPacket::from_ethernet(frame).ok()?;
                let (kind, of) = match packet.transport.as_ref()? {
                    TransportSlice::Icmpv4(icmp) => (icmp.type_u8(), 11),
                    TransportSlice::Icmpv6(icmp) => (icmp.type_u8(), 3),
                    _ => return None,
                };
                (kind == of).then_some(header(&packet)?.0)
            });
            a1.ns.run(move || send(to, nodes));
            let by = complaint
                .recv()
                .unwrap()
                .unwrap_or_else(|| panic!("no message that time is exceeded on the way to {to}"));
            let node = match (v6, nodes) {
                (false, 1) => "10.1.0.1",
                (false, _) => "10.2.0.1",
                (true, 1) => "fd00:1::1",
                (true, _) => "fd00:2::1",
            };
            assert_eq!(by.to_string(), node);
        }
    }
}

#[test]
fn netns_a_restart_loses_no_packet() {
    let (mut a, mut b) = (Node::new("probe", 1, None), Node::new("probe", 2, None));
    underlay(&a, &b);
    a.open();
    b.open();
    let (a1, b1) = (a.pod(5, 65_600), b.pod(5, 131_100));
    a.learn(&[(&b1, b.ip)], &[&b]);
    b.learn(&[(&a1, a.ip)], &[&a]);
    let received = Arc::new(AtomicUsize::new(0));
    let stop = Arc::new(AtomicBool::new(false));
    let (ready, address) = std::sync::mpsc::channel();
    let ip = b1.ip;
    let receiver = b1.ns.start({
        let (received, stop) = (received.clone(), stop.clone());
        move || {
            let socket = UdpSocket::bind((ip, 0)).unwrap();
            socket.set_read_timeout(Some(Duration::from_millis(100))).unwrap();
            ready.send(socket.local_addr().unwrap()).unwrap();
            while !stop.load(Ordering::SeqCst) {
                if socket.recv(&mut [0; 64]).is_ok() {
                    received.fetch_add(1, Ordering::SeqCst);
                }
            }
        }
    });
    let address = address.recv().unwrap();
    // 1,000 packets a second for as long as the restarts take.
    let sending = Arc::new(AtomicBool::new(true));
    let sender = a1.ns.start({
        let sending = sending.clone();
        move || {
            let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
            let (start, mut sent) = (Instant::now(), 0u32);
            while sending.load(Ordering::SeqCst) {
                socket.send_to(&sent.to_be_bytes(), address).expect("every packet can be sent");
                sent += 1;
                let next = start + Duration::from_millis(u64::from(sent));
                std::thread::sleep(next.saturating_duration_since(Instant::now()));
            }
            sent as usize
        }
    });
    for _ in 0..3 {
        a.close();
        b.close();
        a.open();
        b.open();
        a.learn(&[(&b1, b.ip)], &[&b]);
        b.learn(&[(&a1, a.ip)], &[&a]);
    }
    sending.store(false, Ordering::SeqCst);
    let sent = sender.recv().unwrap();
    let deadline = Instant::now() + DEADLINE;
    while received.load(Ordering::SeqCst) < sent && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    stop.store(true, Ordering::SeqCst);
    receiver.recv().unwrap();
    assert!(sent > 0);
    assert_eq!(received.load(Ordering::SeqCst), sent);
}
