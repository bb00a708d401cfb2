//! `cw_ipcache` (full-length addresses, a hash) and `cw_ipcache_lpm` (prefixes, a trie).

use std::net::IpAddr;
use std::path::Path;

use aya::Ebpf;
use aya::maps::lpm_trie::{Key, LpmTrie};
use aya::maps::{Map, MapData, MapError};
use ipnet::IpNet;
use zerocopy::{FromBytes, Immutable, IntoBytes};

use super::{Address, Raw, Table, Usage, table};
use crate::Error;

const LPM: &str = "cw_ipcache_lpm";
/// Bits of the family word in front of the address.
const FAMILY_BITS: u32 = 32;

/// `struct prefix`; the layout of aya's own trie key of an [`Address`].
#[derive(Debug, Clone, Copy, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
#[allow(dead_code)]
pub(crate) struct Prefix {
    pub(crate) bits: u32,
    pub(crate) address: Address,
}

/// `struct remote`: who is behind an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq, FromBytes, IntoBytes, Immutable)]
#[repr(C)]
pub(crate) struct Remote {
    pub(crate) identity: u32,
    /// IPv4 in network byte order; zero = not by tunnel.
    pub(crate) tunnel_endpoint: [u8; 4],
    pub(crate) key_index: u8,
    pub(crate) pad: [u8; 3],
}

/// Both maps as one table of prefixes.
#[derive(Debug)]
pub(crate) struct Ipcache {
    hosts: Table<Address, Remote>,
    prefixes: LpmTrie<MapData, Raw<Address>, Raw<Remote>>,
}

impl Ipcache {
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        let hosts = Table::take(object, "cw_ipcache")?;
        let map = table::take(object, LPM)?;
        let prefixes = LpmTrie::try_from(map).map_err(|source| Error::Map { map: LPM, source })?;
        Ok(Self { hosts, prefixes })
    }

    /// Opens the pinned maps of a node's agent, for looking.
    pub(crate) fn open(pins: &Path) -> Result<Self, Error> {
        let hosts = Table::open(pins, "cw_ipcache")?;
        let prefixes = LpmTrie::try_from(Map::LpmTrie(table::pinned(pins, LPM)?)).map_err(lpm)?;
        Ok(Self { hosts, prefixes })
    }

    /// What the kernel half would find for an address, and under which prefix.
    pub(crate) fn lookup(&self, ip: IpAddr) -> Result<Option<(IpNet, Remote)>, Error> {
        if let Some(found) = self.hosts.get(&ip.into())? {
            return Ok(Some((ip.into(), found)));
        }
        // A lookup in the trie does not say which prefix matched; few enough are there to compare.
        let of_it = |(prefix, _): &(IpNet, Remote)| prefix.contains(&ip);
        Ok(self.prefixes()?.into_iter().filter(of_it).max_by_key(|(prefix, _)| prefix.prefix_len()))
    }

    pub(crate) fn set(&mut self, prefix: IpNet, value: Remote) -> Result<(), Error> {
        if is_host(prefix) {
            return self.hosts.set(prefix.addr().into(), value);
        }
        self.prefixes.insert(&trie_key(prefix), Raw(value), 0).map_err(lpm)
    }

    /// Sets many, in their order; every one is tried.
    pub(crate) fn set_all(&mut self, entries: &[(IpNet, Remote)]) -> Result<(), Error> {
        let (hosts, prefixes): (Vec<_>, Vec<_>) = entries.iter().partition(|(prefix, _)| is_host(*prefix));
        let hosts: Vec<(Address, Remote)> =
            hosts.into_iter().map(|(prefix, value)| (prefix.addr().into(), value)).collect();
        let result = self.hosts.set_all(&hosts);
        prefixes.into_iter().fold(result, |result, (prefix, value)| result.and(self.set(prefix, value)))
    }

    pub(crate) fn remove(&mut self, prefix: IpNet) -> Result<(), Error> {
        if is_host(prefix) {
            return self.hosts.remove(&prefix.addr().into());
        }
        match self.prefixes.remove(&trie_key(prefix)) {
            Ok(()) | Err(MapError::KeyNotFound) => Ok(()),
            Err(MapError::SyscallError(e)) if e.io_error.raw_os_error() == Some(libc::ENOENT) => Ok(()),
            Err(source) => Err(lpm(source)),
        }
    }

    /// How full the map of full-length addresses is.
    pub(crate) fn usage(&self) -> Result<Usage, Error> {
        self.hosts.usage()
    }

    /// Every prefix in the kernel.
    pub(crate) fn entries(&self) -> Result<Vec<(IpNet, Remote)>, Error> {
        let host = |(address, value): (Address, Remote)| Some((IpNet::from(address.ip()?), value));
        let mut all: Vec<_> = self.hosts.entries()?.into_iter().filter_map(host).collect();
        all.extend(self.prefixes()?);
        Ok(all)
    }

    fn prefixes(&self) -> Result<Vec<(IpNet, Remote)>, Error> {
        let mut all = Vec::new();
        for entry in self.prefixes.iter() {
            let (key, value) = entry.map_err(lpm)?;
            let bits = key.prefix_len().saturating_sub(FAMILY_BITS);
            let prefix = key.data().0.ip().and_then(|ip| IpNet::new(ip, u8::try_from(bits).ok()?).ok());
            all.extend(prefix.map(|prefix| (prefix, value.0)));
        }
        Ok(all)
    }
}

fn is_host(prefix: IpNet) -> bool {
    prefix.prefix_len() == prefix.max_prefix_len()
}

fn trie_key(prefix: IpNet) -> Key<Raw<Address>> {
    Key::new(FAMILY_BITS + u32::from(prefix.prefix_len()), Raw(prefix.trunc().addr().into()))
}

fn lpm(source: MapError) -> Error {
    Error::Map { map: LPM, source }
}
