//! One family or both, and what IPv6 adds to a link: neighbours, routers, groups.

mod common;

use std::net::{IpAddr, UdpSocket};
use std::os::fd::AsRawFd;
use std::time::{Duration, Instant};

use common::{Node, Pod, underlay};
use etherparse::PacketBuilder;

const DEADLINE: Duration = Duration::from_secs(20);

/// Sends a datagram from pod to pod; whether it came.
fn arrives(from: &Pod, to: &Pod, v6: bool, limit: Duration) -> bool {
    let ip = to.address(v6);
    let (bound, address) = std::sync::mpsc::channel();
    let served = to.ns.start(move || {
        let socket = UdpSocket::bind((ip, 0)).unwrap();
        socket.set_read_timeout(Some(limit)).unwrap();
        bound.send(socket.local_addr().unwrap()).unwrap();
        socket.recv(&mut [0; 16]).is_ok()
    });
    let address = address.recv().unwrap();
    let ip = from.address(v6);
    from.ns.run(move || UdpSocket::bind((ip, 0)).unwrap().send_to(b"hello", address).unwrap());
    served.recv().unwrap()
}

#[test]
fn netns_a_node_may_have_one_family_only() {
    for v6 in [false, true] {
        let (mut a, mut b) = (Node::new("one", 1, None), Node::new("one", 2, None));
        underlay(&a, &b);
        for node in [&mut a, &mut b] {
            node.config.networks.retain(|network| network.internal_ip.is_ipv6() == v6);
            node.open();
        }
        let (a1, a2, b1) = (a.pod(5, 65_600), a.pod(6, 65_601), b.pod(5, 131_100));
        a.learn(&[(&b1, b.ip)], &[&b]);
        b.learn(&[(&a1, a.ip), (&a2, a.ip)], &[&a]);
        assert_eq!(a1.endpoint.ips.iter().collect::<Vec<IpAddr>>(), [a1.address(v6)]);
        for to in [&a2, &b1] {
            assert!(arrives(&a1, to, v6, DEADLINE), "to {}", to.address(v6));
            assert!(arrives(to, &a1, v6, DEADLINE), "from {}", to.address(v6));
        }
        a.datapath(|d| d.check_endpoint("pod5").unwrap());
    }
}

#[test]
fn netns_a_pod_of_an_earlier_configuration_keeps_what_it_has() {
    let mut a = Node::new("later", 1, None);
    let v6 = a.config.networks.pop().unwrap();
    a.open();
    let old = a.pod(5, 65_600);
    a.close();
    a.config.networks.push(v6);
    a.open();
    let new = a.pod(6, 65_601);
    a.datapath(|d| d.check_endpoint("pod5").unwrap());
    assert!(arrives(&old, &new, false, DEADLINE) && arrives(&new, &old, false, DEADLINE));
    assert_eq!((old.endpoint.ips.v6, new.endpoint.ips.v6), (None, Some(new.ip6)));
}

#[test]
fn netns_a_node_keeps_the_routers_it_has() {
    let mut a = Node::new("routers", 1, None);
    a.ns.run(|| common::ip("link add eth0 type veth peer name peer0"));
    let accept = |name: &str| format!("/proc/sys/net/ipv6/conf/{name}/accept_ra");
    let (eth0, peer0) = (accept("eth0"), accept("peer0"));
    a.ns.run({
        let (eth0, peer0) = (eth0.clone(), peer0.clone());
        move || {
            std::fs::write(eth0, "1").unwrap();
            std::fs::write(peer0, "0").unwrap();
        }
    });
    a.open();
    let read = move || [eth0, peer0].map(|file| std::fs::read_to_string(file).unwrap().trim().to_owned());
    assert_eq!(a.ns.run(read), ["2", "0"]);
}

/// Sends a frame out of an interface of the calling thread's namespace.
fn transmit(interface: &str, frame: &[u8]) {
    use nix::sys::socket::*;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), None).unwrap();
    let index = nix::net::if_::if_nametoindex(interface).unwrap();
    // SAFETY: all zeroes is a valid address of no interface.
    let mut address: libc::sockaddr_ll = unsafe { std::mem::zeroed() };
    address.sll_family = libc::AF_PACKET as u16;
    address.sll_ifindex = index as i32;
    let size = size_of_val(&address) as libc::socklen_t;
    // SAFETY: frame and address outlive the call, with the lengths given.
    let sent = unsafe {
        let to = (&raw const address).cast();
        libc::sendto(socket.as_raw_fd(), frame.as_ptr().cast(), frame.len(), 0, to, size)
    };
    assert_eq!(usize::try_from(sent).unwrap(), frame.len(), "{}", std::io::Error::last_os_error());
}

/// An ICMPv6 message in a frame to everybody.
fn message(source: &str, destination: &str, hops: u8, kind: u8, body: &[u8]) -> Vec<u8> {
    let octets = |ip: &str| ip.parse::<std::net::Ipv6Addr>().unwrap().octets();
    // A router for 1800 s; a neighbour that overrides what is known.
    let bytes5to8 = match kind {
        134 => [64, 0, 7, 8],
        136 => [0x20, 0, 0, 0],
        _ => [0; 4],
    };
    let icmp = etherparse::Icmpv6Type::Unknown { type_u8: kind, code_u8: 0, bytes5to8 };
    let mut frame = vec![];
    PacketBuilder::ethernet2([2, 0, 0, 0, 0, 1], [0x33, 0x33, 0, 0, 0, 1])
        .ipv6(octets(source), octets(destination), hops)
        .icmpv6(icmp)
        .write(&mut frame, body)
        .unwrap();
    frame
}

#[test]
fn netns_no_pod_is_a_router_and_neighbour_discovery_is_nobodys_business() {
    let mut a = Node::new("link", 1, None);
    a.open();
    let (pod, other) = (a.pod(5, 65_600), a.pod(6, 65_601));
    // As gullible as a node can be.
    let host = pod.endpoint.host_ifname.clone();
    a.ns.run(move || {
        std::fs::write(format!("/proc/sys/net/ipv6/conf/{host}/accept_ra"), "2").unwrap();
    });
    let refused = |a: &mut Node| {
        let counters = a.datapath(|d| d.counters().unwrap());
        counters.iter().filter(|c| c.reason == "invalid source ip").map(|c| c.packets).sum::<u64>()
    };
    // Two timers, no options.
    let advert = [0, 0, 0, 0, 0, 0, 0, 0];
    let target = "fd00:1::6".parse::<std::net::Ipv6Addr>().unwrap().octets();
    let (link, all) = ("fe80::1234", "ff02::1");
    let harmless = [
        message("::", "ff02::1:ff00:6", 255, 135, &target),
        message(link, "ff02::1:ff00:6", 255, 135, &target),
        message(link, all, 255, 136, &target),
        message(link, "ff02::2", 255, 133, &[]),
        message(link, "ff02::16", 1, 143, &[]),
        message("fd00:1::5", all, 255, 136, &target),
    ];
    let refusals = [
        message(link, all, 255, 134, &advert),
        message("::", all, 255, 134, &advert),
        message(link, all, 255, 137, &target),
        // It has been forwarded: nobody on this link has sent it.
        message(link, all, 64, 136, &target),
        message(link, "ff02::16", 64, 143, &[]),
        message("fe80::1234", "fd00:1::6", 255, 128, &[]),
        message("fd00:1::6", all, 255, 136, &target),
    ];
    let count = refusals.len() as u64;
    pod.ns.run(move || harmless.iter().for_each(|frame| transmit("eth0", frame)));
    assert_eq!(refused(&mut a), 0);
    pod.ns.run(move || refusals.iter().for_each(|frame| transmit("eth0", frame)));
    // A frame on a veth pair is through when the call returns, or soon after.
    let deadline = Instant::now() + DEADLINE;
    while refused(&mut a) < count && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(5));
    }
    assert_eq!(refused(&mut a), count);
    let host = pod.endpoint.host_ifname.clone();
    let (routes, neighbours) = a.ns.run(move || {
        let show = |args: &[&str]| {
            let output = std::process::Command::new("ip").arg("-6").args(args).output().unwrap();
            String::from_utf8(output.stdout).unwrap()
        };
        (show(&["route"]), show(&["neigh", "show", "dev", &host]))
    });
    assert!(!routes.contains("default"), "{routes}");
    let mac = pod.endpoint.mac.map(|byte| format!("{byte:02x}")).join(":");
    assert!(neighbours.contains(&format!("fd00:1::5 lladdr {mac} PERMANENT")), "{neighbours}");
    assert!(arrives(&pod, &other, true, DEADLINE) && arrives(&other, &pod, true, DEADLINE));
}
