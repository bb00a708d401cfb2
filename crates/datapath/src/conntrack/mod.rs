//! Connection tracking from user space: removes what is over, shows what is there.
//!
//! The kernel half judges every entry by its time and needs nobody to remove it; removal makes room
//! before the maps, which are LRU, displace entries that are in use.

mod interval;
mod show;

use std::net::IpAddr;
use std::path::Path;
use std::time::{Duration, Instant};

use aya::Ebpf;

use crate::Error;
use crate::maps::flow::{CtEntry, NatEntry, Tuple, is_over, now};
use crate::maps::{Table, Usage, batch};
use crate::object::Pins;

pub use interval::Interval;
pub use show::{FlowEntry, Kind, NatFlow};

/// How long an entry that is over stays, in ticks: ten seconds. One that is used again just now is
/// not removed.
const GRACE: u32 = 75;

/// The maps of flows of one node.
#[derive(Debug)]
pub struct Conntrack {
    tcp: Table<Tuple, CtEntry>,
    any: Table<Tuple, CtEntry>,
    nat: Table<Tuple, NatEntry>,
}

/// What one collection has done.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
pub struct Collected {
    /// Entries of connection tracking and NAT that are left.
    pub alive: usize,
    /// Entries that were removed.
    pub deleted: usize,
    /// How long it took.
    pub took: Duration,
}

impl Collected {
    /// The part of all entries that was removed, 0 to 1.
    pub fn ratio(&self) -> f64 {
        let all = self.alive + self.deleted;
        if all == 0 { 0.0 } else { self.deleted as f64 / all as f64 }
    }
}

impl Conntrack {
    /// Takes the maps out of the loaded program of the node's devices.
    pub(crate) fn take(host: &mut Ebpf) -> Result<Self, Error> {
        Ok(Self {
            tcp: Table::take(host, "cw_ct_tcp")?,
            any: Table::take(host, "cw_ct_any")?,
            nat: Table::take(host, "cw_nat")?,
        })
    }

    /// Opens the pinned maps below a bpffs, for a thread of its own.
    ///
    /// # Errors
    /// [`Error::Pin`] where no agent of this version has run since the bpffs was mounted.
    pub fn open(bpffs: &Path) -> Result<Self, Error> {
        let pins = Pins::at(bpffs).maps;
        Ok(Self {
            tcp: Table::open(&pins, "cw_ct_tcp")?,
            any: Table::open(&pins, "cw_ct_any")?,
            nat: Table::open(&pins, "cw_nat")?,
        })
    }

    /// Removes what is over.
    ///
    /// # Errors
    /// [`Error::Map`]; the next collection goes on.
    pub fn collect(&mut self) -> Result<Collected, Error> {
        let past = |expires: u32, now: u32| is_over(expires.wrapping_add(GRACE), now);
        self.sweep(|_, entry, now| past(entry.expires, now), |_, entry, now| past(entry.expires, now))
    }

    /// Removes every flow that an address is an end of: its pod is gone, and the next one with the
    /// address shall not be taken for it.
    ///
    /// # Errors
    /// [`Error::Map`]
    pub fn forget(&mut self, ips: &[IpAddr]) -> Result<Collected, Error> {
        let of = |tuple: &Tuple, bytes| ips.contains(&tuple.ip(bytes));
        self.sweep(
            |tuple, entry, _| of(tuple, tuple.src) || of(tuple, tuple.dst) || of(tuple, entry.address),
            |tuple, entry, _| of(tuple, tuple.src) || of(tuple, entry.client),
        )
    }

    /// Removes all flows; every connection that is translated chooses anew.
    ///
    /// # Errors
    /// [`Error::Map`]
    pub fn flush(&mut self) -> Result<Collected, Error> {
        self.sweep(|_, _, _| true, |_, _, _| true)
    }

    /// Removes what these say. An entry of NAT stays while the client's flow is there and has its port.
    fn sweep(
        &mut self,
        ct: impl Fn(&Tuple, &CtEntry, u32) -> bool,
        nat: impl Fn(&Tuple, &NatEntry, u32) -> bool,
    ) -> Result<Collected, Error> {
        let (started, now) = (Instant::now(), now());
        let (tcp, tcp_over) = scan(&self.tcp, |tuple, entry| ct(tuple, entry, now))?;
        let (any, any_over) = scan(&self.any, |tuple, entry| ct(tuple, entry, now))?;
        tcp_over.iter().try_for_each(|tuple| self.tcp.remove(tuple))?;
        any_over.iter().try_for_each(|tuple| self.any.remove(tuple))?;
        let (translated, mut nat_over) = scan(&self.nat, |tuple, entry| nat(tuple, entry, now))?;
        let mut failure = None;
        nat_over.retain(|reply| match self.is_held(reply) {
            Ok(held) => !held,
            Err(error) => {
                failure = Some(error);
                false
            }
        });
        nat_over.iter().try_for_each(|tuple| self.nat.remove(tuple))?;
        if let Some(error) = failure {
            return Err(error);
        }
        let deleted = tcp_over.len() + any_over.len() + nat_over.len();
        let alive = tcp + any + translated - deleted;
        Ok(Collected { alive, deleted, took: started.elapsed() })
    }

    /// Whether the client's flow of an entry of NAT is there and goes out by the entry's port.
    fn is_held(&self, reply: &Tuple) -> Result<bool, Error> {
        let Some(entry) = self.nat.get(reply)? else { return Ok(false) };
        let flows = if reply.protocol == TCP { &self.tcp } else { &self.any };
        let flow = flows.get(&entry.service(reply))?;
        Ok(flow.is_some_and(|flow| flow.address == reply.src && flow.nat_port == reply.dport))
    }

    /// How full the maps are.
    pub(crate) fn usage(&self) -> Result<[Usage; 3], Error> {
        Ok([self.any.usage()?, self.tcp.usage()?, self.nat.usage()?])
    }

    /// Every flow, in no order.
    pub(crate) fn flows(&self) -> Result<Vec<(Tuple, CtEntry)>, Error> {
        let mut all = Vec::new();
        for table in [&self.tcp, &self.any] {
            batch::for_each(table.data(), |key, value| all.push((key, value)))
                .map_err(|source| Error::Map { map: table.name(), source })?;
        }
        Ok(all)
    }

    /// Every translation of a source, in no order.
    pub(crate) fn translations(&self) -> Result<Vec<(Tuple, NatEntry)>, Error> {
        let mut all = Vec::new();
        batch::for_each(self.nat.data(), |key, value| all.push((key, value)))
            .map_err(|source| Error::Map { map: self.nat.name(), source })?;
        Ok(all)
    }
}

const TCP: u8 = 6;

/// How many entries a table has, and which of them are chosen.
fn scan<V: crate::maps::Plain>(
    table: &Table<Tuple, V>,
    chosen: impl Fn(&Tuple, &V) -> bool,
) -> Result<(usize, Vec<Tuple>), Error> {
    let (mut count, mut all) = (0, Vec::new());
    batch::for_each(table.data(), |tuple: Tuple, value: V| {
        count += 1;
        if chosen(&tuple, &value) {
            all.push(tuple);
        }
    })
    .map_err(|source| Error::Map { map: table.name(), source })?;
    Ok((count, all))
}
