//! The maps of services (`bpf/lib/lb.h`): frontends, their tables of backends, affinity, source
//! ranges, and the nodes at whose addresses NodePorts answer.

use std::net::IpAddr;

use causeway_model::Protocol;
use causeway_model::lb::{FrontendKind, L4Addr};
use ipnet::IpNet;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::Address;

/// `struct l4`: address, port in network byte order, protocol number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct L4 {
    pub(crate) address: Address,
    pub(crate) port: [u8; 2],
    pub(crate) protocol: u8,
    /// In keys of `cw_lb_frontends` [`EXTERNAL`] or [`INTERNAL`]; 0 everywhere else.
    pub(crate) scope: u8,
}

/// The only list of a frontend, or that for clients outside.
pub(crate) const EXTERNAL: u8 = 0;
/// The list for clients inside the cluster, where it is another.
pub(crate) const INTERNAL: u8 = 1;

impl From<L4Addr> for L4 {
    fn from(a: L4Addr) -> Self {
        Self {
            address: a.ip.into(),
            port: a.port.to_be_bytes(),
            protocol: a.protocol.number(),
            scope: EXTERNAL,
        }
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

    /// The key of a frontend's list for clients inside.
    pub(crate) fn internal(self) -> Self {
        Self { scope: INTERNAL, ..self }
    }
}

/// `struct frontend`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Frontend {
    pub(crate) service: u32,
    pub(crate) generation: u32,
    /// Slots 0 … count-1 exist.
    pub(crate) count: u32,
    /// Another one with every change of the table in place.
    pub(crate) version: u32,
    /// Entries of the lookup table; 0 = there is none.
    pub(crate) entries: u32,
    /// Session affinity, seconds; 0 = none.
    pub(crate) affinity: u32,
    pub(crate) kind: u8,
    pub(crate) flags: u8,
    pub(crate) pad: u16,
}

/// There is another list under [`INTERNAL`].
pub(crate) const TWO_SCOPES: u8 = 1 << 0;
/// Clients outside are held against `cw_lb_source_ranges` …
pub(crate) const SOURCE_RANGES: u8 = 1 << 1;
/// … which are those that may not.
pub(crate) const DENY_RANGES: u8 = 1 << 2;
/// The lookup table is one of Maglev.
pub(crate) const MAGLEV: u8 = 1 << 3;
/// Backends on other nodes answer the client directly.
pub(crate) const DSR: u8 = 1 << 4;

/// The number of a kind in the kernel.
pub(crate) fn kind_number(kind: FrontendKind) -> u8 {
    match kind {
        FrontendKind::ClusterIP => 0,
        FrontendKind::NodePort => 1,
        FrontendKind::LoadBalancer => 2,
        FrontendKind::ExternalIP => 3,
        FrontendKind::HostPort => 4,
    }
}

/// The kind of a number; `None` for one there is not.
pub(crate) fn kind_of(number: u8) -> Option<FrontendKind> {
    use FrontendKind::{ClusterIP, ExternalIP, HostPort, LoadBalancer, NodePort};
    [ClusterIP, NodePort, LoadBalancer, ExternalIP, HostPort]
        .into_iter()
        .find(|kind| kind_number(*kind) == number)
}

/// `struct slot`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Slot {
    pub(crate) service: u32,
    pub(crate) generation: u32,
    pub(crate) index: u32,
}

/// Entries of a piece of a lookup table.
pub(crate) const CHUNK: usize = 64;

/// `struct chunk`: a piece of a lookup table; each entry is the index of a slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Chunk {
    pub(crate) slot: [u16; CHUNK],
}

/// `struct table`: the key of a lookup table.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct TableKey {
    pub(crate) service: u32,
    pub(crate) generation: u32,
}

/// `struct client`: who keeps its backend; written by the kernel half alone.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Client {
    pub(crate) address: Address,
    pub(crate) service: u32,
}

/// `struct affinity`; written by the kernel half alone.
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Affinity {
    pub(crate) last: u64,
    pub(crate) backend: L4,
}

/// `struct match`: a backend that clients of a frontend with affinity may keep.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Match {
    pub(crate) backend: L4,
    pub(crate) service: u32,
}

/// `struct source_range` without its first word, the number of bits, which the trie's key has.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct SourceRange {
    pub(crate) service: u32,
    pub(crate) generation: u32,
    pub(crate) address: Address,
}

impl SourceRange {
    /// Bits of service, generation and family in front of the address.
    const HEAD: u32 = 96;

    /// The key of a range, with its number of bits.
    pub(crate) fn new(table: TableKey, range: IpNet) -> (u32, Self) {
        let TableKey { service, generation } = table;
        let address = IpAddr::into(range.trunc().addr());
        (Self::HEAD + u32::from(range.prefix_len()), Self { service, generation, address })
    }

    /// The frontend's tables it belongs to.
    pub(crate) fn table(&self) -> TableKey {
        TableKey { service: self.service, generation: self.generation }
    }
}

/// `struct flow`: a socket and the backend it talks to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Flow {
    pub(crate) cookie: u64,
    pub(crate) backend: L4,
}

/// Values of `cw_node_addresses`.
pub(crate) const NODE_OTHER: u32 = 0;
/// This node.
pub(crate) const NODE_OWN: u32 = 1;
