//! At which addresses NodePorts answer: those of the nodes of this cluster, and never those of
//! another cluster's.

use std::collections::BTreeMap;
use std::net::IpAddr;

use aya::Ebpf;

use crate::Error;
use crate::maps::lb::{NODE_OTHER, NODE_OWN};
use crate::maps::{Address, Table};

/// The single writer of `cw_node_addresses`.
#[derive(Debug)]
pub(crate) struct NodeAddresses {
    map: Table<Address, u32>,
    /// What the map holds.
    written: BTreeMap<Address, u32>,
}

impl NodeAddresses {
    /// Takes the map out of a loaded object and adopts what an earlier process left in it.
    pub(crate) fn take(object: &mut Ebpf) -> Result<Self, Error> {
        let map: Table<Address, u32> = Table::take(object, "cw_node_addresses")?;
        let written = map.entries()?.into_iter().collect();
        Ok(Self { map, written })
    }

    /// Writes these addresses (true: of this node) and removes all others, unless more may be to come.
    pub(crate) fn set(&mut self, addresses: &BTreeMap<IpAddr, bool>, complete: bool) -> Result<(), Error> {
        let value = |own: &bool| if *own { NODE_OWN } else { NODE_OTHER };
        let wanted: BTreeMap<Address, u32> =
            addresses.iter().map(|(ip, own)| (Address::from(*ip), value(own))).collect();
        for (address, value) in &wanted {
            if self.written.get(address) != Some(value) {
                self.map.set(*address, *value)?;
                self.written.insert(*address, *value);
            }
        }
        let gone: Vec<Address> = self
            .written
            .keys()
            .filter(|address| complete && !wanted.contains_key(*address))
            .copied()
            .collect();
        for address in gone {
            self.map.remove(&address)?;
            self.written.remove(&address);
        }
        Ok(())
    }
}
