//! The ipcache made true: what every address should say, and what the kernel's maps say.

use std::net::IpAddr;

use causeway_model::{Change, Collection, Event, IpEntry, Keyed};
use ipnet::IpNet;

use crate::Error;
use crate::maps::ipcache::{Ipcache, Remote};
use crate::maps::v4_bytes;

/// How much is programmed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, serde::Serialize)]
pub struct Stats {
    /// Addresses and prefixes in the ipcache.
    pub addresses: usize,
    /// Service frontends.
    pub frontends: usize,
    /// Backends over all frontends.
    pub backends: usize,
    /// Pods of this node.
    pub endpoints: usize,
    /// Pod CIDRs of nodes that cannot be their gateway, under `auto-direct-node-routes`.
    pub unreachable_nodes: usize,
}

/// What the kernel should say of a prefix. Of a mesh's addresses there are many: no more is kept.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Entry {
    prefix: IpNet,
    remote: Remote,
}

impl Keyed for Entry {
    type Key = IpNet;

    fn key(&self) -> IpNet {
        self.prefix
    }
}

/// The single writer of the ipcache maps.
#[derive(Debug)]
pub(crate) struct Addresses {
    /// Where tunnels to this node end; `None` = there are no tunnels.
    node_ip: Option<IpAddr>,
    desired: Collection<Entry>,
    kernel: Ipcache,
}

impl Addresses {
    pub(crate) fn new(kernel: Ipcache, node_ip: Option<IpAddr>) -> Self {
        Self { node_ip, desired: Collection::new(), kernel }
    }

    /// Applies changes in their order; every one is tried. At the end of a full listing everything the
    /// kernel holds beyond it, also from an earlier process, is removed; nothing is before.
    pub(crate) fn apply(&mut self, events: impl IntoIterator<Item = Event<IpEntry>>) -> Result<(), Error> {
        let mut result = Ok(());
        // What is set waits until something else has to be done, and is written together.
        let mut set = Vec::new();
        for event in events {
            let synced = matches!(event, Event::Synced);
            let entry = |entry: IpEntry| Entry { prefix: entry.prefix, remote: remote(&entry, self.node_ip) };
            for change in self.desired.apply(event.map(entry, |prefix| prefix)) {
                match change {
                    Change::Set(prefix, _) => {
                        let entry = self.desired.get(&prefix).expect("it was just set");
                        set.push((prefix, entry.remote));
                    }
                    Change::Gone(prefix, _) => {
                        result = result.and(self.kernel.set_all(&std::mem::take(&mut set)));
                        result = result.and(self.kernel.remove(prefix));
                    }
                }
            }
            if synced {
                result = result.and(self.kernel.set_all(&std::mem::take(&mut set))).and(self.sweep());
            }
        }
        result.and(self.kernel.set_all(&set))
    }

    /// Compares the kernel's maps with what should be there and applies the difference. Nothing is
    /// removed before a full listing is known: it may still be wanted.
    pub(crate) fn sweep(&mut self) -> Result<(), Error> {
        let mut seen = std::collections::BTreeMap::new();
        for (prefix, value) in self.kernel.entries()? {
            if self.desired.is_synced() && self.desired.get(&prefix).is_none() {
                self.kernel.remove(prefix)?;
            }
            seen.insert(prefix, value);
        }
        for (prefix, entry) in self.desired.iter() {
            if seen.get(prefix) != Some(&entry.remote) {
                self.kernel.set(*prefix, entry.remote)?;
            }
        }
        Ok(())
    }

    pub(crate) fn len(&self) -> usize {
        self.desired.len()
    }
}

/// The map value of an entry. No tunnel leads to ourselves, and none to a node's own address: that
/// is what tunnels end at.
fn remote(entry: &IpEntry, node_ip: Option<IpAddr>) -> Remote {
    let by_tunnel = |host: &IpAddr| node_ip.is_some_and(|own| *host != own) && entry.prefix != (*host).into();
    let by_tunnel = entry.host_ip.filter(by_tunnel);
    Remote {
        identity: entry.identity.0,
        tunnel_endpoint: v4_bytes(by_tunnel),
        key_index: entry.key_index,
        pad: [0; 3],
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_model::NumericIdentity;

    #[test]
    fn tunnels_lead_to_other_nodes_only() {
        let endpoint = |prefix: &str, host: &str| {
            let entry = IpEntry {
                prefix: prefix.parse().unwrap(),
                identity: NumericIdentity(70_000),
                host_ip: Some(host.parse().unwrap()),
                key_index: 0,
                pod: None,
            };
            let end = |node_ip: Option<IpAddr>| remote(&entry, node_ip).tunnel_endpoint;
            assert_eq!(end(None), [0; 4], "under native routing none does");
            end(Some("172.20.1.1".parse().unwrap()))
        };
        assert_eq!(endpoint("10.2.0.5/32", "172.20.2.1"), [172, 20, 2, 1]);
        assert_eq!(endpoint("10.1.0.5/32", "172.20.1.1"), [0; 4]);
        assert_eq!(endpoint("172.20.2.1/32", "172.20.2.1"), [0; 4]);
    }
}
