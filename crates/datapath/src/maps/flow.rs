//! `cw_ct_tcp`, `cw_ct_any` and `cw_nat` (`bpf/lib/ct.h`, `bpf/lib/nat.h`): flows and what they are
//! translated to. Written by the kernel half; user space removes what is over.

use std::net::{IpAddr, SocketAddr};

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// Bits to shift nanoseconds of `CLOCK_MONOTONIC` by to get ticks.
const TICK_SHIFT: u32 = 27;

/// A client's flow to a service, before translation.
pub(crate) const FLOW_SERVICE: u8 = 4;
/// A flow a pod receives.
pub(crate) const FLOW_IN: u8 = 1;

/// Of an entry: its origin or the other side sends no more.
pub(crate) const ORIGIN_CLOSING: u16 = 1 << 0;
pub(crate) const REPLY_CLOSING: u16 = 1 << 1;
/// More than an attempt.
pub(crate) const SEEN_NON_SYN: u16 = 1 << 2;
/// Of a pod that reaches itself.
pub(crate) const LOOPBACK: u16 = 1 << 3;
/// Of a client outside.
pub(crate) const NODE_PORT: u16 = 1 << 4;
/// The backend's node answers the client directly.
pub(crate) const DSR: u16 = 1 << 5;

/// `struct tuple`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Tuple {
    pub(crate) src: [u8; 16],
    pub(crate) dst: [u8; 16],
    pub(crate) sport: [u8; 2],
    pub(crate) dport: [u8; 2],
    pub(crate) family: u8,
    pub(crate) protocol: u8,
    pub(crate) flags: u8,
    pub(crate) pad: u8,
}

/// `struct ct_entry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct CtEntry {
    pub(crate) address: [u8; 16],
    pub(crate) port: [u8; 2],
    pub(crate) flags: u16,
    pub(crate) expires: u32,
    pub(crate) service: u32,
    pub(crate) identity: u32,
    pub(crate) origin_seen: u8,
    pub(crate) reply_seen: u8,
    pub(crate) nat_port: [u8; 2],
}

/// `struct nat_entry`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct NatEntry {
    pub(crate) client: [u8; 16],
    pub(crate) frontend: [u8; 16],
    pub(crate) client_port: [u8; 2],
    pub(crate) frontend_port: [u8; 2],
    pub(crate) expires: u32,
}

impl Tuple {
    /// An address of this tuple's family.
    pub(crate) fn ip(&self, bytes: [u8; 16]) -> IpAddr {
        match self.family {
            4 => IpAddr::from(<[u8; 4]>::try_from(&bytes[..4]).expect("four bytes")),
            _ => IpAddr::from(bytes),
        }
    }

    /// An address of this tuple's family with a port.
    pub(crate) fn socket(&self, bytes: [u8; 16], port: [u8; 2]) -> SocketAddr {
        SocketAddr::new(self.ip(bytes), u16::from_be_bytes(port))
    }

    pub(crate) fn source(&self) -> SocketAddr {
        self.socket(self.src, self.sport)
    }

    pub(crate) fn destination(&self) -> SocketAddr {
        self.socket(self.dst, self.dport)
    }
}

impl NatEntry {
    /// The client's flow, as connection tracking knows it; `reply` is this entry's key.
    pub(crate) fn service(&self, reply: &Tuple) -> Tuple {
        Tuple {
            src: self.client,
            dst: self.frontend,
            sport: self.client_port,
            dport: self.frontend_port,
            flags: FLOW_SERVICE,
            ..*reply
        }
    }
}

/// The present time in ticks.
pub(crate) fn now() -> u32 {
    let mut time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
    // SAFETY: it is a place for the time; this clock is always there.
    unsafe { libc::clock_gettime(libc::CLOCK_MONOTONIC, &raw mut time) };
    let nanoseconds = time.tv_sec.cast_unsigned() * 1_000_000_000 + time.tv_nsec.cast_unsigned();
    // The kernel half keeps as many bits.
    (nanoseconds >> TICK_SHIFT) as u32
}

/// Seconds from `now` until `expires`; negative where that has passed.
pub(crate) fn seconds_left(expires: u32, now: u32) -> i64 {
    let ticks = i64::from(expires.wrapping_sub(now) as i32);
    (ticks << TICK_SHIFT) / 1_000_000_000
}

/// Whether the time of an entry has passed.
pub(crate) fn is_over(expires: u32, now: u32) -> bool {
    (expires.wrapping_sub(now) as i32) < 0
}
