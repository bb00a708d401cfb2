//! ICMP echo through a raw socket.

use std::io;
use std::mem::MaybeUninit;
use std::net::Ipv4Addr;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};
use std::time::{Duration, Instant};

use clap::Args;

use crate::error::Result;
use crate::runtime::Context;

const ECHO_REQUEST: u8 = 8;
const ECHO_REPLY: u8 = 0;

/// Send ICMP echo requests and count the answers
#[derive(Debug, Args)]
pub(super) struct Ping {
    /// Address
    target: Ipv4Addr,
    /// How many
    #[arg(short, long, default_value_t = 3)]
    count: u16,
    /// Bytes behind the ICMP header
    #[arg(short, long, default_value_t = 56)]
    size: usize,
    /// Milliseconds an answer may take
    #[arg(short = 'W', long, default_value_t = 1000)]
    timeout: u64,
}

impl Ping {
    pub(super) fn run(self) -> Result<u8> {
        let socket = Icmp::open(self.target).what(|| format!("open a raw socket to {}", self.target))?;
        let identifier = std::process::id() as u16;
        let mut received = 0;
        for sequence in 1..=self.count {
            let sent = Instant::now();
            let request = echo(identifier, sequence, self.size);
            // An unreachable answer is an error here and a loss in the count.
            if socket.send(&request).is_err() {
                continue;
            }
            let end = sent + Duration::from_millis(self.timeout);
            if socket.answer(&request, end) {
                received += 1;
                let ms = sent.elapsed().as_secs_f64() * 1000.0;
                println!("{} bytes from {}: seq={sequence} time={ms:.3} ms", self.size + 8, self.target);
            }
        }
        println!("{} sent, {received} received", self.count);
        Ok(u8::from(received < self.count))
    }
}

struct Icmp {
    fd: OwnedFd,
}

impl Icmp {
    fn open(target: Ipv4Addr) -> io::Result<Icmp> {
        // SAFETY: no memory of ours is involved.
        let fd =
            unsafe { libc::socket(libc::AF_INET, libc::SOCK_RAW | libc::SOCK_CLOEXEC, libc::IPPROTO_ICMP) };
        if fd < 0 {
            return Err(io::Error::last_os_error());
        }
        // SAFETY: the descriptor was just made and is nobody else's.
        let fd = unsafe { OwnedFd::from_raw_fd(fd) };
        let address = libc::sockaddr_in {
            sin_family: libc::AF_INET as libc::sa_family_t,
            sin_port: 0,
            sin_addr: libc::in_addr { s_addr: u32::from(target).to_be() },
            sin_zero: [0; 8],
        };
        // SAFETY: the pointer is to a sockaddr_in of the length given.
        let answer = unsafe {
            libc::connect(
                fd.as_raw_fd(),
                (&raw const address).cast(),
                size_of_val(&address) as libc::socklen_t,
            )
        };
        if answer < 0 { Err(io::Error::last_os_error()) } else { Ok(Icmp { fd }) }
    }

    fn send(&self, packet: &[u8]) -> io::Result<()> {
        // SAFETY: the pointer and length are of one slice.
        let n = unsafe { libc::send(self.fd.as_raw_fd(), packet.as_ptr().cast(), packet.len(), 0) };
        if n < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
    }

    /// Waits for the answer to a request; others' packets are passed over.
    fn answer(&self, request: &[u8], end: Instant) -> bool {
        let mut buffer = [MaybeUninit::<u8>::uninit(); 65536];
        loop {
            let left = end.saturating_duration_since(Instant::now());
            let mut poll = libc::pollfd { fd: self.fd.as_raw_fd(), events: libc::POLLIN, revents: 0 };
            // SAFETY: the pointer is to one pollfd.
            let ready = unsafe { libc::poll(&raw mut poll, 1, left.as_millis() as libc::c_int) };
            if ready <= 0 {
                return false;
            }
            // SAFETY: the pointer and length are of one buffer.
            let n = unsafe { libc::recv(self.fd.as_raw_fd(), buffer.as_mut_ptr().cast(), buffer.len(), 0) };
            if n <= 0 {
                continue;
            }
            // SAFETY: the kernel has written the first n bytes.
            let packet = unsafe { std::slice::from_raw_parts(buffer.as_ptr().cast::<u8>(), n as usize) };
            // A raw socket delivers the IP header too; its length is in its first byte.
            let header = packet.first().map_or(0, |b| usize::from(b & 15) * 4);
            let Some(icmp) = packet.get(header..) else { continue };
            // Everything behind type, code and checksum comes back as it was.
            if icmp.first() == Some(&ECHO_REPLY) && icmp.get(4..) == request.get(4..) {
                return true;
            }
        }
    }
}

/// An echo request with its checksum (RFC 792).
fn echo(identifier: u16, sequence: u16, size: usize) -> Vec<u8> {
    let mut packet = vec![ECHO_REQUEST, 0, 0, 0];
    packet.extend(identifier.to_be_bytes());
    packet.extend(sequence.to_be_bytes());
    packet.extend((0..size).map(|i| i as u8));
    let sum = checksum(&packet);
    packet[2..4].copy_from_slice(&sum.to_be_bytes());
    packet
}

/// The Internet checksum (RFC 1071).
fn checksum(bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|w| u32::from(w[0]) << 8 | u32::from(w.get(1).copied().unwrap_or(0)));
    let mut sum: u32 = words.sum();
    while sum >> 16 != 0 {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_packet_with_its_checksum_sums_to_zero() {
        for size in [0, 1, 56, 1000] {
            assert_eq!(checksum(&echo(7, 1, size)), 0, "{size}");
        }
    }
}
