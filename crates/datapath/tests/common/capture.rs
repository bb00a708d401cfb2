//! What is on the wire.

use std::net::IpAddr;
use std::os::fd::AsRawFd;
use std::sync::mpsc;
use std::time::{Duration, Instant};

use etherparse::{NetSlice, SlicedPacket};

use super::Ns;
use super::vpc::tap;

const DEADLINE: Duration = Duration::from_secs(20);

/// What the first frame of a namespace says of which `look` has something to say.
pub fn seen<T: Send + 'static>(
    ns: &Ns,
    look: impl Fn(&[u8]) -> Option<T> + Send + 'static,
) -> mpsc::Receiver<Option<T>> {
    let tap = ns.run(tap);
    let (found, result) = mpsc::channel();
    // Not on the namespace's own thread, which may have to send what is waited for.
    std::thread::spawn(move || {
        use nix::sys::socket::{MsgFlags, recv};
        let deadline = Instant::now() + DEADLINE;
        let mut frame = [0; 2048];
        let mut next = || {
            let n = recv(tap.as_raw_fd(), &mut frame, MsgFlags::empty()).ok()?;
            look(&frame[..n])
        };
        let mut seen = None;
        while seen.is_none() && Instant::now() < deadline {
            seen = next();
        }
        let _ = found.send(seen);
    });
    result
}

/// Source, destination and hops left of a packet's IP header.
pub fn header(packet: &SlicedPacket<'_>) -> Option<(IpAddr, IpAddr, u8)> {
    match packet.net.as_ref()? {
        NetSlice::Ipv4(ip) => {
            let header = ip.header();
            Some((header.source_addr().into(), header.destination_addr().into(), header.ttl()))
        }
        NetSlice::Ipv6(ip) => {
            let header = ip.header();
            Some((header.source_addr().into(), header.destination_addr().into(), header.hop_limit()))
        }
        _ => None,
    }
}
