//! ICMP echo for all nodes over one raw socket per family, which needs CAP_NET_RAW.

use std::io;
use std::net::{IpAddr, SocketAddrV4, SocketAddrV6};
use std::os::fd::{AsRawFd, OwnedFd};

use nix::errno::Errno;
use nix::sys::socket::{
    AddressFamily, MsgFlags, SockFlag, SockProtocol, SockType, SockaddrIn, SockaddrIn6, recvfrom, sendto,
    setsockopt, socket, sockopt,
};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use super::ProbeId;

/// `ICMP_FILTER` of linux/icmp.h and `ICMPV6_FILTER` of linux/icmpv6.h.
const FILTER: libc::c_int = 1;
/// Room for the answers of a second from thousands of nodes.
const RECEIVE_BUFFER: usize = 4 << 20;
/// Header and our two words.
const LENGTH: usize = 24;

/// How a request left.
#[derive(Debug)]
pub(super) enum Sent {
    Yes,
    /// The machine has no room for it now.
    NoRoom,
    /// There is no way to it, or it is forbidden.
    Refused(Errno),
}

/// The socket of one family.
#[derive(Debug)]
pub(super) struct Icmp {
    socket: AsyncFd<OwnedFd>,
    v6: bool,
    /// In every request, so that only our own answers count.
    nonce: u64,
}

impl Icmp {
    /// Opens it in the network namespace of the calling thread, which must be in a tokio runtime.
    pub(super) fn open(v6: bool, nonce: u64) -> io::Result<Self> {
        let (family, protocol) = match v6 {
            false => (AddressFamily::Inet, SockProtocol::Icmp),
            true => (AddressFamily::Inet6, SockProtocol::IcmpV6),
        };
        let flags = SockFlag::SOCK_CLOEXEC | SockFlag::SOCK_NONBLOCK;
        let fd = socket(family, SockType::Raw, flags, protocol)?;
        // Only echo replies (0 and 129) are let through: a set bit keeps a type out.
        if v6 {
            let mut types = [u32::MAX; 8];
            types[129 / 32] &= !(1 << (129 % 32));
            filter(&fd, libc::IPPROTO_ICMPV6, &types)?;
        } else {
            filter(&fd, libc::SOL_RAW, &[!1_u32])?;
        }
        // The kernel gives what its limit allows, and that is enough for small meshes.
        let _ = setsockopt(&fd, sockopt::RcvBuf, &RECEIVE_BUFFER);
        // SAFETY: the descriptor is ours alone, and is closed only when the AsyncFd that owns it is dropped.
        let socket = unsafe { AsyncFd::register_with_interest(fd, Interest::READABLE)? };
        Ok(Self { socket, v6, nonce })
    }

    pub(super) fn send(&self, to: IpAddr, probe: ProbeId) -> Sent {
        let packet = self.request(probe);
        let fd = self.socket.get_ref().as_raw_fd();
        let sent = match to {
            IpAddr::V4(ip) => {
                sendto(fd, &packet, &SockaddrIn::from(SocketAddrV4::new(ip, 0)), MsgFlags::empty())
            }
            IpAddr::V6(ip) => {
                sendto(fd, &packet, &SockaddrIn6::from(SocketAddrV6::new(ip, 0, 0, 0)), MsgFlags::empty())
            }
        };
        match sent {
            Ok(_) => Sent::Yes,
            Err(Errno::EAGAIN | Errno::ENOBUFS | Errno::ENOMEM | Errno::EINTR) => Sent::NoRoom,
            Err(error) => Sent::Refused(error),
        }
    }

    /// The next answer to one of our requests.
    pub(super) async fn receive(&self) -> io::Result<(IpAddr, ProbeId)> {
        loop {
            let packet = self.socket.async_io(Interest::READABLE, |fd| self.take(fd)).await?;
            if let Some(answer) = packet {
                return Ok(answer);
            }
        }
    }

    /// The same of what has arrived already.
    pub(super) fn try_receive(&self) -> Option<(IpAddr, ProbeId)> {
        loop {
            match self.socket.try_io(Interest::READABLE, |fd| self.take(fd)) {
                Ok(Some(answer)) => return Some(answer),
                Ok(None) => {}
                Err(_) => return None,
            }
        }
    }

    /// One packet; none if it is no answer to us.
    fn take(&self, fd: &OwnedFd) -> io::Result<Option<(IpAddr, ProbeId)>> {
        let mut buffer = [0; 256];
        let (length, from) = if self.v6 {
            let (length, from) = recvfrom::<SockaddrIn6>(fd.as_raw_fd(), &mut buffer)?;
            (length, from.map(|from| IpAddr::V6(from.ip())))
        } else {
            let (length, from) = recvfrom::<SockaddrIn>(fd.as_raw_fd(), &mut buffer)?;
            (length, from.map(|from| IpAddr::V4(from.ip())))
        };
        let probe = buffer.get(..length).and_then(|packet| self.answer(packet));
        Ok(from.zip(probe))
    }

    fn request(&self, probe: ProbeId) -> [u8; LENGTH] {
        let mut packet = [0; LENGTH];
        packet[0] = if self.v6 { 128 } else { 8 };
        packet[4..6].copy_from_slice(&(self.nonce as u16).to_be_bytes());
        packet[6..8].copy_from_slice(&(probe.0 as u16).to_be_bytes());
        packet[8..16].copy_from_slice(&self.nonce.to_be_bytes());
        packet[16..24].copy_from_slice(&probe.0.to_be_bytes());
        // That of ICMPv6 covers addresses too; the kernel writes it.
        if !self.v6 {
            let sum = checksum(&packet);
            packet[2..4].copy_from_slice(&sum.to_be_bytes());
        }
        packet
    }

    /// The probe that a packet answers. Raw sockets of IPv4 give the header of the packet too.
    fn answer(&self, packet: &[u8]) -> Option<ProbeId> {
        let message = match self.v6 {
            true => packet,
            false => packet.get(usize::from(packet.first()? & 0xf) * 4..)?,
        };
        let word = |at: usize| Some(u64::from_be_bytes(message.get(at..at + 8)?.try_into().ok()?));
        let reply = if self.v6 { 129 } else { 0 };
        (*message.first()? == reply && word(8)? == self.nonce).then_some(())?;
        word(16).map(ProbeId)
    }
}

/// Sets which types of messages a raw socket keeps out.
fn filter(fd: &OwnedFd, level: libc::c_int, types: &[u32]) -> io::Result<()> {
    let length = size_of_val(types) as libc::socklen_t;
    // SAFETY: the kernel reads `length` bytes of `types`, which outlives the call.
    let result = unsafe { libc::setsockopt(fd.as_raw_fd(), level, FILTER, types.as_ptr().cast(), length) };
    Errno::result(result).map(drop).map_err(io::Error::from)
}

/// The Internet checksum (RFC 1071).
fn checksum(packet: &[u8; LENGTH]) -> u16 {
    let sum: u32 = packet.chunks(2).map(|pair| u32::from(pair[0]) << 8 | u32::from(pair[1])).sum();
    let folded = (sum >> 16) + (sum & 0xffff);
    !((folded >> 16) + (folded & 0xffff)) as u16
}
