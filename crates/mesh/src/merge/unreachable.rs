//! Which addresses are behind nodes that cannot be reached.
//!
//! Nothing is kept of nodes that answer. When nodes fall, all addresses are looked at once, however many fall
//! together. What comes and goes later is followed at the cost of the change.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_model::{Event, IpEntry};
use ipnet::IpNet;

use super::AddressMerger;
use crate::health::Reachability;

/// Turns nodes into the addresses behind them: of their pods, and their own, as pods in the node's network have those.
#[derive(Debug, Default)]
pub struct UnreachableAddresses {
    /// Addresses of nodes that are down, with the clusters that say so: nobody speaks for the pods of others.
    hosts: BTreeMap<IpAddr, BTreeSet<Arc<str>>>,
    /// What is behind them now, and behind which.
    addresses: BTreeMap<IpAddr, (Arc<str>, IpAddr)>,
}

impl UnreachableAddresses {
    /// None is.
    pub fn new() -> Self {
        Self::default()
    }

    /// Some nodes have fallen or come back: the addresses this changes, in order (true = cannot be reached).
    pub fn apply(&mut self, changes: &[Reachability], merged: &AddressMerger) -> Vec<(IpAddr, bool)> {
        let mut look = false;
        let mut up = BTreeSet::new();
        for change in changes {
            let cluster = merged.claimant(&change.node.cluster);
            for host in change.hosts.iter() {
                if !change.reachable {
                    look |= self.hosts.entry(*host).or_default().insert(cluster.into());
                } else if let Some(clusters) = self.hosts.get_mut(host)
                    && clusters.remove(cluster)
                {
                    if clusters.is_empty() {
                        self.hosts.remove(host);
                    }
                    up.insert(*host);
                }
            }
        }
        let mut out = BTreeMap::new();
        if !up.is_empty() {
            let of_those = |(_, host): &(Arc<str>, IpAddr)| up.contains(host);
            let candidates = self.addresses.iter().filter(|(_, behind)| of_those(behind));
            for ip in candidates.map(|(ip, _)| *ip).collect::<Vec<_>>() {
                out.extend(self.look_at(ip, merged));
            }
        }
        if look {
            for (ip, cluster, host) in merged.hosted() {
                if self.is_down(cluster, host) && !self.addresses.contains_key(&ip) {
                    self.addresses.insert(ip, (cluster.into(), host));
                    out.insert(ip, true);
                }
            }
        }
        out.into_iter().collect()
    }

    /// Some addresses have changed in `merged`: which of them can be reached no more, or again.
    pub fn follow(&mut self, events: &[Event<IpEntry>], merged: &AddressMerger) -> Vec<(IpAddr, bool)> {
        if self.hosts.is_empty() && self.addresses.is_empty() {
            return vec![];
        }
        let prefixes = events.iter().filter_map(|event| match event {
            Event::Upsert(entry) => Some(entry.prefix),
            Event::Remove(prefix) => Some(*prefix),
            Event::Reset | Event::Synced => None,
        });
        let single = prefixes.filter(|prefix| prefix.prefix_len() == prefix.max_prefix_len());
        single.filter_map(|prefix| self.look_at(prefix.addr(), merged)).collect()
    }

    /// How many addresses cannot be reached.
    pub fn len(&self) -> usize {
        self.addresses.len()
    }

    /// Whether all can be.
    pub fn is_empty(&self) -> bool {
        self.addresses.is_empty()
    }

    fn look_at(&mut self, ip: IpAddr, merged: &AddressMerger) -> Option<(IpAddr, bool)> {
        let behind = merged.host_of(&IpNet::from(ip)).filter(|(cluster, host)| self.is_down(cluster, *host));
        let before = match behind {
            Some((cluster, host)) => self.addresses.insert(ip, (cluster.into(), host)).is_some(),
            None => self.addresses.remove(&ip).is_some(),
        };
        (before != behind.is_some()).then_some((ip, behind.is_some()))
    }

    fn is_down(&self, cluster: &str, host: IpAddr) -> bool {
        self.hosts.get(&host).is_some_and(|clusters| clusters.contains(cluster))
    }
}

#[cfg(test)]
mod tests {
    use causeway_model::{
        AddressType, ClusterId, ClusterName, MaxClusters, Node, NodeAddress, NodeKey, NumericIdentity,
    };

    use super::*;

    fn name(name: &str) -> ClusterName {
        ClusterName::new(name).unwrap()
    }

    fn ip(text: &str) -> IpAddr {
        text.parse().unwrap()
    }

    fn entry(at: &str, host: &str) -> IpEntry {
        IpEntry {
            prefix: IpNet::from(ip(at)),
            identity: NumericIdentity(131_072),
            host_ip: Some(ip(host)),
            key_index: 0,
            pod: None,
        }
    }

    fn change(cluster: &str, node: &str, host: &str, reachable: bool) -> Reachability {
        let node = NodeKey { cluster: name(cluster), name: node.into() };
        Reachability { node, hosts: [ip(host)].into(), reachable }
    }

    /// Two clusters; nodes 172.16.C.N with pods 10.C.N.x.
    fn merged() -> AddressMerger {
        let mut merged = AddressMerger::new(NodeKey { cluster: name("cls-a"), name: "n1".into() });
        let b = name("cls-b");
        for (pod, host) in
            [("10.2.1.5", "172.16.2.1"), ("10.2.1.6", "172.16.2.1"), ("10.2.2.5", "172.16.2.2")]
        {
            merged.apply_remote(&b, Event::Upsert(entry(pod, host)));
        }
        merged.apply_local(Event::Upsert(entry("10.1.2.5", "172.16.1.2")));
        let id = ClusterId::new(2, MaxClusters::C255).unwrap();
        let mut node = Node::new("n1", b.clone(), id);
        node.addresses = vec![NodeAddress { kind: AddressType::InternalIP, ip: ip("172.16.2.1") }];
        node.pod_cidrs = vec!["10.2.1.0/24".parse().unwrap()];
        merged.apply_remote_node(&b, Event::Upsert(node));
        merged
    }

    fn texts(changes: Vec<(IpAddr, bool)>) -> Vec<String> {
        changes.into_iter().map(|(ip, down)| format!("{}{ip}", if down { "-" } else { "+" })).collect()
    }

    #[test]
    fn addresses_follow_their_node() {
        let (mut merged, b) = (merged(), name("cls-b"));
        let mut down = UnreachableAddresses::new();
        let fall = |up| change("cls-b", "n1", "172.16.2.1", up);
        let fallen = down.apply(&[fall(false)], &merged);
        assert_eq!(texts(fallen), ["-10.2.1.5", "-10.2.1.6", "-172.16.2.1"], "pods, and the node's own");
        assert_eq!(texts(down.apply(&[fall(false)], &merged)), [""; 0], "twice is once");

        // What comes later, moves, and goes.
        let mut tell = |event: Event<IpEntry>, down: &mut UnreachableAddresses| {
            let events = merged.apply_remote(&b, event);
            texts(down.follow(&events, &merged))
        };
        assert_eq!(tell(Event::Upsert(entry("10.2.1.7", "172.16.2.1")), &mut down), ["-10.2.1.7"]);
        assert_eq!(tell(Event::Upsert(entry("10.2.1.7", "172.16.2.2")), &mut down), ["+10.2.1.7"]);
        assert_eq!(tell(Event::Upsert(entry("10.2.2.5", "172.16.2.1")), &mut down), ["-10.2.2.5"]);
        assert_eq!(tell(Event::Remove("10.2.1.6/32".parse().unwrap()), &mut down), ["+10.2.1.6"]);
        assert_eq!(tell(Event::Remove("10.2.1.0/25".parse().unwrap()), &mut down), [""; 0]);
        assert_eq!(down.len(), 3);

        let back = down.apply(&[fall(true)], &merged);
        assert_eq!(texts(back), ["+10.2.1.5", "+10.2.2.5", "+172.16.2.1"]);
        assert!(down.is_empty());
        assert_eq!(down.follow(&[Event::Upsert(entry("10.2.1.5", "172.16.2.1"))], &merged), []);
    }

    #[test]
    fn nobody_speaks_for_the_pods_of_others() {
        let merged = merged();
        let mut down = UnreachableAddresses::new();
        for host in ["172.16.2.1", "172.16.1.2"] {
            assert_eq!(down.apply(&[change("cls-c", "n1", host, false)], &merged), [], "{host}");
        }
        // Of the own cluster, whose claims bear no name.
        let own = |up| change("cls-a", "n2", "172.16.1.2", up);
        assert_eq!(texts(down.apply(&[own(false)], &merged)), ["-10.1.2.5"]);
        assert_eq!(texts(down.apply(&[change("cls-c", "n1", "172.16.1.2", true)], &merged)), [""; 0]);
        assert_eq!(texts(down.apply(&[own(true)], &merged)), ["+10.1.2.5"]);
    }

    #[test]
    fn several_at_once() {
        let merged = merged();
        let mut down = UnreachableAddresses::new();
        let both = |up| [change("cls-b", "n1", "172.16.2.1", up), change("cls-b", "n2", "172.16.2.2", up)];
        assert_eq!(down.apply(&both(false), &merged).len(), 4);
        let mixed = [change("cls-b", "n1", "172.16.2.1", true), change("cls-a", "n2", "172.16.1.2", false)];
        let changed = texts(down.apply(&mixed, &merged));
        assert_eq!(changed, ["-10.1.2.5", "+10.2.1.5", "+10.2.1.6", "+172.16.2.1"]);
    }
}
