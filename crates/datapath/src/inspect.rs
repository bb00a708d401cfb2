//! A look at what the kernel holds, without the agent: the pinned maps of a node, read only.
//!
//! `causeway bpf` shows it to people and the benchmark of the route latency waits for entries with
//! it. Nothing here changes a map. What belongs together is read entry by entry while the agent may
//! be writing: a list can miss what came or went meanwhile, a frontend and its backends cannot
//! disagree.

use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;

use causeway_model::lb::L4Addr;
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::Error;
use crate::maps::Table;
use crate::maps::ipcache::{Ipcache, Remote};
use crate::maps::lb::{Frontend, L4, Slot};
use crate::object::Pins;

/// How often a frontend is read again when its table was replaced under the reader.
const RETRIES: usize = 8;

/// One entry of the ipcache.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct IpcacheEntry {
    /// The address or prefix.
    pub prefix: IpNet,
    /// Identity of what is behind it.
    pub identity: u32,
    /// The node packets to it are tunnelled to; `None` = they are not.
    pub tunnel_endpoint: Option<Ipv4Addr>,
    /// IPsec key index; 0 = none.
    pub encrypt_key: u8,
}

/// One frontend with its backends, in the order of their slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FrontendEntry {
    /// What clients connect to.
    #[serde(serialize_with = "text")]
    pub frontend: L4Addr,
    /// Who answers; empty = connections are refused.
    #[serde(serialize_with = "texts")]
    pub backends: Vec<L4Addr>,
}

fn text<S: Serializer>(address: &L4Addr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

fn texts<S: Serializer>(addresses: &[L4Addr], serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_seq(addresses.iter().map(L4Addr::to_string))
}

/// The pinned maps of one node.
#[derive(Debug)]
pub struct Inspector {
    ipcache: Ipcache,
    frontends: Table<L4, Frontend>,
    slots: Table<Slot, L4>,
}

impl Inspector {
    /// Opens the pins below a bpffs, for example `/sys/fs/bpf`; of another mount namespace through
    /// `/proc/PID/root`.
    ///
    /// # Errors
    /// [`Error::Pin`] where no agent of this version has run since the bpffs was mounted, or
    /// without the rights of root.
    pub fn open(bpffs: &Path) -> Result<Self, Error> {
        let pins = Pins::at(bpffs).maps;
        Ok(Self {
            ipcache: Ipcache::open(&pins)?,
            frontends: Table::open(&pins, "cw_lb_frontends")?,
            slots: Table::open(&pins, "cw_lb_slots")?,
        })
    }

    /// The whole ipcache, sorted by prefix.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn ipcache(&self) -> Result<Vec<IpcacheEntry>, Error> {
        let mut all: Vec<_> = self.ipcache.entries()?.into_iter().map(entry).collect();
        all.sort_by_key(|e| e.prefix);
        Ok(all)
    }

    /// What the kernel half finds for an address: the longest prefix that contains it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn lookup(&self, ip: IpAddr) -> Result<Option<IpcacheEntry>, Error> {
        Ok(self.ipcache.lookup(ip)?.map(entry))
    }

    /// All frontends, sorted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn frontends(&self) -> Result<Vec<FrontendEntry>, Error> {
        let mut all = Vec::new();
        for (key, _) in self.frontends.entries()? {
            let Some(frontend) = key.model() else { continue };
            // Gone since the listing is gone.
            if let Some(backends) = self.backends(frontend)? {
                all.push(FrontendEntry { frontend, backends });
            }
        }
        all.sort_by_key(|e| e.frontend);
        Ok(all)
    }

    /// How many slots there are, of all frontends.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn slots(&self) -> Result<usize, Error> {
        Ok(self.slots.entries()?.len())
    }

    /// The backends of one frontend; `None` if there is no such frontend.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn backends(&self, frontend: L4Addr) -> Result<Option<Vec<L4Addr>>, Error> {
        let mut read = None;
        for _ in 0..RETRIES {
            let Some(found) = self.frontends.get(&frontend.into())? else { return Ok(None) };
            let Frontend { service, generation, count, .. } = found;
            let mut backends = Vec::new();
            for index in 0..count {
                let slot = self.slots.get(&Slot { service, generation, index })?;
                backends.extend(slot.and_then(|backend| backend.model()));
            }
            // A table that is complete was not replaced while it was read.
            let complete = u32::try_from(backends.len()) == Ok(count);
            read = Some(backends);
            if complete {
                break;
            }
        }
        Ok(read)
    }
}

fn entry((prefix, remote): (IpNet, Remote)) -> IpcacheEntry {
    IpcacheEntry {
        prefix,
        identity: remote.identity,
        tunnel_endpoint: Some(Ipv4Addr::from(remote.tunnel_endpoint)).filter(|ip| !ip.is_unspecified()),
        encrypt_key: remote.key_index,
    }
}
