//! `cw_metrics`: packets and bytes by reason and direction.

use std::path::Path;

use aya::Ebpf;
use aya::maps::{Map, MapData, PerCpuHashMap};
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Raw, table};
use crate::Error;

const NAME: &str = "cw_metrics";

/// `struct metric_key`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Key {
    pub(crate) reason: u8,
    pub(crate) direction: u8,
    pub(crate) pad: u16,
}

/// `struct metric`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Value {
    pub(crate) packets: u64,
    pub(crate) bytes: u64,
}

/// Packets and bytes that left the datapath for one reason in one direction, over all CPUs.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, serde::Serialize)]
pub struct Counter {
    /// `ingress` or `egress`, from the pod's point of view.
    pub direction: &'static str,
    /// `forwarded`, or why packets were dropped.
    pub reason: &'static str,
    /// Packets.
    pub packets: u64,
    /// Bytes.
    pub bytes: u64,
}

/// The counters of the kernel half.
pub(crate) struct Metrics(PerCpuHashMap<MapData, Raw<Key>, Raw<Value>>);

impl std::fmt::Debug for Metrics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Metrics")
    }
}

impl Metrics {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        let map = table::take(object, NAME)?;
        Ok(Self(PerCpuHashMap::try_from(map).map_err(|source| Error::Map { map: NAME, source })?))
    }

    /// Opens the pinned map of a node's agent, for looking.
    pub(crate) fn open(pins: &Path) -> Result<Self, Error> {
        let map = Map::PerCpuHashMap(table::pinned(pins, NAME)?);
        Ok(Self(PerCpuHashMap::try_from(map).map_err(|source| Error::Map { map: NAME, source })?))
    }

    /// All counters, sorted.
    pub(crate) fn read(&self) -> Result<Vec<Counter>, Error> {
        let mut all = Vec::new();
        for entry in self.0.iter() {
            let (key, values) = entry.map_err(|source| Error::Map { map: NAME, source })?;
            all.push(Counter {
                direction: if key.0.direction == 1 { "ingress" } else { "egress" },
                reason: reason(key.0.reason),
                packets: values.iter().map(|v| v.0.packets).sum(),
                bytes: values.iter().map(|v| v.0.bytes).sum(),
            });
        }
        all.sort();
        Ok(all)
    }
}

/// The words for the numbers of `bpf/lib/common.h`.
fn reason(number: u8) -> &'static str {
    match number {
        0 => "forwarded",
        132 => "invalid source ip",
        134 => "invalid packet",
        135 => "invalid transport header",
        136 => "fragmentation needed",
        141 => "tunnel key failed",
        153 => "error while correcting l3 checksum",
        154 => "error while correcting l4 checksum",
        155 => "ct map insertion failed",
        156 => "invalid ipv6 extension header",
        158 => "service backend not found",
        160 => "no tunnel endpoint",
        167 => "no mapping for nat",
        168 => "unsupported protocol for nat",
        169 => "fib lookup failed",
        171 => "invalid identity",
        175 => "first fragment not found",
        177 => "denied by lb source ranges",
        196 => "ttl exceeded",
        250 => "dsr option refused",
        _ => "unknown",
    }
}
