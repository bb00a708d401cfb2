//! What is on the wire between nodes, and what a restart costs.

mod common;

use std::net::UdpSocket;
use std::os::fd::{AsRawFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use common::{Node, underlay};
use etherparse::{NetSlice, SlicedPacket, TransportSlice};

const DEADLINE: Duration = Duration::from_secs(20);

/// A socket that sees every frame of the calling thread's namespace.
fn tap() -> OwnedFd {
    use nix::sys::socket::*;
    let all = SockProtocol::EthAll;
    let socket = socket(AddressFamily::Packet, SockType::Raw, SockFlag::empty(), all).unwrap();
    setsockopt(&socket, sockopt::ReceiveTimeout, &nix::sys::time::TimeVal::new(1, 0)).unwrap();
    socket
}

#[test]
fn netns_the_tunnel_carries_the_senders_identity_and_address() {
    let (mut a, mut b) = (Node::new("wire", 1, None), Node::new("wire", 2, None));
    underlay(&a, &b);
    a.open();
    b.open();
    let (a1, b1) = (a.pod(5, 65_600), b.pod(5, 131_100));
    a.learn(&[(&b1, b.ip)], &[&b]);
    b.learn(&[(&a1, a.ip)], &[&a]);
    let capture = b.ns.start({
        let tap = b.ns.run(tap);
        move || {
            let deadline = Instant::now() + DEADLINE;
            let mut frame = [0; 2048];
            while Instant::now() < deadline {
                let Ok(n) =
                    nix::sys::socket::recv(tap.as_raw_fd(), &mut frame, nix::sys::socket::MsgFlags::empty())
                else {
                    continue;
                };
                let Ok(outer) = SlicedPacket::from_ethernet(&frame[..n]) else { continue };
                let Some(TransportSlice::Udp(udp)) = &outer.transport else { continue };
                if udp.destination_port() != 8472 {
                    continue;
                }
                let vxlan = udp.payload();
                let vni = u32::from_be_bytes([0, vxlan[4], vxlan[5], vxlan[6]]);
                let inner = SlicedPacket::from_ethernet(&vxlan[8..]).unwrap();
                let (Some(NetSlice::Ipv4(outer)), Some(NetSlice::Ipv4(inner))) = (outer.net, inner.net)
                else {
                    continue;
                };
                return Some((
                    outer.header().source_addr(),
                    vni,
                    inner.header().source_addr(),
                    inner.header().destination_addr(),
                ));
            }
            None
        }
    });
    let to = b1.ip;
    a1.ns.run(move || {
        let socket = UdpSocket::bind("0.0.0.0:0").unwrap();
        socket.send_to(b"who am I", (to, 9)).unwrap();
    });
    let seen = capture.recv().unwrap().expect("a VXLAN packet on the underlay");
    assert_eq!(seen, (a.ip, 65_600, a1.ip, b1.ip));
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
