//! `cw_lb_frontends` and `cw_lb_slots`: services and their backends.

use causeway_model::Protocol;
use causeway_model::lb::L4Addr;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Address;

/// `struct l4`: address, port in network byte order, protocol number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct L4 {
    pub(crate) address: Address,
    pub(crate) port: [u8; 2],
    pub(crate) protocol: u8,
    pub(crate) pad: u8,
}

impl From<L4Addr> for L4 {
    fn from(a: L4Addr) -> Self {
        Self { address: a.ip.into(), port: a.port.to_be_bytes(), protocol: a.protocol.number(), pad: 0 }
    }
}

impl L4 {
    /// The same as a model value; `None` for a family or protocol the model does not have.
    pub(crate) fn model(&self) -> Option<L4Addr> {
        let protocol = [Protocol::TCP, Protocol::UDP, Protocol::SCTP]
            .into_iter()
            .find(|p| p.number() == self.protocol)?;
        Some(L4Addr { ip: self.address.ip()?, port: u16::from_be_bytes(self.port), protocol })
    }
}

/// `struct frontend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Frontend {
    pub(crate) service: u32,
    pub(crate) generation: u32,
    pub(crate) count: u32,
    /// Another one with every change of the table in place.
    pub(crate) version: u32,
}

/// `struct slot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) service: u32,
    pub(crate) generation: u32,
    pub(crate) index: u32,
}
