//! The maps as Rust sees them: one typed table per map, in the layout of `bpf/lib/*.h`.

pub(crate) mod batch;
pub(crate) mod endpoint;
pub(crate) mod flow;
pub(crate) mod ipcache;
pub(crate) mod lb;
pub(crate) mod lookup;
pub(crate) mod metrics;
pub(crate) mod pod_flows;
mod table;

use std::net::IpAddr;

use zerocopy::{FromBytes, Immutable, IntoBytes};

pub use table::Usage;
pub(crate) use table::{Plain, Raw, Table};

const FAMILY_V4: u32 = 4;
const FAMILY_V6: u32 = 6;

/// `struct address`: a full-length address in network byte order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Address {
    pub(crate) family: u32,
    pub(crate) bytes: [u8; 16],
}

impl From<IpAddr> for Address {
    fn from(ip: IpAddr) -> Self {
        let mut bytes = [0; 16];
        match ip {
            IpAddr::V4(v4) => {
                bytes[..4].copy_from_slice(&v4.octets());
                Self { family: FAMILY_V4, bytes }
            }
            IpAddr::V6(v6) => Self { family: FAMILY_V6, bytes: v6.octets() },
        }
    }
}

impl Address {
    /// The address; `None` for a family that is neither.
    pub(crate) fn ip(&self) -> Option<IpAddr> {
        match self.family {
            FAMILY_V4 => Some(IpAddr::from(<[u8; 4]>::try_from(&self.bytes[..4]).expect("four bytes"))),
            FAMILY_V6 => Some(IpAddr::from(self.bytes)),
            _ => None,
        }
    }
}

/// The IPv4 address in the byte order of the wire; zero for none and for IPv6.
pub(crate) fn v4_bytes(ip: Option<IpAddr>) -> [u8; 4] {
    match ip {
        Some(IpAddr::V4(v4)) => v4.octets(),
        _ => [0; 4],
    }
}

#[cfg(test)]
mod tests;
