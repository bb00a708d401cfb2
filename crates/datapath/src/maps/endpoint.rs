//! `cw_endpoints` (by each address) and `cw_interfaces` (by interface index): the pods of this node.

use zerocopy::{FromBytes, Immutable, IntoBytes};

/// `struct endpoint`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Endpoint {
    pub(crate) ifindex: u32,
    pub(crate) identity: u32,
    /// In network byte order; zero where the pod has none.
    pub(crate) ip4: [u8; 4],
    /// Likewise.
    pub(crate) ip6: [u8; 16],
    pub(crate) id: u16,
    pub(crate) mac: [u8; 6],
    pub(crate) host_mac: [u8; 6],
    pub(crate) pad: u16,
}
