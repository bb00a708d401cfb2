//! A look at what the kernel holds, without the agent: the pinned maps of a node, read only.
//!
//! `causeway bpf` shows it to people and the benchmark of the route latency waits for entries with
//! it. Nothing here changes a map. What belongs together is read entry by entry while the agent may
//! be writing: a list can miss what came or went meanwhile, a frontend and its backends cannot
//! disagree.

use std::net::{IpAddr, Ipv4Addr};
use std::path::{Path, PathBuf};

use causeway_model::lb::{Algorithm, FrontendKind, L4Addr};
use ipnet::IpNet;
use serde::{Serialize, Serializer};

use crate::Error;
use crate::conntrack::Conntrack;
use crate::maps::Table;
pub use crate::maps::Usage;
use crate::maps::ipcache::{Ipcache, Remote};
use crate::maps::lb::{
    Affinity, Client, DENY_RANGES, DSR, Flow, Frontend, INTERNAL, L4, MAGLEV, Match, SOURCE_RANGES, Slot,
    TWO_SCOPES, TableKey, kind_of,
};
use crate::maps::lookup::{LookupTables, SourceRanges};
use crate::maps::metrics::{Counter, Metrics};
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

/// Whom a list of backends is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Scope {
    /// All clients.
    All,
    /// Clients outside the cluster; those inside have another list.
    External,
    /// Clients inside the cluster.
    Internal,
}

/// What source ranges are for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
pub enum Ranges {
    /// Only clients of these may use the frontend.
    Allow,
    /// Clients of these may not.
    Deny,
}

/// One list of a frontend with its backends, in the order of their slots.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct FrontendEntry {
    /// What clients connect to; an unspecified address is every node's.
    #[serde(serialize_with = "text")]
    pub frontend: L4Addr,
    /// What makes it a frontend.
    #[serde(serialize_with = "words")]
    pub kind: FrontendKind,
    /// Whom the list is for.
    pub scope: Scope,
    /// How packets from outside choose; sockets always choose at random.
    #[serde(serialize_with = "words")]
    pub algorithm: Algorithm,
    /// How long after its last use a client keeps its backend, seconds; 0 = it does not.
    pub affinity_seconds: u32,
    /// Whether there are source ranges.
    pub source_ranges: Option<Ranges>,
    /// Backends on other nodes answer the client directly.
    pub dsr: bool,
    /// Entries of the lookup table; 0 = there is none.
    pub table: u32,
    /// Who gets new connections; empty = they are refused.
    pub backends: Vec<BackendEntry>,
}

/// A backend and how much of the new connections it gets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct BackendEntry {
    /// Where it listens.
    #[serde(serialize_with = "text")]
    pub address: L4Addr,
    /// Its share, against the sum of all: its entries in the lookup table, or 1 where there is none.
    pub weight: u32,
}

fn text<S: Serializer>(address: &L4Addr, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(address)
}

fn words<T: std::fmt::Debug, S: Serializer>(name: &T, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&format_args!("{name:?}"))
}

/// Packets and bytes by direction and reason, since the maps below a bpffs were made.
///
/// # Errors
/// [`Error::Pin`] as [`Inspector::open`], and what the kernel refuses.
pub fn counters(bpffs: &Path) -> Result<Vec<Counter>, Error> {
    Metrics::open(&Pins::at(bpffs).maps)?.read()
}

/// The pinned maps of one node.
#[derive(Debug)]
pub struct Inspector {
    pins: PathBuf,
    ipcache: Ipcache,
    frontends: Table<L4, Frontend>,
    slots: Table<Slot, L4>,
    tables: LookupTables,
    backends: Table<L4, u32>,
    affinity: Table<Client, Affinity>,
    flows: Table<Flow, L4>,
    matches: Table<Match, u32>,
    ranges: SourceRanges,
    conntrack: Conntrack,
}

/// A frontend's list with its slots and its lookup table.
type Whole = (Frontend, Vec<L4Addr>, Vec<u16>);

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
            pins: pins.clone(),
            ipcache: Ipcache::open(&pins)?,
            frontends: Table::open(&pins, "cw_lb_frontends")?,
            slots: Table::open(&pins, "cw_lb_slots")?,
            tables: LookupTables::open(&pins)?,
            backends: Table::open(&pins, "cw_lb_backends")?,
            affinity: Table::open(&pins, "cw_lb_affinity")?,
            flows: Table::open(&pins, "cw_lb_reverse")?,
            matches: Table::open(&pins, "cw_lb_matches")?,
            ranges: SourceRanges::open(&pins)?,
            conntrack: Conntrack::open(bpffs)?,
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

    /// All lists of all frontends, sorted.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn frontends(&self) -> Result<Vec<FrontendEntry>, Error> {
        let mut all = Vec::new();
        for (key, _) in self.frontends.entries()? {
            // Gone since the listing is gone.
            all.extend(self.list(key)?);
        }
        all.sort_by_key(|e| (e.frontend, e.scope));
        Ok(all)
    }

    fn list(&self, key: L4) -> Result<Option<FrontendEntry>, Error> {
        let Some((frontend, backends, table)) = self.whole(key)? else { return Ok(None) };
        let (Some(address), Some(kind)) = (key.model(), kind_of(frontend.kind)) else { return Ok(None) };
        let has = |flag| frontend.flags & flag != 0;
        let mut weights = vec![u32::from(table.is_empty()); backends.len()];
        for entry in table {
            weights.get_mut(usize::from(entry)).into_iter().for_each(|weight| *weight += 1);
        }
        let backends = backends.into_iter().zip(weights);
        Ok(Some(FrontendEntry {
            frontend: address,
            kind,
            scope: match (key.scope, has(TWO_SCOPES)) {
                (INTERNAL, _) => Scope::Internal,
                (_, true) => Scope::External,
                (_, false) => Scope::All,
            },
            algorithm: if has(MAGLEV) { Algorithm::Maglev } else { Algorithm::Random },
            affinity_seconds: frontend.affinity,
            source_ranges: has(SOURCE_RANGES).then_some(if has(DENY_RANGES) {
                Ranges::Deny
            } else {
                Ranges::Allow
            }),
            dsr: has(DSR),
            table: frontend.entries,
            backends: backends.map(|(address, weight)| BackendEntry { address, weight }).collect(),
        }))
    }

    /// How full the maps are whose entries grow with the mesh or with traffic.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn usage(&self) -> Result<Vec<Usage>, Error> {
        let mut all = vec![
            self.ipcache.usage()?,
            self.affinity.usage()?,
            self.backends.usage()?,
            self.frontends.usage()?,
            self.matches.usage()?,
            self.flows.usage()?,
            self.slots.usage()?,
            self.ranges.usage(&self.pins)?,
            self.tables.usage(&self.pins)?,
        ];
        all.extend(self.conntrack.usage()?);
        Ok(all)
    }

    /// How many slots there are, of all frontends.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn slots(&self) -> Result<usize, Error> {
        Ok(self.slots.entries()?.len())
    }

    /// The backends of one frontend, of its list for clients outside if it has two; `None` if there is no
    /// such frontend.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn backends(&self, frontend: L4Addr) -> Result<Option<Vec<L4Addr>>, Error> {
        Ok(self.whole(frontend.into())?.map(|(_, backends, _)| backends))
    }

    /// A frontend, its slots and its lookup table.
    fn whole(&self, key: L4) -> Result<Option<Whole>, Error> {
        let mut read = None;
        for _ in 0..RETRIES {
            let Some(frontend) = self.frontends.get(&key)? else { return Ok(None) };
            let Frontend { service, generation, count, entries, .. } = frontend;
            let mut backends = Vec::new();
            for index in 0..count {
                let slot = self.slots.get(&Slot { service, generation, index })?;
                backends.extend(slot.and_then(|backend| backend.model()));
            }
            let table = match entries {
                0 => Some(vec![]),
                _ => self.tables.get(TableKey { service, generation }, entries)?,
            };
            // A table that is complete was not replaced while it was read.
            let complete = u32::try_from(backends.len()) == Ok(count) && table.is_some();
            read = Some((frontend, backends, table.unwrap_or_default()));
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
